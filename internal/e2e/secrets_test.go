package e2e

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func get(t *testing.T, address string) string {
	t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// secrets collects every secret value that crosses the world.
type secrets struct {
	mu     sync.Mutex
	values map[string]string // value → what it is
}

func (s *secrets) add(what, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(value) >= 8 {
		s.values[value] = what
	}
}

func (s *secrets) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values)
}

// forget is for what may be told from here on.
func (s *secrets) forget(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, value)
}

// snapshot is what was collected so far.
func (s *secrets) snapshot() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.values)
}

// observe takes the secrets from requests to the provider.
func (s *secrets) observe(path string, form url.Values) {
	for _, name := range []string{"code", "code_verifier", "client_secret", "refresh_token", "token", "state", "nonce", "code_challenge", "password"} {
		s.add("provider's "+name+" at "+path, form.Get(name))
	}
}

// bot takes the secrets that a chatbot holds.
func (s *secrets) bot(b *testenv.PlainBot) {
	s.add("client secret", b.Secret)
	s.add("gateway access token", b.Access())
	s.add("gateway refresh token", b.Token())
	s.add("gateway code", b.Code)
	s.add("client's verifier", b.Verifier)
}

// upstream takes the tokens that reached the MCP server.
func (s *secrets) upstream(w *testenv.World) {
	for _, r := range w.MCP.Requests() {
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		s.add("upstream access token", token)
	}
	for _, v := range w.Provider.Issued() {
		s.add("token or code of the provider", v)
	}
}

func (s *secrets) check(t *testing.T, where, content string) {
	t.Helper()
	for value, what := range s.snapshot() {
		if i := strings.Index(content, value); i >= 0 {
			t.Errorf("%s holds the %s: …%s…", where, what, content[max(0, i-120):min(len(content), i+20)])
		}
	}
}

// everything drives every flow there is, failures included.
func everything(t *testing.T, w *testenv.World, s *secrets) {
	t.Helper()
	w.Provider.Observe(s.observe)
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	for range 3 {
		works(t, b)
		s.bot(b)
		b.Refresh(t)
	}
	s.bot(b)
	w.Provider.ExpireTokens() // forces a refresh and a repetition
	works(t, b)
	session := w.Connect(t, testenv.NewBrowser(testenv.Bob), w.ProxyURL("demo"), testenv.Stateful)
	if _, err := testenv.Call(t.Context(), session, "whoami", nil); err != nil {
		t.Error(err)
	}
	_ = session.Close()
	// What goes wrong is logged most.
	for _, form := range []url.Values{
		{"grant_type": {"authorization_code"}, "code": {b.Code}, "code_verifier": {b.Verifier}, "client_id": {b.ID}, "client_secret": {b.Secret}},
		{"grant_type": {"refresh_token"}, "refresh_token": {b.Token()}, "client_id": {b.ID}, "client_secret": {b.Secret + "x"}},
		{"grant_type": {"refresh_token"}, "refresh_token": {b.Access()}, "client_id": {b.ID}, "client_secret": {b.Secret}},
	} {
		if status, _, err := b.Post("token", "application/x-www-form-urlencoded", form.Encode()); err != nil || status == http.StatusOK {
			t.Errorf("%d, %v", status, err)
		}
	}
	bearer := func(v string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+v) }
	}
	for _, v := range []string{b.Token(), b.Code, b.Access() + "A"} {
		if _, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"), bearer(v)); err != nil {
			t.Error(err)
		}
	}
	_ = get(t, w.URL+"/api/v1/oauth/callback?code="+b.Code+"&state="+b.Code)
	scriptsAndMachines(t, w, s)
	programsWithKeys(t, w, s)
	w.Provider.EndLogin("alice")
	w.Provider.ExpireTokens()
	_, _ = b.WhoAmI(t.Context())
	if _, _, err := b.Form("revoke", "token", b.Token()); err != nil {
		t.Error(err)
	}
	s.upstream(w)
	s.add("client secret at the provider", testenv.ClientSecret)
	key, err := os.ReadFile(filepath.Join(w.Dir(), "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.add("encryption key", strings.TrimSpace(string(key)))
}

// scriptsAndMachines drives what goes without a chatbot, and a chatbot's management of its registration.
func scriptsAndMachines(t *testing.T, w *testenv.World, s *secrets) {
	t.Helper()
	token := sessionToken(t, w, testenv.Bob)
	s.add("session token", token)
	with := func(v string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("X-Session-Token", v) }
	}
	for _, v := range []string{token, token + "A"} {
		post(t, w.ProxyURL("demo"), "application/json", testenv.ToolCall("whoami"), with(v))
		post(t, w.ProxyURL("demo")+"/a;b", "application/json", "x", with(v))
		for _, what := range []string{"validate", "refresh", "logout"} {
			_, _, m := post(t, w.URL+"/api/v1/oauth/"+what, "application/json", `{"session_token":"`+v+`"}`)
			if data, _ := m["data"].(map[string]any); data["session_token"] != nil {
				s.add("refreshed session token", data["session_token"].(string))
			}
		}
	}
	registration := func(r *http.Request) { r.Header.Set("Authorization", "Bearer initial-access-token-of-the-operator") }
	_, _, m := post(t, w.URL+"/api/v1/oauth-proxy/register", "application/json", `{"redirect_uris":["http://localhost/callback"]}`, registration)
	s.add("initial access token", "initial-access-token-of-the-operator")
	s.add("registration access token", m["registration_access_token"].(string))
	s.add("another client secret", m["client_secret"].(string))
	for _, v := range []string{m["registration_access_token"].(string), "x"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m["registration_client_uri"].(string), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+v)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	for _, secret := range []string{"secret-of-the-machine-client", "another-secret-that-is-wrong"} {
		s.add("secret of a configured client", secret)
		status, _, m := post(t, w.URL+"/api/v1/oauth-proxy/demo/token", "application/x-www-form-urlencoded", "grant_type=client_credentials", func(r *http.Request) {
			r.SetBasicAuth("machine", secret)
		})
		if access, _ := m["access_token"].(string); status == http.StatusOK {
			s.add("access token of a machine", access)
			post(t, w.ProxyURL("demo"), "application/json", testenv.ToolCall("whoami"), func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+access) })
		}
	}
	s.add("machine token", "upstream-token-of-the-machine")
}

