package mcpfilter_test

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// The benchmarks compare plain reverse_proxy, the filter in front of it, and mcp_proxy, in one run and in turns, so that whatever else the machine does
// meets all three. What counts is how they compare, not how long they take.

// benchSites are what is compared. The first is what the others are measured by.
var benchSites = []struct{ name, directives string }{
	{"reverse_proxy", "reverse_proxy UPSTREAM"},
	{"mcp_filter", "mcp_filter PROXY\n\treverse_proxy UPSTREAM"},
	{"mcp_proxy", "mcp_proxy PROXY UPSTREAM/v1/mcp"},
}

// benchSite is a Caddy with one of them.
func benchSite(b *testing.B, directives, upstream string) http.Handler {
	b.Helper()
	id := fmt.Sprintf("bench-%d", gatewayCount.Add(1))
	gateways.Store(id, &testGateway{id: id, watchers: make(map[*func()]bool), expires: time.Now().Add(24 * time.Hour)})
	b.Cleanup(func() { gateways.Delete(id) })
	return loadQuiet(b, strings.NewReplacer("PROXY", id, "UPSTREAM", upstream).Replace(
		"{\n\tauto_https off\n\toauth_proxy {\n\t\tproxy PROXY "+resource+"\n\t}\n}\nhttp:// {\n\t"+directives+"\n}\n"))
}

// benchServer serves a handler on HTTP/1.1, or on HTTP/2 with TLS.
func benchServer(b *testing.B, handler http.Handler, http2 bool) *httptest.Server {
	b.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	if http2 {
		server.StartTLS()
	} else {
		server.Start()
	}
	b.Cleanup(server.Close)
	return server
}

func benchPost(b *testing.B, url string) *http.Request {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url+"/jira/mcp", strings.NewReader(listTools))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good-token")
	req.Header.Set("Content-Type", "application/json")
	return req
}

// result is a small MCP server's answer.
func result(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
}

// BenchmarkProxy tells what an MCP call costs without network on the client's side: time and allocations.
func BenchmarkProxy(b *testing.B) {
	up := httptest.NewServer(http.HandlerFunc(result))
	b.Cleanup(up.Close)
	for _, site := range benchSites {
		b.Run(site.name, func(b *testing.B) {
			handler := benchSite(b, site.directives, up.URL)
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				r := httptest.NewRequest(http.MethodPost, "/jira/mcp", strings.NewReader(listTools))
				r.Header.Set("Authorization", "Bearer good-token")
				r.Header.Set("Content-Type", "application/json")
				handler.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatalf("status %d: %s", w.Code, w.Body)
				}
			}
		})
	}
}

// BenchmarkCallLatency measures MCP calls from the client's side, and tells how many times as long as through plain reverse_proxy the median takes.
func BenchmarkCallLatency(b *testing.B) {
	up := httptest.NewServer(http.HandlerFunc(result))
	b.Cleanup(up.Close)
	bothProtocols(b, func(b *testing.B, http2 bool) []func() time.Duration {
		var calls []func() time.Duration
		for _, site := range benchSites {
			server := benchServer(b, benchSite(b, site.directives, up.URL), http2)
			calls = append(calls, func() time.Duration {
				began := time.Now()
				res, err := server.Client().Do(benchPost(b, server.URL))
				if err != nil {
					b.Fatal(err)
				}
				_, err = io.Copy(io.Discard, res.Body)
				took := time.Since(began)
				if _ = res.Body.Close(); err != nil || res.StatusCode != http.StatusOK {
					b.Fatalf("status %d, %v", res.StatusCode, err)
				}
				return took
			})
		}
		return calls
	})
}

// BenchmarkEventLatency measures how long an event of an open stream is on its way: from the MCP server's write until the client has read it.
func BenchmarkEventLatency(b *testing.B) {
	bothProtocols(b, func(b *testing.B, http2 bool) []func() time.Duration {
		var events []func() time.Duration
		for _, site := range benchSites {
			next, written := make(chan struct{}), make(chan time.Time, 1)
			up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "text/event-stream")
				flush := http.NewResponseController(w).Flush
				_ = flush()
				for {
					select {
					case <-next:
						written <- time.Now()
						_, _ = io.WriteString(w, `data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1,"total":100}}`+"\n\n")
						_ = flush()
					case <-r.Context().Done():
						return
					}
				}
			}))
			b.Cleanup(up.Close)
			server := benchServer(b, benchSite(b, site.directives, up.URL), http2)
			res, err := server.Client().Do(benchPost(b, server.URL))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = res.Body.Close() })
			stream := bufio.NewReader(res.Body)
			events = append(events, func() time.Duration {
				next <- struct{}{}
				for range 2 { // the event, and the blank line that ends it
					if _, err := stream.ReadSlice('\n'); err != nil {
						b.Fatal(err)
					}
				}
				arrived := time.Now()
				return arrived.Sub(<-written)
			})
		}
		return events
	})
}

// bothProtocols measures the sites in turns, on HTTP/1.1 and HTTP/2, and reports the medians, in microseconds, and how they compare.
func bothProtocols(b *testing.B, start func(b *testing.B, http2 bool) []func() time.Duration) {
	for _, http2 := range []bool{false, true} {
		b.Run(map[bool]string{false: "HTTP1", true: "HTTP2"}[http2], func(b *testing.B) {
			measure := start(b, http2)
			for range 20 { // connections and buffers are there then
				for _, m := range measure {
					m()
				}
			}
			took := make([][]time.Duration, len(measure))
			for turn := 0; b.Loop(); turn++ {
				for i := range measure { // each is first as often as the others
					i = (i + turn) % len(measure)
					took[i] = append(took[i], measure[i]())
				}
			}
			b.ReportMetric(0, "ns/op") // of all of them together
			plain := median(took[0])
			b.ReportMetric(plain, "µs-"+benchSites[0].name)
			for i, site := range benchSites[1:] {
				m := median(took[i+1])
				b.ReportMetric(m, "µs-"+site.name)
				b.ReportMetric(m-plain, "µs-added-by-"+site.name)
				b.ReportMetric(m/plain, "ratio-of-"+site.name)
			}
		})
	}
}

// median is in microseconds.
func median(d []time.Duration) float64 {
	slices.SortFunc(d, cmp.Compare[time.Duration])
	return float64(d[len(d)/2].Nanoseconds()) / 1000
}
