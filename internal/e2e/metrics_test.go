package e2e

import (
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// Counters go on over reloads, though every configuration has a registry of its own.
func TestWhatIsCountedIsKeptOverAReload(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{TokenLife: 2 * time.Second})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	call := func() bool { _, err := b.WhoAmI(t.Context()); return err == nil }
	testenv.Eventually(t, "a refresh", func() bool {
		return call() && scrape(t, w).of("upstream_refreshes_total", `provider="demo"`, `outcome="ok"`) > 0
	})
	before := scrape(t, w)
	if err := w.Reload(w.CaddyfileWith("refresh_before 1s")); err != nil {
		t.Fatal(err)
	}
	after := scrape(t, w)
	for name, v := range before {
		if strings.Contains(name, "_total{") && after[name] < v {
			t.Errorf("%s fell from %g to %g", name, v, after[name])
		}
	}
	testenv.Eventually(t, "a call after the reload", call)
	if got, was := scrape(t, w).of("mcp_requests_total", `outcome="allowed"`), before.of("mcp_requests_total", `outcome="allowed"`); got <= was || was == 0 {
		t.Errorf("%g requests were allowed before the reload, and %g with those after it", was, got)
	}
}

// A login, step by step, and what becomes of it.
func TestALoginCanBeFollowedInTheMetrics(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Global: "access_token_ttl 20m"})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	b.Refresh(t)
	if _, err := b.WhoAmI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, _, err := b.Form("revoke", "token", b.Token()); err != nil || status != http.StatusOK {
		t.Fatalf("revoke: %d %v", status, err)
	}
	var s series
	testenv.Eventually(t, "the provider to be told", func() bool {
		s = scrape(t, w)
		return s.of("upstream_revocations_total", `outcome="ok"`) == 1
	})
	for _, step := range []string{"register", "authorize", "consent", "callback", "code", "refresh", "revoke"} {
		if got := s.of("flow_steps_total", `step="`+step+`"`, `outcome="ok"`, `proxy="demo"`); got != 1 {
			t.Errorf("step %s: %g", step, got)
		}
	}
	for name, want := range map[string]float64{
		`tokens_issued_total authorization_code`: 1, `tokens_issued_total refresh_token`: 1,
		`access_token_lifetime_seconds_sum demo`: 2400, `access_token_lifetime_seconds_count demo`: 2,
		`grants_ended_total client`: 1, `grant_lifetime_seconds_count demo`: 1,
		`mcp_requests_total tools/call`: 1, `mcp_request_duration_seconds_count demo`: 1,
		`vault_errors_total get`: 0,
	} {
		metric, label, _ := strings.Cut(name, " ")
		if got := s.of(metric, `"`+label+`"`); got != want {
			t.Errorf("%s: %g, not %g", name, got, want)
		}
	}
	if s.of("vault_operation_duration_seconds_count", `"apply"`) == 0 || s.of("vault_file_bytes") == 0 {
		t.Error("the vault is not measured")
	}
}

func TestOpenStreamsAreCounted(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	session := w.Connect(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("demo"), testenv.Stateful) // which opens one
	testenv.Eventually(t, "the stream to be counted", func() bool { return scrape(t, w).of("mcp_open_streams", `proxy="demo"`) == 1 })
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "its end to be counted", func() bool { return scrape(t, w).of("mcp_open_streams", `proxy="demo"`) == 0 })
}

// Whatever requests say, labels are the words of docs/metrics.md and the names of the configuration: else a stranger could fill Prometheus, or read
// there what others sent.
func TestLabelsAreNeverWhatARequestBrings(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	known := []string{"demo", ""}
	for _, m := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(string(content), -1) {
		known = append(known, m[1])
	}
	w := testenv.Start(t, testenv.Options{TokenLife: 2 * time.Second})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	const evil = "evil-7c2f"
	hostile(t, w, b, evil)
	text := get(t, w.AdminURL()+"/metrics")
	for name := range scrape(t, w) {
		for _, m := range regexp.MustCompile(`([a-z_]+)="([^"]*)"`).FindAllStringSubmatch(name, -1) {
			if m[1] != "le" && !slices.Contains(known, m[2]) {
				t.Errorf("%s: %q is no word of the documentation", name, m[2])
			}
		}
	}
	for _, secret := range append(w.Provider.Issued(), evil, b.Access(), b.Token(), b.ID, "alice") {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "caddy_oauth_proxy_") && strings.Contains(line, secret) {
				t.Errorf("%s stands in %s", secret, line)
			}
		}
	}
}

// hostile sends requests with a word in every place that a label might be made of.
func hostile(t *testing.T, w *testenv.World, b *testenv.PlainBot, evil string) {
	t.Helper()
	for _, path := range []string{"register", "token", "revoke", evil + "/token", evil + "/authorize?client_id=" + evil} {
		_, _, _ = b.Post(path, "application/x-www-form-urlencoded", "grant_type="+evil+"&client_id="+evil)
		_, _, _ = b.Post("../"+path, "application/json", `{"redirect_uris":["`+evil+`"]}`)
	}
	for _, credential := range []string{b.Token() + evil, evil} {
		_, _, _ = b.TokenRequest("refresh_token", credential)
		_, _, _ = b.TokenRequest(evil, credential)
	}
	browser := testenv.NewBrowser(testenv.Alice)
	for _, q := range []url.Values{
		{"client_id": {evil}}, {"client_id": {b.ID}, "redirect_uri": {b.Redirect}, "response_type": {evil}, "resource": {evil}},
		{"state": {evil}, "error": {evil}, "code": {evil}, "format": {"json"}},
	} {
		for _, path := range []string{"/api/v1/oauth-proxy/authorize?", "/api/v1/oauth-proxy/demo/authorize?", "/api/v1/oauth/callback?", "/api/v1/oauth/callback/" + evil + "?", "/oauth/authorize/" + evil + "?"} {
			browser.Visit(t, w.URL+path+q.Encode())
		}
	}
	for _, body := range []string{`{"jsonrpc":"2.0","id":1,"method":"` + evil + `"}`, `[{"method":"` + evil + `"}]`, evil, testenv.ToolCall(evil)} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete, http.MethodPut, "EVIL"} {
			if _, err := b.Send(t.Context(), method, body); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Send(t.Context(), method, body, func(r *http.Request) {
				r.Header.Set("Authorization", "Bearer "+evil)
				r.Header.Set("Mcp-Method", evil)
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
