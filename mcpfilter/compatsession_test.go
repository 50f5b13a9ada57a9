package mcpfilter

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The farewell is sent when the request that opened the session is long done, or others of its variables are being set.
func TestFarewellOutlivesItsRequest(t *testing.T) {
	t.Parallel()
	vars := map[string]any{"how": "to dial"}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), caddyhttp.VarsCtxKey, vars))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://mcp.test/mcp?a=b", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaJSON)
	req.Header.Set("Mcp-Session-Id", "s")
	f := farewell(req)
	cancel()
	vars["how"] = "not at all"
	if err := f.Context().Err(); err != nil || caddyhttp.GetVar(f.Context(), "how") != "to dial" {
		t.Errorf("%v, %v", err, caddyhttp.GetVar(f.Context(), "how"))
	}
	if f.Method != http.MethodDelete || f.URL.String() != req.URL.String() || hasBody(f) || f.Header.Get("Mcp-Session-Id") != "s" || f.Header.Get("Content-Type") != "" {
		t.Errorf("%+v", f)
	}
	if req.Method != http.MethodPost || req.Header.Get("Content-Type") == "" {
		t.Error("the request itself was changed")
	}
}
