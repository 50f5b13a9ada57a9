package e2e

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// The official SDK, known by nothing but a document on its own web site.
func TestSDKClientWithMetadataDocumentCallsTools(t *testing.T) {
	t.Parallel()
	var site *httptest.Server
	site = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"client_id": site.URL + "/client.json", "client_name": "Published", "redirect_uris": []string{testenv.SDKRedirect}, "token_endpoint_auth_method": "none",
		})
	}))
	t.Cleanup(site.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: site.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(site.Certificate().Raw); err != nil {
		t.Fatal(err)
	}
	w := testenv.Start(t, testenv.Options{Env: []string{"SSL_CERT_FILE=" + ca}})
	s := w.ConnectPublished(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("demo"), site.URL+"/client.json")
	t.Cleanup(func() { _ = s.Close() })
	if text, err := testenv.Call(t.Context(), s, "whoami", nil); err != nil || !strings.Contains(text, "alice") {
		t.Errorf("whoami: %q, %v", text, err)
	}
}

// post sends a request to the gateway, and reads the JSON that it answers.
func post(t *testing.T, address, contentType, body string, edit ...func(*http.Request)) (int, http.Header, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	for _, f := range edit {
		f(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var m map[string]any
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if json.Unmarshal(raw, &m) != nil {
		m = map[string]any{"text": string(raw)} // an event stream
	}
	return resp.StatusCode, resp.Header, m
}

func TestConfiguredClientActsForItselfWithTheProxysToken(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{
		Env:    []string{"MACHINE_SECRET=secret-of-the-machine-client", "MACHINE_TOKEN=upstream-token-of-the-machine"},
		Global: "client machine {\n client_secret {env.MACHINE_SECRET}\n grant_types client_credentials\n}",
		Proxy:  "machine_token {env.MACHINE_TOKEN}",
	})
	form := url.Values{"grant_type": {"client_credentials"}, "resource": {w.ProxyURL("demo")}}
	status, _, m := post(t, w.URL+"/api/v1/oauth-proxy/token", "application/x-www-form-urlencoded", form.Encode(), func(r *http.Request) {
		r.SetBasicAuth("machine", "secret-of-the-machine-client")
	})
	access, _ := m["access_token"].(string)
	if status != http.StatusOK || access == "" {
		t.Fatalf("token: %d %v", status, m)
	}
	before := len(w.MCP.Requests())
	post(t, w.ProxyURL("demo"), "application/json", testenv.ToolCall("whoami"), func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+access)
		r.Header.Set("Accept", "application/json, text/event-stream")
	})
	seen := w.MCP.Requests()[before:]
	if len(seen) == 0 || seen[0].Header.Get("Authorization") != "Bearer upstream-token-of-the-machine" {
		t.Errorf("the server saw %+v", seen)
	}
	if log := w.Log(); strings.Contains(log, "upstream-token-of-the-machine") || strings.Contains(log, "secret-of-the-machine-client") {
		t.Error("the log holds a secret")
	}
}

