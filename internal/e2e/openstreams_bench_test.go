package e2e

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// BenchmarkOpenStreams tells what open event streams hold of Caddy's memory, and how long one event to each takes, through the whole gateway, and how many times that of
// plain reverse_proxy it is. Each iteration has both in turn, each in a process of its own, because what a process once had is not given back.
// `-bench 'OpenStreams/10000' -benchtime 3x` has ten thousand: HTTP/2 brings them in fifty connections, since as many sockets as Caddy has towards the MCP
// server would be too many descriptors.
func BenchmarkOpenStreams(b *testing.B) {
	for _, streams := range []int{100, 10_000} {
		b.Run(strconv.Itoa(streams), func(b *testing.B) {
			if streams > 1000 && testing.Short() {
				b.Skip("many streams take a while")
			}
			benchmarkOpenStreams(b, streams)
		})
	}
}

func benchmarkOpenStreams(b *testing.B, streams int) {
	server := newAnnouncer()
	up := httptest.NewUnstartedServer(server)
	up.Config.SetKeepAlivesEnabled(false)
	up.Start()
	b.Cleanup(up.Close)
	w := testenv.Start(b, testenv.Options{TokenLife: time.Hour, Caddyfile: func(w *testenv.World) string {
		return strings.NewReplacer(w.MCPURL, up.URL, "\trespond ", "\thandle /plain {\n\t\treverse_proxy "+up.URL+"\n\t}\n\trespond ", "\t\tlevel DEBUG", "\t\tlevel ERROR").Replace(w.CaddyfileWith(""))
	}})
	bot := w.NewPlainBot(b)
	bot.Login(b, testenv.NewBrowser(testenv.Alice))
	paths := []string{"/plain", "/demo/mcp"}
	costs := make(map[string][]streamCost)
	for i := 0; b.Loop(); i++ {
		for turn := range paths {
			path := paths[(i+turn)%len(paths)]
			w.Terminate()
			w.Run()
			cost := server.cost(b, w, path, bot.Access(), streams)
			b.Logf("%s: %+v", path, cost)
			costs[path] = append(costs[path], cost)
		}
	}
	b.ReportMetric(0, "ns/op") // of both together
	for unit, of := range map[string]func(streamCost) float64{
		"live":     func(c streamCost) float64 { return float64(c.Live) },
		"resident": func(c streamCost) float64 { return float64(c.Resident) },
		"event":    func(c streamCost) float64 { return float64(c.Event) },
	} {
		var plain, gateway, ratios []float64
		for i := range costs[paths[0]] {
			p, g := of(costs[paths[0]][i]), of(costs[paths[1]][i])
			plain, gateway, ratios = append(plain, p), append(gateway, g), append(ratios, g/p)
		}
		of := map[string]string{"live": "B-live", "resident": "B-resident", "event": "ns-event"}[unit]
		b.ReportMetric(middle(plain), of+"/reverse_proxy")
		b.ReportMetric(middle(gateway), of+"/gateway")
		b.ReportMetric(middle(ratios), of+"/ratio")
	}
}

func middle[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

// streamCost is what one open stream costs: bytes of the heap and of stacks after garbage collections, bytes of the process, and the time of
// one event, when each stream gets one.
type streamCost struct {
	Live, Resident int
	Goroutines     float64
	Event          time.Duration
}

// announcer is an MCP server whose every answer is a stream of what is announced.
type announcer struct {
	mu   sync.Mutex
	open map[chan struct{}]bool
}

func newAnnouncer() *announcer { return &announcer{open: make(map[chan struct{}]bool)} }

func (a *announcer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	next := make(chan struct{}, 1)
	a.mu.Lock()
	a.open[next] = true
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.open, next)
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w).Flush
	_ = flush()
	for {
		select {
		case <-next:
			_, _ = io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n")
			_ = flush()
		case <-r.Context().Done():
			return
		}
	}
}

// announce sends an event on each stream.
func (a *announcer) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for next := range a.open {
		next <- struct{}{}
	}
}

func (a *announcer) streams() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.open)
}

