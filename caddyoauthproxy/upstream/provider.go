package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Provider is one configured provider. It is safe for concurrent use.
type Provider struct {
	name       string
	config     Config
	template   *template
	issuer     string
	identity   string
	authMethod string
	scopes     []string
	timeout    time.Duration
	retries    int
	client     *http.Client
	now        func() time.Time

	metadata document[*metadata]
	keys     document[*keySet]
	clients  registrations
	health   health

	serversMu sync.Mutex
	servers   map[string]*document[*metadata] // by issuer
}

// New makes a provider. It uses no network. A nil client means outbound.New; of any
// other the redirect policy is replaced. Errors name the provider, the field and the fix.
func New(name string, c Config, client *http.Client) (*Provider, error) {
	t := templateFor(c.Type)
	if t == nil {
		return nil, fmt.Errorf("provider %q: type %q is unknown: write one of %s", name, c.Type, strings.Join(Types(), ", "))
	}
	if err := c.check(t); err != nil {
		return nil, fmt.Errorf("provider %q: %w", name, err)
	}
	p := &Provider{name: name, config: c, template: t, authMethod: c.AuthMethod, timeout: c.Timeout, retries: c.Retries, now: c.Now}
	if p.authMethod == "" {
		p.authMethod = t.authMethod
	}
	if p.timeout == 0 {
		p.timeout = DefaultTimeout
	}
	if p.retries == 0 {
		p.retries = DefaultRetries
	}
	if p.now == nil {
		p.now = time.Now
	}
	switch {
	case client != nil:
	case t.mcp:
		client = outbound.NewLike(c.Server, c.PrivateNetwork, p.timeout, maxParallel)
	default:
		client = outbound.New(p.timeout, maxParallel)
	}
	own := *client
	own.CheckRedirect = outbound.FollowNone
	p.client = &own
	p.issuer = strings.NewReplacer("{issuer}", c.Issuer, "{domain}", cmp.Or(c.Domain, t.domain), "{tenant}", strings.ToLower(c.Tenant)).Replace(t.issuer)
	if c.AuthorizationServer != "" {
		p.issuer += "/oauth2/" + c.AuthorizationServer
	}
	for _, s := range slices.Concat(t.scopes, c.Scopes) {
		if !slices.Contains(p.scopes, s) {
			p.scopes = append(p.scopes, s)
		}
	}
	p.metadata.init(p.timeout, p.now, p.discover)
	p.identity = p.name + " " + cmp.Or(p.config.TokenURL, p.config.Server, p.issuer)
	p.clients.provider = p
	p.keys.init(p.timeout, p.now, p.fetchKeys)
	return p, nil
}

// Name is the name under which the provider is configured.
func (p *Provider) Name() string { return p.name }

// Identity tells the provider from all others, also from one that is given its name later: by where its tokens come from.
func (p *Provider) Identity() string { return p.identity }

// ClientID is the client identifier that the operator has written, empty where the gateway registers itself.
func (p *Provider) ClientID() string { return p.config.ClientID }

// AsksForMore reports whether a login can ask for scopes beyond the provider's own: those that an MCP server demands on the way.
func (p *Provider) AsksForMore() bool { return p.template.mcp }

// Anonymous reports whether the provider does not say who a user is.
func (p *Provider) Anonymous() bool { return p.template.mcp }

// HasClient reports whether the operator wrote which client the gateway is there. Otherwise it registers itself.
func (p *Provider) HasClient() bool { return p.config.ClientID != "" }

// RevokesTokensAlone reports whether revoking a token is sure to leave the user's other tokens of the gateway alone. RFC 7009 §2.1 lets a server end the
// whole authorization with it, and some do.
func (p *Provider) RevokesTokensAlone() bool { return p.template.githubToken != "" }

// HasUniqueLogins reports whether a login name is one user's at a time, so that an allow list may go by it.
func (p *Provider) HasUniqueLogins() bool { return p.template.uniqueLogins }

// TellsGroups reports whether a login may tell the user's groups.
func (p *Provider) TellsGroups() bool { return !p.template.noGroups }

