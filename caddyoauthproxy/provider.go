package caddyoauthproxy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// Provider is an upstream identity provider or authorization server. The gateway is a client of it, registered
// there with the redirect URI `<issuer>/api/v1/oauth/callback`, or as `callback_path` says.
type Provider struct {
	// What the provider is: a template (`atlassian`, `auth0`, `github`, `gitlab`, `google`, `keycloak`, `linear`, `microsoft` or its alias `azure_ad`, `notion`,
	// `okta`, `slack`), `oidc` for any
	// OpenID Connect provider with discovery, `mcp` for whoever protects an MCP server, or `oauth2` or its alias `generic` with every URL written out. Default:
	// the provider's name, where that is one of these.
	Type string `json:"type,omitempty"`

	// The client identifier that the provider gave the gateway. Required, but for `mcp`, where the gateway registers itself. May be a placeholder.
	ClientID string `json:"client_id,omitempty"`

	// The client secret that the provider gave the gateway, as a placeholder: `{env.NAME}` or `{file./absolute/path}`.
	ClientSecret string `json:"client_secret,omitempty"`

	// The URL of the MCP server whose authorization server this is. For `mcp`.
	Server string `json:"server,omitempty"`

	// Leaves the `resource` parameter (RFC 8707) out of requests to that authorization server. For `mcp`.
	NoResource bool `json:"no_resource,omitempty"`

	// Lets the MCP server, its authorization server, and all that these name, lie in a private network. For `mcp`. Not needed where the MCP server is
	// written as an address in one, or as localhost.
	PrivateNetwork bool `json:"private_network,omitempty"`

	// The issuer URL. For `oidc` and `keycloak`, and for `mcp` to hold the MCP server to one authorization server.
	Issuer string `json:"issuer,omitempty"`

	// The organisation's domain, such as acme.okta.com. For `okta`, `auth0` and a `gitlab` of your own.
	Domain string `json:"domain,omitempty"`

	// The id of a custom authorization server, such as default. For `okta`; without it the organisation's own is used.
	AuthorizationServer string `json:"authorization_server,omitempty"`

	// The identifier of the API that access tokens are for. For `auth0`.
	Audience string `json:"audience,omitempty"`

	// The directory (tenant) id, or organizations. For `microsoft`.
	Tenant string `json:"tenant,omitempty"`

	// The authorization endpoint. For `oauth2`.
	AuthorizationURL string `json:"authorization_url,omitempty"`

	// The token endpoint. For `oauth2`.
	TokenURL string `json:"token_url,omitempty"`

	// Where to ask who the user is, with the access token. For `oauth2`.
	UserinfoURL string `json:"userinfo_url,omitempty"`

	// The member of the userinfo answer that identifies the user for ever. For `oauth2`. Default: `sub`.
	SubjectField string `json:"subject_field,omitempty"`

	// The revocation endpoint (RFC 7009). Discovered or known for all types but `oauth2`.
	RevocationURL string `json:"revocation_url,omitempty"`

	// The scopes to ask the provider for, beside those that the type needs for login and refresh.
	Scopes []string `json:"scopes,omitempty"`

	// How the gateway authenticates at the token endpoint: `client_secret_basic`, `client_secret_post` or `none`.
	// Default: what suits the type.
	TokenEndpointAuthMethod string `json:"token_endpoint_auth_method,omitempty"`

	// Further parameters of the authorization request.
	AuthorizeParams map[string]string `json:"authorize_params,omitempty"`

	// Further parameters of every token request.
	TokenParams map[string]string `json:"token_params,omitempty"`

	// Keeps the users' tokens in memory alone, `off`, instead of the vault: every restart logs all users out, and only one node can serve them. Default:
	// `on`.
	TokenStorage string `json:"token_storage,omitempty"`

	// Whether tokens are refreshed. With `off` no refresh token is asked for or used: users log in again when their token ends. Default: `on`.
	AutoRefresh string `json:"auto_refresh,omitempty"`

	// What a revocation ends: the one `token`, or with `grant` the user's whole authorization of the gateway's app, when their last
	// connection ends. For `github`. Default: `token`.
	Revoke string `json:"revoke,omitempty"`

	// How long to wait for an answer. Default: 30s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How often to retry a request that certainly was not processed. Default: 3; -1 for never.
	Retries int `json:"retries,omitempty"`
}

