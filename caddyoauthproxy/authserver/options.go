package authserver

import (
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Options configures a Server.
type Options struct {
	// Issuer is the gateway's issuer identifier (RFC 8414): an absolute URL without query,
	// fragment and trailing slash, https unless the host is loopback. Every URL that the
	// server tells anybody begins with it; nothing is taken from request headers.
	Issuer *url.URL

	// Callback is the path below the issuer's that providers send users back to, one that CheckCallbackPath accepts. Default: /api/v1/oauth/callback.
	Callback string

	// Vault keeps clients, logins, codes, grants and signing keys.
	Vault *tokenstore.Vault

	// Accounts keeps the upstream tokens of the grants.
	Accounts *upstream.Accounts

	// Proxies are the protected MCP servers. At least one.
	Proxies []*Proxy

	// Pages renders what people see.
	Pages *console.Pages

	// Lifetimes are how long things live. Zero fields take their defaults.
	Lifetimes Lifetimes

	// Clients are those of the configuration.
	Clients []*ConfiguredClient

	// Registration says who may register. The zero value lets anybody.
	Registration Registration

	// Documents says whose client ID metadata documents are accepted. The zero value accepts all.
	Documents Documents

	// Limits bound how often the endpoints may be used. Zero fields take their defaults.
	Limits Limits

	// Rates count what Limits bound for all nodes of the vault together. Nil: each process counts for itself.
	Rates tokenstore.Rates

	// Signing says how access tokens are signed.
	Signing Signing

	// PlainPKCE accepts code_challenge_method=plain too (RFC 7636 §4.2), which protects little: whoever sees the
	// authorization request can redeem the code. For clients that know nothing better.
	PlainPKCE bool

	// MaxGrants is how many living grants one user can have for one client and redirect URI; the one that was quiet for
	// longest ends when there is one more. Default: 25.
	MaxGrants int

	// MaxOpenLogins is how many logins there can be that nobody has come back from; the oldest give way to new ones. Default: 50,000.
	MaxOpenLogins int

	// NoSessions closes the session-token flow, and the connect page, which ends with such a token.
	NoSessions bool

	// Admins are who may operate the gateway in a browser. Nil: nobody.
	Admins *Admins

	// NoConnections closes the page where users see and cut their own connections. Nobody but operators can sign in then.
	NoConnections bool

	// ClientIP is the address that a request came from. Default: the peer's.
	ClientIP func(*http.Request) string

	// Logger gets one line per security-relevant act. Never a secret.
	Logger *zap.Logger

	// Acts are told of what the server does.
	Acts Acts

	// Acquire, when set, is called around work that outlives its request, so that
	// the vault is not closed under it.
	Acquire func() (release func(), err error)
}

// Proxy is one protected MCP server as the authorization server sees it.
type Proxy struct {
	// ID is the proxy's name in the configuration and in pinned endpoint paths.
	ID string

	// Name is what people read on the consent page. Defaults to ID.
	Name string

	// Resource is the proxy's resource identifier (RFC 8707), byte for byte as clients are given it.
	Resource string

	// ResourceURL is Resource, parsed.
	ResourceURL *url.URL

	// Scopes are the gateway's scopes at this proxy. A client gets those it asks for, or all.
	Scopes []string

	// Provider is whose tokens go upstream, and where users of this proxy log in.
	Provider *upstream.Provider

	// Login is where users log in, if elsewhere. They are then sent to both, one after the other.
	Login *upstream.Provider

	// ScopeTexts says in words what a scope allows, for the consent page.
	ScopeTexts map[string]string

	// AllowedRedirects restricts the redirect URIs of clients: exact ones, patterns, and names of
	// presets, see ValidAllowedRedirect. Empty allows every safe one, see validRedirectURI.
	AllowedRedirects []string

	// Consent says when the user is asked. Default: ConsentAlways.
	Consent ConsentMode

	// Machines lets in clients that act for themselves (client_credentials), and API keys: there is a token for them to go upstream.
	Machines bool

	// MaxGrants is how many living grants there can be for the proxy; then nobody else comes in. Zero sets no limit.
	MaxGrants int

	// AsksForMore lets clients ask for scopes of the provider's, each with UpstreamScope in front.
	AsksForMore bool

	// Allow says who may come in. The zero value lets every user of the provider in that says who they are.
	Allow Policy
}

// loginProvider is the provider that says who a user is.
func (p *Proxy) loginProvider() *upstream.Provider {
	if p.Login != nil {
		return p.Login
	}
	return p.Provider
}

// loginName names the provider where users log in, where that is another than the one whose tokens go upstream.
func (p *Proxy) loginName() string {
	if p.Login == nil {
		return ""
	}
	return p.Login.Name()
}

// legProvider is the provider that a login is at: first the one that says who the user is.
func (p *Proxy) legProvider(login *tokenstore.Login) *upstream.Provider {
	if login.User == nil {
		return p.loginProvider()
	}
	return p.Provider
}

// Lifetimes are how long things live.
type Lifetimes struct {
	AccessToken  time.Duration // gateway access token; default 1 h
	RefreshIdle  time.Duration // grant without refresh; default 30 d
	RefreshTotal time.Duration // grant in any case; default 90 d
	RefreshGrace time.Duration // rotated refresh token answered again; default 60 s, negative for none
	Code         time.Duration // authorization code; default 60 s
	Login        time.Duration // from the consent page or the Allow button to the next step; default 5 min
	Retention    time.Duration // ended grants and API keys stay listed; default 90 d
	Session      time.Duration // session token; default 1 h
	SignIn       time.Duration // sign-in to the gateway's own pages; default 8 h
}

func (l *Lifetimes) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&l.AccessToken, time.Hour)
	def(&l.RefreshIdle, 30*24*time.Hour)
	def(&l.RefreshTotal, 90*24*time.Hour)
	def(&l.RefreshGrace, time.Minute)
	def(&l.Code, time.Minute)
	def(&l.Login, 5*time.Minute)
	def(&l.Retention, 90*24*time.Hour)
	def(&l.Session, time.Hour)
	def(&l.SignIn, 8*time.Hour)
}
