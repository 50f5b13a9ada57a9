package mcpfilter_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"
)

// Of a response that was refused nothing is wanted: it does not hold the handler for as long as the MCP server likes.
func TestRefusedResponseEndsAtTheServer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		talks  bool // all the time
	}{
		"scopes, talking": {http.StatusForbidden, true}, "scopes, silent": {http.StatusForbidden, false},
		"redirect, talking": {http.StatusFound, true}, "redirect, silent": {http.StatusFound, false},
		"token, talking": {http.StatusUnauthorized, true}, "token, silent": {http.StatusUnauthorized, false},
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, site string) {
				g := newGateway(t)
				g.upstreamScope, g.scopes = "upstream:", []string{"mcp"}
				left := make(chan struct{}, 2) // a request that is refused for its token is repeated
				up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
					defer func() { left <- struct{}{} }()
					w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="x"`)
					w.Header().Set("Location", "https://elsewhere.example/")
					w.WriteHeader(c.status)
					_ = http.NewResponseController(w).Flush()
					tick := time.NewTicker(10 * time.Millisecond)
					defer tick.Stop()
					for {
						select {
						case <-tick.C:
							if c.talks {
								_, _ = w.Write([]byte(strings.Repeat("x", 4096)))
							}
						case <-r.Context().Done():
							return
						}
					}
				}}
				s := startCaddy(t, g, resource, site, up)
				res := s.post(t, "/jira/mcp", nil)
				if body := bodyOf(t, res); !strings.HasPrefix(body, `{"error":`) {
					t.Errorf("%d %s", res.StatusCode, body)
				}
				select {
				case <-left:
				case <-time.After(15 * time.Second):
					t.Error("the MCP server still answers")
				}
			})
		})
	}
}

// The client's answer is whole however the MCP server's ends, so that its connection goes on.
func TestRefusedResponseThatBreaksOffLeavesTheClientsConnection(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		for name, announced := range map[string]string{"of unknown length": "", "of known length": "1000000"} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %t", name, http2), func(t *testing.T) {
				bothWays(t, func(t *testing.T, site string) {
					g := newGateway(t)
					g.upstreamScope, g.scopes = "upstream:", []string{"mcp"}
					up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="x"`)
						if announced != "" {
							w.Header().Set("Content-Length", announced)
						}
						w.WriteHeader(http.StatusForbidden)
						_ = http.NewResponseController(w).Flush()
						<-r.Context().Done()
					}}
					s := startCaddy(t, g, resource, site, up)
					server := httptest.NewUnstartedServer(s.Config.Handler)
					server.EnableHTTP2 = http2
					server.StartTLS()
					t.Cleanup(server.Close)
					s = &caddyServer{server, s.log}
					for i := range 2 {
						reused := false
						req := s.newRequest(t, http.MethodPost, "/jira/mcp", nil, listTools)
						req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }}))
						res, err := s.Client().Do(req)
						if err != nil {
							t.Fatal(err)
						}
						body, err := io.ReadAll(res.Body)
						_ = res.Body.Close()
						if err != nil || !strings.Contains(string(body), "insufficient_scope") || (res.ProtoMajor == 2) != http2 || reused != (i == 1) {
							t.Errorf("request %d: %s %s, %v, connection reused %t", i, res.Proto, body, err, reused)
						}
					}
				})
			})
		}
	}
}