// resolve makes the provider, without any network.
func (p *Provider) resolve(name string, issuer *url.URL) (*upstream.Provider, error) {
	if p == nil {
		return nil, fmt.Errorf("provider %q: is empty: set client_id", name)
	}
	fail := func(err error) (*upstream.Provider, error) { return nil, fmt.Errorf("provider %q: %w", name, err) }
	kind, err := p.kind(name)
	if err != nil {
		return fail(err)
	}
	if err := p.checkWords(); err != nil {
		return fail(err)
	}
	clientID, err := caddy.NewReplacer().ReplaceOrErr(p.ClientID, true, true)
	if err != nil {
		return fail(fmt.Errorf("client_id: %s is not set or cannot be read", p.ClientID))
	}
	var secret string
	if p.ClientSecret != "" {
		if secret, err = resolveSecret(p.ClientSecret); err != nil {
			return fail(fmt.Errorf("client_secret: %w", err))
		}
	}
	c := p.config(kind, clientID, secret)
	if issuer != nil {
		c.RedirectURI, c.ClientName, c.ClientMetadataURL = authserver.OwnRedirectURI(issuer, name), authserver.ClientName(issuer), authserver.ClientMetadataURL(issuer, name)
	}
	return upstream.New(name, c, nil) // names the provider in its errors
}

// check finds what is wrong with a provider apart from the values behind its placeholders, which
// need not exist where a Caddyfile is only adapted.
func (p *Provider) check(name string) (*upstream.Provider, error) {
	kind, err := p.kind(name)
	if err != nil {
		return nil, fmt.Errorf("provider %q: %w", name, err)
	}
	if err := p.checkWords(); err != nil {
		return nil, fmt.Errorf("provider %q: %w", name, err)
	}
	return upstream.New(name, p.config(kind, p.ClientID, p.ClientSecret), nil)
}

func (p *Provider) config(kind, clientID, secret string) upstream.Config {
	return upstream.Config{
		Type:                kind,
		ClientID:            clientID,
		ClientSecret:        secret,
		Server:              p.Server,
		NoResource:          p.NoResource,
		PrivateNetwork:      p.PrivateNetwork,
		Issuer:              p.Issuer,
		Domain:              p.Domain,
		AuthorizationServer: p.AuthorizationServer,
		Tenant:              p.Tenant,
		AuthorizationURL:    p.AuthorizationURL,
		TokenURL:            p.TokenURL,
		UserinfoURL:         p.UserinfoURL,
		SubjectField:        p.SubjectField,
		RevocationURL:       p.RevocationURL,
		Scopes:              p.Scopes,
		AuthMethod:          p.TokenEndpointAuthMethod,
		AuthorizeParams:     p.AuthorizeParams,
		TokenParams:         p.TokenParams,
		Audience:            p.Audience,
		Unstored:            p.TokenStorage == "off",
		NoRefresh:           p.AutoRefresh == "off",
		RevokeGrant:         p.Revoke == "grant",
		Timeout:             time.Duration(p.Timeout),
		Retries:             p.Retries,
	}
}

// checkWords refuses words that an option does not know.
func (p *Provider) checkWords() error {
	for _, option := range []struct{ name, value, first, second string }{
		{"token_storage", p.TokenStorage, "on", "off"}, {"auto_refresh", p.AutoRefresh, "on", "off"}, {"revoke", p.Revoke, "token", "grant"},
	} {
		if option.value != "" && option.value != option.first && option.value != option.second {
			return fmt.Errorf("%s %q is unknown: write %s or %s", option.name, option.value, option.first, option.second)
		}
	}
	return nil
}

// kind is the type that is written, or that the name implies.
func (p *Provider) kind(name string) (string, error) {
	if name == "" || name == "." || name == ".." {
		return "", errors.New("the name becomes a part of URLs: choose one of letters")
	}
	kind := p.Type
	if kind == "" {
		kind = name
	}
	if !upstream.KnownType(kind) {
		if p.Type == "" {
			return "", fmt.Errorf("type is missing, and the name is not one either; set type to one of %s", strings.Join(upstream.Types(), ", "))
		}
		return "", fmt.Errorf("type %q is unknown; known are %s", p.Type, strings.Join(upstream.Types(), ", "))
	}
	return kind, nil
}
