package mcpfilter_test

import (
	"net/http"
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
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, site string) {
				g := newGateway(t)
				g.upstreamScope, g.scopes = "upstream:", []string{"mcp"}
				left := make(chan struct{})
				up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
					defer close(left)
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