// programsWithKeys drives what goes by API key, from making it to using it after its end.
func programsWithKeys(t *testing.T, w *testenv.World, s *secrets) {
	t.Helper()
	key, id := createKey(t, w, "--proxy", "demo")
	s.add("API key", key)
	s.add("API key's secret", strings.TrimPrefix(key, "gwk_"+id+"_"))
	use := func() {
		for _, v := range []string{key, key[:len(key)-1], key + "0", "Bearer " + key, key + ", " + key} {
			for _, address := range []string{w.ProxyURL("demo"), w.ProxyURL("demo") + "/a;b", w.URL + "/api/v1/oauth/validate"} {
				post(t, address, "application/json", testenv.ToolCall("whoami"), withHeader("X-API-Key", v))
				post(t, address, "application/json", testenv.ToolCall("whoami"), withHeader("Authorization", "Bearer "+v))
			}
		}
		post(t, w.ProxyURL("demo"), "application/json", testenv.ToolCall("whoami"), withHeader("X-API-Key", key), withHeader("Authorization", "Bearer x"))
	}
	use()
	for _, args := range [][]string{{"revoke-api-key", key + "0"}, {"revoke-api-key", key}, {"revoke-api-key", key}, {"api-keys"}} {
		if out, errs, _ := command(t, w, args...); strings.Contains(out+errs, key[21:]) {
			t.Errorf("%s prints the key: %s%s", args[0], out, errs)
		}
	}
	use()
}

func TestT70T77T78NoSecretIsEverInTheClear(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{
		Env:    []string{"MACHINE_SECRET=secret-of-the-machine-client", "MACHINE_TOKEN=upstream-token-of-the-machine", "INITIAL_TOKEN=initial-access-token-of-the-operator"},
		Global: "client machine {\n client_secret {env.MACHINE_SECRET}\n grant_types client_credentials\n}",
		Proxy:  "machine_token {env.MACHINE_TOKEN}",
	})
	s := &secrets{values: make(map[string]string)}
	everything(t, w, s)
	adapted := get(t, w.AdminURL()+"/config/")
	if err := w.Reload(w.CaddyfileWith("registration token {env.INITIAL_TOKEN}")); err != nil {
		t.Fatal(err)
	}
	w.Terminate()
	if s.count() < 25 {
		t.Fatalf("only %d secrets were seen: the test is no good", s.count())
	}
	s.check(t, "Caddy's config API", adapted)
	s.check(t, "the log at debug level", w.Log())
	v, done := openTrail(t, w)
	checkEvents(t, s, trail(t, v, tokenstore.EventFilter{}))
	done()
	if err := filepath.WalkDir(w.Dir(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(path) == "vault.key" {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil {
			s.check(t, path, string(content))
			if bytes.Contains(content, []byte("alice@example.com")) {
				t.Errorf("%s holds a user's e-mail address in clear", path)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// With log_credentials the operator has asked for request headers in the log, the gateway's tokens with them; the
// upstream tokens are put on the request where even then nothing sees them.
func TestT78UpstreamTokensAreInNoLogEvenWithCredentialsLogged(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Servers: "log_credentials"})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	works(t, b)
	w.Provider.ExpireTokens()
	works(t, b)
	if !strings.Contains(w.Log(), b.Access()) {
		t.Fatal("the option does nothing: the test is no good")
	}
	s := &secrets{values: make(map[string]string)}
	s.upstream(w)
	if s.count() < 4 {
		t.Fatalf("only %d upstream tokens were seen", s.count())
	}
	s.check(t, "the log", w.Log())
}
