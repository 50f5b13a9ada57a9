package bench

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
)

// target is a Caddy that is measured.
type target struct {
	name   string
	w      *testenv.World
	path   string
	issued []credentials
}

// options say what Caddy a target is.
type options struct {
	name     string
	gateway  bool
	lines    bool // of each request in the log
	postgres bool
	sdk      bool // behind it is a server of the official SDK
	grants   int
	every    int // one in so many of them has its credentials told; all when zero
	global   string
}

// start starts a target in front of an MCP server.
func start(b *testing.B, upstream string, o options) *target {
	b.Helper()
	t := &target{name: o.name, path: "/mcp"}
	env := testenv.Options{TokenLife: 2 * time.Hour, Caddyfile: func(w *testenv.World) string { return plainCaddyfile(w, upstream, o.lines) }}
	if o.gateway {
		t.path = "/demo/mcp"
		env.Caddyfile = func(w *testenv.World) string { return gatewayCaddyfile(w, upstream, o) }
	}
	if o.postgres {
		env.Postgres = testpg.Start(b)
	}
	t.w = testenv.Start(b, env)
	if o.gateway {
		t.issued = fill(b, t.w, o.grants, max(o.every, 1))
	}
	return t
}

// asGateway gives requests to reverse_proxy the tokens that a gateway has issued, which it hands on as any header: they are the same to the byte.
func (t *target) asGateway(of *target) { t.issued = of.issued }

// plainCaddyfile is that of reverse_proxy alone.
func plainCaddyfile(w *testenv.World, upstream string, lines bool) string {
	log := ""
	if lines {
		log = "log"
	}
	return fmt.Sprintf(`{
	admin %s
	auto_https off
	log {
		output file %s
	}
}
%s {
	%s
	respond /.well-known/oauth-authorization-server "{}"
	reverse_proxy /mcp %s
}
`, strings.TrimPrefix(w.AdminURL(), "http://"), filepath.Join(w.Dir(), "caddy.log"), w.URL, log, upstream)
}

// gatewayCaddyfile is the world's own, with a log of its own and limits that nobody meets.
func gatewayCaddyfile(w *testenv.World, upstream string, o options) string {
	exclude := "exclude http.handlers.mcp_filter.audit"
	if o.lines {
		exclude = ""
	}
	text := w.CaddyfileWith("rate_limit token 1000000 1s\nrate_limit client 1000000 1s\n" + o.global)
	text = strings.Replace(text, "level DEBUG", "output file "+filepath.Join(w.Dir(), "caddy.log")+"\n\t\t"+exclude, 1)
	text = strings.Replace(text, "\tlog\n\toauth_proxy\n", "\toauth_proxy\n", 1)
	text = strings.Replace(text, "protocols h1 h2c", "", 1)
	site, rest, _ := strings.Cut(text, "\troute {\n") // the world's answers what is not the gateway's
	text = site + strings.Replace(strings.Replace(rest, "\t\trespond \"not part of the gateway\" 404\n\t}\n", "", 1), "\t\tmcp_proxy", "\tmcp_proxy", 1)
	return strings.Replace(text, w.MCPURL, "http://"+upstream, 1)
}

// address is where the target listens.
func (t *target) address() string {
	return strings.Replace(strings.TrimPrefix(t.w.URL, "http://"), "localhost", "127.0.0.1", 1)
}

// access are the access tokens of the target's grants.
func (t *target) access() (tokens []string) {
	for _, c := range t.issued {
		tokens = append(tokens, c.Access)
	}
	return tokens
}

// cost is what a process has used so far.
type cost struct {
	cpu            time.Duration
	allocs, bytes  float64
	anonymous, all int // of memory, in bytes
}

func (t *target) cost(b *testing.B) cost {
	b.Helper()
	c := cost{cpu: testenv.CPU(t.w.PID())}
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, t.w.AdminURL()+"/metrics", nil)
	if err != nil {
		b.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		v, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_memstats_mallocs_total":
			c.allocs = v
		case "go_memstats_alloc_bytes_total":
			c.bytes = v
		}
	}
	if c.allocs == 0 {
		b.Fatal("Caddy does not tell its allocations")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.w.PID()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kB, _ := strconv.Atoi(f[1])
		switch f[0] {
		case "RssAnon:":
			c.anonymous = kB << 10
		case "VmRSS:":
			c.all = kB << 10
		}
	}
	return c
}

// freePort is one that nobody listens on.
func freePort(b *testing.B) int { b.Helper(); return testenv.FreePort(b) }
