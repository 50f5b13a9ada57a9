package mcpfilter

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/wwwauth"
)

// withheldHeaders are the response headers by which an MCP server would speak for
// the gateway's origin: set its cookies, its policies and its reporting, or send the
// client elsewhere. Access-Control-* is withheld too. What handlers in front of the filter had set stays.
var withheldHeaders = []string{
	"Www-Authenticate", "Authentication-Info", "Dpop-Nonce",
	"Set-Cookie", "Set-Cookie2", "Clear-Site-Data",
	"Strict-Transport-Security", "Public-Key-Pins", "Alt-Svc", "Nel", "Report-To", "Reporting-Endpoints",
	"Service-Worker-Allowed", "Refresh",
	// these would overrule Cache-Control in caches in front of us
	"Cdn-Cache-Control", "Surrogate-Control",
}

// isWithheld finds them by name.
var isWithheld = func() map[string]bool {
	withheld := make(map[string]bool, len(withheldHeaders))
	for _, name := range withheldHeaders {
		withheld[name] = true
	}
	return withheld
}()

// validScope reports whether s is one scope-token (RFC 6749 §3.3).
func validScope(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' })
}

// guard is the way back: it turns the MCP server's response into one of this gateway.
// Bodies pass through as they come.
type guard struct {
	caddyhttp.ResponseWriterWrapper
	filter *Filter
	r      *http.Request
	x      *exchange

	// watch begins with the response.
	watch *watch

	// began is when the request went to the handler.
	began time.Time

	// script says that a web page's script may wait for the response: browsers say then where it is from (Fetch, section 3.2).
	script bool

	// before is the header as handlers in front of the filter left it.
	before []headerField

	// room is where they have their place, as far as they are no more than usual.
	room struct {
		fields [2]headerField
		values [2]string
	}

	// wroteHeader says that the header is out, and discard that the answer is our own
	// and the MCP server's body goes nowhere.
	wroteHeader, discard bool
}

// handOn is called when the request goes to the handler.
func (g *guard) handOn(w http.ResponseWriter, r *http.Request, f *Filter, x *exchange, watch *watch) {
	g.ResponseWriter, g.filter, g.r, g.x, g.watch, g.began = w, f, r, x, watch, time.Now()
	g.script = len(r.Header["Origin"]) > 0
	g.before = g.room.fields[:0]
	all := g.room.values[:0]
	for name, values := range w.Header() {
		if values == nil { // which keeps a server from setting one
			g.before = append(g.before, headerField{name, nil})
			continue
		}
		start := len(all)
		all = append(all, values...)
		g.before = append(g.before, headerField{name, all[start:len(all):len(all)]})
	}
}

// headerField is a header with its values.
type headerField struct {
	name   string
	values []string
}

// WriteHeader judges the response and sends its header, or a refusal in its place.
func (g *guard) WriteHeader(status int) {
	if g.wroteHeader {
		return
	}
	h := g.Header()
	if informational := 100 <= status && status < 200; informational && status != http.StatusSwitchingProtocols {
		g.withhold(h)
		g.ResponseWriter.WriteHeader(status)
		return
	}
	g.wroteHeader = true
	if g.x.upstreamHost == "" && g.r.Context().Err() == nil { // reverse_proxy answers 499 in place of a server whose client left
		g.x.upstreamStatus = status
	}
	no := g.judge(status, h)
	if no == nil {
		no = g.tag(h)
	}
	if no != nil {
		g.replace(no)
		return
	}
	g.withhold(h)
	stream := isEventStream(h)
	protect(h, caching(h["Cache-Control"], stream), g.script)
	h["Vary"] = append(h["Vary"], "Authorization, Origin")
	if !stream && !isJSON(h) {
		// Whatever else it is, it must not run on the origin of the consent page.
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	}
	if _, typed := h["Content-Type"]; !typed && h.Get("Content-Length") != "0" {
		h["Content-Type"] = nil // or the server would guess one
	}
	g.x.stream = stream
	g.filter.streams(g.x, 1)
	g.watch.begin(g.filter.watchAfter(g.x.session), g.watch.look)
	g.ResponseWriter.WriteHeader(status)
}

// run hands the request on. reverse_proxy aborts the response that it copies when the MCP server's breaks off; the client's is our own and whole
// where that one was refused.
func (g *guard) run(next caddyhttp.Handler, r *http.Request) error {
	defer func() {
		if p := recover(); p != nil && (p != http.ErrAbortHandler || !g.discard) { //nolint:errorlint // as net/http compares it
			panic(p)
		}
	}()
	return next.ServeHTTP(g, r)
}

