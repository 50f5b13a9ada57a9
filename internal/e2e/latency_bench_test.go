package e2e

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// BenchmarkGatewayLatency measures MCP calls through the whole gateway, its vault and its tokens, and tells how many times as long as through plain
// reverse_proxy of the same Caddy the median takes. Calls go in turns, so that whatever else the machine does meets both. Package mcpfilter has the like for
// the filter alone, and for events.
func BenchmarkGatewayLatency(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	}))
	b.Cleanup(server.Close)
	w := testenv.Start(b, testenv.Options{TokenLife: time.Hour, Caddyfile: func(w *testenv.World) string {
		return strings.NewReplacer(w.MCPURL, server.URL, "\trespond ", "\thandle /plain {\n\t\treverse_proxy "+server.URL+"\n\t}\n\trespond ", "\t\tlevel DEBUG", "\t\tlevel ERROR").Replace(w.CaddyfileWith(""))
	}})
	bot := w.NewPlainBot(b)
	bot.Login(b, testenv.NewBrowser(testenv.Alice))
	client := &http.Client{Transport: new(http.Transport)}
	call := func(path string) time.Duration {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, w.URL+path, strings.NewReader(testenv.ToolCall("whoami")))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bot.Access())
		req.Header.Set("Content-Type", "application/json")
		began := time.Now()
		res, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		_, err = io.Copy(io.Discard, res.Body)
		took := time.Since(began)
		if _ = res.Body.Close(); err != nil || res.StatusCode != http.StatusOK {
			b.Fatalf("%s: status %d, %v", path, res.StatusCode, err)
		}
		return took
	}
	paths := []string{"/plain", "/demo/mcp"}
	took := make(map[string][]time.Duration)
	for i := 0; b.Loop(); i++ {
		for turn := range paths {
			path := paths[(i+turn)%len(paths)]
			took[path] = append(took[path], call(path))
		}
	}
	median := func(path string) float64 {
		slices.SortFunc(took[path], cmp.Compare[time.Duration])
		return float64(took[path][len(took[path])/2].Nanoseconds()) / 1000
	}
	b.ReportMetric(0, "ns/op") // of both together
	b.ReportMetric(median("/plain"), "µs-reverse_proxy")
	b.ReportMetric(median("/demo/mcp"), "µs-gateway")
	b.ReportMetric(median("/demo/mcp")-median("/plain"), "µs-added")
	b.ReportMetric(median("/demo/mcp")/median("/plain"), "ratio")
}
