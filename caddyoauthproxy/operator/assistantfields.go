package operator

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// providerConfig and proxyConfig are what the assistant writes of the objects below apps.oauth_proxy.providers and .proxies, whose fields they name.
type providerConfig struct {
	Type                    string   `json:"type,omitempty"`
	ClientID                string   `json:"client_id,omitempty"`
	ClientSecret            string   `json:"client_secret,omitempty"`
	Server                  string   `json:"server,omitempty"`
	PrivateNetwork          bool     `json:"private_network,omitempty"`
	Issuer                  string   `json:"issuer,omitempty"`
	Domain                  string   `json:"domain,omitempty"`
	AuthorizationServer     string   `json:"authorization_server,omitempty"`
	Audience                string   `json:"audience,omitempty"`
	Tenant                  string   `json:"tenant,omitempty"`
	AuthorizationURL        string   `json:"authorization_url,omitempty"`
	TokenURL                string   `json:"token_url,omitempty"`
	UserinfoURL             string   `json:"userinfo_url,omitempty"`
	SubjectField            string   `json:"subject_field,omitempty"`
	RevocationURL           string   `json:"revocation_url,omitempty"`
	Scopes                  []string `json:"scopes,omitempty"`
	TokenEndpointAuthMethod string   `json:"token_endpoint_auth_method,omitempty"`
}

type proxyConfig struct {
	Name             string            `json:"name,omitempty"`
	Resource         string            `json:"resource,omitempty"`
	Provider         string            `json:"provider,omitempty"`
	Scopes           []string          `json:"scopes,omitempty"`
	AllowedRedirects []string          `json:"allowed_redirects,omitempty"`
	Consent          string            `json:"consent,omitempty"`
	Compat           bool              `json:"compat,omitempty"`
	Allow            authserver.Policy `json:"allow,omitzero"`
}

// draftFields are the names of all fields of a Draft, in order.
var draftFields = []string{
	"allow", "allowed_redirects", "audience", "authorization_server", "authorization_url", "client_id", "client_secret", "compat", "consent", "domain", "issuer", "name",
	"private_network", "provider", "proxy", "proxy_scopes", "resource", "revocation_url", "scopes", "server", "subject_field", "template", "tenant", "token_endpoint_auth_method",
	"token_url", "upstream", "userinfo_url",
}

// checkUpstream judges the MCP server's URL as far as the adapter's words would be about something else.
func checkUpstream(text string) error {
	if text == "" {
		return errors.New("upstream is missing: write the URL of the MCP server, such as https://jira-mcp.internal/mcp")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("upstream %s is not a URL: write all of it, beginning with https:// or http://", clipped(text))
	case u.User != nil || strings.ContainsAny(text, "?#"):
		return errors.New("upstream has user information, a query or a fragment: take it away")
	case strings.ContainsAny(text, "{}"):
		return errors.New("upstream: placeholders are not possible here")
	}
	return nil
}
