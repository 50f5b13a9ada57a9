package mcpfilter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(Filter{})
}

// Filter stands in front of an MCP server: gateway token in, upstream token out.
//
// It answers the gateway's well-known documents and CORS preflights itself, refuses
// paths that two readers could understand differently and scripts of foreign origins, authenticates every other
// request, judges it by the proxy's policy, and hands it on with the user's upstream token. An Mcp-Session-Id is good for nobody but who opened the session. What comes back is
// cleaned of everything that would speak for the gateway's origin, and an upstream's 401
// becomes the gateway's own challenge.
//
// Deleted from every request, whatever the case and with `_`, `.` or any other sign for `-`:
//
//   - credentials: Authorization, X-Session-Token, X-API-Key, Proxy-Authorization, DPoP, Cookie;
//   - identity: X-Forwarded-User, -Email, -Groups, -Preferred-Username, -Access-Token and -Id-Token,
//     Remote-User, -Email, -Groups and -Name, X-Remote-*, X-Auth-Request-*, X-Authenticated-*, X-User,
//     X-User-Id, -Email, -Name, -Login, -Groups and -Roles, X-Gateway-*, X-Gw-*, X-WebAuth-*, X-MS-Client-Principal*,
//     X-Goog-Authenticated-User-*, X-Goog-Iap-*, X-Amzn-Oidc-*, Cf-Access-*, Tailscale-User-*, X-Pomerium-*, X-Authentik-*,
//     X-Vouch-*, OIDC-Claim-*, Impersonate-User, -Group, -Uid and -Extra-*, X-Consumer-*, X-Hasura-*, X-Scope-OrgID, X-Userinfo,
//     X-Endpoint-API-UserInfo, X-Apigateway-API-UserInfo, X-Forwarded-Client-Cert, X-Forwarded-TLS-Client-Cert*, Client-Cert*, X-SSL-Client-*, SSL-Client-*,
//     X-Credential-Identifier;
//   - path and method overrides: X-Original-URL, X-Rewrite-URL, X-HTTP-Method-Override and its kin;
//   - protocol upgrades: Upgrade, HTTP2-Settings;
//   - the headers in which the proxy's own upstream_token, identity_header and identity_assertion travel;
//   - Forwarded, odd spellings of X-Forwarded-*, Mcp-Session-Id, Mcp-Protocol-Version, Mcp-Method and Mcp-Name, and whatever Connection names.
//
// These placeholders are set for handlers behind the filter:
//
// Placeholder | Description
// ------------|-------------
// `{http.auth.user.id}` | The user's id in the gateway
// `{http.auth.user.email}` | The user's e-mail address where the provider calls it verified, or empty
// `{http.auth.user.login}` | The user's login name, or empty
// `{http.auth.user.name}` | The user's full name, or empty
// `{http.auth.user.provider}` | The provider that vouches for the user
// `{mcp.proxy}` | The proxy's id
// `{mcp.client_id}` | The client (chatbot) that sent the request
// `{mcp.client_name}` | The client's name as it registered
// `{mcp.grant}` | The grant's id
// `{mcp.method}` | The JSON-RPC method of a POST, `batch`, `response`, or `unknown`; empty for other HTTP methods
// `{mcp.target}` | What the message is about: `tool`, `resource`, `prompt`, or nothing
// `{mcp.name}` | The name of the tool or prompt, or the URI of the resource, that the message is about
// `{mcp.protocol_version}` | The MCP-Protocol-Version header
// `{mcp.session}` | The Mcp-Session-Id header
//
// The access log gets the fields `user`, `client_id`, `grant`, `jti`, `proxy`, `mcp_method`, `mcp_target` and `mcp_name`. Caddy redacts
// Authorization there, but not X-Session-Token, nor an API key in X-API-Key, nor a token in the URL: requests that carry one are left out of Caddy's logs. The logger
// `http.handlers.mcp_filter.audit` writes a line for each request.
type Filter struct {
	// The id of the proxy, as the `oauth_proxy` app knows it. Required.
	Proxy string `json:"proxy,omitempty"`

	// Refuses (404) every path but the resource's own and those below it. Implied by
	// `upstream_path`. Without it the filter protects whatever its route lets through.
	ResourceOnly bool `json:"resource_only,omitempty"`

	// The path of the MCP server that takes the place of the resource's path: with
	// the resource `https://gateway.example.com/jira/mcp` and `/v1/mcp` here, `/jira/mcp/x` goes
	// upstream as `/v1/mcp/x`. Without it paths are not changed.
	UpstreamPath *string `json:"upstream_path,omitempty"`

	// How the upstream token travels: `header` (default) puts it on the request, for any
	// handler behind; `transport` leaves it to the `mcp` transport of `reverse_proxy`, so that
	// no handler or log between sees it, and a request that the upstream refuses with 401
	// is repeated once with a renewed token. A token that travels in a header of its own, such as X-API-Key, needs
	// `transport`, and so does an identity assertion: Caddy's logs would show them.
	Credential string `json:"credential,omitempty"`

	// How often an open event stream, and every other response that lasts, is checked against its grant. A revoked grant
	// ends them within a second without that: the check is for what the vault could not tell while it was out of order.
	// Default: 30s. Negative turns it off.
	StreamRecheck caddy.Duration `json:"stream_recheck,omitempty"`

	// How long such a response may outlive the gateway token that began it. Within this time it ends with its
	// grant, by itself, or with the process. Default: 15m. Negative sets no limit but the grant's end.
	StreamPastExpiry caddy.Duration `json:"stream_past_expiry,omitempty"`

	gateway Gateway
	proxy   Proxy
	own     map[string]bool // see Proxy.ownHeaders
	paths   pathMap
	origins []string
	log     *zap.Logger
	audit   *zap.Logger
}

