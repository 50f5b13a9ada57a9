package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// BenchmarkStreams tells what open event streams cost through the whole gateway, and how many times that of plain reverse_proxy it is: bytes of the heap and of
// stacks that each holds while nothing is said (live), bytes of the process without pages of files (resident), and how long one event to each takes, with the time of
// processors that Caddy spends on one. Memory is that of processes of their own, because a process does not give back what it once had; events go in turns, to half of
// the streams through one and half through the other, so that whatever else the machine does meets both. With HTTP/2 few connections bring them, as
// many sockets as Caddy has towards the MCP server would be too many descriptors.
func BenchmarkStreams(b *testing.B) {
	var table strings.Builder
	table.WriteString("| open streams | of one stream | `reverse_proxy` | gateway | of plain (middle half) |\n|---|---|---|---|---|\n")
	for number := range strings.SplitSeq(*streams, ",") {
		n, err := strconv.Atoi(number)
		if err != nil || n < 2 {
			b.Fatalf("-streams %q: numbers from 2 on, with commas", *streams)
		}
		b.Run(number, func(b *testing.B) { table.WriteString(benchmarkStreams(b, n)) })
	}
	report(b, "streams", table.String())
}

// streamPaths are what is compared, as clients know it. The first is what the other is measured by.
var streamPaths = [2]string{"/plain", "/demo/mcp"}

// benchmarkStreams measures so many streams, and returns the lines of the table.
func benchmarkStreams(b *testing.B, streams int) string {
	server := &announcer{open: make(map[string]map[chan struct{}]bool)}
	up := httptest.NewUnstartedServer(server)
	up.Config.SetKeepAlivesEnabled(false)
	up.Start()
	b.Cleanup(up.Close)
	w := testenv.Start(b, testenv.Options{TokenLife: time.Hour, Caddyfile: func(w *testenv.World) string {
		plain := "\thandle /plain {\n\t\trewrite /plain\n\t\treverse_proxy " + up.URL + "\n\t}\n\trespond "
		return strings.NewReplacer(w.MCPURL+"/mcp", up.URL+"/demo/mcp", "\trespond ", plain, "\t\tlevel DEBUG", "\t\tlevel ERROR").Replace(w.CaddyfileWith(""))
	}})
	bot := w.NewPlainBot(b)
	bot.Login(b, testenv.NewBrowser(testenv.Alice))
	world := &streamWorld{w, server, bot.Access()}
	costs := make(map[string]*[2][]float64)
	add := func(unit string, which int, cost float64) {
		if costs[unit] == nil {
			costs[unit] = new([2][]float64)
		}
		costs[unit][which] = append(costs[unit][which], cost)
	}
	for i := 0; b.Loop(); i++ {
		for turn := range streamPaths {
			which := (i + turn) % 2
			w.Terminate()
			w.Run()
			live, resident := world.memory(b, streamPaths[which], streams)
			add("B-live", which, live)
			add("B-resident", which, resident)
		}
		w.Terminate()
		w.Run()
		world.events(b, streams/2, func(which int, event, cpu time.Duration) {
			add("ns-event", which, float64(event))
			add("ns-cpu", which, float64(cpu))
		})
	}
	b.ReportMetric(0, "ns/op") // of all together
	var table strings.Builder
	for _, unit := range []struct {
		name, text, format string
		by                 float64
	}{
		{"B-live", "heap and stacks", "%.1f kB", 1e3}, {"B-resident", "memory", "%.1f kB", 1e3}, {"ns-event", "time of an event", "%.1f µs", 1e3}, {"ns-cpu", "CPU of an event", "%.1f µs", 1e3},
	} {
		cost := costs[unit.name]
		var ratios []float64
		for i := range cost[0] {
			if cost[0][i] > 0 {
				ratios = append(ratios, cost[1][i]/cost[0][i])
			}
		}
		if unit.name == "ns-cpu" { // of which a process knows hundredths of seconds
			ratios = []float64{sum(cost[1]) / sum(cost[0])}
			cost[0], cost[1] = []float64{sum(cost[0]) / float64(len(cost[0]))}, []float64{sum(cost[1]) / float64(len(cost[1]))}
		}
		plain, _, _ := median(cost[0])
		gateway, _, _ := median(cost[1])
		ratio, low, high := median(ratios)
		b.ReportMetric(plain, unit.name+"/reverse_proxy")
		b.ReportMetric(gateway, unit.name+"/gateway")
		b.ReportMetric(ratio, unit.name+"/ratio")
		fmt.Fprintf(&table, "| %s | %s | "+unit.format+" | "+unit.format+" | %.3f (%.3f–%.3f) |\n", thousands(streams), unit.text, plain/unit.by, gateway/unit.by, ratio, low, high)
	}
	return table.String()
}

func sum(values []float64) (s float64) {
	for _, v := range values {
		s += v
	}
	return s
}

// announcer is an MCP server whose every answer is a stream of what is announced.
type announcer struct {
	mu   sync.Mutex
	open map[string]map[chan struct{}]bool // by path
}

