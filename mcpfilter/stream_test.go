package mcpfilter_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// ticker is an MCP server that sends an event whenever the test says so, until it is left or told that all is said.
type ticker struct {
	contentType string
	events      chan string
	left        chan struct{}
}

func newTicker() *ticker { return &ticker{"text/event-stream", make(chan string), make(chan struct{})} }

func (u *ticker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer close(u.left)
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", u.contentType)
	flush := http.NewResponseController(w).Flush
	_ = flush()
	for {
		select {
		case e, more := <-u.events:
			if !more {
				return
			}
			_, _ = fmt.Fprintf(w, "data: %s\n\n", e)
			_ = flush()
		case <-r.Context().Done():
			return
		}
	}
}

// send sends an event, unless the response has ended.
func (u *ticker) send(t *testing.T, event string) {
	t.Helper()
	select {
	case u.events <- event:
	case <-u.left:
		t.Fatalf("the response ended before %q", event)
	}
}

func (u *ticker) waitLeft(t *testing.T) {
	t.Helper()
	select {
	case <-u.left:
	case <-time.After(10 * time.Second):
		t.Fatal("the MCP server still streams")
	}
}

// event reads one event, for as long as the request's context lets it.
func event(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("read event: %v", err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatalf("read event: %v", err)
	}
	return strings.TrimPrefix(strings.TrimSpace(line), "data: ")
}

func TestEventsArriveOneByOneEvenBehindEncode(t *testing.T) {
	t.Parallel()
	for name, site := range map[string]string{
		"header": viaHeader, "transport": viaProxy, "encode": "\tencode gzip\n" + viaProxy, "encode, header": "\tencode gzip\n" + viaHeader,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, method := range []string{http.MethodPost, http.MethodGet} {
				g, up := newGateway(t), newTicker()
				s := startCaddy(t, g, resource, site, up)
				body := ""
				if method == http.MethodPost {
					body = listTools
				}
				res := s.request(t, method, "/jira/mcp", map[string]string{"Accept-Encoding": "gzip"}, body)
				wantStatus(t, res, http.StatusOK)
				if got := res.Header.Get("Content-Encoding"); got != "" {
					t.Fatalf("the stream is encoded: %s", got)
				}
				events := bufio.NewReader(res.Body)
				for i := range 3 {
					want := fmt.Sprint("tick ", i)
					up.events <- want // the next is not sent before this one is read
					if got := event(t, events); got != want {
						t.Fatalf("event %q, want %q", got, want)
					}
				}
				_ = res.Body.Close()
				up.waitLeft(t)
			}
		})
	}
}

func TestR06StoppingEndsStreamsCleanly(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), newTicker()
			s := startCaddy(t, g, resource, viaProxy, up)
			if proto == "HTTP/2.0" {
				h2 := httptest.NewUnstartedServer(s.Config.Handler)
				h2.EnableHTTP2 = true
				h2.StartTLS()
				t.Cleanup(h2.Close)
				s = &caddyServer{h2, s.log}
			}
			res := s.post(t, "/jira/mcp", nil)
			if res.Proto != proto {
				t.Fatalf("protocol %s", res.Proto)
			}
			events := bufio.NewReader(res.Body)
			up.events <- "one"
			if got := event(t, events); got != "one" {
				t.Fatalf("event %q", got)
			}
			g.stop()
			if rest, err := io.ReadAll(events); err != nil || len(rest) != 0 {
				t.Errorf("the stream ended with %q, %v; want a clean end", rest, err)
			}
			up.waitLeft(t)
			eventually(t, "the vault to be let go", func() bool { return g.entered.Load() == 0 })
		})
	}
}

func TestR06StoppingEndsStreamsOfOtherTransports(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), newTicker()
	s := startCaddy(t, g, resource, viaHeader, up)
	res := s.post(t, "/jira/mcp", nil)
	events := bufio.NewReader(res.Body)
	up.events <- "one"
	event(t, events)
	g.stop()
	_, _ = io.ReadAll(events)
	up.waitLeft(t)
	eventually(t, "the vault to be let go", func() bool { return g.entered.Load() == 0 })
}

func TestR06StoppingLetsCallsFinish(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.stop()
	s := startCaddy(t, g, resource, viaProxy, new(recorder))
	res := s.post(t, "/jira/mcp", nil)
	wantStatus(t, res, http.StatusOK)
	if got := bodyOf(t, res); !strings.Contains(got, "result") {
		t.Errorf("body %q", got)
	}
}

func TestT58StreamEndsWithItsGrant(t *testing.T) {
	t.Parallel()
	const options = `
	mcp_filter PROXY {
		credential transport
		stream_recheck 5ms
		stream_past_expiry 20ms
	}
	reverse_proxy UPSTREAM {
		transport mcp
	}`
	for name, end := range map[string]func(g *testGateway){
		"revoked": func(g *testGateway) { g.set(func() { g.authErr = mcpfilter.ErrInvalidToken }) },
		"expired": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), newTicker()
			if end == nil {
				g.expires = time.Now().Add(500 * time.Millisecond)
			}
			s := startCaddy(t, g, resource, options, up)
			res := s.post(t, "/jira/mcp", nil)
			events := bufio.NewReader(res.Body)
			up.events <- "one"
			event(t, events)
			if end != nil {
				end(g)
			}
			if _, err := io.ReadAll(events); err != nil {
				t.Errorf("the stream broke: %v", err)
			}
			up.waitLeft(t)
		})
	}
}

