//go:build slow

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// The official conformance suite as it is published, with a public client, with the resource and without. That the issuer is
// the suite's --url to the letter, with no slash behind it, is one of its checks.
func TestSlowConformanceAuthorization(t *testing.T) {
	needNode(t)
	w := testenv.Start(t, testenv.Options{})
	for name, resource := range map[string][]string{"with resource": {"--resource", w.ProxyURL("demo")}, "without resource": nil} {
		t.Run(name, func(t *testing.T) {
			port, results := testenv.FreePort(t), t.TempDir()
			redirect := fmt.Sprintf("http://127.0.0.1:%d/callback", port)
			p := startNode(t, "node_modules/@modelcontextprotocol/conformance/dist/index.js", append([]string{
				"authorization", "--url", w.URL, "--client-id", registerPublic(t, w, redirect), "--port", fmt.Sprint(port), "--output-dir", results,
			}, resource...)...)
			browser := testenv.NewBrowser(testenv.Alice)
			var printed strings.Builder
			for p.lines.Scan() {
				line := p.lines.Text()
				fmt.Fprintln(&printed, line)
				if strings.HasPrefix(line, w.URL+"/") {
					browser.Visit(t, browser.Login(t, line, redirect).String())
				}
			}
			if err := p.cmd.Wait(); err != nil {
				t.Error(err)
			}
			// It also exits with 0 when it has skipped a scenario, of which it then counts no check.
			if !regexp.MustCompile(`=== SUMMARY ===\n`+
				`✓ authorization-server-metadata-endpoint: [12] passed, 0 failed\n`+
				`✓ authorization-code-grant: 1 passed, 0 failed\n`+
				`\nTotal: [23] passed, 0 failed\n`).MatchString(printed.String()) || t.Failed() {
				t.Errorf("the suite said:\n%s", printed.String())
			}
			checkVerdicts(t, results)
		})
	}
}

