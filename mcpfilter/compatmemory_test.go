package mcpfilter_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// not parallel: it measures
func TestKeptSessionsDoNotKeepTheRequestThatOpenedThem(t *testing.T) {
	g := newGateway(t)
	g.compat = true
	s := startCaddy(t, g, resource, viaProxy, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.Contains(string(body), `"initialize"`):
			w.Header().Set("Mcp-Session-Id", "s")
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18"}}`)
		case strings.Contains(string(body), `"notifications/initialized"`):
			w.WriteHeader(http.StatusAccepted)
		case r.Header.Get("Mcp-Session-Id") == "":
			w.WriteHeader(http.StatusBadRequest)
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
		}
	}))
	heap := func() uint64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	body := `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"` + strings.Repeat("x", 3<<20) + `"}}`
	for i := range 30 {
		wantStatus(t, s.request(t, http.MethodPost, fmt.Sprintf("/jira/mcp/%d", i), map[string]string{"Accept": "application/json"}, body), http.StatusOK)
	}
	s.Client().CloseIdleConnections()
	if after := heap(); after > before+30<<20 {
		t.Errorf("30 sessions keep %d MiB", (after-before)>>20)
	}
}
