package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// exits runs a command of the plugin against a world's Caddy, and returns its exit code, too.
func exits(t *testing.T, w *testenv.World, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := w.Command(t.Context(), append([]string{"oauth-proxy"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// at adds the address of a world's admin endpoint to a command.
func at(w *testenv.World, args ...string) []string {
	return append(args, "--address", strings.TrimPrefix(w.AdminURL(), "http://"))
}

func TestGrantsAreListedShownAndEndedByCommand(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	hers, his := w.NewPlainBot(t), w.NewPlainBot(t)
	hers.Login(t, testenv.NewBrowser(testenv.Alice))
	his.Login(t, testenv.NewBrowser(testenv.Bob))
	run := func(want int, args ...string) string {
		t.Helper()
		out, errs, code := exits(t, w, at(w, args...)...)
		if code != want {
			t.Fatalf("%v: exit code %d, %s%s; want %d", args, code, out, errs, want)
		}
		return out + errs
	}
	table := run(0, "grants", "--text", "alice")
	m := regexp.MustCompile(`(?m)^([A-Z2-7]{20,}) +alice@example.com +.* demo +demo +valid +20\S+Z +`).FindStringSubmatch(table)
	if m == nil || strings.Count(table, "\n") != 2 {
		t.Fatalf("listed as\n%s", table)
	}
	if out := run(0, "grant", m[1]); !regexp.MustCompile(`(?m)^health: +valid$`).MatchString(out) || !regexp.MustCompile(`(?m)^state: +active$`).MatchString(out) {
		t.Errorf("shown as\n%s", out)
	}
	if out := run(0, "grants", "--all", "--limit", "1", "--json"); strings.Count(out, `"health":"valid"`) != 2 {
		t.Errorf("all in JSON: %s", out)
	}
	run(3, "revoke", m[1], "nothing-of-this-id", "--reason", "lost laptop")
	if a, err := hers.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
		t.Errorf("her chatbot's next call: %d, %v", a.Status, err)
	}
	isBobs := func() {
		t.Helper()
		if who, err := his.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "You are bob") {
			t.Errorf("his chatbot: %q, %v", who, err)
		}
	}
	isBobs()
	if out := run(0, "grant", m[1]); !strings.Contains(out, "lost laptop") {
		t.Errorf("shown as\n%s", out)
	}
	if out := run(0, "revoke-all", "--everything", "--dry-run"); !strings.Contains(out, "1 grant would end.") {
		t.Errorf("dry run: %s", out)
	}
	if out := run(2, "revoke-all", "--everything"); !strings.Contains(out, "--yes") {
		t.Errorf("without a terminal: %s", out)
	}
	isBobs()
	if out := run(0, "revoke-all", "--everything", "--yes", "--reason", "breach"); !strings.Contains(out, "1 grant ended, by order ") {
		t.Errorf("%s", out)
	}
	if a, err := his.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
		t.Errorf("his chatbot's next call: %d, %v", a.Status, err)
	}
	if out := run(0, "revocations"); !strings.Contains(out, "everything") || !strings.Contains(out, "breach") {
		t.Errorf("%s", out)
	}
	if out := run(0, "delete-client", his.ID); !strings.Contains(out, "0 grants ended") {
		t.Errorf("%s", out)
	}
	run(3, "client", his.ID)
	for _, args := range [][]string{{"clients"}, {"client", hers.ID}, {"sessions"}, {"audit"}, {"audit", "--export", "csv"}, {"audit", "--export", "jsonl"}, {"verify-audit"}, {"stats"}, {"providers"}, {"proxies"}, {"vault"},
		{"signing-keys"}, {"api-keys"}} {
		run(0, args...)
		if !slices.Contains(args, "--export") {
			if out := run(0, append(args, "--json")...); !strings.HasPrefix(out, "{") && !strings.HasPrefix(out, "[") {
				t.Errorf("%v in JSON: %s", args, out)
			}
		}
	}
}

func TestCommandsSayByTheirExitCodeWhatWentWrong(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	for i, c := range []struct {
		code int
		args []string
		want string
	}{
		{2, at(w, "grants", "--helth", "valid"), "unknown flag"},
		{2, at(w, "grants", "--health", "fine"), "none of valid"},
		{2, at(w, "grants", "--limit", "0"), "limit must be"},
		{2, at(w, "grants", "x"), "unknown command"},
		{2, at(w, "grant"), "accepts 1 arg(s)"},
		{2, at(w, "revoke"), "requires at least 1 arg(s)"},
		{2, at(w, "revoke-all", "--yes"), "say whose grants"},
		{2, at(w, "revoke-all", "--user", "", "--yes"), "--user is empty"},
		{2, at(w, "revoke-all", "--everything", "--proxy", "demo", "--yes"), "stands alone"},
		{2, at(w, "audit", "--type", "x"), "is none"},
		{2, at(w, "audit", "--export", "xml"), "is unknown"},
		{2, at(w, "verify-audit", "--anchor", "x"), "anchor"},
		{2, []string{"no-such-command"}, "unknown command"},
		{2, []string{"grants", "--address", "a:b:c"}, "is none"},
		{3, at(w, "grant", "nothing"), "no grant of this id"},
		{3, at(w, "client", "nothing"), "no client of this id"},
		{3, at(w, "end-session", "nothing"), "nobody is signed in under this id"},
		{4, []string{"grants", "--address", fmt.Sprintf("localhost:%d", testenv.FreePort(t))}, "no Caddy answers"},
		{1, []string{"doctor", "--config", "/nothing"}, "nothing"},
	} {
		out, errs, code := exits(t, w, c.args...)
		if code != c.code || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%d, %v: exit code %d, %q, %q; want %d, and it to say %s", i, c.args, code, out, errs, c.code, c.want)
		}
	}
	if err := w.Reload(fmt.Sprintf("{\n\tadmin %s\n}\n", strings.TrimPrefix(w.AdminURL(), "http://"))); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := exits(t, w, at(w, "stats")...); code != 4 || !strings.Contains(errs, "has no oauth_proxy") {
		t.Errorf("without a gateway: %d, %s%s", code, out, errs)
	}
}

