package mcpfilter

import (
	"context"
	"net/http"
	"runtime"
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