// The values of Filter.Credential.
const (
	credentialHeader    = "header"
	credentialTransport = "transport"
)

// CaddyModule returns the Caddy module information.
func (Filter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.mcp_filter",
		New: func() caddy.Module { return new(Filter) },
	}
}

// Provision sets defaults and finds the filter's gateway.
func (f *Filter) Provision(ctx caddy.Context) error {
	f.log = ctx.Logger()
	f.audit = f.log.Named(auditLogger)
	if f.Credential == "" {
		f.Credential = credentialHeader
	}
	if f.StreamRecheck == 0 {
		f.StreamRecheck = caddy.Duration(30 * time.Second)
	}
	if f.StreamPastExpiry == 0 {
		f.StreamPastExpiry = caddy.Duration(15 * time.Minute)
	}
	if f.Proxy == "" {
		return errors.New("mcp_filter needs the id of a proxy")
	}

	mod, err := ctx.AppIfConfigured(AppName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return fmt.Errorf("mcp_filter %q: no oauth_proxy app is configured: add a global oauth_proxy block that declares this proxy", f.Proxy)
	}
	if err != nil {
		return fmt.Errorf("mcp_filter %q: %w", f.Proxy, err)
	}
	app, ok := mod.(App)
	if !ok {
		return fmt.Errorf("mcp_filter %q: the oauth_proxy app (%T) offers no gateways", f.Proxy, mod)
	}
	if f.gateway, err = app.Gateway(f.Proxy); err != nil {
		return fmt.Errorf("mcp_filter %q: %w", f.Proxy, err)
	}
	f.proxy = f.gateway.Proxy()
	f.proxy.Policy = f.proxy.Policy.ready()
	f.origins = ownOrigins(&f.proxy)
	if len(f.proxy.Policy.Rules) > 0 && f.Credential == credentialHeader {
		return fmt.Errorf("mcp_filter %q: this proxy has a policy, for which the lists that the MCP server answers pass through transport mcp: use mcp_proxy, or credential transport here and transport mcp in the reverse_proxy behind", f.Proxy)
	}
	if f.Credential == credentialHeader && !redacted(f.proxy.CredentialHeader) {
		return fmt.Errorf("mcp_filter %q: this proxy's upstream_token travels as %s, which Caddy's debug log would show: use mcp_proxy, or credential transport here and transport mcp in the reverse_proxy behind",
			f.Proxy, f.proxy.CredentialHeader)
	}
	if f.Credential == credentialHeader && f.proxy.IdentityAssertion != "" {
		return fmt.Errorf("mcp_filter %q: this proxy's identity_assertion travels as %s, which Caddy's debug log would show: use mcp_proxy, or credential transport here and transport mcp in the reverse_proxy behind",
			f.Proxy, f.proxy.IdentityAssertion)
	}
	f.own = f.proxy.ownHeaders()
	if f.Credential != credentialTransport && f.proxy.Compat {
		return fmt.Errorf("mcp_filter %q: this proxy's compat is the work of the mcp transport: use mcp_proxy, or credential transport here and transport mcp in the reverse_proxy behind", f.Proxy)
	}
	f.paths, err = newPathMap(f.proxy.ResourcePath, f.ResourceOnly, f.UpstreamPath)
	if err != nil {
		return fmt.Errorf("mcp_filter %q: upstream_path: %w", f.Proxy, err)
	}
	return nil
}

