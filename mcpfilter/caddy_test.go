package mcpfilter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/encode/gzip"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

func init() { caddy.RegisterModule(new(logWriter)) }

// provisioning is held while a config is loaded, because Caddy keeps defaults in globals.
var provisioning sync.Mutex

// caddyServer is a Caddy with one site in front of a test's MCP server.
type caddyServer struct {
	*httptest.Server
	log *logBuffer
}

// startCaddy runs a site with these directives. In them, PROXY is the gateway's proxy id and
// UPSTREAM the URL of the MCP server.
func startCaddy(t *testing.T, g *testGateway, resource, directives string, upstream http.Handler) *caddyServer {
	t.Helper()
	up := httptest.NewServer(upstream)
	t.Cleanup(up.Close)
	return startCaddyAt(t, g, resource, directives, up.URL)
}

func startCaddyAt(t *testing.T, g *testGateway, resource, directives, upstreamURL string) *caddyServer {
	t.Helper()
	text := "{\n\tauto_https off\n\tpersist_config off\n\tskip_install_trust\n\toauth_proxy {\n\t\tproxy PROXY " + resource + "\n\t}\n}\nhttp:// {\n\tlog\n" + directives + "\n}\n"
	text = strings.NewReplacer("PROXY", g.id, "UPSTREAM", upstreamURL).Replace(text)
	handler, logs := loadCaddy(t, g.id, text)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &caddyServer{server, logs}
}

// loadCaddy adapts and provisions a Caddyfile with one server, and keeps its log.
func loadCaddy(t *testing.T, id, text string) (http.Handler, *logBuffer) {
	t.Helper()
	logs := new(logBuffer)
	id = fmt.Sprintf("%s#%d", id, logCount.Add(1)) // Caddy keeps log outputs by key
	logBuffers.Store(id, logs)
	t.Cleanup(func() { logBuffers.Delete(id) })
	return provision(t, text, caddy.BaseLog{
		WriterRaw: caddyconfig.JSON(map[string]string{"output": "mcpfilter_test", "id": id}, nil), Level: "DEBUG",
	}), logs
}

// loadQuiet is loadCaddy without a log.
func loadQuiet(t testing.TB, text string) http.Handler {
	t.Helper()
	return provision(t, text, caddy.BaseLog{WriterRaw: caddyconfig.JSON(map[string]string{"output": "discard"}, nil), Level: "ERROR"})
}

func provision(t testing.TB, text string, log caddy.BaseLog) http.Handler {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("adapt: %v\n%s", err, text)
	}
	var config caddy.Config
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: log}}}
	config.StorageRaw = caddyconfig.JSON(map[string]string{"module": "file_system", "root": t.TempDir()}, nil)

	provisioning.Lock()
	defer provisioning.Unlock()
	ctx, err := caddy.ProvisionContext(&config)
	if err != nil {
		t.Fatalf("provision: %v", err)
	}
	app, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		return server
	}
	t.Fatal("the Caddyfile has no server")
	return nil
}

// request sends a request with the good token; a header set to nothing is left out.
func (s *caddyServer) request(t *testing.T, method, path string, header map[string]string, body string) *http.Response {
	t.Helper()
	req := s.newRequest(t, method, path, header, body)
	res, err := s.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func (s *caddyServer) newRequest(t *testing.T, method, path string, header map[string]string, body string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer good-token")
	for name, value := range header {
		if value == "" {
			req.Header.Del(name)
		} else {
			req.Header.Set(name, value)
		}
	}
	return req
}

const listTools = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`

// post sends a tools/list call.
func (s *caddyServer) post(t *testing.T, path string, header map[string]string) *http.Response {
	t.Helper()
	return s.request(t, http.MethodPost, path, header, listTools)
}

func bodyOf(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read body: %v", err)
	}
	return string(b)
}

func wantStatus(t *testing.T, res *http.Response, want int) {
	t.Helper()
	if res.StatusCode != want {
		b, _ := io.ReadAll(res.Body)
		t.Fatalf("status %d, want %d; body %s", res.StatusCode, want, b)
	}
}

// eventually waits until ok, at most ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// recorder is an MCP server that keeps what it was asked and answers as told.
type recorder struct {
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	answer   http.HandlerFunc
}

func (u *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	u.mu.Lock()
	u.requests = append(u.requests, r)
	u.bodies = append(u.bodies, string(body))
	u.mu.Unlock()
	if u.answer != nil {
		u.answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
}

func (u *recorder) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.requests)
}

// last returns the newest request that arrived.
func (u *recorder) last(t *testing.T) *http.Request {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) == 0 {
		t.Fatal("the MCP server saw no request")
	}
	return u.requests[len(u.requests)-1]
}

// logBuffers finds a test's log by id, from within a Caddy config.
var (
	logBuffers sync.Map
	logCount   atomic.Int64
)

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) Close() error { return nil }

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// logWriter is a Caddy log output that writes to a test's buffer.
type logWriter struct {
	ID string `json:"id,omitempty"`
}

func (*logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.mcpfilter_test", New: func() caddy.Module { return new(logWriter) }}
}

func (l *logWriter) String() string    { return "test log " + l.ID }
func (l *logWriter) WriterKey() string { return "mcpfilter_test:" + l.ID }

func (l *logWriter) OpenWriter() (io.WriteCloser, error) {
	b, _ := logBuffers.Load(l.ID)
	return b.(*logBuffer), nil
}