func (a *announcer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	next := make(chan struct{}, 1)
	a.mu.Lock()
	if a.open[r.URL.Path] == nil {
		a.open[r.URL.Path] = make(map[chan struct{}]bool)
	}
	a.open[r.URL.Path][next] = true
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.open[r.URL.Path], next)
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

// announce sends an event on each stream of a path.
func (a *announcer) announce(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for next := range a.open[path] {
		next <- struct{}{}
	}
}

func (a *announcer) streams(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.open[path])
}

// streamWorld is a Caddy in front of an announcer, and the token of somebody whom the gateway lets in.
type streamWorld struct {
	w      *testenv.World
	server *announcer
	token  string
}

// openStreams are streams through one path.
type openStreams struct {
	path    string
	streams int
	server  *announcer
	arrived atomic.Int64
	close   func()
}

// open opens streams.
func (s *streamWorld) open(b *testing.B, path string, streams int) *openStreams {
	b.Helper()
	const perConnection = 200 // Caddy takes 250
	o := &openStreams{path: path, streams: streams, server: s.server}
	ctx, leave := context.WithCancel(b.Context())
	var clients []*http.Client
	var opening, reading sync.WaitGroup
	o.close = func() {
		leave()
		reading.Wait()
		for _, c := range clients {
			c.CloseIdleConnections()
		}
		testenv.Eventually(b, "the server to be left", func() bool { return s.server.streams(path) == 0 })
	}
	slots := make(chan struct{}, 50) // streams that begin at the same time
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
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.w.URL+path, nil)
			if err != nil {
				b.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+s.token)
			req.Header.Set("Accept", "text/event-stream")
			res, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			if res.StatusCode != http.StatusOK {
				b.Errorf("%s: status %d", path, res.StatusCode)
			}
			reading.Go(func() { o.read(res.Body) })
		})
	}
	opening.Wait()
	if b.Failed() {
		o.close()
		b.FailNow()
	}
	o.announce(b) // what a stream needs for its first event
	return o
}

func (o *openStreams) read(body io.ReadCloser) {
	defer body.Close()
	lines := bufio.NewReaderSize(body, 256)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(line) == 1 { // the end of an event
			o.arrived.Add(1)
		}
	}
}

// announce sends an event on each stream, and tells how long it took until all of them were read.
func (o *openStreams) announce(b *testing.B) time.Duration {
	b.Helper()
	o.arrived.Store(0)
	began := time.Now()
	o.server.announce(o.path)
	for o.arrived.Load() < int64(o.streams) {
		if time.Since(began) > time.Minute {
			b.Fatalf("%s: of %d events %d arrived", o.path, o.streams, o.arrived.Load())
		}
		time.Sleep(50 * time.Microsecond)
	}
	return time.Since(began)
}

// memory is what each of so many streams through a path holds, in bytes, of a Caddy that has just been started.
func (s *streamWorld) memory(b *testing.B, path string, streams int) (live, resident float64) {
	b.Helper()
	liveBefore, residentBefore := s.held(b)
	open := s.open(b, path, streams)
	defer open.close()
	time.Sleep(time.Second) // a stream is watched by then
	liveAfter, residentAfter := s.held(b)
	live, resident = float64(liveAfter-liveBefore)/float64(streams), float64(residentAfter-residentBefore)/float64(streams)
	b.Logf("%s: %.0f bytes are live, %.0f resident", path, live, resident)
	return live, resident
}

// held is what Caddy's process holds after its garbage was collected: objects and stacks, and what is in memory of it.
func (s *streamWorld) held(b *testing.B) (live, resident int) {
	b.Helper()
	number := func(text, pattern string) int {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			b.Fatalf("nothing like %s is told", pattern)
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	heap := ""
	for range 4 { // pools let go of what they hold at the second collection, and each halves stacks
		res, err := http.Get(s.w.AdminURL() + "/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			b.Fatal(err)
		}
		all, err := io.ReadAll(res.Body)
		if _ = res.Body.Close(); err != nil {
			b.Fatal(err)
		}
		heap = string(all)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.w.PID()))
	if err != nil {
		b.Fatal(err)
	}
	return number(heap, `# HeapAlloc = (\d+)`) + number(heap, `# Stack = (\d+)`), number(string(status), `RssAnon:\s+(\d+) kB`) << 10
}

// events measures events to so many streams through each path. A cost is that of one event.
func (s *streamWorld) events(b *testing.B, streams int, add func(which int, event, cpu time.Duration)) {
	b.Helper()
	var open [2]*openStreams
	for which, path := range streamPaths {
		open[which] = s.open(b, path, streams)
		defer open[which].close()
	}
	for i := range max(20, 100_000/streams) {
		for turn := range open {
			which := (i + turn) % 2
			cpu := testenv.CPU(s.w.PID())
			event := open[which].announce(b)
			add(which, event/time.Duration(streams), (testenv.CPU(s.w.PID())-cpu)/time.Duration(streams))
		}
	}
}
