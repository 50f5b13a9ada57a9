package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// The official conformance suite for servers judges a reference server, and the same server behind the gateway. The gateway is nothing that
// it could see: every check of every scenario ends the same.
func TestServerConformanceIsTheSameThroughTheGateway(t *testing.T) {
	t.Parallel()
	needNode(t)
	exe := buildReferenceServer(t)
	for _, c := range []struct {
		revision, stateless string
		scenarios, passed   int // at least: two empty results would be the same, too
	}{
		{testenv.Stateful, "-stateless=false", 33, 70},
		{testenv.Stateless, "-stateless=true", 49, 164},
	} {
		for name, options := range map[string]string{"Host kept": "", "Host of the server": " {\n\t\theader_up Host {upstream_hostport}\n\t}"} {
			t.Run(c.revision+", "+name, func(t *testing.T) {
				t.Parallel()
				server := startReferenceServer(t, exe, c.stateless)
				w := testenv.Start(t, testenv.Options{Caddyfile: func(w *testenv.World) string {
					// The suite sends foreign hosts, too. The site is for all of them, so that it is the filter that meets them.
					anyHost := strings.Replace(w.URL, "localhost", "", 1)
					return strings.NewReplacer("\n"+w.URL+" {", "\n"+anyHost+" {", w.MCPURL+"/mcp", server+"/mcp"+options).Replace(w.CaddyfileWith(""))
				}})
				bot := w.NewPlainBot(t)
				bot.Login(t, testenv.NewBrowser(testenv.Alice))

				direct, through := runServerSuite(t, c.revision, server, ""), runServerSuite(t, c.revision, w.URL, bot.Access())
				if scenarios, passed := direct.count(); scenarios < c.scenarios || passed < c.passed {
					t.Errorf("without the gateway: %d scenarios, %d checks passed; want %d and %d at least", scenarios, passed, c.scenarios, c.passed)
				}
				for check, want := range direct {
					if got, there := through[check]; !there || got != want {
						t.Errorf("%s: %q through the gateway, %q directly", check, got, want)
					}
				}
				for check, got := range through {
					if _, there := direct[check]; !there {
						t.Errorf("%s: %q through the gateway, not there directly", check, got)
					}
				}
			})
		}
	}
}

// buildReferenceServer builds the official Go SDK's server for the suite, of the version in go.mod.
func buildReferenceServer(t *testing.T) (exe string) {
	t.Helper()
	exe = filepath.Join(t.TempDir(), "everything-server")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", exe, "github.com/modelcontextprotocol/go-sdk/conformance/everything-server").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return exe
}

func startReferenceServer(t *testing.T, exe string, args ...string) (address string) {
	t.Helper()
	host := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	startProgram(t, ".", exe, append(args, "-http", host)...)
	testenv.Eventually(t, "the reference server to listen", func() bool {
		conn, err := net.Dial("tcp", host)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return "http://" + host
}

// verdicts are how checks ended, by scenario and check.
type verdicts map[string]string

// count says how many scenarios there are, and how many of their checks passed.
func (v verdicts) count() (scenarios, passed int) {
	seen := make(map[string]bool)
	for check, verdict := range v {
		scenario, _, _ := strings.Cut(check, ", ")
		seen[scenario] = true
		if strings.HasPrefix(verdict, "SUCCESS") {
			passed++
		}
	}
	return len(seen), passed
}

// runServerSuite lets the suite judge a server. It can send no token, so that it speaks to a stand-in that adds one and changes nothing else.
func runServerSuite(t *testing.T, revision, server, token string) verdicts {
	t.Helper()
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host // r.Out.Host stays what the suite sent
		if token != "" {
			r.Out.Header.Set("Authorization", "Bearer "+token)
		}
	}}
	standIn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Otherwise the server closes the request's body when an answer begins, and the transport, which looks once more for the end of it,
		// breaks off the answer.
		_ = http.NewResponseController(w).EnableFullDuplex()
		proxy.ServeHTTP(w, r)
	}))
	defer standIn.Close()
	results := t.TempDir()
	p := startNode(t, "node_modules/@modelcontextprotocol/conformance/dist/index.js", "server", "--requirements", revision,
		"--url", strings.Replace(standIn.URL, "127.0.0.1", "localhost", 1)+"/demo/mcp", "--output-dir", results)
	var printed strings.Builder
	for p.lines.Scan() {
		fmt.Fprintln(&printed, p.lines.Text())
	}
	_ = p.cmd.Wait() // it fails when a check does
	if !strings.Contains(printed.String(), "=== SUMMARY ===") {
		t.Fatalf("the suite said:\n%s", printed.String())
	}
	return readVerdicts(t, results)
}

// readVerdicts reads what the suite wrote down.
func readVerdicts(t *testing.T, results string) verdicts {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(results, "server-*", "checks.json"))
	if err != nil {
		t.Fatal(err)
	}
	all := make(verdicts)
	directory := regexp.MustCompile(`^server-(.+)-[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9Z-]+$`)
	for _, file := range files {
		name := directory.FindStringSubmatch(filepath.Base(filepath.Dir(file)))
		if name == nil {
			t.Fatalf("%s: not the name of a scenario and a time", file)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var checks []struct{ ID, Status, Description, ErrorMessage string }
		if err := json.Unmarshal(raw, &checks); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[name[1]] = "" // there are scenarios without checks
		for _, c := range checks {
			check := name[1] + ", " + c.ID
			for n := 2; all[check] != ""; n++ {
				check = fmt.Sprintf("%s, %s, time %d", name[1], c.ID, n)
			}
			all[check] = fmt.Sprintf("%s: %s %s", c.Status, c.Description, c.ErrorMessage)
		}
	}
	return all
}
