package mcpfilter_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

func TestConfigMistakesAreRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	for config, want := range map[string]string{
		`{"handler":"mcp_filter"}`:                                     "needs the id of a proxy",
		`{"handler":"mcp_filter","proxy":"nobody"}`:                    `no proxy "nobody" is configured`,
		`{"handler":"mcp_filter","proxy":"ID","credential":"cookie"}`:  `credential "cookie"`,
		`{"handler":"mcp_filter","proxy":"ID","upstream_path":"v1"}`:   `upstream_path: path "v1"`,
		`{"handler":"mcp_filter","proxy":"ID","upstream_path":"/a?b"}`: `upstream_path: path "/a?b"`,
		`{"handler":"mcp_filter","proxy":"ID","upstreampath":"/a"}`:    "unknown field",
		`{"handler":"mcp_filter","proxy":"ID","app":"none"}`:           "unknown field",
		`{"handler":"mcp_filter","proxy":"without an app"}`:            "add a global oauth_proxy block",
	} {
		apps := map[string]json.RawMessage{
			"http": json.RawMessage(`{"servers":{"s":{"listen":[":0"],"automatic_https":{"disable":true},"routes":[{"handle":[` + strings.ReplaceAll(config, "ID", g.id) + `]}]}}}`),
		}
		if !strings.Contains(config, "without an app") {
			apps["oauth_proxy"] = caddyconfig.JSON(testApp{Proxies: map[string]testProxy{g.id: {Resource: resource}}}, nil)
		}
		provisioning.Lock()
		_, err := caddy.ProvisionContext(&caddy.Config{AppsRaw: apps})
		provisioning.Unlock()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
}

func TestBodyLimitOfTheSiteHolds(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, "\trequest_body {\n\t\tmax_size 1KB\n\t}\n"+viaProxy, up)
	req := s.newRequest(t, http.MethodPost, "/jira/mcp", nil, listTools)
	req.ContentLength, req.Body = -1, io.NopCloser(strings.NewReader(`{"method":"x","a":"`+strings.Repeat("a", 4000)+`"}`))
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	wantStatus(t, res, http.StatusRequestEntityTooLarge)
	if up.count() != 0 {
		t.Error("the MCP server saw a part of the request")
	}
}

func TestBodiesThatAreNotJSONPassUntouched(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaProxy, up)
	for contentType, body := range map[string]string{
		"text/plain": "plain", "application/json": "{broken", "application/octet-stream": strings.Repeat("\x00\xff", 1<<20),
	} {
		wantStatus(t, s.request(t, http.MethodPost, "/jira/mcp", map[string]string{"Content-Type": contentType}, body), http.StatusOK)
		if got := up.bodies[len(up.bodies)-1]; got != body {
			t.Errorf("%s: %d bytes arrived, want %d", contentType, len(got), len(body))
		}
	}
}

func TestUpgradedConnectionsPass(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		up := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer upstream-1" || r.Header.Get("Upgrade") != "echo" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nSet-Cookie: a=b\r\n\r\n")
			line, _ := rw.ReadString('\n')
			_, _ = io.WriteString(conn, "echo "+line)
		})
		s := startCaddy(t, newGateway(t), resource, site, up)
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /jira/mcp HTTP/1.1\r\nHost: gw.test\r\nAuthorization: Bearer good-token\r\nConnection: keep-alive, Upgrade, Authorization\r\nUpgrade: echo\r\n\r\n")
		r := bufio.NewReader(conn)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Set-Cookie") != "" {
			t.Fatalf("status %d, header %v", res.StatusCode, res.Header)
		}
		_, _ = io.WriteString(conn, "hello\n")
		if got, err := r.ReadString('\n'); got != "echo hello\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestAnyHandlerCanStandBehindTheFilter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "page.html"), []byte(strings.Repeat("<p>", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startCaddy(t, newGateway(t), resource, "\tmcp_filter PROXY\n\tfile_server {\n\t\troot "+dir+"\n\t}", http.NotFoundHandler())
	res := s.request(t, http.MethodGet, "/page.html", nil, "")
	wantStatus(t, res, http.StatusOK)
	if got := bodyOf(t, res); len(got) != 15000 || res.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("%d bytes, header %v", len(got), res.Header)
	}
}

// BenchmarkProxy compares an MCP call through plain reverse_proxy, through the filter, and through mcp_proxy.
func BenchmarkProxy(b *testing.B) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	}))
	b.Cleanup(up.Close)
	for i, site := range []struct{ name, directives string }{
		{"reverse_proxy", "reverse_proxy UPSTREAM"},
		{"mcp_filter", "mcp_filter PROXY\n\treverse_proxy UPSTREAM"},
		{"mcp_proxy", "mcp_proxy PROXY UPSTREAM/v1/mcp"},
	} {
		b.Run(site.name, func(b *testing.B) {
			id := fmt.Sprintf("bench-%d-%d", i, b.N)
			gateways.Store(id, &testGateway{id: id})
			defer gateways.Delete(id)
			text := strings.NewReplacer("PROXY", id, "UPSTREAM", up.URL).Replace(
				"{\n\tauto_https off\n\toauth_proxy {\n\t\tproxy PROXY " + resource + "\n\t}\n}\nhttp:// {\n\t" + site.directives + "\n}\n")
			handler := loadQuiet(b, text)
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/jira/mcp", strings.NewReader(listTools))
				r.Header.Set("Authorization", "Bearer good-token")
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatalf("status %d: %s", w.Code, w.Body)
				}
			}
		})
	}
}
