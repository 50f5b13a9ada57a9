package operator_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// compactionOfTests compacts nothing: it answers.
func compactionOfTests(_ context.Context, tell func(tokenstore.Progress)) (*operator.Compaction, error) {
	tell(tokenstore.Progress{Step: "copying", Kind: tokenstore.KindGrant, Done: 1, Total: 2})
	return &operator.Compaction{Before: 2000, After: 1000}, nil
}

func TestVaultIsCompactedAtTheAdminEndpointAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if a := w.send("POST", w.site.URL+"/gw/admin/oauth/compact", "", header("X-Test-Cookie", "admin"), header("Content-Type", "application/json")); a.status != http.StatusForbidden {
		t.Errorf("on the site: %d %s", a.status, a.body)
	}
	a := w.ask("POST", "/compact", "")
	if a.status != http.StatusOK || !strings.HasSuffix(a.body, "}\n{\"result\":{\"before\":2000,\"after\":1000}}\n") || !strings.HasPrefix(a.body, `{"progress":{"step":"copying","kind":"grant","done":1,"total":2}`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}
