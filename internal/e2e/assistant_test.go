package e2e

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

const admins = "admin {\n provider demo\n allow user alice\n %s\n}\n"

// applyAllowed lets the admin change the running config.
func applyAllowed(w *testenv.World) string {
	return fmt.Sprintf(admins, "apply_config "+strings.TrimPrefix(w.AdminURL(), "http://"))
}

func withApplyAllowed(w *testenv.World) string { return w.CaddyfileWith(applyAllowed(w)) }

// assisted opens the assistant as an admin who has signed in.
func assisted(t *testing.T, w *testenv.World) *testenv.Browser {
	t.Helper()
	b := testenv.NewBrowser(testenv.Alice)
	b.Login(t, w.URL+"/oauth/signin?return_to=/admin/assistant", w.URL+"/admin/assistant")
	return b
}

// filledIn fills in the assistant's form, and returns the page with the result.
func filledIn(t *testing.T, w *testenv.World, b *testenv.Browser, query string, fields map[string]string) string {
	t.Helper()
	status, page := b.Get(t, w.URL+"/admin/assistant?"+query)
	if status != http.StatusOK {
		t.Fatalf("the form: %d %s", status, page)
	}
	status, page = b.Fill(t, page, "upstream", fields)
	if status != http.StatusOK {
		t.Fatalf("the result: %d %s", status, page)
	}
	return page
}

// runningConfig is a part of the running config.
func runningConfig(t *testing.T, w *testenv.World, path string) string {
	t.Helper()
	resp, err := http.Get(w.AdminURL() + "/config/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func mustSay(t *testing.T, what string, status, want int, page string, texts ...string) {
	t.Helper()
	page = html.UnescapeString(page)
	for _, text := range texts {
		if !strings.Contains(page, text) {
			t.Errorf("%s: no %q in\n%s", what, text, page)
		}
	}
	if status != want {
		t.Errorf("%s: %d, want %d", what, status, want)
	}
}

func TestAssistantAddsAServerToTheRunningConfigWhileAChatbotStreams(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Caddyfile: withApplyAllowed, Proxy: "provider demo"})
	b := assisted(t, w)
	page := filledIn(t, w, b, "provider=demo", map[string]string{"proxy": "second", "upstream": w.MCPURL + "/mcp", "allow": "user alice"})
	mustSay(t, "result", 200, 200, page, "mcp_proxy second "+w.MCPURL+"/mcp", "allow user alice", w.ProxyURL("second"))

	done := counting(t, w, testenv.Stateless, 30, 100)
	status, page := b.Fill(t, page, "step", nil)
	mustSay(t, "plan", status, 200, page, "apps/oauth_proxy/proxies/second", "/routes/", `"handler": "mcp_filter"`)
	if strings.Contains(runningConfig(t, w, "apps/oauth_proxy/proxies"), "second") {
		t.Error("it was applied before anybody said so")
	}
	status, page = b.Fill(t, page, "step", nil)
	mustSay(t, "applied", status, 200, page, "Applied", "Caddyfile on disk does not know of it")

	if log := w.Log(); !strings.Contains(log, "running config changed") || strings.Contains(log, "not in the audit trail") {
		t.Error("who applied it is not told")
	}

	session := w.Connect(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("second"), testenv.Stateless)
	answer, err := testenv.Call(t.Context(), session, "whoami", nil)
	if err != nil || !strings.Contains(answer, "alice") {
		t.Errorf("whoami: %q, %v", answer, err)
	}
	if err := <-done; err != nil {
		t.Errorf("the stream broke: %v", err)
	}

	status, page = b.Fill(t, filledInPage(t, w, b), "upstream", map[string]string{"proxy": "second", "upstream": w.MCPURL + "/mcp"})
	mustSay(t, "again", status, http.StatusUnprocessableEntity, page, `proxy "second" is there already`)
}

func filledInPage(t *testing.T, w *testenv.World, b *testenv.Browser) string {
	t.Helper()
	_, page := b.Get(t, w.URL+"/admin/assistant?provider=demo")
	return page
}

func TestAssistantOverwritesNoChangeOfSomebodyElseAndNoConfigThatCaddyRefuses(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Caddyfile: withApplyAllowed, Proxy: "provider demo"})
	b := assisted(t, w)
	result := filledIn(t, w, b, "provider=demo", map[string]string{"proxy": "second", "upstream": w.MCPURL})
	_, plan := b.Fill(t, result, "step", nil)
	if err := w.Reload(w.CaddyfileWith(applyAllowed(w) + "access_token_ttl 31m")); err != nil {
		t.Fatal(err)
	}
	before := runningConfig(t, w, "")
	status, page := b.Fill(t, plan, "step", nil)
	mustSay(t, "changed meanwhile", status, http.StatusPreconditionFailed, page, "somebody changed the running config meanwhile, and nothing was applied")

	const secret = "typed-by-mistake-1234567890"
	fields := map[string]string{
		"provider": "other", "issuer": w.ProviderURL, "client_id": "id", "client_secret": secret, "proxy": "third", "upstream": w.MCPURL,
	}
	_, form := b.Get(t, w.URL+"/admin/assistant?template=oidc")
	status, page = b.Fill(t, form, "upstream", fields)
	mustSay(t, "a secret", status, http.StatusUnprocessableEntity, page, "client_secret must be a placeholder")
	if strings.Contains(page, secret) || strings.Contains(w.Log(), secret) {
		t.Error("the secret was shown again, or logged")
	}
	fields["client_secret"] = "{env.NOBODY_HAS_SET_THIS}"
	_, plan = b.Fill(t, filledIn(t, w, b, "template=oidc", fields), "step", nil)
	status, page = b.Fill(t, plan, "step", nil)
	mustSay(t, "refused by Caddy", status, http.StatusConflict, page, "the config that was running goes on", "{env.NOBODY_HAS_SET_THIS} is not set")
	if after := runningConfig(t, w, ""); after != before {
		t.Errorf("the running config has changed:\n%s\n%s", before, after)
	}
}

func TestAssistantAppliesNothingWithoutLeave(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Global: strings.Replace(admins, "%s", "", 1), Proxy: "provider demo"})
	b := assisted(t, w)
	page := filledIn(t, w, b, "provider=demo", map[string]string{"proxy": "second", "upstream": w.MCPURL})
	mustSay(t, "result", 200, 200, page, "takes apply_config in its option admin")
	if strings.Contains(page, `value="plan"`) {
		t.Error("it offers what is not allowed")
	}
	_, form := b.Get(t, w.URL+"/admin/assistant?provider=demo")
	for _, step := range []string{"plan", "apply"} {
		status, page := b.Fill(t, form, "upstream", map[string]string{"proxy": "second", "upstream": w.MCPURL, "step": step})
		mustSay(t, step, status, http.StatusForbidden, page, "apply_config")
	}
	if status, page := b.Fill(t, form, "upstream", map[string]string{"csrf": "forged", "proxy": "second", "upstream": w.MCPURL}); status != http.StatusForbidden {
		t.Errorf("without the form's token: %d %s", status, page)
	}
	bob := testenv.NewBrowser(testenv.Bob)
	bob.Login(t, w.URL+"/oauth/signin?return_to=/admin/assistant", w.URL+"/admin/assistant")
	status, page := bob.Get(t, w.URL+"/admin/assistant")
	mustSay(t, "somebody else", status, http.StatusForbidden, page, "operators of the gateway")
	if status, _ := testenv.NewBrowser(testenv.Alice).Get(t, w.URL+"/admin/assistant"); status != http.StatusSeeOther {
		t.Errorf("without sign-in: %d", status)
	}
}
