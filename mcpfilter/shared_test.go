package mcpfilter

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// Handlers may change a header's values in place, as Caddy's own do: those of another response, or of the request that is logged, must not be the same ones.
func TestNoResponseSharesHeaderValuesWithAnother(t *testing.T) {
	t.Parallel()
	first, second := make(http.Header), make(http.Header)
	protectResponse(first)
	for _, values := range first {
		values[0] = "changed"
		_ = append(values, "more") //nolint:gocritic // which must not reach the next header's
	}
	protectResponse(second)
	for name, values := range second {
		if len(values) != 1 || values[0] == "changed" {
			t.Errorf("%s is %q in another response", name, values)
		}
	}
	for name, values := range first {
		if len(values) != 1 || values[0] != "changed" {
			t.Errorf("%s became %q", name, values)
		}
	}
}

func TestHeadersSetBeforeTheFilterAreKeptApart(t *testing.T) {
	t.Parallel()
	h := http.Header{"Alt-Svc": {"h3"}, "Server": {"Caddy", "x"}, "Date": nil}
	var g guard
	g.handOn(nowhere{h}, new(http.Request), knowingFilter(t, 0, zap.NewNop()), new(exchange), nil)
	h["Alt-Svc"][0], h["Server"][1] = "changed", "changed"
	h.Add("Alt-Svc", "of the server's")
	h["Set-Cookie"] = []string{"a=b"}
	h["Access-Control-Allow-Origin"] = []string{"https://evil.test"}
	delete(h, "Server")
	g.withhold(h)
	if got := h["Alt-Svc"]; len(got) != 1 || got[0] != "h3" {
		t.Errorf("Alt-Svc: %q", got)
	}
	if _, there := h["Set-Cookie"]; there || len(h["Access-Control-Allow-Origin"]) > 0 {
		t.Errorf("withheld headers pass: %v", h)
	}
	delete(h, "Alt-Svc")
	if g.withhold(h); len(h["Alt-Svc"]) != 1 {
		t.Error("a server takes away what is not its to set")
	}
}

func TestTheTokenIsOnTheCopyAlone(t *testing.T) {
	t.Parallel()
	_, r := benchRequest()
	r.Header.Del("Authorization")
	f := knowingFilter(t, 0, zap.NewNop())
	x := &exchange{proxy: &f.proxy, token: "upstream", body: &body{complete: true}}
	out := x.authorized(r)
	out.URL.Scheme, out.URL.Host = "https", "server.test"
	if r.Header["Authorization"] != nil || r.URL.Scheme == "https" || r.URL.Host == "server.test" {
		t.Errorf("the request that is logged became %v %v", r.URL, r.Header)
	}
	if out.Header.Get("Authorization") != "Bearer upstream" || out.Header.Get("User-Agent") != r.Header.Get("User-Agent") {
		t.Errorf("sent: %v", out.Header)
	}
}

// What the table of usual headers says of a name must be what would be found out without it, under the name that the server gives it.
func TestUsualHeadersAreNamedAsTheServerNamesThem(t *testing.T) {
	t.Parallel()
	for name, judged := range usualHeaders {
		if http.CanonicalHeaderKey(name) != name || judged != judgeName(name) {
			t.Errorf("%s: %+v", name, judged)
		}
	}
}

func TestOwnHeadersAreDeletedWhereverTheyAreUsual(t *testing.T) {
	t.Parallel()
	r := &http.Request{Header: http.Header{"X-Real-Ip": {"1"}, "X-Request-Id": {"2"}}}
	cleanRequest(r, map[string]bool{"x-real-ip": true})
	if len(r.Header) != 1 || r.Header.Get("X-Request-Id") == "" {
		t.Errorf("kept: %v", r.Header)
	}
}

