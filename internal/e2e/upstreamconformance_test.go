//go:build slow

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// upstreamScenarios are those of the official suite's for clients that are about what the gateway is towards an MCP server of somebody else. Left out
// are extensions, and what it leaves to the chatbot: what is in the messages.
var upstreamScenarios = []string{
	"auth/metadata-default", "auth/metadata-var1", "auth/metadata-var2", "auth/metadata-var3",
	"auth/basic-cimd",
	"auth/scope-from-www-authenticate", "auth/scope-from-scopes-supported", "auth/scope-omitted-when-undefined", "auth/scope-step-up", "auth/scope-retry-limit",
	"auth/token-endpoint-auth-basic", "auth/token-endpoint-auth-post", "auth/token-endpoint-auth-none",
	"auth/pre-registration",
	"auth/2025-03-26-oauth-metadata-backcompat", "auth/2025-03-26-oauth-endpoint-fallback",
	"auth/resource-mismatch", "auth/metadata-issuer-mismatch",
	"auth/offline-access-scope", "auth/offline-access-not-supported",
	"auth/authorization-server-migration",
	"auth/iss-supported", "auth/iss-not-advertised", "auth/iss-supported-missing", "auth/iss-wrong-issuer", "auth/iss-unexpected", "auth/iss-normalized",
}

// The suite starts an MCP server and its authorization server and judges what they see. The client is the gateway, with the official Go SDK
// as the chatbot before it.
func TestSlowConformanceOfTheUpstreamLeg(t *testing.T) {
	needNode(t)
	for _, scenario := range upstreamScenarios {
		t.Run(strings.TrimPrefix(scenario, "auth/"), func(t *testing.T) {
			t.Parallel()
			servers, done := make(chan [2]string, 1), make(chan string, 1)
			defer close(done)
			driver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				servers <- [2]string{r.FormValue("server"), r.FormValue("context")}
				outcome := <-done
				if outcome != "" {
					w.WriteHeader(http.StatusBadGateway)
				}
				fmt.Fprint(w, outcome)
			}))
			t.Cleanup(driver.Close)
			results := t.TempDir()
			version, spoken := testenv.Stateless, testenv.Stateless
			if strings.HasPrefix(scenario, "auth/2025-03-26") {
				version, spoken = "2025-03-26", testenv.Stateful
			}
			node, err := filepath.Abs("js/node_modules/.bin/node")
			if err != nil {
				t.Fatal(err)
			}
			p := startNode(t, "node_modules/@modelcontextprotocol/conformance/dist/index.js", "client", "--scenario", scenario, "--spec-version", version,
				"--command", node+" drive.mjs "+driver.URL, "--output-dir", results, "--timeout", "60000")
			var printed strings.Builder
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for p.lines.Scan() {
					fmt.Fprintln(&printed, p.lines.Text())
				}
			}()
			select {
			case s := <-servers:
				done <- callTools(t, s[0], s[1], spoken)
			case <-ended:
			}
			<-ended
			_ = p.cmd.Wait() // scenarios that no client should get through end with an error
			checkScenario(t, results, printed.String())
		})
	}
}

// callTools has a chatbot list and call the tools of a server behind a gateway that was told of nothing but its address. It returns what
// went wrong, as the scenario may want something to.
func callTools(t *testing.T, server, scenario, version string) string {
	t.Helper()
	var given struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	if scenario != "" {
		if err := json.Unmarshal([]byte(scenario), &given); err != nil {
			t.Errorf("context %s: %v", scenario, err)
		}
	}
	o := testenv.Options{Caddyfile: gatewayBefore(server, ""), HTTPS: true} // without, there is no metadata document
	if given.ID != "" {
		o.Caddyfile = gatewayBefore(server, "client_id "+given.ID+"\nclient_secret {env.GIVEN_SECRET}")
		o.Env = []string{"GIVEN_SECRET=" + given.Secret}
	}
	w := testenv.Start(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	session, err := testenv.TryConnect(ctx, testenv.NewBrowser(testenv.Alice), w.ProxyURL("demo"), version)
	if err != nil {
		return "connect: " + err.Error()
	}
	defer func() { _ = session.Close() }()
	tools, err := session.ListTools(ctx, nil)
	if err != nil {
		return "tools/list: " + err.Error()
	}
	for _, tool := range tools.Tools {
		if _, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool.Name, Arguments: map[string]any{}}); err != nil {
			return "tools/call: " + err.Error()
		}
	}
	return ""
}

// checkScenario reads what the suite wrote down. Only successes and remarks will do.
func checkScenario(t *testing.T, results, printed string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(results, "*", "checks.json"))
	if err != nil || len(files) == 0 {
		files, err = filepath.Glob(filepath.Join(results, "*", "*", "checks.json"))
	}
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v, the suite said:\n%s", files, err, printed)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var checks []struct {
		ID, Status, Description, ErrorMessage string
		Details                               struct{ ActualClientID string }
	}
	if err := json.Unmarshal(raw, &checks); err != nil {
		t.Fatal(err)
	}
	successes := 0
	for _, c := range checks {
		switch {
		case c.Status == "SUCCESS":
			successes++
		case c.ID == "cimd-client-id-used" && strings.HasSuffix(c.Details.ActualClientID, "/oauth/client-metadata/mcp.json"):
			successes++ // the suite knows no other document than one of its own
		case c.Status == "INFO":
		default:
			t.Errorf("%s %s: %s %s", c.Status, c.ID, c.Description, c.ErrorMessage)
		}
	}
	if successes == 0 || t.Failed() {
		t.Errorf("%d successes; the suite said:\n%s", successes, printed)
	}
}
