package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// written is what the assistant answers.
type written struct {
	Caddyfile   string
	JSON        map[string]json.RawMessage
	RedirectURI string `json:"redirect_uri"`
	Problems    []struct{ Field, Text string }
}

func TestAssistantAnswersOverJSONAndInAShell(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Proxy: "provider demo"})
	ask := func(body string) (status int, answer written) {
		resp, err := http.Post(w.AdminURL()+"/oauth_proxy/assistant", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, answer
	}
	okta := `"template":"okta","domain":"acme.okta.com","client_id":"{env.ID}","client_secret":"{env.SECRET}","proxy":"jira","upstream":"https://jira.test/mcp"`
	status, answer := ask("{" + okta + "}")
	if status != http.StatusOK || len(answer.Problems) > 0 || !strings.Contains(answer.Caddyfile, "\t\tprovider okta {\n") || len(answer.JSON) != 3 || answer.RedirectURI != w.RedirectURI() {
		t.Errorf("%d %+v", status, answer)
	}
	if status, answer := ask(`{"template":"okta","proxy":"demo"}`); status != http.StatusOK || len(answer.Problems) < 4 || answer.Caddyfile != "" {
		t.Errorf("with mistakes: %d %+v", status, answer)
	}
	if status, _ := ask(`{"proxy":1}`); status != http.StatusBadRequest {
		t.Errorf("what is no draft: %d", status)
	}

	run := func(args ...string) (string, string, error) {
		cmd := w.Command(t.Context(), append([]string{"oauth-proxy", "assistant"}, args...)...)
		var out, notes strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &notes
		err := cmd.Run()
		return out.String(), notes.String(), err
	}
	flags := []string{
		"--template", "okta", "--set", "domain=acme.okta.com", "--set", "client_id={env.ID}", "--set", "client_secret={env.SECRET}", "--proxy", "jira", "--upstream", "https://jira.test/mcp",
	}
	running := append([]string{"--address", strings.TrimPrefix(w.AdminURL(), "http://")}, flags...)
	out, notes, err := run(running...)
	if err != nil || out != answer.Caddyfile || !strings.Contains(notes, w.RedirectURI()) {
		t.Errorf("of the running Caddy: %v\n%s%s", err, out, notes)
	}
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(w.Caddyfile()), 0o600); err != nil {
		t.Fatal(err)
	}
	if of, notes, err := run(append([]string{"--config", file, "--adapter", "caddyfile"}, flags...)...); err != nil || of != out {
		t.Errorf("of a file: %v\n%s%s", err, of, notes)
	}
	if fresh, notes, err := run(append([]string{"--issuer", "https://gw.test"}, flags...)...); err != nil || !strings.Contains(fresh, "issuer https://gw.test") || !strings.Contains(fresh, "\toauth_proxy\n") {
		t.Errorf("of none: %v\n%s%s", err, fresh, notes)
	}
	if out, notes, err := run(append(running, "--set", "tenant=x")...); err == nil || out != "" || !strings.Contains(notes, "tenant does not apply to type okta") {
		t.Errorf("with a mistake: %v\n%s%s", err, out, notes)
	}
}

// The shell commands of docs/configuration.md do what it says.
func TestServersAreAddedOverCaddysConfigAPIAsDocumented(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"sh", "curl", "jq"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, program+" is not installed")
		}
	}
	w := testenv.Start(t, testenv.Options{Proxy: "provider demo", Caddyfile: func(w *testenv.World) string { // with a site as in the README
		caddyfile, _, _ := strings.Cut(w.CaddyfileWith(""), "\troute {")
		return caddyfile + "mcp_proxy demo " + w.MCPURL + "/mcp\n}\n"
	}})
	content, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(content), "\n### Over Caddy's config API\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var script strings.Builder
	script.WriteString("set -e\n")
	for _, block := range strings.Split(section, "```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		script.WriteString(block)
	}
	text := strings.NewReplacer(
		"http://localhost:2019", w.AdminURL(), "https://gateway.example.com", w.URL, `"okta"`, `"demo"`, `{"email_domains": ["example.com"]}`, `{"users": ["alice"]}`,
		"wiki-mcp.internal:443", strings.TrimPrefix(w.MCPURL, "http://"), `, "tls": {}`, "",
	).Replace(script.String())
	cmd := exec.CommandContext(t.Context(), "sh", "-c", text)
	cmd.Dir = t.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, text)
	}
	session := w.Connect(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("wiki"), testenv.Stateless)
	if answer, err := testenv.Call(t.Context(), session, "whoami", nil); err != nil || !strings.Contains(answer, "alice") {
		t.Errorf("whoami: %q, %v", answer, err)
	}
	if got := runningConfig(t, w, "apps/oauth_proxy/proxies/wiki/name"); strings.TrimSpace(got) != `"Company wiki"` {
		t.Errorf("name: %s", got)
	}
	again := exec.CommandContext(t.Context(), "sh", "-c", text)
	again.Dir = t.TempDir()
	if out, err := again.CombinedOutput(); err == nil {
		t.Errorf("the second time overwrote the first: %s", out)
	}
}