// judge returns what to answer instead of the MCP server's response, if anything.
func (g *guard) judge(status int, h http.Header) *refusal {
	switch {
	case g.bypassed():
		return badUpstream("this proxy has a policy, for which its MCP server must be reached by transport mcp", nil)
	case time.Since(g.began) > g.filter.brief() && g.filter.revoked(g.r.Context(), g.x): // while the server thought
		return gatewayRefusal(ErrInvalidToken)
	case status == http.StatusSwitchingProtocols:
		return badUpstream("the MCP server switches to another protocol", nil)
	case status == http.StatusUnauthorized:
		if err := g.x.report(g.r.Context()); err != nil {
			return gatewayRefusal(err)
		}
		if g.filter.proxy.SharedCredential {
			return unavailable(errors.New("the upstream refuses the token that the gateway is configured to send"))
		}
		return invalidToken("the MCP server did not accept this user's authorization; try again", nil)
	case status == http.StatusForbidden && g.filter.proxy.UpstreamScope != "":
		if scopes := g.stepUp(h); scopes != nil {
			return insufficientScope(scopes, "the MCP server wants the user to allow more")
		}
	case 300 <= status && status < 400:
		return g.redirect(h)
	}
	return nil
}

// stepUp translates an upstream's demand for more scopes: those that the client has, and those that the upstream wants. It is nil where the
// upstream makes no such demand, or asking again would not help: the user has allowed all of that already, or it is more than can be granted.
func (g *guard) stepUp(h http.Header) []string {
	for _, value := range h.Values("WWW-Authenticate") {
		challenge := wwwauth.Bearer(value)
		if challenge["error"] != "insufficient_scope" {
			continue
		}
		demanded := func(scope string) bool { return strings.HasPrefix(scope, g.filter.proxy.UpstreamScope) }
		scopes := slices.Clone(g.x.session.Scopes)
		for scope := range strings.FieldsSeq(challenge["scope"]) {
			if scope = g.filter.proxy.UpstreamScope + scope; validScope(scope) && !slices.Contains(scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
		all := slices.DeleteFunc(slices.Clone(scopes), func(scope string) bool { return !demanded(scope) })
		if len(scopes) > len(g.x.session.Scopes) && wwwauth.Fits(all) {
			return scopes
		}
	}
	return nil
}

// replace answers with a refusal; of the MCP server's response nothing remains.
func (g *guard) replace(no *refusal) {
	g.discard = true
	h := g.Header()
	clear(h)
	for _, field := range g.before {
		h[field.name] = field.values
	}
	// A client that left is told nothing, and the handler finds that out itself.
	_ = g.filter.refuse(g.ResponseWriter, no)
	_ = http.NewResponseController(g.ResponseWriter).Flush() // not after the rest of the MCP server's
	g.watch.begin(refusedRest, g.watch.abandon)              // what is left of the MCP server's is not wanted
}

// withhold takes back the headers that are not the MCP server's to set.
func (g *guard) withhold(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") || isWithheld[name] {
			g.restore(h, name)
		}
	}
	for _, field := range g.before { // some of which the MCP server's response may have taken away
		if isWithheld[field.name] {
			h[field.name] = field.values
		}
	}
}

func (g *guard) restore(h http.Header, name string) {
	for _, field := range g.before {
		if field.name == name {
			h[name] = field.values
			return
		}
	}
	delete(h, name)
}

// Write sends a piece of the body.
func (g *guard) Write(p []byte) (int, error) {
	g.begin()
	switch {
	case g.x.endsHere() || g.discard && g.x.cut.Load():
		return 0, errEnded
	case g.discard:
		return len(p), nil
	}
	return g.ResponseWriter.Write(p)
}

// ReadFrom sends a body that the handler has not read itself.
func (g *guard) ReadFrom(r io.Reader) (int64, error) {
	g.begin()
	if g.discard {
		return io.Copy(discarding{g}, r)
	}
	return g.ResponseWriterWrapper.ReadFrom(endingReader{r, g.x})
}

// discarding is the body of a response that was refused, until that is ended.
type discarding struct{ g *guard }

func (d discarding) Write(p []byte) (int, error) { return d.g.Write(p) }

// FlushError sends what is buffered, the header at least. http.ResponseController looks for it.
func (g *guard) FlushError() error {
	g.begin()
	return http.NewResponseController(g.ResponseWriter).Flush()
}

// Hijack refuses to give the connection away: nothing would be filtered or end with its grant there. http.ResponseController looks for it.
func (g *guard) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

func (g *guard) begin() {
	if !g.wroteHeader {
		g.WriteHeader(http.StatusOK)
	}
}

// caching is the Cache-Control of a response whose MCP server has set these values. It keeps responses out of shared caches, and tells `encode` and proxies to
// leave event streams as they are.
func caching(values []string, stream bool) string {
	value := strings.Join(values, ", ")
	switch {
	case strings.TrimSpace(value) == "" || strings.Contains(value, `"`):
		// Qualified forms such as private="field" leave the rest to shared caches.
		value = "no-store"
	default:
		var kept []string
		for directive := range strings.SplitSeq(value, ",") {
			directive = strings.TrimSpace(directive)
			name, _, _ := strings.Cut(strings.ToLower(directive), "=")
			if name != "" && name != "public" && name != "s-maxage" && name != "private" {
				kept = append(kept, directive)
			}
		}
		value = strings.Join(append(kept, "private"), ", ")
	}
	if stream && !httpguts.HeaderValuesContainsToken([]string{value}, "no-transform") {
		value += ", no-transform"
	}
	return value
}

// Interface guards
var (
	_ http.ResponseWriter = (*guard)(nil)
	_ http.Hijacker       = (*guard)(nil)
)