// Validate refuses unknown settings.
func (f *Filter) Validate() error {
	if f.Credential != credentialHeader && f.Credential != credentialTransport {
		return fmt.Errorf("mcp_filter %q: credential %q: use %q or %q", f.Proxy, f.Credential, credentialHeader, credentialTransport)
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (f *Filter) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	unlogged := carriesLoggedCredential(r)
	if unlogged {
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	}
	if f.gateway.ServeMetadata(w, r) {
		return nil
	}
	p, err := new(passage), errBrokenOff // as handlers break off a response: with a panic (http.ErrAbortHandler)
	a := &p.audited
	a.begin(w)
	if !isPreflight(r) {
		defer func(method, path string) { f.record(a, r, method, path, err) }(r.Method, r.URL.Path)
		defer func(method string) { f.served(a, r, method, err) }(r.Method)
	}
	err = f.pass(p, r, next)
	if unlogged {
		a.conceal(err)
		return nil
	}
	return err
}

// passage is what a request needs on its way, all of it in one piece of memory.
type passage struct {
	audited  audited
	exchange exchange
	context  exchangeContext
	watch    watch
	guard    guard
}

func (f *Filter) pass(p *passage, r *http.Request, next caddyhttp.Handler) error {
	w := &p.audited
	if no := f.paths.apply(r); no != nil {
		return f.refuse(w, no)
	}
	if f.foreignOrigin(r) {
		return f.refuse(w, foreign())
	}
	if isPreflight(r) {
		answerPreflight(w, r)
		return nil
	}
	switch r.Method {
	case http.MethodTrace, "TRACK": // these would show what the MCP server is sent
		return f.refuse(w, badRequest("this method is not for MCP servers"))
	case http.MethodConnect: // by which HTTP/2 and HTTP/3 ask for a WebSocket (RFC 8441, RFC 9220)
		return f.refuse(w, badRequest("this gateway switches to no other protocol"))
	}

	leave, err := f.gateway.Enter()
	if err != nil {
		return f.refuse(w, unavailable(err))
	}
	defer leave()

	token, no := credential(r)
	if no != nil {
		return f.refuse(w, no)
	}
	session, err := f.gateway.Authenticate(r.Context(), token)
	if err != nil {
		return f.refuse(w, gatewayRefusal(err))
	}
	x := &p.exchange
	x.gateway, x.proxy, x.session, x.gatewayToken = f.gateway, &f.proxy, session, token
	w.x = x
	return f.forward(p, r, next)
}

// refusedRest is how long the rest of a response that was refused is read, so that its connection can be used again.
const refusedRest = time.Second

// forward hands an authenticated request on and guards the response.
func (f *Filter) forward(p *passage, r *http.Request, next caddyhttp.Handler) error {
	w, x := &p.audited, &p.exchange
	p.context = exchangeContext{r.Context(), x}
	ctx, end := context.WithCancel(&p.context)
	p.watch = watch{filter: f, x: x, ctx: ctx, end: end}
	defer func() {
		p.watch.stop()
		f.streams(x, -1)
	}()
	r = r.WithContext(ctx)

	var err error
	if x.body, err = captureBody(r); err != nil {
		x.body = new(body)
	}
	no := f.untag(r.Header, x.session)
	f.identify(r, x)
	cleanRequest(r, f.own)
	if err != nil {
		no = unreadable(err)
	}
	if no == nil {
		no = f.judgeRequest(r, x)
	}
	if no == nil {
		no = f.tellIdentity(r, x)
	}
	if no != nil {
		return f.refuse(w, no)
	}
	f.simplify(r, x)
	if x.token, err = f.gateway.UpstreamToken(ctx, x.session); err != nil {
		return f.refuse(w, gatewayRefusal(err))
	}
	if f.Credential == credentialHeader {
		f.proxy.inject(r.Header, x.token)
		// Error routes and log_append run after us and see the same headers.
		defer f.proxy.withdraw(r.Header)
	}

	if !x.body.complete {
		// The body is read while the MCP server answers already. An HTTP/1 server would take the rest of it away then, and reverse_proxy
		// break off the answer. What cannot switch that off, such as HTTP/3, does not do it.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}

	g := &p.guard
	g.handOn(w, r, f, x, &p.watch)
	if err = g.run(next, r); g.discard {
		return nil // the client has its answer
	}
	if err != nil {
		protectResponse(w.Header())
		return err
	}
	if !g.wroteHeader { // reverse_proxy is silent when a server switches to a protocol that nobody asked for
		return f.refuse(w, badUpstream("the MCP server gave no answer", nil))
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Filter)(nil)
	_ caddy.Validator             = (*Filter)(nil)
	_ caddyhttp.MiddlewareHandler = (*Filter)(nil)
	_ caddyfile.Unmarshaler       = (*Filter)(nil)
)
