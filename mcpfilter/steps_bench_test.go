package mcpfilter

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// The benchmarks tell what each step of the filter costs, and BenchmarkFilter what all of them cost together: no network, no reverse_proxy, and a gateway
// that knows everything at once.

const benchCall = `{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"search_issues","arguments":{"query":"project = GW AND status = Open","limit":50,"fields":["summary","status"]},"_meta":{"progressToken":"p-17"}}}`

// benchHeader is what a client of MCP sends.
func benchHeader() http.Header {
	return http.Header{
		"Accept":               {"application/json, text/event-stream"},
		"Accept-Encoding":      {"gzip"},
		"Authorization":        {"Bearer " + strings.Repeat("t", 400)},
		"Content-Length":       {strconv.Itoa(len(benchCall))},
		"Content-Type":         {"application/json"},
		"Mcp-Protocol-Version": {"2025-11-25"},
		"User-Agent":           {"bench/1.0"},
		"X-Forwarded-For":      {"192.0.2.1"},
		"X-Forwarded-Host":     {"gw.test"},
		"X-Forwarded-Proto":    {"https"},
	}
}

// knowing is a gateway that answers at once.
type knowing struct{ session *Session }

func newKnowing() knowing {
	return knowing{&Session{
		Grant: &tokenstore.Grant{
			Meta: tokenstore.Meta{ID: "grant-1"}, UserID: "user-1", AccountID: "account-1", ClientID: "client-1", Client: "Claude",
			User: tokenstore.User{Provider: "jira", Subject: "1", Login: "ada", Name: "Ada Lovelace", Email: "ada@example.com", EmailVerified: true},
		},
		JTI: "jti-1", Expires: time.Now().Add(time.Hour), Scopes: []string{"mcp"},
	}}
}

func (k knowing) Proxy() Proxy {
	return Proxy{ID: "jira", Resource: "https://gw.test/jira/mcp", ResourcePath: "/jira/mcp", Served: func(Served) {}, Streams: func(int) {}}
}
func (k knowing) Enter() (func(), error)                                      { return func() {}, nil }
func (k knowing) Authenticate(context.Context, string) (*Session, error)      { return k.session, nil }
func (k knowing) CheckGrant(context.Context, *Session) error                  { return nil }
func (k knowing) Watch(context.Context, *Session, func()) func()              { return func() {} }
func (k knowing) SessionTag(*Session, string) (string, error)                 { return "tag", nil }
func (k knowing) UpstreamToken(context.Context, *Session) (string, error)     { return "upstream", nil }
func (k knowing) IdentityAssertion(context.Context, *Session) (string, error) { return "", nil }
func (k knowing) ServeMetadata(http.ResponseWriter, *http.Request) bool       { return false }
func (k knowing) Stopping() <-chan struct{}                                   { return nil }
func (k knowing) UpstreamRejected(context.Context, *Session, string) (string, error) {
	return "", ErrNeedsReauth
}

// knowingFilter is a filter as mcp_proxy makes it.
func knowingFilter(tb testing.TB, rules int, audit *zap.Logger) *Filter {
	tb.Helper()
	gateway := newKnowing()
	path := "/v1/mcp"
	f := &Filter{
		Proxy: "jira", ResourceOnly: true, UpstreamPath: &path, Credential: credentialTransport,
		StreamRecheck: caddy.Duration(30 * time.Second), StreamPastExpiry: caddy.Duration(15 * time.Minute),
		gateway: gateway, proxy: gateway.Proxy(), log: zap.NewNop(), audit: audit,
	}
	f.proxy.Policy = benchPolicy(rules).ready()
	f.origins = ownOrigins(&f.proxy)
	f.own = f.proxy.ownHeaders()
	var err error
	if f.paths, err = newPathMap(f.proxy.ResourcePath, true, &path); err != nil {
		tb.Fatal(err)
	}
	return f
}

// benchPolicy is a policy of which the last rule decides.
func benchPolicy(rules int) Policy {
	var p Policy
	for i := range rules {
		p.Rules = append(p.Rules, Rule{Target: TargetTool, Patterns: []string{fmt.Sprintf("group%d_*", i)}})
	}
	if rules > 0 {
		p.Rules[rules-1].Patterns = []string{"search_*"}
	}
	return p
}

// answering is a transport to an MCP server that answers at once.
type answering struct{}

func (answering) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	const answer = `{"jsonrpc":"2.0","id":17,"result":{"content":[{"type":"text","text":"no issues"}]}}`
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req, ContentLength: int64(len(answer)),
		Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(answer))}, "Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}},
		Body:   io.NopCloser(strings.NewReader(answer)),
	}, nil
}

// forwarding is what reverse_proxy does that concerns a filter.
func forwarding(transport http.RoundTripper) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.URL.Host == "" {
			r.URL.Scheme, r.URL.Host = "http", "server.test"
		}
		res, err := transport.RoundTrip(r)
		if err != nil {
			return err
		}
		for name, values := range res.Header {
			for _, value := range values {
				w.Header().Add(name, value)
			}
		}
		w.WriteHeader(res.StatusCode)
		_, err = io.Copy(struct{ io.Writer }{w}, res.Body)
		return err
	}
}

// nowhere is a response that nobody reads.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header       { return n.header }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

