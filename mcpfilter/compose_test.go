package mcpfilter_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
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

func TestT78KeyInAHeaderThatLogsShowNeedsTheTransport(t *testing.T) {
	t.Parallel()
	for header, c := range map[string]struct{ credential, want string }{
		"X-API-Key":     {"header", "use mcp_proxy, or credential transport here and transport mcp"},
		"X-Service-Key": {"", "use mcp_proxy, or credential transport here and transport mcp"},
		"X-Other-Key":   {"transport", ""},
		"authorization": {"", ""}, // which Caddy redacts
		"":              {"", ""},
	} {
		g := newGateway(t)
		g.credentialHeader = header
		filter := caddyconfig.JSON(map[string]string{"handler": "mcp_filter", "proxy": g.id, "credential": c.credential}, nil)
		apps := map[string]json.RawMessage{
			"http":        json.RawMessage(`{"servers":{"s":{"listen":[":0"],"automatic_https":{"disable":true},"routes":[{"handle":[` + string(filter) + `]}]}}}`),
			"oauth_proxy": caddyconfig.JSON(testApp{Proxies: map[string]testProxy{g.id: {Resource: resource}}}, nil),
		}
		provisioning.Lock()
		_, err := caddy.ProvisionContext(&caddy.Config{AppsRaw: apps})
		provisioning.Unlock()
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), header)) {
			t.Errorf("%s, credential %q: %v", header, c.credential, err)
		}
	}
}

func TestT78KeyInAHeaderOfItsOwnIsInNoLog(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	g.credentialHeader = "X-API-Key"
	s := startCaddy(t, g, resource, viaProxy, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
	if h := up.last(t).Header; h.Get("X-Api-Key") != "upstream-1" || h.Get("Authorization") != "" {
		t.Errorf("the MCP server was sent %v", h)
	}
	eventually(t, "the request in the logs", func() bool {
		return strings.Contains(s.log.String(), "upstream roundtrip") && strings.Contains(s.log.String(), "handled request")
	})
	if strings.Contains(s.log.String(), "upstream-1") {
		t.Errorf("the log has the key:\n%s", s.log.String())
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

// switching is an MCP server that switches protocols with these header lines, asked or not, and tells what it is sent then.
type switching struct {
	header string
	asked  atomic.Bool
	sent   chan string
}

func (u *switching) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" || r.Header.Get("Connection") != "" || r.Header.Get("Http2-Settings") != "" {
		u.asked.Store(true)
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n"+u.header+"\r\n")
	line, _ := rw.ReadString('\n')
	u.sent <- line
}

func TestT60NoUpgradeIsATunnelPastTheFilter(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ upgrade, header, directives string }{
		"WebSocket":          {upgrade: "websocket", header: "Connection: Upgrade\r\nUpgrade: websocket\r\n"},
		"HTTP/2":             {upgrade: "h2c", header: "Connection: Upgrade\r\nUpgrade: h2c\r\n"},
		"to nothing named":   {upgrade: "h2c", header: "Connection: Upgrade\r\n"},
		"without Connection": {upgrade: "h2c", header: "Upgrade: h2c\r\n"},
		"as an event stream": {upgrade: "h2c", header: "Connection: Upgrade\r\nContent-Type: text/event-stream\r\n"},
		"asked for behind": {upgrade: "h2c", header: "Connection: Upgrade\r\nUpgrade: h2c\r\n", directives: ` {
		header_up Connection Upgrade
		header_up Upgrade h2c
	}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, func(t *testing.T, site string) {
				up := &switching{header: c.header, sent: make(chan string, 1)}
				s := startCaddy(t, newGateway(t), resource, site+c.directives, up)
				conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				_, _ = io.WriteString(conn, "GET /jira/mcp HTTP/1.1\r\nHost: gw.test\r\nAuthorization: Bearer good-token\r\n"+
					"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: "+c.upgrade+"\r\n\r\n")
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				if body := bodyOf(t, res); res.StatusCode != http.StatusBadGateway || !strings.Contains(body, "bad_gateway") || res.Header.Get("Upgrade") != "" {
					t.Errorf("status %d, header %v, body %s", res.StatusCode, res.Header, body)
				}
				_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n")
				if line := <-up.sent; line != "" { // the server's connection was closed
					t.Errorf("the MCP server was sent %q past the filter", line)
				}
				if c.directives == "" && up.asked.Load() {
					t.Error("the MCP server was asked to switch")
				}
			})
		})
	}
}

func TestT60ExtendedConnectIsRefused(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		up := new(recorder)
		s := startCaddy(t, newGateway(t), resource, site, up)
		for proto, major := range map[string]int{"HTTP/2.0": 2, "websocket": 3} { // what the servers make of RFC 8441 and RFC 9220
			r := s.newRequest(t, http.MethodConnect, "/jira/mcp", nil, "")
			r.Proto, r.ProtoMajor, r.RequestURI = proto, major, "/jira/mcp"
			r.Header[":protocol"] = []string{"websocket"}
			w := httptest.NewRecorder()
			s.Config.Handler.ServeHTTP(w, r)
			if w.Code != http.StatusBadRequest {
				t.Errorf("HTTP/%d: status %d, %s", major, w.Code, w.Body)
			}
		}
		if up.count() != 0 {
			t.Error("the MCP server saw the request")
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
