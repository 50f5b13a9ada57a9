package e2e

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// link finds a link of a page whose address has some text in it.
func link(t *testing.T, page, part string) string {
	t.Helper()
	m := regexp.MustCompile(`href="([^"]*` + regexp.QuoteMeta(part) + `[^"]*)"`).FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no link with %s: %s", part, page)
	}
	return m[1]
}

// A user signs in at the provider, sees the chatbot, cuts it, and the chatbot's next call is refused. Another user's goes on.
func TestUserCutsAChatbotAndItsNextCallIsRefused(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Global: `console {
			brand  "Acme MCP"
			accent 7a1fa2
		}`})
	hers, his := w.NewPlainBot(t), w.NewPlainBot(t)
	hers.Login(t, testenv.NewBrowser(testenv.Alice))
	his.Login(t, testenv.NewBrowser(testenv.Bob))
	if who, err := hers.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "alice") {
		t.Fatalf("before: %q, %v", who, err)
	}
	alice := testenv.NewBrowser(testenv.Alice)
	alice.Login(t, w.URL+"/oauth/signin?return_to=/connections", w.URL+"/connections")
	page := alice.Open(t, w.URL+"/connections")
	if !strings.Contains(page, "Alice") && !strings.Contains(page, "alice") || !strings.Contains(page, "Acme MCP") || strings.Count(page, "cut?grant=") != 1 {
		t.Fatalf("her page: %s", page)
	}
	asked := alice.Open(t, link(t, page, "cut?grant="))
	done := alice.Submit(t, asked, "/connections/cut")
	if !strings.Contains(done, "Cut. The application") || strings.Contains(done, "cut?grant=") {
		t.Errorf("after it: %s", done)
	}
	if a, err := hers.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
		t.Errorf("the chatbot's next call: %d, %v", a.Status, err)
	}
	if who, err := his.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "bob") {
		t.Errorf("Bob's chatbot: %q, %v", who, err)
	}
	if out := alice.Submit(t, done, "/oauth/signout"); !strings.Contains(out, "You are signed out") {
		t.Errorf("signed out: %s", out)
	}
	if strings.Contains(w.Log(), hers.Access()) {
		t.Error("a token is in the log")
	}
}

// A sign-in lives on through a reload, and what the reload says of operators counts at once.
func TestSignInOutlivesAReload(t *testing.T) {
	t.Parallel()
	const admin = "admin {\n\tallow user alice\n}"
	w := testenv.Start(t, testenv.Options{Global: admin})
	alice := testenv.NewBrowser(testenv.Alice)
	alice.Login(t, w.URL+"/oauth/signin", w.URL+"/connections")
	if page := alice.Open(t, w.URL+"/connections"); !strings.Contains(page, "Operator") {
		t.Fatalf("she is no operator: %s", page)
	}
	if err := w.Reload(w.CaddyfileWith("")); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the new configuration serves", func() bool {
		page := alice.Open(t, w.URL+"/connections")
		return strings.Contains(page, "Your connections") && !strings.Contains(page, "Operator")
	})
}