// checkVerdicts reads what the suite wrote down: its summary leaves out warnings.
func checkVerdicts(t *testing.T, results string) {
	t.Helper()
	type check struct{ ID, Status, ErrorMessage string }
	got := make(map[string]check)
	files, err := filepath.Glob(filepath.Join(results, "*", "checks.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var checks []check
		if err := json.Unmarshal(raw, &checks); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range checks {
			got[c.ID] = c
		}
	}
	want := map[string]string{
		"authorization-server-metadata":      "SUCCESS",
		"authorization-server-metadata-cimd": "SUCCESS",
		"authorization-code-grant":           "SUCCESS",
	}
	for id, status := range want {
		if got[id].Status != status {
			t.Errorf("%s: %+v, want %s", id, got[id], status)
		}
	}
	if len(got) != len(want) {
		t.Errorf("the suite has other checks now: %+v", got)
	}
}

// registerPublic registers a client without a secret.
func registerPublic(t *testing.T, w *testenv.World, redirect string) string {
	t.Helper()
	body := `{"redirect_uris":["` + redirect + `"],"client_name":"Conformance suite","token_endpoint_auth_method":"none",` +
		`"grant_types":["authorization_code","refresh_token"],"response_types":["code"]}`
	resp, err := http.Post(w.URL+"/api/v1/oauth-proxy/register", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("register: %d %s %v", resp.StatusCode, raw, err)
	}
	var client struct {
		ID string `json:"client_id"`
	}
	if err := json.Unmarshal(raw, &client); err != nil {
		t.Fatal(err)
	}
	return client.ID
}

func TestSlowTypeScriptSDKv1(t *testing.T) {
	needNode(t)
	for _, method := range []string{"none", "client_secret_basic", "client_secret_post"} {
		t.Run(method, func(t *testing.T) { lifeOfAnSDK(t, "v1", method, testenv.Stateful, "all") })
	}
}

func TestSlowTypeScriptSDKv2(t *testing.T) {
	needNode(t)
	for _, method := range []string{"none", "client_secret_basic", "client_secret_post"} {
		t.Run(method, func(t *testing.T) { lifeOfAnSDK(t, "v2", method, testenv.Stateful, "client", "tokens") })
	}
	t.Run("stateless", func(t *testing.T) { lifeOfAnSDK(t, "v2", "none", testenv.Stateless, "client", "tokens") })
}

// lifeOfAnSDK sees a client that is made with an SDK through registration, login, refresh, and the loss of its registration.
func lifeOfAnSDK(t *testing.T, sdk, authMethod, version string, dropped ...string) {
	w := testenv.Start(t, testenv.Options{})
	c := &sdkClient{program: startNode(t, "sdk.mjs", sdk, w.ProxyURL("demo"), authMethod, version), browser: testenv.NewBrowser(testenv.Alice)}

	first := c.do(t, "connect")
	if c.logins != 1 || first.Registrations != 1 || first.AuthMethod != authMethod || first.Version != version || len(first.Dropped) != 0 {
		t.Errorf("first login: %d logins, %+v", c.logins, first)
	}

	before := first
	for range 2 { // the token that a refresh brings refreshes in its turn
		after := c.do(t, "spoil the access token")
		if c.logins != 1 || after.Registrations != 1 || len(after.Dropped) != 0 || after.ClientID != first.ClientID ||
			after.AccessToken == before.AccessToken || after.RefreshToken == before.RefreshToken {
			t.Errorf("refresh: %d logins, %+v after %+v", c.logins, after, before)
		}
		before = after
	}

	c.write(t, "close")
	w.Terminate()
	deleteClient(t, w, first.ClientID)
	w.Run()
	again := c.do(t, "spoil the access token and connect")
	if c.logins != 2 || again.Registrations != 2 || again.ClientID == first.ClientID || !slices.Equal(again.Dropped, dropped) {
		t.Errorf("after the client was deleted: %d logins, %+v", c.logins, again)
	}
	if s := w.Provider.Stats(); s.Replays != 0 || s.Refused != 0 {
		t.Errorf("provider: %+v", s)
	}
}

// deleteClient deletes a client's record. The gateway that has the vault must not run.
func deleteClient(t *testing.T, w *testenv.World, id string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.Dir(), "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := tokenstore.ParseRootKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	store, err := bbolt.Open(w.VaultPath(), 0)
	if err != nil {
		t.Fatal(err)
	}
	vault, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := vault.Client(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := vault.Commit(t.Context(), tokenstore.Delete(client)); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// sdkClient is js/sdk.mjs, and the user before it.
type sdkClient struct {
	*program
	browser *testenv.Browser
	logins  int
}

// sdkReport is what js/sdk.mjs says of itself after a command.
type sdkReport struct {
	Version, ClientID, AuthMethod, AccessToken, RefreshToken string

	Registrations int
	Dropped       []string // the credentials that the SDK gave up
}

func (c *sdkClient) write(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(c.stdin, line); err != nil {
		t.Fatal(err)
	}
}

// do gives a command, after which the client lists the tools and calls one, and logs the user in when the client asks for it.
func (c *sdkClient) do(t *testing.T, command string) sdkReport {
	t.Helper()
	c.write(t, command)
	for c.lines.Scan() {
		var said struct {
			sdkReport

			Error, Authorize, Who string
			Tools                 []string
		}
		if err := json.Unmarshal(c.lines.Bytes(), &said); err != nil {
			t.Fatalf("%s: %q: %v", command, c.lines.Text(), err)
		}
		switch {
		case said.Error != "":
			t.Fatalf("%s: %s", command, said.Error)
		case said.Authorize != "":
			c.logins++
			c.write(t, c.browser.Login(t, said.Authorize, "http://localhost:33419/callback").String())
		default:
			if !slices.Contains(said.Tools, "whoami") || !strings.Contains(said.Who, "You are alice") {
				t.Errorf("%s: %v, %q", command, said.Tools, said.Who)
			}
			return said.sdkReport
		}
	}
	t.Fatalf("%s: the client ended", command)
	return sdkReport{}
}