// lastingWays watches responses closely, with the token in the header and in the transport.
func lastingWays(t *testing.T, test func(t *testing.T, site string)) {
	for credential, transport := range map[string]string{"header": "http", "transport": "mcp"} {
		t.Run(credential, func(t *testing.T) {
			t.Parallel()
			test(t, `
	mcp_filter PROXY {
		credential `+credential+`
		stream_recheck 5ms
	}
	reverse_proxy UPSTREAM {
		transport `+transport+`
	}`)
		})
	}
}

func TestT58EveryLongResponseEndsWithItsGrant(t *testing.T) {
	t.Parallel()
	lastingWays(t, func(t *testing.T, site string) {
		g, up := newGateway(t), newTicker()
		up.contentType = "application/x-ndjson"
		s := startCaddy(t, g, resource, site, up)
		res := s.post(t, "/jira/mcp", nil)
		events := bufio.NewReader(res.Body)
		up.events <- "one"
		event(t, events)
		eventually(t, "the grant to be checked again", func() bool { return g.asked.Load() > 2 })
		up.events <- "two"
		event(t, events)
		g.set(func() { g.authErr = mcpfilter.ErrInvalidToken })
		if _, err := io.ReadAll(events); err == nil {
			t.Error("the client takes half a response for a whole one")
		}
		up.waitLeft(t)
		eventually(t, "the vault to be let go", func() bool { return g.entered.Load() == 0 })
	})
}

func TestT58LongDownloadEndsWithItsGrant(t *testing.T) {
	t.Parallel()
	const size = 64 << 20 // more than all buffers on the way hold
	dir := t.TempDir()
	file := filepath.Join(dir, "large.bin")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t)
	s := startCaddy(t, g, resource, `
	mcp_filter PROXY {
		stream_recheck 5ms
	}
	file_server {
		root `+dir+`
	}`, http.NotFoundHandler())
	res := s.request(t, http.MethodGet, "/large.bin", nil, "")
	wantStatus(t, res, http.StatusOK)
	g.set(func() { g.authErr = mcpfilter.ErrInvalidToken })
	eventually(t, "the response to be ended", func() bool { return strings.Contains(s.log.String(), "response ended") })
	if n, err := io.Copy(io.Discard, res.Body); err == nil || n == size {
		t.Errorf("%d bytes arrived, %v", n, err)
	}
}

func TestR06StoppingLetsLongResponsesFinish(t *testing.T) {
	t.Parallel()
	lastingWays(t, func(t *testing.T, site string) {
		g, up := newGateway(t), newTicker()
		up.contentType = "application/json"
		s := startCaddy(t, g, resource, site, up)
		res := s.post(t, "/jira/mcp", nil)
		events := bufio.NewReader(res.Body)
		up.events <- "one"
		event(t, events)
		g.stop()
		asked := g.asked.Load()
		eventually(t, "the grant to be checked again", func() bool { return g.asked.Load() > asked+2 })
		up.events <- "two"
		close(up.events)
		if got := event(t, events); got != "two" {
			t.Errorf("%q", got)
		}
		if rest, err := io.ReadAll(events); err != nil || len(rest) != 0 {
			t.Errorf("the response ended with %q, %v", rest, err)
		}
	})
}

func TestT58StreamEndsWithItsGrantAfterItsTokenExpired(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), newTicker()
	g.expires = time.Now()
	s := startCaddy(t, g, resource, `
	mcp_filter PROXY {
		credential transport
		stream_recheck 5ms
		stream_past_expiry off
	}
	reverse_proxy UPSTREAM {
		transport mcp
	}`, up)
	res := s.post(t, "/jira/mcp", nil)
	events := bufio.NewReader(res.Body)
	asked := g.asked.Load()
	eventually(t, "the grant to be checked again", func() bool { return g.asked.Load() > asked+2 })
	up.events <- "one"
	event(t, events)
	g.set(func() { g.authErr = mcpfilter.ErrInvalidToken })
	if _, err := io.ReadAll(events); err != nil {
		t.Errorf("the stream broke: %v", err)
	}
	up.waitLeft(t)
}

func TestT58OutageDoesNotEndStreams(t *testing.T) {
	t.Parallel()
	for name, life := range map[string]time.Duration{"with a token": time.Hour, "whose token has expired": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), newTicker()
			g.expires = time.Now().Add(life)
			s := startCaddy(t, g, resource, `
	mcp_filter PROXY {
		credential transport
		stream_recheck 1ms
	}
	reverse_proxy UPSTREAM {
		transport mcp
	}`, up)
			res := s.post(t, "/jira/mcp", nil)
			events := bufio.NewReader(res.Body)
			g.set(func() { g.authErr = errors.New("vault down") })
			for i := range 20 {
				asked := g.asked.Load()
				eventually(t, "the grant to be checked again", func() bool { return g.asked.Load() > asked })
				want := fmt.Sprint(i)
				up.events <- want
				if got := event(t, events); got != want {
					t.Fatalf("event %q", got)
				}
			}
		})
	}
}

// An answer that the server thought about for long is not handed out when the grant was revoked meanwhile.
func TestT58LateAnswerIsWithheldWhenItsGrantIsRevoked(t *testing.T) {
	t.Parallel()
	lastingWays(t, func(t *testing.T, site string) {
		g := newGateway(t)
		up := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
			g.set(func() { g.authErr = mcpfilter.ErrInvalidToken })
			time.Sleep(200 * time.Millisecond) // many times as long as between two checks
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"of":"the user"}`)
		}}
		s := startCaddy(t, g, resource, site, up)
		res := s.post(t, "/jira/mcp", nil)
		if body := bodyOf(t, res); res.StatusCode != http.StatusUnauthorized || strings.Contains(body, "the user") {
			t.Errorf("%d %s", res.StatusCode, body)
		}
	})
}