// TellsOrg reports whether a login may tell the user's organisation.
func (p *Provider) TellsOrg() bool { return p.template.org != "" }

// Asks returns the scopes that a login asks the provider for. For an MCP server that needs its metadata, of a minute ago at most.
func (p *Provider) Asks(ctx context.Context) ([]string, error) {
	if !p.template.mcp {
		return slices.Clone(p.scopes), nil
	}
	m, err := p.metadata.newer(ctx, p.now().Add(-time.Minute))
	if err != nil {
		return nil, p.fail("scopes", err)
	}
	return m.scopesFor(p), nil
}

// AuthRequest is what is special about one authorization request.
type AuthRequest struct {
	// State is returned by the provider to the redirect URI.
	State string

	// Nonce comes back in the ID token. It is ignored where the provider is not OpenID Connect.
	Nonce string

	// Verifier is the PKCE code verifier (RFC 7636 §4.1).
	Verifier string

	// RedirectURI is the gateway's callback.
	RedirectURI string

	// Scopes are asked for in place of the provider's own, where they are not nil.
	Scopes []string

	// Binding has the request be made once more with the same.
	Binding tokenstore.Binding

	// Identify asks for no more than who the user is: no refresh token.
	Identify bool
}

// Authorization is an authorization request that is ready to go.
type Authorization struct {
	// URL is where to send the user's browser.
	URL string

	// Binding is what the request was made with. The answer must be exchanged with the same.
	Binding tokenstore.Binding
}

// Begin makes an authorization request (RFC 6749 §4.1.1), always with PKCE S256. It may need the provider's documents, and
// may register the gateway.
func (p *Provider) Begin(ctx context.Context, r AuthRequest) (Authorization, error) {
	begun, err := p.begin(ctx, r)
	if err != nil {
		return Authorization{}, p.fail("authorization request", err)
	}
	return begun, nil
}

func (p *Provider) begin(ctx context.Context, r AuthRequest) (Authorization, error) {
	if r.State == "" || r.Verifier == "" || r.RedirectURI == "" || p.template.oidc && r.Nonce == "" {
		return Authorization{}, &Error{Class: Misconfigured, Err: errors.New("state, nonce, verifier or redirect URI is missing")}
	}
	m, c, err := p.forLogin(ctx, r.Binding)
	if err != nil {
		return Authorization{}, err
	}
	u, err := url.Parse(m.AuthorizationEndpoint)
	if err != nil {
		return Authorization{}, &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	q := u.Query()
	params := maps.Clone(p.template.params)
	if params == nil {
		params = map[string]string{}
	}
	if p.config.Audience != "" {
		params["audience"] = p.config.Audience
	}
	scopes := r.Scopes
	if scopes == nil {
		scopes = m.scopesFor(p)
	}
	if r.Identify || p.config.NoRefresh {
		scopes = slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return s == "offline_access" })
	} else {
		maps.Copy(params, p.template.refreshParams)
	}
	maps.Copy(params, p.config.AuthorizeParams)
	for name, value := range params {
		q.Set(name, value)
	}
	q.Set("response_type", "code")
	q.Set("client_id", c.id)
	if m.resource != "" {
		q.Set("resource", m.resource)
	}
	if slices.Contains(scopes, "offline_access") && p.template.mcp {
		q.Set("prompt", "consent") // OpenID Connect Core §11: no offline_access without
	}
	q.Set("redirect_uri", r.RedirectURI)
	q.Set("state", r.State)
	q.Set("code_challenge", oauth2.S256ChallengeFromVerifier(r.Verifier))
	q.Set("code_challenge_method", "S256")
	if p.template.oidc {
		q.Set("nonce", r.Nonce)
	}
	if len(scopes) > 0 {
		q.Set("scope", p.joinScopes(scopes))
	}
	u.RawQuery = q.Encode()
	return Authorization{URL: u.String(), Binding: p.binding(m, c)}, nil
}

// joinScopes writes scopes as the provider wants them.
func (p *Provider) joinScopes(scopes []string) string {
	return strings.Join(scopes, cmp.Or(p.template.scopeSeparator, " "))
}

