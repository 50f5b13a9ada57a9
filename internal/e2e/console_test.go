package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// An operator follows links alone: from the list to a grant, to its consent, and to the question; what they revoke is refused at the next call, and no
// page on the way holds a token.
func TestOperatorTracesAGrantToItsConsentAndRevokesIt(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Global: "admin {\n\tallow user alice\n}"})
	his := w.NewPlainBot(t)
	his.Login(t, testenv.NewBrowser(testenv.Bob))
	if _, err := his.WhoAmI(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice := testenv.NewBrowser(testenv.Alice)
	alice.Login(t, w.URL+"/oauth/signin?"+url.Values{"return_to": {"/admin/grants?text=bob"}}.Encode(), w.URL+"/admin/grants?text=bob")
	var pages strings.Builder
	open := func(address string) string {
		page := alice.Open(t, address)
		pages.WriteString(page)
		return page
	}
	overview := open(w.URL + "/admin/")
	if !strings.Contains(overview, "Clean-up") || !strings.Contains(overview, `aria-current="page">Overview`) {
		t.Errorf("overview: %s", overview)
	}
	list := open(w.URL + "/admin/grants?text=bob")
	grant := open(link(t, list, w.URL+"/admin/grants/"))
	for _, event := range []string{"consent.given", "login.finished", "token.issued"} {
		if !strings.Contains(grant, event) {
			t.Errorf("the grant's page does not tell of %s: %s", event, grant)
		}
	}
	event := open(link(t, grant, "/admin/audit/"))
	consent := open(link(t, event[strings.Index(event, "<dt>Consent"):], "/admin/audit/"))
	if !strings.Contains(consent, "<h1>consent.given</h1>") || !strings.Contains(consent, "redirect_host") {
		t.Errorf("the consent: %s", consent)
	}
	for _, path := range []string{"clients", "sessions", "keys", "audit", "audit/verify", "providers", "revocations"} {
		open(w.URL + "/admin/" + path)
	}
	asked := open(link(t, grant, "/revoke"))
	done := alice.Submit(t, asked, "/revoke")
	pages.WriteString(done)
	if !strings.Contains(done, "The grant is revoked.") {
		t.Errorf("after it: %s", done)
	}
	if a, err := his.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
		t.Errorf("the chatbot's next call: %d, %v", a.Status, err)
	}
	if text := pages.String(); strings.Contains(text, his.Access()) || strings.Contains(text, his.Token()) || strings.Contains(text, his.Secret) || strings.Contains(text, testenv.ClientSecret) {
		t.Error("a page holds a token or a secret")
	}

	bob := testenv.NewBrowser(testenv.Bob)
	bob.Login(t, w.URL+"/oauth/signin", w.URL+"/connections")
	if page := bob.Open(t, w.URL+"/admin/grants"); !strings.Contains(page, "This is for the operators of the gateway") || strings.Contains(page, "<table") {
		t.Errorf("a user: %s", page)
	}
}

// A site may have an /admin of its own, while the gateway has no operators.
func TestPathsOfTheConsoleAreTheSitesOwnWithoutAdmins(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	if page := testenv.NewBrowser(testenv.Alice).Open(t, w.URL+"/admin/grants"); !strings.Contains(page, "not part of the gateway") {
		t.Errorf("%s", page)
	}
}
