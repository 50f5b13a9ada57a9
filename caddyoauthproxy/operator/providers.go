package operator

import (
	"context"
	"maps"
	"net/http"
	"slices"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// ProviderInfo is what operators see of a provider.
type ProviderInfo struct {
	upstream.About

	// RedirectURI is what the provider must know of the gateway.
	RedirectURI string `json:"redirect_uri"`

	// Proxies are those whose tokens come from it, or whose users log in there.
	Proxies []string `json:"proxies"`

	// Accounts is how many users' upstream tokens there are. Those that are over are among them until the clean-up deletes them.
	Accounts int `json:"accounts"`

	// Health is how it has answered this node since its configuration was loaded.
	Health upstream.ProviderHealth `json:"health"`
}

// ProviderList is the answer to GET /providers.
type ProviderList struct {
	Providers []ProviderInfo `json:"providers"`
}

// listProviders is GET /providers.
func (s *Server) listProviders(_ http.ResponseWriter, r *http.Request) (any, error) {
	list, err := s.providerInfos(r.Context())
	if err != nil {
		return nil, err
	}
	return ProviderList{list}, nil
}

func (s *Server) providerInfos(ctx context.Context) ([]ProviderInfo, error) {
	list := make([]ProviderInfo, 0, len(s.options.Providers))
	for _, name := range slices.Sorted(maps.Keys(s.options.Providers)) {
		p := s.options.Providers[name]
		info := ProviderInfo{About: p.About(), RedirectURI: s.options.Gateway.RedirectURIOf(p), Proxies: []string{}}
		for _, proxy := range s.options.Proxies {
			if proxy.Provider == p || proxy.Login == p {
				info.Proxies = append(info.Proxies, proxy.ID)
			}
		}
		var err error
		if info.Accounts, err = s.options.Vault.CountAccounts(ctx, name); err != nil {
			return nil, err
		}
		info.Health, _ = s.options.Accounts.Health(name)
		list = append(list, info)
	}
	return list, nil
}
