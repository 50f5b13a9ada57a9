// Package testenv starts the world for tests: a real Caddy with the plugin as a process of its own, the demo
// provider and the demo MCP server beside it, and the people and programs that use them.
package testenv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the Caddy that tests run is a whole one

	_ "github.com/caddy-oauth-proxy/caddy-oauth-proxy" // and has the plugin
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/mcpserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// asCaddy is the environment variable that makes a test binary run as Caddy.
const asCaddy = "OAUTH_PROXY_TESTENV"

// Main is what TestMain calls: it runs the tests, or Caddy when Start has started this binary again.
func Main(m *testing.M) {
	if os.Getenv(asCaddy) == "caddy" {
		caddycmd.Main()
		return
	}
	trustCertificate()
	os.Exit(m.Run())
}

// The demo client's registration at the provider, and the users.
const (
	ClientID     = "gateway"
	ClientSecret = "client-secret-of-the-gateway-at-the-provider"
)

// Alice and Bob can log in.
var (
	Alice = provider.User{Name: "alice", Password: "wonderland", FullName: "Alice Liddell"}
	Bob   = provider.User{Name: "bob", Password: "builder", FullName: "Bob Builder"}
)

// Options changes the world.
type Options struct {
	// TokenLife is how long the provider's access tokens live. Default: 1 minute.
	TokenLife time.Duration

	// Global is added to the oauth_proxy global option, Proxy to the proxy in it, Servers to the servers option, Site to the site.
	Global, Proxy, Servers, Site string

	// Env is added to Caddy's environment.
	Env []string

	// Caddyfile, when set, makes the whole Caddyfile.
	Caddyfile func(*World) string

	// HTTPS gives the site a certificate, which the clients of the tests trust.
	HTTPS bool

	// Postgres, when set, is the server that a database is made in for the vault. Default: a file.
	Postgres *testpg.Server

	// Ledger has a ledger stand before the demo provider.
	Ledger bool

	// Users can log in at the demo provider. Default: Alice and Bob.
	Users []provider.User

	// Provider, when set, starts another provider in place of the demo one, for the client ClientID with ClientSecret. It returns the
	// issuer, and what knows its tokens. World.Provider is then nil.
	Provider func(*World) (issuer string, userOf UserOf)
}

// UserOf says whose access token of the provider this is, and whether it is alive.
type UserOf = func(ctx context.Context, accessToken string) (user string, live bool)

// World is a running gateway with everything around it.
type World struct {
	t        testing.TB
	options  Options
	dir      string
	port     int
	admin    int
	cmd      *exec.Cmd
	pid      atomic.Int64
	exited   chan struct{}
	log      *syncBuffer
	Provider *provider.Provider
	Ledger   *Ledger // where the options ask for one
	MCP      *Recorder

	// URL is the gateway's issuer, and its site.
	URL string

	// site is where this Caddy itself listens, if not at the URL.
	site string

	// database is the connection string of the vault's, where it is in one.
	database string

	// ProviderURL and MCPURL are where the provider and the MCP server listen.
	ProviderURL, MCPURL string
}

// Recorder keeps what the MCP server saw.
type Recorder struct {
	mu       sync.Mutex
	requests []Seen
}

// Seen is one request that reached the MCP server.
type Seen struct {
	Method, Path string
	Header       http.Header
}

func (r *Recorder) record(req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, Seen{req.Method, req.URL.RequestURI(), req.Header.Clone()})
}

// Requests returns what was seen so far.
func (r *Recorder) Requests() []Seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Seen(nil), r.requests...)
}

// Start starts the world and ends it with the test.
func Start(t testing.TB, o Options) *World {
	t.Helper()
	w := &World{t: t, options: o, dir: t.TempDir(), log: new(syncBuffer), MCP: new(Recorder)}
	w.port, w.admin = FreePort(t), FreePort(t)
	w.URL = fmt.Sprintf("http://localhost:%d", w.port)
	if o.HTTPS {
		w.URL = fmt.Sprintf("https://127.0.0.1:%d", w.port)
		w.options.Site += w.writeCertificate()
	}

	if o.Postgres != nil {
		w.keepInPostgres()
	}
	start := o.Provider
	if start == nil {
		start = (*World).startProvider
	}
	var userOf UserOf
	w.ProviderURL, userOf = start(w)

	mcp := httptest.NewServer(mcpserver.New(mcpserver.Options{UserOf: userOf, OnRequest: w.MCP.record}))
	t.Cleanup(mcp.Close)
	w.MCPURL = mcp.URL

	w.runToTheEnd()
	return w
}

