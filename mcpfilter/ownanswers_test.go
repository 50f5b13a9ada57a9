package mcpfilter_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// What the gateway itself says no with is no JSON-RPC message: a client of both eras tells by the code in a 400 which one a server speaks, and codes from -32020
// on mean what the specification says (MCP transports 2026-07-28, "Backward Compatibility").
func TestOwnAnswersAreNotTakenForTheServers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status  int
		path    string
		header  map[string]string
		arrange func(g *testGateway)
		answer  http.HandlerFunc
	}{
		"two credentials": {status: 400, header: map[string]string{"X-Session-Token": "good-token"}},
		"ambiguous path":  {status: 400, path: "/jira/mcp;x"},
		"no credential":   {status: 401, header: map[string]string{"Authorization": ""}},
		"no such token":   {status: 401, header: map[string]string{"Authorization": "Bearer other"}},
		"login is over":   {status: 401, arrange: func(g *testGateway) { g.tokenErr = mcpfilter.ErrNeedsReauth }},
		"outage":          {status: 503, arrange: func(g *testGateway) { g.authErr = errors.New("vault down") }},
		"refused by the server": {status: 401, answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, oneProblem)
		}},
		"led elsewhere by the server": {status: 502, answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(http.StatusFound)
			_, _ = io.WriteString(w, oneProblem)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			if c.arrange != nil {
				c.arrange(g)
			}
			s := startCaddy(t, g, resource, "\tmcp_filter PROXY\n\treverse_proxy UPSTREAM", &recorder{answer: c.answer})
			res := s.post(t, cmpOr(c.path, "/jira/mcp"), c.header)
			wantStatus(t, res, c.status)
			var body map[string]any
			if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
				t.Fatal(err)
			}
			_, isWord := body["error"].(string)
			if _, isRPC := body["jsonrpc"]; isRPC || !isWord || body["error_description"] == "" || len(body) != 2 {
				t.Errorf("body %v", body)
			}
		})
	}
}

// A request that its client never finished is no request: what is kept in memory goes upstream whole, or not at all.
func TestHalfARequestNeverReachesTheServer(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		g, up := newGateway(t), new(recorder)
		s := startCaddy(t, g, resource, site, up)
		for _, half := range []string{
			"Content-Length: 1000\r\n\r\n" + listTools,
			"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
			"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
			"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nno chunk\r\n",
		} {
			before := g.asked.Load()
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, "POST /jira/mcp HTTP/1.1\r\nHost: gw.test\r\nAuthorization: Bearer good-token\r\nContent-Type: application/json\r\n"+half)
			eventually(t, "the request to begin", func() bool { return g.asked.Load() > before })
			if !strings.Contains(half, "no chunk") { // which is the end already
				_ = conn.(*net.TCPConn).CloseWrite()
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
			eventually(t, "the request to end", func() bool { return g.entered.Load() == 0 })
		}
		if n := up.count(); n != 0 {
			t.Errorf("the MCP server saw %d requests", n)
		}
	})
}
