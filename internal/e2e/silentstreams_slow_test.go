//go:build slow

package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// silence is longer than any idle timeout on the way: Caddy's are a minute.
const silence = 75 * time.Second

// A stream on which nothing is said for longer than that survives, on every version of HTTP, and behind `encode` too. Its header comes at once: the server
// here says nothing before the client has it.
func TestSlowSilentStreamsSurvive(t *testing.T) {
	t.Parallel()
	var opened sync.Map // by the header X-Stream, a channel that is closed when the client has the header of the answer
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		flush := http.NewResponseController(w).Flush
		_ = flush()
		told, _ := opened.Load(r.Header.Get("X-Stream"))
		select {
		case <-told.(chan struct{}):
		case <-r.Context().Done():
			return
		}
		select {
		case <-time.After(silence):
		case <-r.Context().Done():
			return
		}
		_, _ = io.WriteString(w, "data: still here\n\n")
	}))
	t.Cleanup(server.Close)
	var wg sync.WaitGroup // parallel tests would take turns
	for name, site := range map[string]string{"bare": "", "behind encode": "encode gzip zstd"} {
		w := overTLS(t, server.URL, site)
		bot := w.NewPlainBot(t)
		bot.Login(t, testenv.NewBrowser(testenv.Alice))
		for proto, client := range clientsOf(t) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				what := name + ", " + proto + ", " + method
				told := make(chan struct{})
				opened.Store(what, told)
				var body io.Reader
				if method == http.MethodPost {
					body = strings.NewReader(testenv.ToolCall("x"))
				}
				req, err := http.NewRequestWithContext(t.Context(), method, w.ProxyURL("demo"), body)
				if err != nil {
					t.Fatal(err)
				}
				for name, value := range map[string]string{
					"Authorization": "Bearer " + bot.Access(), "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
					"Accept-Encoding": "gzip, zstd", "X-Stream": what,
				} {
					req.Header.Set(name, value)
				}
				wg.Go(func() {
					late := time.AfterFunc(30*time.Second, func() { t.Errorf("%s: the header of the answer is withheld", what) })
					res, err := client.Do(req)
					late.Stop()
					began := time.Now()
					close(told)
					if err != nil {
						t.Errorf("%s: %v", what, err)
						return
					}
					defer res.Body.Close()
					if res.StatusCode != http.StatusOK || res.Proto != proto || res.Header.Get("Content-Encoding") != "" {
						t.Errorf("%s: %s %s %v", what, res.Proto, res.Status, res.Header)
					}
					all, err := io.ReadAll(res.Body)
					if took := time.Since(began); err != nil || string(all) != "data: still here\n\n" || took < silence {
						t.Errorf("%s: %q after %s, %v", what, all, took, err)
					}
				})
			}
		}
	}
	wg.Wait()
}
