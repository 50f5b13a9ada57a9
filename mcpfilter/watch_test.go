package mcpfilter_test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// toldWays runs a test in which nothing but the vault's word ends a response, with the token in the header and in the transport, and with event
// streams and others.
func toldWays(t *testing.T, test func(t *testing.T, g *testGateway, up *ticker, site string)) {
	for credential, transport := range map[string]string{"header": "http", "transport": "mcp"} {
		for contentType, kind := range map[string]string{"text/event-stream": "stream", "application/x-ndjson": "other"} {
			t.Run(credential+" "+kind, func(t *testing.T) {
				t.Parallel()
				g, up := newGateway(t), newTicker()
				up.contentType = contentType
				test(t, g, up, `
	mcp_filter PROXY {
		credential `+credential+`
		stream_recheck off
	}
	reverse_proxy UPSTREAM {
		transport `+transport+`
	}`)
			})
		}
	}
}

// wantEnd reads until the response ends. The client of an event stream is told so where the transport can; no client takes another
// response for whole.
func wantEnd(t *testing.T, up *ticker, site string, events io.Reader) {
	t.Helper()
	rest, err := io.ReadAll(events)
	stream, told := up.contentType == "text/event-stream", strings.Contains(site, "transport mcp")
	if len(rest) != 0 || stream && told && err != nil || !stream && err == nil {
		t.Errorf("the response ended with %q, %v", rest, err)
	}
	up.waitLeft(t)
}

func TestT58ResponseEndsWhenToldOfItsGrantsEnd(t *testing.T) {
	t.Parallel()
	toldWays(t, func(t *testing.T, g *testGateway, up *ticker, site string) {
		s := startCaddy(t, g, resource, site, up)
		res := s.post(t, "/jira/mcp", nil)
		events := bufio.NewReader(res.Body)
		up.send(t, "one")
		event(t, events)
		eventually(t, "the grant to be watched", func() bool { return g.watched() == 1 })
		g.set(func() { g.authErr = mcpfilter.ErrInvalidToken })
		start := time.Now()
		g.tell()
		wantEnd(t, up, site, events)
		if took := time.Since(start); took > time.Second {
			t.Errorf("the response ended after %s", took)
		}
		eventually(t, "the watch to be stopped", func() bool { return g.watched() == 0 && g.entered.Load() == 0 })
	})
}

func TestT58ResponseGoesOnWhenItsGrantLives(t *testing.T) {
	t.Parallel()
	toldWays(t, func(t *testing.T, g *testGateway, up *ticker, site string) {
		s := startCaddy(t, g, resource, site, up)
		res := s.post(t, "/jira/mcp", nil)
		events := bufio.NewReader(res.Body)
		eventually(t, "the grant to be watched", func() bool { return g.watched() == 1 })
		for _, outage := range []error{nil, errors.New("vault down")} {
			g.set(func() { g.authErr = outage })
			for range 3 {
				asked := g.asked.Load()
				g.tell()
				eventually(t, "the grant to be looked at", func() bool { return g.asked.Load() > asked })
				up.send(t, "more")
				if got := event(t, events); got != "more" {
					t.Fatalf("event %q", got)
				}
			}
		}
		g.set(func() { g.authErr = mcpfilter.ErrInvalidToken })
		g.tell()
		wantEnd(t, up, site, events)
	})
}

// Nobody has told a stream that was not watched yet when its grant ended.
func TestT58ResponseEndsWhoseGrantEndedWhileItBegan(t *testing.T) {
	t.Parallel()
	toldWays(t, func(t *testing.T, g *testGateway, up *ticker, site string) {
		s := startCaddy(t, g, resource, site, up)
		res := s.post(t, "/jira/mcp", nil)
		late := false
		g.set(func() {
			g.authErr = mcpfilter.ErrInvalidToken
			late = len(g.watchers) > 0 // on a very slow machine
		})
		if late {
			g.tell()
		}
		wantEnd(t, up, site, res.Body)
	})
}

// Short responses cost no watch.
func TestShortResponsesAreNotWatched(t *testing.T) {
	t.Parallel()
	toldWays(t, func(t *testing.T, g *testGateway, up *ticker, site string) {
		s := startCaddy(t, g, resource, site, up)
		res := s.post(t, "/jira/mcp", nil)
		close(up.events)
		start := time.Now()
		if _, err := io.ReadAll(res.Body); err != nil {
			t.Error(err)
		}
		eventually(t, "the request to end", func() bool { return g.entered.Load() == 0 })
		if n := g.asked.Load(); n != 1 && time.Since(start) < 100*time.Millisecond {
			t.Errorf("the gateway was asked %d times", n)
		}
	})
}

func TestT58ResponsesEndAtTheirTime(t *testing.T) {
	t.Parallel()
	const off = "off"
	for name, c := range map[string]struct {
		expires, ends time.Duration // from now; no end where zero
		past          string
		want          time.Duration
		reason        string
	}{
		"a while after the token":    {expires: time.Second, ends: time.Hour, past: "1500ms", want: 2500 * time.Millisecond, reason: "gateway token expired"},
		"with the grant before that": {expires: time.Second, ends: 2 * time.Second, past: "15m", want: 2 * time.Second, reason: "grant expired"},
		"with the grant alone":       {expires: time.Second, ends: 2 * time.Second, past: off, want: 2 * time.Second, reason: "grant expired"},
		"with the grant and token":   {expires: 2 * time.Second, ends: 2 * time.Second, past: off, want: 2 * time.Second, reason: "grant expired"},
		"before it is watched":       {expires: 100 * time.Millisecond, past: "100ms", want: 200 * time.Millisecond, reason: "gateway token expired"},
	} {
		for contentType, kind := range map[string]string{"text/event-stream": "stream", "application/x-ndjson": "other"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				g, up := newGateway(t), newTicker()
				up.contentType = contentType
				s := startCaddy(t, g, resource, `
	mcp_filter PROXY {
		credential transport
		stream_recheck off
		stream_past_expiry `+c.past+`
	}
	reverse_proxy UPSTREAM {
		transport mcp
	}`, up)
				begin := time.Now()
				g.set(func() {
					g.expires = begin.Add(c.expires)
					if c.ends != 0 {
						g.ends = begin.Add(c.ends)
					}
				})
				res := s.post(t, "/jira/mcp", nil)
				wantStatus(t, res, http.StatusOK)
				wantEnd(t, up, "transport mcp", res.Body)
				// Never before its time. After it, only by what a busy machine takes: nothing else would end it.
				if took := time.Since(begin); took < c.want || took > c.want+2*time.Second {
					t.Errorf("the response ended after %s; want %s", took, c.want)
				}
				eventually(t, "the log to say why", func() bool { return strings.Contains(s.log.String(), c.reason) })
			})
		}
	}
}

// A slow answer is judged even where streams are not rechecked.
func TestT58SlowAnswerIsWithheldWithoutRechecks(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	up := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
		g.set(func() { g.authErr = mcpfilter.ErrInvalidToken })
		time.Sleep(400 * time.Millisecond)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"of":"the user"}`)
	}}
	s := startCaddy(t, g, resource, "mcp_filter PROXY {\n stream_recheck off\n }\n reverse_proxy UPSTREAM", up)
	res := s.post(t, "/jira/mcp", nil)
	if body := bodyOf(t, res); res.StatusCode != http.StatusUnauthorized || strings.Contains(body, "the user") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}
