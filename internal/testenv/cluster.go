package testenv

import (
	"cmp"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/mcpserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
)

// ClusterOptions changes a cluster.
type ClusterOptions struct {
	// Options are those of each node, without HTTPS, Caddyfile and Provider.
	Options

	// Nodes is how many there are. Default: 3.
	Nodes int

	// Vault is added to the vault.
	Vault string

	// Limits are the rate limits. Default: NoLimits.
	Limits string

	// ShutdownDelay is how long a node that is told to end announces it. Default: 1s.
	ShutdownDelay string

	// LogLevel is that of the nodes. Default: INFO.
	LogLevel string

	// MCP, when set, makes another MCP server than the demo one.
	MCP func(userOf UserOf) http.Handler

	// Database, when set, is the server to keep the vault in. Default: one of the cluster's own.
	Database *testpg.Server
}

// NoLimits are rate limits that no test meets.
const NoLimits = `
		rate_limit register  100000 1s
		rate_limit authorize 100000 1s
		rate_limit login     100000 1s
		rate_limit token     100000 1s
		rate_limit client    100000 1s`

// NodeHeader is where the balancer tells which node answered, or was to: host and port.
const NodeHeader = "X-Node"

// Cluster is one gateway of several nodes on one PostgreSQL, behind a balancer. All are processes of their own.
type Cluster struct {
	t       testing.TB
	options ClusterOptions

	providerURL string

	Database *testpg.Server
	Provider *provider.Provider
	Ledger   *Ledger
	MCP      *Recorder

	// Nodes are Caddys with the same configuration, but for where they listen and keep their files. Their URL is the cluster's.
	Nodes []*World

	// Balancer is a Caddy before them.
	Balancer *World

	// URL is the gateway's issuer: the balancer's.
	URL string
}

// StartCluster starts a cluster and ends it with the test.
func StartCluster(t testing.TB, o ClusterOptions) *Cluster {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Database == nil {
		o.Database = testpg.Start(t)
	}
	c := &Cluster{t: t, options: o, Database: o.Database, MCP: new(Recorder)}
	port := FreePort(t)
	c.URL = fmt.Sprintf("http://localhost:%d", port)
	c.startProvider()
	server := mcpserver.New(mcpserver.Options{UserOf: c.Provider.UserOf, OnRequest: c.MCP.record})
	if o.MCP != nil {
		server = o.MCP(c.Provider.UserOf)
	}
	mcp := httptest.NewServer(server)
	t.Cleanup(mcp.Close)

	for range o.Nodes {
		node := c.world(FreePort(t))
		node.MCPURL = mcp.URL
		node.options = o.Options
		node.options.Env = append([]string{"DATABASE_URL=" + c.connection(), "DATABASE_PASSWORD=" + testpg.Password}, o.Env...)
		node.options.Caddyfile = c.nodeCaddyfile
		c.Nodes = append(c.Nodes, node)
	}
	if err := os.WriteFile(c.keyFile(), []byte(NewKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, node := range c.Nodes {
		node.runToTheEnd()
	}
	c.Balancer = c.world(port)
	c.Balancer.options = Options{Caddyfile: c.balancerCaddyfile}
	c.Balancer.runToTheEnd()
	return c
}

// keyFile is where the first node has the encryption key of all.
func (c *Cluster) keyFile() string { return filepath.Join(c.Nodes[0].dir, "vault.key") }

// world is one Caddy of the cluster.
func (c *Cluster) world(port int) *World {
	return &World{
		t: c.t, dir: c.t.TempDir(), port: port, admin: FreePort(c.t), log: new(syncBuffer),
		Provider: c.Provider, ProviderURL: c.providerURL, MCP: c.MCP, URL: c.URL, site: fmt.Sprintf("http://localhost:%d", port),
	}
}

// startProvider starts the demo provider behind a ledger.
func (c *Cluster) startProvider() {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.Ledger.ServeHTTP(w, r) }))
	c.providerURL = "http://" + strings.Replace(server.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
	c.Provider = (&World{t: c.t, URL: c.URL, options: c.options.Options}).newProvider(c.providerURL)
	c.Ledger = newLedger(c.Provider, c.Provider.UserOf, func() []*World { return c.Nodes })
	server.Config.ConnContext = c.Ledger.connContext
	server.Start()
	c.t.Cleanup(server.Close)
}