func TestBodiesAreReadToTheirEnd(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 511, 512, 513, 5000} {
		text := bytes.Repeat([]byte("x"), size)
		for _, length := range []int64{-1, 0, 1, int64(size), int64(size) + 1, 1 << 40} {
			for name, from := range map[string]io.Reader{
				"whole": bytes.NewReader(text), "by byte": iotest.OneByteReader(bytes.NewReader(text)), "end at once": iotest.DataErrReader(bytes.NewReader(text)),
			} {
				if got, err := readUpTo(from, 1<<20, length); err != nil || !bytes.Equal(got, text) {
					t.Errorf("%s, %d bytes that are said to be %d: read %d, %v", name, size, length, len(got), err)
				}
			}
		}
	}
	if got, err := readUpTo(strings.NewReader("0123456789"), 4, 10); err != nil || string(got) != "0123" {
		t.Errorf("more than wanted: %q, %v", got, err)
	}
	broken := errors.New("broken")
	if _, err := readUpTo(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), 100, 3); !errors.Is(err, broken) {
		t.Errorf("broken off: %v", err)
	}
}

func TestPlaceholdersOfTheFilterTakeThePlaceOfTheMatchers(t *testing.T) {
	t.Parallel()
	_, r := benchRequest()
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for _, what := range []string{"id", "email", "login", "name", "provider", "of_another"} {
		repl.Set("http.auth.user."+what, "what another handler found")
	}
	asked := func(key string) any { v, _ := repl.Get(key); return v }
	describe(r, readContents([]byte(`{"method":"ping"}`)))
	if _, known := repl.Get("mcp.grant"); known || asked("mcp.method") != "ping" || asked("mcp.session") != "" {
		t.Errorf("after the matcher: method %v, session %v, grant %v", asked("mcp.method"), asked("mcp.session"), asked("mcp.grant"))
	}
	f := knowingFilter(t, 0, zap.NewNop())
	taken, err := captureBody(r)
	if err != nil {
		t.Fatal(err)
	}
	f.identify(r, &exchange{proxy: &f.proxy, session: newKnowing().session, body: taken})
	for key, want := range map[string]any{
		"mcp.method": "tools/call", "mcp.target": "tool", "mcp.name": "search_issues", "mcp.protocol_version": "2025-11-25", "mcp.session": "",
		"mcp.proxy": "jira", "mcp.client_id": "client-1", "mcp.client_name": "Claude", "mcp.grant": "grant-1", "http.auth.user.id": "user-1", "http.auth.user.email": "ada@example.com", "http.auth.user.login": "ada",
		"http.auth.user.name": "Ada Lovelace", "http.auth.user.provider": "jira", "http.auth.user.of_another": "what another handler found", "mcp.other": nil,
	} {
		if got := asked(key); got != want {
			t.Errorf("{%s} is %v, want %v", key, got, want)
		}
	}
	if v := caddyhttp.GetVar(r.Context(), placeholdersVar); v == nil {
		t.Error("a second filter would not find them")
	}
}

// What a handler in front defines, such as Caddy's map, may come from the client.
func TestNoHandlerInFrontSpeaksForThePlaceholdersOfTheFilter(t *testing.T) {
	t.Parallel()
	keys := []string{
		"mcp.method", "mcp.target", "mcp.name", "mcp.protocol_version", "mcp.session", "mcp.proxy", "mcp.client_id", "mcp.client_name", "mcp.grant",
		"http.auth.user.id", "http.auth.user.email", "http.auth.user.login", "http.auth.user.name", "http.auth.user.provider",
	}
	f := knowingFilter(t, 0, zap.NewNop())
	for name, define := range map[string]func(*caddy.Replacer){
		"mapped": func(repl *caddy.Replacer) {
			repl.Map(func(key string) (any, bool) { return "forged", slices.Contains(keys, key) })
		},
		"set": func(repl *caddy.Replacer) {
			for _, key := range keys {
				repl.Set(key, "forged")
			}
		},
	} {
		for _, matched := range []bool{false, true} {
			_, r := benchRequest()
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			taken, err := captureBody(r)
			if err != nil {
				t.Fatal(err)
			}
			if matched {
				describe(r, taken.contents())
			}
			define(repl)
			f.identify(r, &exchange{proxy: &f.proxy, session: newKnowing().session, body: taken})
			for _, key := range keys {
				if got, _ := repl.Get(key); got == "forged" || got == nil {
					t.Errorf("%s in front, after a matcher: %t: {%s} is %v", name, matched, key, got)
				}
			}
		}
	}
}