// benchRequest is a tools/call as Caddy's server hands it to handlers.
func benchRequest() (http.ResponseWriter, *http.Request) {
	r := httptest.NewRequest(http.MethodPost, "/jira/mcp", strings.NewReader(benchCall))
	r.Header = benchHeader()
	w := nowhere{http.Header{"Server": {"Caddy"}}}
	return w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
}

// BenchmarkFilter tells what the whole filter costs, with the transport's part: the first line is what it takes to have a request and answer it.
func BenchmarkFilter(b *testing.B) {
	pool := new(http.Transport)
	pool.RegisterProtocol("http", answering{})
	transport := new(Transport)
	transport.Transport = pool
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	written := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zap.InfoLevel)).Named(auditLogger)
	run := func(name string, f *Filter) {
		b.Run(name, func(b *testing.B) {
			next := forwarding(transport)
			if f == nil {
				next = forwarding(pool)
			}
			b.ReportAllocs()
			for b.Loop() {
				w, r := benchRequest()
				var err error
				if f == nil {
					err = next(w, r)
				} else {
					err = f.ServeHTTP(w, r, next)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("without", nil)
	run("quiet", knowingFilter(b, 0, zap.NewNop()))
	run("audited", knowingFilter(b, 0, written))
	run("rules=1", knowingFilter(b, 1, zap.NewNop()))
	run("rules=100", knowingFilter(b, 100, zap.NewNop()))
}

func BenchmarkCredential(b *testing.B) {
	_, r := benchRequest()
	b.ReportAllocs()
	for b.Loop() {
		if _, no := credential(r); no != nil {
			b.Fatal(no)
		}
	}
}

func BenchmarkPath(b *testing.B) {
	f := knowingFilter(b, 0, zap.NewNop())
	_, r := benchRequest()
	b.ReportAllocs()
	for b.Loop() {
		r.URL.Path, r.URL.RawPath = "/jira/mcp", ""
		if no := f.paths.apply(r); no != nil {
			b.Fatal(no)
		}
	}
}

func BenchmarkReadContents(b *testing.B) {
	for name, text := range map[string]string{
		"call":  benchCall,
		"64KiB": strings.Replace(benchCall, "project", strings.Repeat("project ", 8<<10), 1),
	} {
		b.Run(name, func(b *testing.B) {
			body := []byte(text)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if said := readContents(body); said.one() == nil {
					b.Fatal(said.unclear)
				}
			}
		})
	}
}

func BenchmarkCaptureBody(b *testing.B) {
	_, r := benchRequest()
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(strings.NewReader(benchCall))
		if _, err := captureBody(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPolicy(b *testing.B) {
	said := readContents([]byte(benchCall))
	for _, rules := range []int{1, 100} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			f := knowingFilter(b, rules, zap.NewNop())
			x := &exchange{proxy: &f.proxy, session: newKnowing().session}
			b.ReportAllocs()
			for b.Loop() {
				if no := f.judgeContents(said, x); no != nil {
					b.Fatal(no)
				}
			}
		})
	}
}

// BenchmarkAuthorized is the copy of the request that carries the upstream token.
func BenchmarkAuthorized(b *testing.B) {
	_, r := benchRequest()
	taken, err := captureBody(r)
	if err != nil {
		b.Fatal(err)
	}
	f := knowingFilter(b, 0, zap.NewNop())
	x := &exchange{proxy: &f.proxy, session: newKnowing().session, body: taken, token: "upstream"}
	b.ReportAllocs()
	for b.Loop() {
		_ = x.authorized(r)
	}
}

func BenchmarkCleanRequest(b *testing.B) {
	f := knowingFilter(b, 0, zap.NewNop())
	client := benchHeader()
	h := make(http.Header, len(client))
	b.ReportAllocs()
	for b.Loop() {
		maps.Copy(h, client)
		cleanRequest(&http.Request{Header: h}, f.own)
	}
}

func BenchmarkIdentify(b *testing.B) {
	f := knowingFilter(b, 0, zap.NewNop())
	_, r := benchRequest()
	taken, err := captureBody(r)
	if err != nil {
		b.Fatal(err)
	}
	taken.contents()
	server := new(caddyhttp.Server)
	b.ReportAllocs()
	for b.Loop() {
		r := caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nowhere{}, server)
		f.identify(r, &exchange{session: newKnowing().session, body: taken})
	}
}

// BenchmarkGuard is the way back: the header that the MCP server answers with.
func BenchmarkGuard(b *testing.B) {
	f := knowingFilter(b, 0, zap.NewNop())
	_, r := benchRequest()
	x := &exchange{proxy: &f.proxy, gateway: f.gateway, session: newKnowing().session}
	b.ReportAllocs()
	for b.Loop() {
		w := nowhere{http.Header{"Server": {"Caddy"}}}
		watch := &watch{filter: f, x: x, ctx: r.Context(), end: func() {}}
		g := new(guard)
		g.handOn(w, r, f, x, watch)
		h := g.Header()
		h["Content-Type"], h["Content-Length"], h["Date"] = []string{"application/json"}, []string{"36"}, []string{"Mon, 02 Jan 2006 15:04:05 GMT"}
		g.WriteHeader(http.StatusOK)
		watch.stop()
	}
}