// CodeResponse is the provider's answer at the callback, with what the gateway kept of its request.
type CodeResponse struct {
	// Code is the authorization code.
	Code string

	// Issuer is the iss parameter of the answer (RFC 9207), empty where there was none.
	Issuer string

	// Nonce, Verifier and RedirectURI are those of the AuthRequest.
	Nonce       string
	Verifier    string
	RedirectURI string

	// Binding is that of the Authorization.
	Binding tokenstore.Binding

	// Scopes are those of the AuthRequest.
	Scopes []string
}

// Tokens are what a provider issues.
type Tokens struct {
	AccessToken  string
	RefreshToken string
	IDToken      string
	TokenType    string

	// Scopes are those that the provider granted. After an exchange for which the provider does
	// not say, those that were asked for; after a refresh, none.
	Scopes []string

	// Lifetime is how long the access token lives from its receipt on, and Expires when it
	// ends by the provider's clock function. Zero: the provider does not say.
	Lifetime time.Duration
	Expires  time.Time

	// Binding is what the tokens belong to.
	Binding tokenstore.Binding

	// last says that the user has no other account at the provider.
	last bool

	// date is when the provider sent the answer, by its clock; zero when it does not say.
	date time.Time

	// answer is all of the provider's answer, for providers that say there who the user is.
	answer fields
}

// Exchange redeems an authorization code, once, and finds out who the user is. Its errors are
// of type *Error.
func (p *Provider) Exchange(ctx context.Context, r CodeResponse) (Tokens, tokenstore.User, error) {
	if r.Code == "" || r.Verifier == "" {
		return Tokens{}, tokenstore.User{}, p.fail("authorization response", &Error{Class: Malformed, Err: errors.New("code or verifier is missing")})
	}
	m, c, err := p.bound(ctx, r.Binding)
	if err != nil {
		return Tokens{}, tokenstore.User{}, p.fail("token endpoint", err)
	}
	if err := p.checkResponseIssuer(m, r.Issuer); err != nil {
		return Tokens{}, tokenstore.User{}, p.fail("authorization response", err)
	}
	t, err := p.requestToken(ctx, m, c, url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {r.Code},
		"redirect_uri":  {r.RedirectURI},
		"code_verifier": {r.Verifier},
	}, nil)
	if err != nil {
		return Tokens{}, tokenstore.User{}, p.fail("token endpoint", err)
	}
	if len(t.Scopes) == 0 {
		t.Scopes = slices.Clone(r.Scopes) // RFC 6749 §5.1: not said means as asked for
		if r.Scopes == nil {
			t.Scopes = m.scopesFor(p)
		}
	}
	user, err := p.identify(ctx, m, t, r.Nonce)
	if err != nil {
		return Tokens{}, tokenstore.User{}, err
	}
	return t, user, nil
}

// checkResponseIssuer is the defence against mix-up: a code of another provider must not be
// sent to this one (RFC 9207 §2.4).
func (p *Provider) checkResponseIssuer(m *metadata, iss string) error {
	switch {
	case iss == "" && m.IssuerInResponse:
		return &Error{Class: Malformed, Err: errors.New("iss is missing, though the provider announces it")}
	case iss == "" || p.isIssuer(m, iss):
		return nil
	case m.Issuer == "":
		return &Error{Class: Misconfigured, Err: errors.New("iss is given, but the provider's issuer is not configured: write issuer")}
	default:
		return &Error{Class: Malformed, Err: errors.New("iss is not the provider's issuer")}
	}
}

// isIssuer reports whether iss is the provider's. That of Entra for many directories names the user's directory.
func (p *Provider) isIssuer(m *metadata, iss string) bool {
	if p.isManyTenants(m.Issuer) {
		before, after, _ := strings.Cut(m.Issuer, "{tenantid}")
		tenant, begins := strings.CutPrefix(iss, before)
		tenant, ends := strings.CutSuffix(tenant, after)
		return begins && ends && isGUID(tenant)
	}
	return iss == m.Issuer && iss != ""
}

// fail puts the provider's name and what was asked of it in front of an error.
func (p *Provider) fail(what string, err error) error {
	return in(fmt.Sprintf("provider %q: %s", p.name, what), err)
}