// cost opens streams through a path of a Caddy that has just been started, measures, and closes them.
func (a *announcer) cost(b *testing.B, w *testenv.World, path, token string, streams int) (cost streamCost) {
	b.Helper()
	const perConnection = 200 // Caddy takes 250
	var arrived atomic.Int64
	var clients []*http.Client
	ctx, leave := context.WithCancel(b.Context())
	var reading sync.WaitGroup
	defer func() {
		leave()
		reading.Wait()
		for _, c := range clients {
			c.CloseIdleConnections()
		}
		testenv.Eventually(b, "the server to be left", func() bool { return a.streams() == 0 })
	}()
	open := func(client *http.Client) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+path, nil)
		if err != nil {
			b.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Accept", "text/event-stream")
		res, err := client.Do(req)
		if err != nil {
			b.Error(err)
			return
		}
		if res.StatusCode != http.StatusOK {
			b.Errorf("%s: status %d", path, res.StatusCode)
		}
		reading.Go(func() {
			defer res.Body.Close()
			events := bufio.NewReaderSize(res.Body, 256)
			for {
				if _, err := events.ReadSlice('\n'); err != nil {
					return
				}
				if _, err := events.ReadSlice('\n'); err != nil {
					return
				}
				arrived.Add(1)
			}
		})
	}
	announced := func() time.Duration {
		arrived.Store(0)
		began := time.Now()
		a.announce()
		for arrived.Load() < int64(streams) {
			if time.Since(began) > time.Minute {
				b.Fatalf("%s: of %d events %d arrived", path, streams, arrived.Load())
			}
			time.Sleep(100 * time.Microsecond)
		}
		return time.Since(began)
	}

	before := held(b, w)
	slots := make(chan struct{}, 50) // streams that begin at the same time
	var opening sync.WaitGroup
	for i := range streams {
		if i%perConnection == 0 {
			var p http.Protocols
			p.SetUnencryptedHTTP2(true)
			clients = append(clients, &http.Client{Transport: &http.Transport{Protocols: &p}})
		}
		client := clients[len(clients)-1]
		slots <- struct{}{}
		opening.Go(func() {
			defer func() { <-slots }()
			open(client)
		})
	}
	opening.Wait()
	if b.Failed() {
		b.FailNow()
	}
	announced()                 // what a stream needs for its first
	time.Sleep(2 * time.Second) // it is watched by now
	after := held(b, w)
	if dir := os.Getenv("STREAMS_PROFILES"); dir != "" {
		saveProfiles(b, w, dir+"/"+strings.ReplaceAll(path[1:], "/", "-"))
	}
	var took []time.Duration
	for range 9 {
		took = append(took, announced())
	}
	return streamCost{
		Live: (after.live - before.live) / streams, Resident: (after.resident - before.resident) / streams,
		Goroutines: float64(after.goroutines-before.goroutines) / float64(streams), Event: middle(took) / time.Duration(streams),
	}
}

func saveProfiles(b *testing.B, w *testenv.World, prefix string) {
	for _, p := range []string{"heap", "goroutine", "goroutine?debug=1"} {
		res, err := http.Get(w.AdminURL() + "/debug/pprof/" + p)
		if err != nil {
			b.Fatal(err)
		}
		all, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		_ = os.WriteFile(prefix+"."+strings.ReplaceAll(p, "?", "-"), all, 0o600)
	}
}

// holding is what Caddy's process holds after its garbage was collected, in bytes.
type heldMemory struct{ live, resident, goroutines int }

func held(b *testing.B, w *testenv.World) heldMemory {
	b.Helper()
	fetch := func(profile string) string {
		res, err := http.Get(w.AdminURL() + "/debug/pprof/" + profile)
		if err != nil {
			b.Fatal(err)
		}
		defer res.Body.Close()
		all, err := io.ReadAll(res.Body)
		if err != nil {
			b.Fatal(err)
		}
		return string(all)
	}
	number := func(text, pattern string) int {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			b.Fatalf("nothing like %s in the profile", pattern)
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	heap := ""
	for range 4 { // pools let go of what they hold at the second collection, and stacks shrink by half at each
		heap = fetch("heap?gc=1&debug=1")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.PID()))
	if err != nil {
		b.Fatal(err)
	}
	if testing.Verbose() {
		b.Logf("HeapAlloc %d HeapInuse %d Stack %d", number(heap, `# HeapAlloc = (\d+)`), number(heap, `# HeapInuse = (\d+)`), number(heap, `# Stack = (\d+)`))
	}
	return heldMemory{
		live:       number(heap, `# HeapAlloc = (\d+)`) + number(heap, `# Stack = (\d+)`),
		resident:   number(string(status), `VmRSS:\s+(\d+) kB`) << 10,
		goroutines: number(fetch("goroutine?debug=1"), `goroutine profile: total (\d+)`),
	}
}
