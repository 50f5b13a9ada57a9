package caddyoauthproxy

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// Proxy is one protected MCP server.
type Proxy struct {
	// What people read on the consent page. Default: the proxy's id.
	Name string `json:"name,omitempty"`

	// The server's resource identifier (RFC 8707): the URL that is given to chatbots, byte for byte. Its path is
	// where `mcp_proxy` serves the server. Required.
	Resource string `json:"resource,omitempty"`

	// The provider whose tokens go to the server, and that users log in at unless `login` names another. Default: the only one.
	Provider string `json:"provider,omitempty"`

	// The provider that says who a user is, where it is another one: users log in there, `allow` is judged there, and then they
	// connect their account at `provider`, in one go. Default: `provider`.
	Login string `json:"login,omitempty"`

	// The gateway's own scopes for this server. A chatbot gets those it asks for, or all. Default: `mcp`.
	Scopes []string `json:"scopes,omitempty"`

	// What a scope allows, in words for the consent page.
	ScopeTexts map[string]string `json:"scope_texts,omitempty"`

	// The redirect URIs that chatbots may register: exact, but for the port of http loopback ones; patterns with `*` for one whole segment of the
	// path, or `/**` at its end; and the presets `chatgpt`, `claude`, `cursor`, `inspector`, `loopback` and `vscode`. Default: every https,
	// http loopback and dotted private-use one, and those of the presets.
	AllowedRedirects []string `json:"allowed_redirects,omitempty"`

	// When users are asked whether a client may act for them, see the app's option. Default: the app's.
	Consent string `json:"consent,omitempty"`

	// Which token goes to the server. Default: the user's own.
	UpstreamToken UpstreamToken `json:"upstream_token,omitzero"`

	// The bearer token that goes to the server for clients that act for themselves (`client_credentials`) and for API keys, as a placeholder, where
	// `upstream_token` has none for them. Default: none may.
	MachineToken string `json:"machine_token,omitempty"`

	// The headers that tell the server who sends a request, each with what it says: `user_id`, `email` (where the provider calls it verified), `login`,
	// `name`, `groups`, `org`, `provider`, `client_id`, `client_name` or `scopes`. Default: none.
	IdentityHeaders map[string]string `json:"identity_headers,omitempty"`

	// The header in which the gateway tells the server who sends a request, as a JWT that the server can check with the gateway's published
	// keys. Default: none.
	IdentityAssertion string `json:"identity_assertion,omitempty"`

	// How many living grants there can be for the server; then nobody else can log in for it. Default: no limit.
	MaxGrants int `json:"max_grants,omitempty"`

	// Helps simple clients, which cannot read event streams, keep no MCP session, or write the method behind the path. Requests
	// of MCP clients are left as they are. It needs the `mcp` transport of `reverse_proxy`, which `mcp_proxy` has.
	Compat bool `json:"compat,omitempty"`

	// Who may use the server. Default: every user of the provider.
	Allow authserver.Policy `json:"allow,omitzero"`

	// Which tools, resources and prompts of the server may be used, by whom. What no rule names may not be used where a rule for its target allows
	// something, and may be where none does. Default: everything.
	Policy []PolicyRule `json:"policy,omitempty"`

	// The scopes that a scope stands for as well, so that a client that holds it needs no other for them.
	ScopeIncludes map[string][]string `json:"scope_includes,omitempty"`

	// The arguments of tool calls that the audit trail tells, by name, the first 256 bytes of each as JSON. Default: none.
	AuditArguments []string `json:"audit_arguments,omitempty"`

	// The web origins whose scripts may use the server, beside the resource's own, the gateway's, and those of the user's own machine. `*` stands for
	// all. Requests of others are refused (403). Programs that are no browsers send no origin, and are not concerned.
	Origins []string `json:"origins,omitempty"`
}

