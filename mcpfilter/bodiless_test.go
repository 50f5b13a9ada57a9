package mcpfilter_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// HTTP/2 and HTTP/3 need not say beforehand that a request has no body.
func TestRequestsWithoutABodyPassAPolicyOverHTTP2(t *testing.T) {
	t.Parallel()
	up := new(recorder)
	s := startCaddy(t, policyGateway(t), resource, viaProxy, up)
	h2 := httptest.NewUnstartedServer(s.Config.Handler)
	h2.EnableHTTP2 = true
	h2.StartTLS()
	t.Cleanup(h2.Close)
	for _, c := range []struct {
		method, body string
		status       int
	}{{http.MethodGet, "", 200}, {http.MethodDelete, "", 200}, {http.MethodGet, "{}", 400}, {http.MethodPost, "", 400}} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, h2.URL+"/jira/mcp", io.MultiReader(strings.NewReader(c.body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer reader")
		req.Header.Set("Content-Type", "application/json")
		res, err := h2.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.ProtoMajor != 2 || res.StatusCode != c.status {
			t.Errorf("%s %q: %s %d, want %d", c.method, c.body, res.Proto, res.StatusCode, c.status)
		}
	}
}