// What a client calls itself is printed, and moves no cursor.
func TestT79NamesOfClientsAreTextToTheTerminal(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	status, _, m := post(t, w.URL+"/api/v1/oauth-proxy/register", "application/json",
		"{\"redirect_uris\":[\"http://localhost/callback\"],\"client_name\":\"\\u001b[2J\\u009b31mEvil\\r\\n\\u202e{env.HOME}{file./etc/passwd} =1+1\"}")
	id, _ := m["client_id"].(string)
	if status != http.StatusCreated {
		t.Fatalf("%d %v", status, m)
	}
	for _, args := range [][]string{{"clients"}, {"client", id}, {"clients", "--json"}, {"client", id, "--json"}} {
		out, errs, code := exits(t, w, at(w, args...)...)
		if code != 0 || strings.ContainsAny(out, "\x1b\u009b\r\u202e") || !strings.Contains(out, "Evil") || !strings.Contains(out, "{env.HOME}{file./etc/passwd} =1+1") {
			t.Errorf("%v: %d, %q%s", args, code, out, errs)
		}
	}
}

// The admin API on the site is for admins who have signed in with a browser, and on Caddy's admin endpoint for whom Caddy lets in. What either says holds no secret.
func TestT80AdminAPIOnTheSiteIsForAdminsAndHoldsNoSecret(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{
		Env: []string{"MACHINE_SECRET=secret-of-the-machine-client", "MACHINE_TOKEN=upstream-token-of-the-machine"},
		Global: `client machine {
			client_secret {env.MACHINE_SECRET}
			grant_types client_credentials
		}
		admin {
			allow user alice
		}`,
		Proxy: "machine_token {env.MACHINE_TOKEN}",
	})
	s := &secrets{values: make(map[string]string)}
	w.Provider.Observe(s.observe)
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	works(t, b)
	b.Refresh(t)
	s.bot(b)
	s.upstream(w)
	s.add("client secret at the provider", testenv.ClientSecret)
	key, err := os.ReadFile(filepath.Join(w.Dir(), "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.add("encryption key", strings.TrimSpace(string(key)))

	api := w.URL + "/admin/oauth"
	for path := range map[string]bool{"/tokens": true, "/clients": true, "/openapi.json": true, "/nothing": true, "/audit/export": true} {
		resp, err := http.Get(api + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(string(body), `"login_required"`) {
			t.Errorf("%s without a sign-in: %d %s", path, resp.StatusCode, body)
		}
	}
	bob := testenv.NewBrowser(testenv.Bob)
	bob.Login(t, w.URL+"/oauth/signin", w.URL+"/connections")
	if status, body := bob.Fetch(t, http.MethodGet, api+"/tokens", nil); status != http.StatusForbidden || !strings.Contains(body, "admins") {
		t.Errorf("a user: %d %s", status, body)
	}
	alice := testenv.NewBrowser(testenv.Alice)
	alice.Login(t, w.URL+"/oauth/signin", w.URL+"/connections")
	json := map[string]string{"Content-Type": "application/json"}
	var seen strings.Builder
	for _, path := range []string{"/tokens", "/grants", "/clients", "/clients/" + b.ID, "/sessions", "/api_keys", "/signing_keys", "/audit", "/audit/export", "/audit/verify", "/stats", "/proxies", "/providers", "/vault", "/revocations", "/openapi.json"} {
		status, body := alice.Fetch(t, http.MethodGet, api+path, nil)
		onAdmin := get(t, w.AdminURL()+"/oauth_proxy"+path)
		if status != http.StatusOK || body == "" && !strings.HasPrefix(path, "/audit") || len(onAdmin) != len(body) && path != "/audit/export" {
			t.Errorf("%s: %d %s; on the admin endpoint %s", path, status, body, onAdmin)
		}
		seen.WriteString(body + onAdmin)
	}
	id := regexp.MustCompile(`"grants":\[\{"id":"([A-Z2-7]+)"`).FindStringSubmatch(seen.String())
	if id == nil {
		t.Fatal("no grant")
	}
	seen.WriteString(get(t, w.AdminURL()+"/oauth_proxy/tokens/"+id[1]))
	for name, headers := range map[string]map[string]string{
		"another site":   {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"},
		"another origin": {"Content-Type": "application/json", "Origin": "https://evil.test"},
		"text":           {"Content-Type": "text/plain"},
		"a wrong token":  {"Content-Type": "application/json", "X-CSRF-Token": "x"},
	} {
		if status, body := alice.Fetch(t, http.MethodDelete, api+"/tokens/"+id[1], headers); status != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	works(t, b)
	status, body := alice.Fetch(t, http.MethodDelete, api+"/tokens/"+id[1], json)
	if seen.WriteString(body); status != http.StatusOK || !strings.Contains(body, `"health":"revoked"`) {
		t.Errorf("ended: %d %s", status, body)
	}
	if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
		t.Errorf("the chatbot's next call: %d, %v", a.Status, err)
	}
	if s.count() < 12 {
		t.Fatalf("only %d secrets were seen: the test is no good", s.count())
	}
	s.check(t, "the admin API", seen.String())
	s.check(t, "the log", w.Log())
}
