package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// holder is an MCP server whose every answer is a stream that says one thing and then nothing, until the client leaves, or the test has it end those of
// one user agent.
type holder struct {
	open atomic.Int64
	mu   sync.Mutex
	end  map[string]chan struct{}
}

func (h *holder) ending(who string) chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.end[who] == nil {
		h.end[who] = make(chan struct{})
	}
	return h.end[who]
}

func (h *holder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.open.Add(1)
	defer h.open.Add(-1)
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, "data: hello\n\n")
	_ = http.NewResponseController(w).Flush()
	select {
	case <-r.Context().Done():
	case <-h.ending(r.Header.Get("User-Agent")):
	}
}

// usage is what Caddy's process holds after its garbage was collected.
type usage struct {
	goroutines int
	heap       int // bytes of live objects
	inUse      int // bytes of the spans that they lie in
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %.1f MiB live, %.1f MiB in use", u.goroutines, float64(u.heap)/(1<<20), float64(u.inUse)/(1<<20))
}

func measure(t *testing.T, w *testenv.World) usage {
	t.Helper()
	body := ""
	for range 3 { // pools let go of what they hold at the second collection
		body = get(t, w.AdminURL()+"/debug/pprof/heap?gc=1&debug=1")
	}
	number := func(name string) int {
		m := regexp.MustCompile(`# ` + name + ` = (\d+)`).FindStringSubmatch(body)
		if m == nil {
			t.Fatalf("no %s in the heap profile", name)
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return usage{goroutines(t, w), number("HeapAlloc"), number("HeapInuse")}
}

// manyStreams opens streams of three bots at once, through the filter and reverse_proxy of a Caddy that is a process of its own. A third ends by
// revocation, a third is left by the client, and a third is ended by the server. A first round fills what a process keeps for its busiest
// hour: Go never forgets a goroutine's descriptor. After all others Caddy may hold no more than after the first, and a little. It
// keeps something of each response by itself for as long as its write timeout, a minute, for which minute waits.
func manyStreams(t *testing.T, streams, rounds int, minute time.Duration) {
	const (
		perConnection = 200     // Caddy takes 250
		extra         = 20      // goroutines that come and go by themselves
		growth        = 1 << 20 // bytes
		patience      = 20 * time.Second
	)
	server := &holder{end: make(map[string]chan struct{})}
	up := httptest.NewUnstartedServer(server)
	up.Config.SetKeepAlivesEnabled(false)
	up.Start()
	t.Cleanup(up.Close)
	w := testenv.Start(t, testenv.Options{})
	if err := w.Reload(strings.Replace(w.Caddyfile(), w.MCPURL+"/mcp", up.URL+"/mcp", 1)); err != nil {
		t.Fatal(err)
	}

	round := func(number int) {
		t.Helper()
		bots := make([]*testenv.PlainBot, 3)
		for i := range bots {
			bots[i] = w.NewPlainBot(t)
			bots[i].Login(t, testenv.NewBrowser(testenv.Alice))
		}
		agent := func(who int) string { return fmt.Sprintf("bot %d of round %d", who, number) }
		abandoned, abandon := context.WithCancel(t.Context())
		defer abandon()
		var opened, ended sync.WaitGroup
		var ends [3]atomic.Int64
		slots := make(chan struct{}, 100) // streams that begin at the same time
		var client *http.Client
		var clients []*http.Client
		for i := range streams {
			if i%perConnection == 0 {
				var p http.Protocols
				p.SetUnencryptedHTTP2(true)
				client = &http.Client{Transport: &http.Transport{Protocols: &p}}
				clients = append(clients, client)
			}
			who, client := i%3, client
			ctx := t.Context()
			if who == 1 {
				ctx = abandoned
			}
			req := mcpRequest(t, w, bots[who], http.MethodGet, testenv.Stateful, "", "").WithContext(ctx)
			req.Header.Set("User-Agent", agent(who))
			slots <- struct{}{}
			opened.Add(1)
			ended.Go(func() {
				begun := sync.OnceFunc(func() { <-slots; opened.Done() })
				defer begun()
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				events := bufio.NewReaderSize(resp.Body, 16)
				if line, err := events.ReadString('\n'); err != nil || line != "data: hello\n" {
					t.Errorf("%d: %q, %v", resp.StatusCode, line, err)
					return
				}
				begun()
				if _, err = io.Copy(io.Discard, events); err != nil && (who != 1 || !errors.Is(err, context.Canceled)) {
					t.Errorf("a stream broke: %v", err)
				}
				ends[who].Add(1)
			})
		}
		opened.Wait()
		if t.Failed() {
			t.FailNow()
		}
		t.Logf("with %d streams: %s", streams, measure(t, w))

		revoke(t, w, bots[0])
		start := time.Now()
		testenv.Eventually(t, "the revoked streams to end", func() bool { return int(ends[0].Load()) == (streams+2)/3 })
		t.Logf("%d streams ended %s after their revocation", ends[0].Load(), time.Since(start).Round(time.Millisecond))
		if left, served := ends[1].Load(), ends[2].Load(); left != 0 || served != 0 {
			t.Errorf("%d and %d streams of other grants ended", left, served)
		}
		abandon()
		close(server.ending(agent(2)))
		ended.Wait()
		testenv.Eventually(t, "the server to be left", func() bool { return server.open.Load() == 0 })
		for _, c := range append(clients, http.DefaultClient) {
			c.CloseIdleConnections()
		}
	}
	settle := func(patience time.Duration, holds func(usage) bool) (u usage) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
			if u = measure(t, w); holds(u) || time.Now().After(deadline) {
				return u
			}
		}
	}

	start := measure(t, w)
	ended := func(u usage) bool { return u.goroutines <= start.goroutines+extra }
	round(0)
	settle(patience, ended)
	first := settle(minute, func(usage) bool { return false })
	begin := time.Now()
	for i := range rounds {
		round(1 + i)
	}
	took := time.Since(begin)
	last := settle(patience+minute, func(u usage) bool { return ended(u) && u.heap <= first.heap+growth })
	t.Logf("at first: %s; after %d streams: %s; after %d × %d more, in %s: %s", start, streams, first, rounds, streams, took.Round(time.Millisecond), last)
	if !ended(last) {
		t.Errorf("%d goroutines are left; there were %d", last.goroutines, start.goroutines)
	}
	if grown := last.heap - first.heap; grown > growth {
		t.Errorf("%d bytes more are live than after as many streams before", grown)
	}
}

func TestStreamsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	manyStreams(t, 1000, 1, 0)
}
