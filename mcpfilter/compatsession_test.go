package mcpfilter

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// A session is kept for a long time, and there may be many.
func TestSessionHoldsNothingOfTheRequestThatItWasOpenedFor(t *testing.T) {
	t.Parallel()
	farewell, held := func() (*http.Request, weak.Pointer[exchange]) {
		x := &exchange{body: &body{bytes: make([]byte, maxBody)}}
		repl := caddy.NewReplacer()
		repl.Set("http.reverse_proxy.upstream.host", "mcp.test")
		repl.Map(func(string) (any, bool) { return x, false })
		ctx := context.WithValue(t.Context(), exchangeKey{}, x)
		ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{
			bodyVar: x.body, "of.others": x, "reverse_proxy.proxy_protocol_info": "1.2.3.4",
		})
		ctx = context.WithValue(ctx, dialInfoKey, reverseproxy.DialInfo{Address: "mcp.test:80"})
		ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, repl)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://mcp.test/mcp", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Kept", "1")
		return farewell(req), weak.Make(x)
	}()
	runtime.GC()
	if held.Value() != nil {
		t.Error("it holds the exchange, and with it the body")
	}
	ctx := farewell.Context()
	if dial, ok := reverseproxy.GetDialInfo(ctx); !ok || dial.Address != "mcp.test:80" {
		t.Errorf("it goes to %v", dial)
	}
	if caddyhttp.GetVar(ctx, "reverse_proxy.proxy_protocol_info") != "1.2.3.4" {
		t.Error("it goes there without the client's address")
	}
	repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok || repl.ReplaceAll("{http.reverse_proxy.upstream.host}", "") != "mcp.test" {
		t.Error("placeholders do not name the server")
	}
	if farewell.Method != http.MethodDelete || farewell.Header.Get("X-Kept") != "1" {
		t.Errorf("%s %v", farewell.Method, farewell.Header)
	}
}

// The farewell is sent when the request that opened the session is long done, or others of its variables are being set.
func TestFarewellOutlivesItsRequest(t *testing.T) {
	t.Parallel()
	vars := map[string]any{"reverse_proxy.how": "to dial"}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), caddyhttp.VarsCtxKey, vars))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://mcp.test/mcp?a=b", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaJSON)
	req.Header.Set("Mcp-Session-Id", "s")
	f := farewell(req)
	cancel()
	vars["reverse_proxy.how"] = "not at all"
	if err := f.Context().Err(); err != nil || caddyhttp.GetVar(f.Context(), "reverse_proxy.how") != "to dial" {
		t.Errorf("%v, %v", err, caddyhttp.GetVar(f.Context(), "reverse_proxy.how"))
	}
	if f.Method != http.MethodDelete || f.URL.String() != req.URL.String() || hasBody(f) || f.Header.Get("Mcp-Session-Id") != "s" || f.Header.Get("Content-Type") != "" {
		t.Errorf("%+v", f)
	}
	if req.Method != http.MethodPost || req.Header.Get("Content-Type") == "" {
		t.Error("the request itself was changed")
	}
}