// resolve makes the proxy, of providers that are made already.
func (p *Proxy) resolve(id string, providers map[string]*upstream.Provider) (*authserver.Proxy, error) {
	if p == nil {
		return nil, errors.New("is empty: set resource")
	}
	if err := checkProxyID(id); err != nil {
		return nil, err
	}
	if err := checkResource(p.Resource); err != nil {
		return nil, err
	}
	u, err := url.Parse(p.Resource)
	if err != nil {
		return nil, fmt.Errorf("resource %q: %w", p.Resource, err)
	}
	for _, uri := range p.AllowedRedirects {
		if err := authserver.ValidAllowedRedirect(uri); err != nil {
			return nil, fmt.Errorf("allowed_redirects: %q %w", uri, err)
		}
	}
	for _, origin := range p.Origins {
		if err := checkOrigin(origin); err != nil {
			return nil, fmt.Errorf("origins: %q %w", origin, err)
		}
	}
	if p.MaxGrants < 0 || p.MaxGrants > maxMaxGrants {
		return nil, fmt.Errorf("max_grants %d is out of range: 1 to %d", p.MaxGrants, maxMaxGrants)
	}
	if err := mcpfilter.CheckIdentity(p.IdentityHeaders, p.IdentityAssertion, p.UpstreamToken.Header); err != nil {
		return nil, err
	}
	provider, login, err := p.parties(providers)
	if err != nil {
		return nil, err
	}
	for scope := range p.ScopeTexts {
		if !slices.Contains(p.Scopes, scope) {
			return nil, fmt.Errorf("scope_text: %q is not one of the proxy's scopes", scope)
		}
	}
	out := &authserver.Proxy{
		ID: id, Name: p.Name, Resource: p.Resource, ResourceURL: u,
		Scopes: p.scopes(), ScopeTexts: p.ScopeTexts, Provider: provider, Login: login, AllowedRedirects: p.AllowedRedirects, Allow: p.Allow, MaxGrants: p.MaxGrants,
	}
	if out.Name == "" {
		out.Name = id
	}
	return out, nil
}

// scopes are the gateway's own for this server.
func (p *Proxy) scopes() []string {
	if len(p.Scopes) == 0 {
		return []string{"mcp"}
	}
	return p.Scopes
}

// machineToken resolves a proxy's token for clients that act for themselves.
func (p *Proxy) machineToken() (string, error) {
	if p.MachineToken == "" {
		return "", nil
	}
	token, err := resolveSecret(p.MachineToken)
	if err != nil {
		return "", fmt.Errorf("machine_token: %w", err)
	}
	return token, nil
}

// checkUsers refuses what needs to know more about users than the provider tells. It has nothing to say about a provider that could not be made.
func (p *Proxy) checkUsers(made *authserver.Proxy, providers map[string]*upstream.Provider) error {
	if made.Provider == nil || p.Login != "" && providers[p.Login] == nil {
		return nil
	}
	return cmp.Or(checkAnonymous(made), checkAllow(made), p.checkTold(made))
}

// checkAnonymous refuses what needs to know a user where nobody says who they are.
func checkAnonymous(p *authserver.Proxy) error {
	switch {
	case p.Login != nil && p.Login.Anonymous():
		return fmt.Errorf("login: provider %q does not say who a user is: name one that does", p.Login.Name())
	case p.Login != nil || p.Provider == nil || !p.Provider.Anonymous():
		return nil
	case !p.Allow.Everybody():
		return fmt.Errorf("allow: provider %q does not say who a user is: add login with a provider that does", p.Provider.Name())
	case p.Consent == authserver.ConsentRemember:
		return fmt.Errorf("consent remember: provider %q does not say whose consent it would be: add login with a provider that does, or set consent always for this proxy", p.Provider.Name())
	}
	return nil
}

var proxyID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

func checkProxyID(id string) error {
	switch {
	case !proxyID.MatchString(id):
		return errors.New("a proxy's id is letters, digits, - and _, because it stands in URLs")
	case authserver.Reserved(id):
		return errors.New("this id is the name of an endpoint; choose another")
	}
	return nil
}

// parties finds the providers that a proxy names. login is nil where users log in at provider.
func (p *Proxy) parties(providers map[string]*upstream.Provider) (provider, login *upstream.Provider, err error) {
	name := p.Provider
	if name == "" {
		if len(providers) != 1 {
			return nil, nil, fmt.Errorf("provider is missing, and there are several: %s", listed(providers))
		}
		for name = range providers {
		}
	}
	for _, name := range []string{name, p.Login} {
		if _, declared := providers[name]; !declared && name != "" {
			return nil, nil, fmt.Errorf("provider %q is not declared; declared are: %s", name, listed(providers))
		}
	}
	if p.Login == "" || p.Login == name {
		return providers[name], nil, nil
	}
	return providers[name], providers[p.Login], nil
}

// maxMaxGrants bounds max_grants: all of a proxy's grants are looked at with each login.
const maxMaxGrants = 10_000

// checkResource checks a resource identifier (RFC 8707 §2, RFC 9728 §1.2).
func checkResource(text string) error {
	if text == "" {
		return errors.New("resource is missing: set it to the URL that chatbots will use, for example resource https://gateway.example.com/jira/mcp")
	}
	u, err := url.Parse(text)
	if _, ok := authserver.ValidResource(text); err != nil || !ok {
		return fmt.Errorf("resource %q is not a plain https URL without fragment, user information and dot segments", text)
	}
	if u.Scheme == "http" && !authserver.IsLoopback(u) {
		return fmt.Errorf("resource %q must be https: tokens would cross the network in clear; http is for localhost only", text)
	}
	if u.RawQuery != "" {
		return fmt.Errorf("resource %q must have no query", text)
	}
	return nil
}
