package operator

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// ProxyInfo is what operators see of a proxy.
type ProxyInfo struct {
	ID               string   `json:"id"`
	Name             string   `json:"name"`
	Resource         string   `json:"resource"`
	Provider         string   `json:"provider"`
	Login            string   `json:"login,omitempty"` // the provider where users log in, if elsewhere
	Scopes           []string `json:"scopes"`
	AllowedRedirects []string `json:"allowed_redirects,omitempty"`
	Consent          string   `json:"consent"`
	Machines         bool     `json:"machines"`             // API keys and clients that act for themselves may use it
	MaxGrants        int      `json:"max_grants,omitempty"` // living ones

	// Grants is how many nobody has ended. Those that have expired are among them until the clean-up ends them.
	Grants int `json:"grants"`

	// ConnectURL is where a user connects the proxy without a chatbot; empty where session tokens are off.
	ConnectURL string `json:"connect_url,omitempty"`
}

// ProxyList is the answer to GET /proxies.
type ProxyList struct {
	Proxies []ProxyInfo `json:"proxies"`
}

// listProxies is GET /proxies.
func (s *Server) listProxies(_ http.ResponseWriter, r *http.Request) (any, error) {
	list, err := s.proxyInfos(r.Context())
	if err != nil {
		return nil, err
	}
	return ProxyList{list}, nil
}

func (s *Server) proxyInfos(ctx context.Context) ([]ProxyInfo, error) {
	list := make([]ProxyInfo, 0, len(s.options.Proxies))
	for _, p := range s.options.Proxies {
		info := ProxyInfo{
			ID: p.ID, Name: p.Name, Resource: p.Resource, Provider: p.Provider.Name(), Scopes: append([]string{}, p.Scopes...),
			AllowedRedirects: p.AllowedRedirects, Consent: string(p.Consent), Machines: p.Machines, MaxGrants: p.MaxGrants,
		}
		if p.Login != nil {
			info.Login = p.Login.Name()
		}
		if info.Name == "" {
			info.Name = p.ID
		}
		if s.options.Gateway.TakesSessions() {
			info.ConnectURL = strings.TrimSuffix(s.options.Issuer.String(), "/") + authserver.ConnectPath + "/" + url.PathEscape(p.ID)
		}
		var err error
		if info.Grants, err = s.options.Vault.CountLivingGrants(ctx, p.ID); err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	return list, nil
}