// connection is the connection string of the nodes, without the password.
func (c *Cluster) connection() string {
	return strings.Replace(c.Database.Connection(), ":"+testpg.Password, "", 1)
}

// nodeCaddyfile is the configuration of one node. Where nodes of a cluster differ is where they listen.
func (c *Cluster) nodeCaddyfile(w *World) string {
	o := c.options
	return fmt.Sprintf(`{
	admin localhost:%d
	http_port %d
	auto_https off
	shutdown_delay %s
	grace_period 10s
	log {
		level %s
	}
	servers {
		protocols h1 h2c
		trusted_proxies static 127.0.0.1/32
		%s
	}
	oauth_proxy {
		issuer %s
		vault postgres {env.DATABASE_URL} {
			password {env.DATABASE_PASSWORD}
			%s
		}
		encryption_key {file.%s}
		%s
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
`, w.admin, w.port, cmp.Or(o.ShutdownDelay, "1s"), cmp.Or(o.LogLevel, "INFO"), o.Servers, w.URL, o.Vault, c.keyFile(), cmp.Or(o.Limits, NoLimits), w.ProviderURL, ClientID, w.URL, o.Proxy, o.Global,
		w.site, o.Site, w.MCPURL)
}

// balancerCaddyfile tries a request at another node when the first cannot be connected to, never when it may have seen it.
func (c *Cluster) balancerCaddyfile(w *World) string {
	upstreams := make([]string, 0, len(c.Nodes))
	for _, node := range c.Nodes {
		upstreams = append(upstreams, node.Address())
	}
	return fmt.Sprintf(`{
	admin localhost:%d
	http_port %d
	auto_https off
}
%s {
	reverse_proxy %s {
		lb_policy       round_robin
		lb_try_duration 20s
		lb_try_interval 100ms
		health_uri      /oauth/ready
		health_interval 250ms
		health_timeout  1s
		health_headers {
			Host localhost
		}
		fail_duration   1s
		header_down     %s {http.reverse_proxy.upstream.hostport}
	}
	handle_errors {
		header %s {http.reverse_proxy.upstream.hostport}
		respond "{err.status_code} {err.message}" {err.status_code}
	}
}
`, w.admin, w.port, c.URL, strings.Join(upstreams, " "), NodeHeader, NodeHeader)
}

// Address is where this Caddy itself listens: host and port.
func (w *World) Address() string { return fmt.Sprintf("127.0.0.1:%d", w.port) }

// Number is the number of the node at an address, from 1 on, or 0.
func (c *Cluster) Number(address string) int {
	for i, node := range c.Nodes {
		if node.Address() == address {
			return i + 1
		}
	}
	return 0
}

// Node is the node of that number.
func (c *Cluster) Node(number int) *World { return c.Nodes[number-1] }

// Through is the way of a request to the gateway past the balancer, straight to the node that choose names. Everything else goes straight to its address.
func (c *Cluster) Through(choose func(*http.Request) *World) http.RoundTripper {
	return &through{gateway: strings.TrimPrefix(c.URL, "http://"), choose: choose}
}

// Client reaches one node under the name of the whole gateway.
func (c *Cluster) Client(node *World) *http.Client {
	return &http.Client{Transport: c.Through(func(*http.Request) *World { return node })}
}

type through struct {
	gateway string
	choose  func(*http.Request) *World
}

func (t *through) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != t.gateway {
		return http.DefaultTransport.RoundTrip(r)
	}
	straight := r.Clone(r.Context())
	straight.Host, straight.URL.Host = t.gateway, t.choose(r).Address()
	resp, err := http.DefaultTransport.RoundTrip(straight)
	if resp != nil {
		resp.Request = r
	}
	return resp, err
}

// NewPlainBot registers a plain chatbot at a node, or at the balancer when that is nil. It goes on there until its Client is changed.
func (c *Cluster) NewPlainBot(t testing.TB, node *World) *PlainBot {
	t.Helper()
	if node == nil {
		return c.Balancer.NewPlainBot(t)
	}
	return c.Balancer.newPlainBot(t, "Plain bot", c.Client(node))
}
