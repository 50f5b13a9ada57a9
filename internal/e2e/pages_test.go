//go:build slow

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// needChromium skips the test where there is no Chromium; in CI it fails.
func needChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "no Chromium is installed: on Debian, apt-get install chromium")
	return ""
}

// The pages in a real browser. Their pictures go to the directory that OAUTH_PROXY_PICTURES names, to be looked at.
func TestSlowT09PagesAreAccessibleAndWorkWithoutMouseAndScripts(t *testing.T) {
	needNode(t)
	chromium := needChromium(t)
	long := "https://" + strings.Repeat("long-name.", 12) + "example.com/cb"
	w := testenv.Start(t, testenv.Options{
		Env: []string{"KNOWN_SECRET=secret-of-the-known-client"},
		Global: `client known {
			name          "Quarterly reports"
			client_secret {env.KNOWN_SECRET}
			redirect_uris http://localhost/callback
		}`,
		Proxy: `name       "Company Jira"
			scopes     read write
			scope_text read  "read issues, boards and comments"
			scope_text write "create and change issues"
			consent    remember
			allowed_redirects ` + long,
	})
	register := func(name, redirects string) string {
		status, _, m := post(t, w.URL+"/api/v1/oauth-proxy/register", "application/json",
			`{"client_name":"`+name+`","redirect_uris":[`+redirects+`],"token_endpoint_auth_method":"none","client_uri":"https://bot.example.com/about/this/assistant"}`)
		if status != http.StatusCreated {
			t.Fatalf("register: %d %v", status, m)
		}
		return m["client_id"].(string)
	}
	authorize := func(client, redirect string) string {
		return w.URL + "/api/v1/oauth-proxy/demo/authorize?" + url.Values{
			"response_type": {"code"}, "client_id": {client}, "redirect_uri": {redirect}, "state": {"s"}, "scope": {"read write"},
			"code_challenge": {strings.Repeat("A", 43)}, "code_challenge_method": {"S256"},
		}.Encode()
	}
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("back at the client")) }))
	t.Cleanup(client.Close)
	const hosted = "https://bot.example.com/cb"
	local := strings.Replace(client.URL, "127.0.0.1", "localhost", 1) + "/callback"
	consent := authorize(register("Research Assistant", `"`+hosted+`","http://localhost/callback"`), hosted)
	w.NewPlainBot(t).Login(t, testenv.NewBrowser(testenv.Alice))
	pictures := os.Getenv("OAUTH_PROXY_PICTURES")
	if pictures == "" {
		pictures = t.TempDir()
	}
	type page struct {
		Name string `json:"name"`
		URL  string `json:"url"`
		Step string `json:"step,omitempty"`
	}
	connect := w.URL + "/oauth/authorize/demo"
	job := map[string]any{
		"chromium": chromium, "pictures": pictures, "user": testenv.Alice.Name, "password": testenv.Alice.Password,
		"back": local, "consent": authorize("known", local), "connect": connect,
		"pages": []page{
			{"consent", consent, ""},
			{"consent-loopback", authorize(register("Terminal helper", `"`+local+`"`), local), ""},
			{"consent-known", authorize("known", local), ""},
			{"consent-long", authorize(register(strings.Repeat("Donaudampfschifffahrt", 5), `"`+long+`"`), long), ""},
			{"error", authorize("gateway_0000000000000000", hosted), ""},
			{"connect", connect, ""},
			{"connected", connect, "connected"},
			{"refused", connect, "refused"},
			{"home", w.URL + "/oauth/", ""},
			{"connections", w.URL + "/connections", "signedIn"},
			{"cut", w.URL + "/connections", "cut"},
			{"signed-out", w.URL + "/connections", "signedOut"},
		},
	}
	file := filepath.Join(t.TempDir(), "job.json")
	raw, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "js/node_modules/.bin/node", "js/pages.mjs", file)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `{"done":48}`) {
		t.Errorf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, `"what"`) {
			t.Error(strings.TrimSpace(line))
		}
	}
}
