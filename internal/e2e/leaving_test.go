package e2e

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// leaving is an MCP server that works on every request for as long as its client stays, and tells when that is over.
type leaving struct {
	mu   sync.Mutex
	jobs map[string]*job
}

// job is one request, by its header X-Job.
type job struct{ begun, left chan struct{} }

// expect makes room for a request.
func (s *leaving) expect(id string) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := &job{make(chan struct{}), make(chan struct{})}
	s.jobs[id] = j
	return j
}

func (s *leaving) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	j := s.jobs[r.Header.Get("X-Job")]
	s.mu.Unlock()
	if j == nil {
		w.Header().Set("Mcp-Session-Id", "s")
		http.NotFound(w, r)
		return
	}
	defer close(j.left)
	switch r.Header.Get("X-Phase") {
	case "body":
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		close(j.begun)
		_, _ = io.Copy(io.Discard, r.Body) // ends with an error when the client leaves
		return
	case "stream":
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, ":\n\n")
		_ = http.NewResponseController(w).Flush()
	default:
		_, _ = io.Copy(io.Discard, r.Body)
	}
	close(j.begun)
	<-r.Context().Done()
}

// A client that leaves is done with its request, and in the stateless era says so by leaving (MCP transports 2026-07-28, "Cancellation"): the MCP server
// learns of it at once, whatever version of HTTP the client speaks and whatever it was waiting for.
func TestClientThatLeavesEndsItsRequestAtTheServerAtOnce(t *testing.T) {
	t.Parallel()
	server := &leaving{jobs: make(map[string]*job)}
	up := httptest.NewServer(server)
	t.Cleanup(up.Close)
	w := overTLS(t, up.URL, "")
	bot := w.NewPlainBot(t)
	bot.Login(t, testenv.NewBrowser(testenv.Alice))
	clients := clientsOf(t)
	stateful := map[string]string{"Mcp-Session-Id": openedSession(t, clients["HTTP/1.1"], w.ProxyURL("demo"), bot.Access()), "MCP-Protocol-Version": testenv.Stateful}
	stateless := map[string]string{"MCP-Protocol-Version": testenv.Stateless, "Mcp-Method": "tools/call", "Mcp-Name": "x"}
	for proto, client := range clients {
		for name, c := range map[string]struct {
			method, phase string
			header        map[string]string
			length        int64 // more than is sent
			contentType   string
		}{
			"stateful, waiting for the answer":  {http.MethodPost, "answer", stateful, 0, "application/json"},
			"stateful, in the answer":           {http.MethodPost, "stream", stateful, 0, "application/json"},
			"stateful, on the stream of GET":    {http.MethodGet, "stream", stateful, 0, ""},
			"stateless, waiting for the answer": {http.MethodPost, "answer", stateless, 0, "application/json"},
			"stateless, in the answer":          {http.MethodPost, "stream", stateless, 0, "application/json"},
			"in a long body":                    {http.MethodPost, "body", stateless, 16 << 20, "application/json"},
			"in a body of another media type":   {http.MethodPost, "body", stateful, 16 << 20, "application/octet-stream"},
			"stateful, waiting for a DELETE":    {http.MethodDelete, "answer", stateful, 0, ""},
		} {
			t.Run(proto+", "+name, func(t *testing.T) {
				t.Parallel()
				var took time.Duration
				for range 3 { // a machine that is busy is not a gateway that waits
					took = leave(t, server, client, func(ctx context.Context, id string) *http.Request {
						var body io.Reader
						switch {
						case c.length > 0:
							sent := strings.NewReader(strings.Repeat("x", int(c.length)/2))
							body = io.MultiReader(sent, waitFor{ctx})
						case c.method == http.MethodPost:
							body = strings.NewReader(testenv.ToolCall("x"))
						}
						req, err := http.NewRequestWithContext(ctx, c.method, w.ProxyURL("demo"), body)
						if err != nil {
							t.Fatal(err)
						}
						if c.length > 0 {
							req.ContentLength = c.length
						}
						for name, value := range c.header {
							req.Header.Set(name, value)
						}
						req.Header.Set("Content-Type", c.contentType)
						req.Header.Set("Authorization", "Bearer "+bot.Access())
						req.Header.Set("X-Phase", c.phase)
						req.Header.Set("X-Job", id)
						return req
					})
					if took < time.Second {
						return
					}
				}
				t.Errorf("the MCP server was told after %s", took)
			})
		}
	}
}

// openedSession is the id of a session as the gateway tells it.
func openedSession(t *testing.T, client *http.Client, url, token string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(testenv.ToolCall("x")))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	id := res.Header.Get("Mcp-Session-Id")
	if id == "" {
		t.Fatalf("no session: %d", res.StatusCode)
	}
	return id
}

// leave sends a request, gives it up when the server works on it, and says how long it took until the server knew.
func leave(t *testing.T, server *leaving, client *http.Client, request func(ctx context.Context, id string) *http.Request) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	id := t.Name()
	j := server.expect(id)
	ended := make(chan error, 1)
	go func() {
		res, err := client.Do(request(ctx, id))
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		ended <- err
	}()
	select {
	case <-j.begun:
	case err := <-ended:
		t.Fatalf("ended before it was given up: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the request never arrived")
	}
	began := time.Now()
	cancel()
	select {
	case <-j.left:
	case <-time.After(20 * time.Second):
		t.Fatal("the MCP server still works for a client that has left")
	}
	took := time.Since(began)
	if err := <-ended; err == nil {
		t.Error("the client got an answer to what it gave up")
	}
	return took
}

// waitFor is a body that goes on when its request is given up.
type waitFor struct{ ctx context.Context }

func (w waitFor) Read([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}
