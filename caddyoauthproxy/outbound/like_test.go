package outbound

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"
)

// What an MCP server names leads into private networks only where the operator means it to.
func TestT23PrivateNetworksAreClosedToWhatServersName(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(srv.Close)
	for name, tt := range map[string]struct {
		server  string
		private bool
		open    bool
	}{
		"a name":                       {"https://mcp.example/mcp", false, false},
		"a public address":             {"https://93.184.216.34/mcp", false, false},
		"a name, and said to be open":  {"https://mcp.example/mcp", true, true},
		"this machine":                 {"http://localhost:9000/mcp", false, true},
		"this machine's address":       {"http://127.0.0.1:9000/mcp", false, true},
		"this machine's other address": {"http://[::1]:9000/mcp", false, true},
		"a private address":            {"https://10.1.2.3/mcp", false, true},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := NewLike(tt.server, tt.private, 5*time.Second, 1).Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err == nil) != tt.open {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A proxy judges what it is asked for, and nothing else goes without a judge.
func TestT23ProxyJudgesOnlyWhatItIsAskedFor(t *testing.T) {
	t.Parallel()
	private := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(private.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	t.Cleanup(proxy.Close)
	client := NewLike("https://mcp.example/mcp", false, 5*time.Second, 1)
	client.Transport.(*egress).proxied.Proxy = func(r *http.Request) (*url.URL, error) {
		if r.URL.Hostname() == "as.example" {
			return url.Parse(proxy.URL)
		}
		return nil, nil
	}
	get := func(address string) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, errors.Join(resp.Body.Close())
	}
	if status, err := get("http://as.example/metadata"); err != nil || status != http.StatusTeapot {
		t.Errorf("by the proxy: %d, %v", status, err)
	}
	if status, err := get(private.URL); err == nil {
		t.Errorf("exempt from the proxy: %d", status)
	}
}