// startProvider starts the demo provider.
func (w *World) startProvider() (issuer string, userOf UserOf) {
	var idp http.Handler
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { idp.ServeHTTP(rw, r) }))
	issuer = "http://" + strings.Replace(server.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
	w.Provider = w.newProvider(issuer)
	idp = w.Provider
	if w.options.Ledger {
		w.Ledger = newLedger(w.Provider, w.Provider.UserOf, func() []*World { return []*World{w} })
		server.Config.ConnContext = w.Ledger.connContext
		idp = w.Ledger
	}
	server.Start()
	w.t.Cleanup(server.Close)
	return issuer, w.Provider.UserOf
}

// newProvider makes the demo provider, for an issuer at which it is to be served.
func (w *World) newProvider(issuer string) *provider.Provider {
	users := w.options.Users
	if users == nil {
		users = []provider.User{Alice, Bob}
	}
	p, err := provider.New(provider.Options{
		Issuer: issuer, ClientID: ClientID, ClientSecret: ClientSecret,
		RedirectURIs:    []string{w.RedirectURI()},
		Users:           users,
		AccessTokenLife: w.options.TokenLife,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// RedirectURI is where providers send the browser back to the gateway.
func (w *World) RedirectURI() string { return w.URL + "/api/v1/oauth/callback" }

// Caddyfile is the configuration that the world runs with.
func (w *World) Caddyfile() string {
	if w.options.Caddyfile != nil {
		return w.options.Caddyfile(w)
	}
	return w.CaddyfileWith(w.options.Global)
}

// CaddyfileWith is the standard configuration with other lines in the oauth_proxy option.
func (w *World) CaddyfileWith(global string) string {
	scheme, _, _ := strings.Cut(w.URL, ":")
	return fmt.Sprintf(`{
	admin localhost:%d
	%s_port %d
	auto_https off
	log {
		level DEBUG
	}
	servers {
		protocols h1 h2c
		%s
	}
	oauth_proxy {
		issuer %s
		%s
		rate_limit register  1000 1s
		rate_limit authorize 1000 1s
		rate_limit login     1000 1s
		provider demo {
			type          oidc
			issuer        %s
			client_id     %s
			client_secret {env.DEMO_CLIENT_SECRET}
			scopes        offline_access
		}
		proxy demo {
			resource %s/demo/mcp
			allowed_redirects http://localhost/callback http://127.0.0.1/callback https://bot.example.com/cb
			%s
		}
		%s
	}
}
%s {
	log
	oauth_proxy
	%s
	route {
		mcp_proxy demo %s/mcp
		respond "not part of the gateway" 404
	}
}
`, w.admin, scheme, w.port, w.options.Servers, w.URL, w.vaultLines(), w.ProviderURL, ClientID, w.URL, w.options.Proxy, global, w.URL, w.options.Site, w.MCPURL)
}

// VaultPath is the vault's file.
func (w *World) VaultPath() string { return filepath.Join(w.dir, "vault.db") }

// Dir is the world's own directory.
func (w *World) Dir() string { return w.dir }

// ProxyURL is a proxy's resource.
func (w *World) ProxyURL(id string) string { return w.URL + "/" + id + "/mcp" }

// Command returns a Caddy command in this world's environment.
func (w *World) Command(ctx context.Context, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(os.Environ(), asCaddy+"=caddy", "DEMO_CLIENT_SECRET="+ClientSecret,
		"HOME="+w.dir, "XDG_CONFIG_HOME="+w.dir, "XDG_DATA_HOME="+w.dir, "GOCOVERDIR="+w.dir)
	cmd.Env = append(cmd.Env, w.options.Env...)
	return cmd
}

// write stores a Caddyfile for a command to read.
func (w *World) write(caddyfile string) string {
	path := filepath.Join(w.dir, "Caddyfile")
	if err := os.WriteFile(path, []byte(caddyfile), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// Reload loads a Caddyfile into the running Caddy, and returns why it was refused.
func (w *World) Reload(caddyfile string) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, w.AdminURL()+"/load", strings.NewReader(caddyfile))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate") // load it even when nothing has changed
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var refused struct {
		Error string `json:"error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&refused); err != nil {
		return err
	}
	return errors.New(refused.Error)
}

// AdminURL is where Caddy's admin API listens.
func (w *World) AdminURL() string { return fmt.Sprintf("http://localhost:%d", w.admin) }

// Log is what Caddy wrote so far.
func (w *World) Log() string { return w.log.String() }

// NewKey makes an encryption key, as it stands in a file.
func NewKey() string { return tokenstore.NewRootKey().Text() + "\n" }

// Eventually waits until the condition holds.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// FreePort is a port that nobody listens on, and nobody is given by the system when they ask for any: it
// lies below the range of those. No two calls return the same.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 20_000 + rand.IntN(12_000)
		if _, taken := ports.LoadOrStore(port, true); taken {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		return port
	}
	t.Fatal("no port is free")
	return 0
}

// ports are those that FreePort has returned.
var ports sync.Map

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// syncBuffer is a buffer that a process writes and a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