// sessionToken logs a user in for a script, which fetches the callback itself.
func sessionToken(t *testing.T, w *testenv.World, user provider.User) string {
	t.Helper()
	status, _, m := post(t, w.URL+"/api/v1/oauth/authorize/demo", "application/json", "")
	data, _ := m["data"].(map[string]any)
	if status != http.StatusOK || data == nil {
		t.Fatalf("start: %d %v", status, m)
	}
	callback := testenv.NewBrowser(user).Login(t, data["authorization_url"].(string), w.URL+"/api/v1/oauth/callback")
	var answer struct {
		Data struct {
			Token string `json:"session_token"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(get(t, callback.String()+"&format=json")), &answer); err != nil || answer.Data.Token == "" {
		t.Fatalf("callback: %+v, %v", answer, err)
	}
	return answer.Data.Token
}

func TestScriptCallsToolsWithASessionToken(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	token := sessionToken(t, w, testenv.Bob)
	for _, edit := range []func(*http.Request){
		func(r *http.Request) { r.Header.Set("X-Session-Token", token) },
		func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) },
	} {
		status, _, m := post(t, w.ProxyURL("demo"), "application/json", testenv.ToolCall("whoami"), edit, func(r *http.Request) {
			r.Header.Set("Accept", "application/json, text/event-stream")
			r.Header.Set("MCP-Protocol-Version", testenv.Stateless)
			r.Header.Set("Mcp-Method", "tools/call")
			r.Header.Set("Mcp-Name", "whoami")
		})
		if raw, _ := json.Marshal(m); status != http.StatusOK || !strings.Contains(string(raw), "bob") {
			t.Errorf("whoami: %d %v", status, m)
		}
	}
}

func TestSigningKeyRotatesByCommand(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	command := func(args ...string) string {
		t.Helper()
		cmd := w.Command(t.Context(), append([]string{"oauth-proxy"}, append(args, "--address", strings.TrimPrefix(w.AdminURL(), "http://"))...)...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return string(out)
	}
	if out := command("signing-keys"); strings.Count(out, "signs") != 1 || !strings.Contains(out, "ES256") {
		t.Errorf("one key: %s", out)
	}
	if out := command("rotate-signing-key"); strings.Count(out, "signs") != 1 || strings.Count(out, "waits") != 1 {
		t.Errorf("a second one: %s", out)
	}
	if _, err := b.WhoAmI(t.Context()); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	var keys []map[string]any
	if err := json.Unmarshal([]byte(command("rotate-signing-key", "--compromised", "--json")), &keys); err != nil || len(keys) != 1 || keys[0]["active"] != true {
		t.Errorf("after a compromise: %v, %v", keys, err)
	}
	if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
		t.Errorf("a token of the compromised key: %d, %v", a.Status, err)
	}
	b.Refresh(t)
	if _, err := b.WhoAmI(t.Context()); err != nil {
		t.Errorf("after the refresh: %v", err)
	}
	if w.Command(t.Context(), "oauth-proxy", "signing-keys", "--address", "localhost:1").Run() == nil {
		t.Error("a command that reaches nobody succeeds")
	}
}

// The address that limits count by is the one that Caddy trusts, not what a header says.
func TestDefectRateLimitsCountTheAddressThatCaddyTrusts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		servers string
		limited bool // although each request claims another address
	}{
		"nobody is trusted":          {"", true},
		"the local proxy is trusted": {"trusted_proxies static 127.0.0.1/8 ::1", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := testenv.Start(t, testenv.Options{Servers: c.servers, Global: "rate_limit token 3 1h"})
			limited := false
			for i := range 8 {
				status, header, _ := post(t, w.URL+"/api/v1/oauth-proxy/token", "application/x-www-form-urlencoded", "grant_type=refresh_token&client_id=x", func(r *http.Request) {
					r.Header.Set("X-Forwarded-For", "198.51.100."+string(rune('1'+i)))
				})
				if status == http.StatusTooManyRequests {
					limited = header.Get("Retry-After") != ""
				}
			}
			if limited != c.limited {
				t.Errorf("limited: %v", limited)
			}
		})
	}
}

func TestUserConnectsFromTheBrowserAtARealCaddy(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Proxy: "consent remember"})
	b := testenv.NewBrowser(testenv.Alice)
	_, err := b.TryLogin(w.URL+"/oauth/authorize/demo", "nowhere")
	last := b.Pages[len(b.Pages)-1]
	if err == nil || !strings.Contains(last, "You are connected") || !strings.Contains(last, "alice") {
		t.Errorf("last page: %s", last)
	}
	resp, err := http.Get(w.URL + "/oauth/authorize/nothing")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown proxy: %d", resp.StatusCode)
	}
}

func TestDefectCleanUpRuns(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Global: "cleanup_interval 1s"})
	testenv.Eventually(t, "the clean-up", func() bool { return strings.Contains(w.Log(), "clean-up finished") })
}

func TestDefectBrowserClientsCanReadSessionAndChallenge(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Proxy: "origins https://app.example.com"})
	status, header, _ := post(t, w.ProxyURL("demo"), "application/json", "{}", func(r *http.Request) { r.Header.Set("Origin", "https://app.example.com") })
	exposed := header.Get("Access-Control-Expose-Headers")
	if status != http.StatusUnauthorized || !strings.Contains(exposed, "WWW-Authenticate") || !strings.Contains(exposed, "Mcp-Session-Id") || header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("%d %v", status, header)
	}
}
