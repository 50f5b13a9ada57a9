package operator_test

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestConnectionsNeedASignIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.person()
	for path, back := range map[string]string{"/connections": "/connections", "/connections/cut?all=1": "/connections/cut?all=1"} {
		a := p.get(path)
		to, err := url.Parse(a.header.Get("Location"))
		if a.status != http.StatusSeeOther || err != nil || !strings.HasPrefix(to.String(), s.url+"/oauth/signin?") || to.Query().Get("return_to") != back {
			t.Errorf("%s: %d %v", path, a.status, a.header)
		}
	}
	if a := p.post("/connections/cut", url.Values{"all": {"1"}}); a.status != http.StatusUnauthorized || !strings.Contains(a.body, "not signed in") {
		t.Errorf("cut: %d %s", a.status, a.body)
	}
	p.signIn("alice")
	if a := p.send(http.MethodGet, s.url+"/connections", nil, func(r *http.Request) { r.Host = "evil.test" }); a.status != http.StatusForbidden {
		t.Errorf("another host: %d", a.status)
	}
	if a := p.send(http.MethodDelete, s.url+"/connections", nil); a.status != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %d", a.status)
	}
}

func TestUserSeesWhatActsInTheirName(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice, bob := s.person(), s.person()
	who := alice.signIn("alice")
	if body := alice.get("/connections").body; !strings.Contains(body, "No application may act in your name") || !strings.Contains(body, s.url+"/oauth/authorize/jira") {
		t.Errorf("before: %s", body)
	}
	s.grant(who, "g1", "https://claude.ai/client.json", "Claude", "alice@idp")
	s.grant(who, "g2", "gateway_1", "<script>alert(1)</script>\u202e", "alice@idp")
	s.grant(who, "g3", "(session)", "session token", "other@idp")
	broken := s.grant(who, "g4", "gateway_2", "Old bot", "alice@idp")
	broken.Broken = "the provider ended it"
	must(t, s.vault.Commit(t.Context(), tokenstore.Save(broken)))
	page := alice.get("/connections")
	for _, want := range []string{
		"alice@example.com", "Claude", "✓ claude.ai vouches for it", "Registered itself", "&lt;script&gt;alert(1)&lt;/script&gt;", "Session token", "Company Jira", "read issues", "write",
		"valid", "broken", "the provider ended it", "alice@idp", "other@idp", "Used by", "Last used", "never", `aria-current="page"`, "cut?grant=g1", "/base/oauth/signout",
	} {
		if !strings.Contains(page.body, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, not := range []string{"<script", "\u202e", "upstream-secret", "oauth/authorize/jira", "Grants</a>"} {
		if strings.Contains(page.body, not) {
			t.Errorf("there is %q", not)
		}
	}
	if n := strings.Count(page.body, ">Disconnect</a>"); n != 2 {
		t.Errorf("%d accounts, not 2", n)
	}
	csp := page.header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "form-action 'self'") || page.header.Get("Cache-Control") != "no-store" || page.header.Get("X-Frame-Options") != "DENY" || page.header.Get("Cross-Origin-Opener-Policy") != "same-origin" {
		t.Errorf("headers: %v", page.header)
	}
	bob.signIn("bob")
	if body := bob.get("/connections").body; strings.Contains(body, "Claude") || !strings.Contains(body, "No application may") {
		t.Errorf("another user's page: %s", body)
	}
}

// Whatever of another's is asked for, it is as if it were not there.
func TestT80UserCutsNothingOfAnothers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice, bob := s.person(), s.person()
	s.grant(alice.signIn("alice"), "hers", "bot", "Bot", "alice@idp")
	account := accountLink(t, alice.get("/connections").body)
	token := bob.signIn("bob").CSRF
	for _, what := range []url.Values{{"grant": {"hers"}}, {"grant": {"none"}}, {"grant": {""}}, {"grant": {"../x\x00"}}, {"account": {account}}, {"account": {"idp.none"}}, {"account": {"account-hers"}}} {
		ask := bob.get("/connections/cut?" + what.Encode())
		what.Set("csrf", token)
		cut := bob.post("/connections/cut", what)
		if ask.status != http.StatusNotFound || cut.status != http.StatusNotFound || strings.Contains(ask.body, "Bot") || strings.Contains(cut.body, "Bot") {
			t.Errorf("%v: %d, %d", what, ask.status, cut.status)
		}
	}
	// Everything of Bob's is nothing of Alice's.
	if a := bob.post("/connections/cut", url.Values{"csrf": {token}, "all": {"1"}}); a.status != http.StatusOK {
		t.Errorf("all: %d", a.status)
	}
	if !s.lives("hers") || alice.signedIn() == nil {
		t.Error("it was cut all the same")
	}
}

// accountLink is the id of the first account on a page.
func accountLink(t *testing.T, body string) string {
	t.Helper()
	_, rest, ok := strings.Cut(body, "cut?account=")
	id, _, _ := strings.Cut(rest, `"`)
	id, err := url.QueryUnescape(id)
	if !ok || err != nil {
		t.Fatalf("no account: %s", body)
	}
	return id
}

func TestT80CutsNeedTheFormOfTheSignIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice, other := s.person(), s.person()
	who := alice.signIn("alice")
	foreign := other.signIn("alice").CSRF // another browser of the same user's
	s.grant(who, "g", "bot", "Bot", "alice@idp")
	account := accountLink(t, alice.get("/connections").body)
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, what := range []url.Values{{"grant": {"g"}}, {"account": {account}}, {"all": {"1"}}, {"browsers": {"1"}}} {
		for name, c := range map[string]struct {
			csrf string
			edit func(*http.Request)
			want int
		}{
			"no token":          {"", header("X", "y"), http.StatusForbidden},
			"another browser's": {foreign, header("X", "y"), http.StatusForbidden},
			"cross-site":        {who.CSRF, header("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
			"another origin":    {who.CSRF, func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "https://evil.test") }, http.StatusForbidden},
			"JSON":              {who.CSRF, header("Content-Type", "application/json"), http.StatusBadRequest},
			"two at once":       {who.CSRF, func(r *http.Request) {}, http.StatusBadRequest},
		} {
			form := url.Values{"csrf": {c.csrf}}
			maps.Copy(form, what)
			if name == "two at once" {
				form.Set("grant", "g")
				form.Set("all", "1")
			}
			if a := alice.post("/connections/cut", form, c.edit); a.status != c.want {
				t.Errorf("%v, %s: %d", what, name, a.status)
			}
		}
		// What only reads does nothing.
		if a := alice.get("/connections/cut?" + what.Encode()); a.status != http.StatusOK || !strings.Contains(a.body, `name="csrf" value="`+who.CSRF) {
			t.Errorf("%v: the page that asks: %d", what, a.status)
		}
	}
	if !s.lives("g") || alice.signedIn() == nil || other.signedIn() == nil {
		t.Error("it was cut all the same")
	}
}

func TestUserCutsOneApplication(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice := s.person()
	who := alice.signIn("alice")
	s.grant(who, "g1", "bot", "Bot", "alice@idp")
	s.grant(who, "g2", "other", "Other", "alice@idp")
	remembered := func(id, client string) *tokenstore.Consent {
		return &tokenstore.Consent{Meta: tokenstore.Meta{ID: id, DeleteAfter: s.vault.Now().AddDate(1, 0, 0)}, UserID: who.UserID, ClientID: client, Proxy: "jira"}
	}
	must(t, s.vault.Commit(t.Context(), tokenstore.Save(remembered("c1", "bot")), tokenstore.Save(remembered("c2", "other"))))
	if ask := alice.get("/connections/cut?grant=g1"); !strings.Contains(ask.body, "Cut off “Bot”?") || !strings.Contains(ask.body, "Company Jira") {
		t.Errorf("the page that asks: %s", ask.body)
	}
	a := alice.post("/connections/cut", url.Values{"csrf": {who.CSRF}, "grant": {"g1"}})
	if a.status != http.StatusSeeOther || !strings.HasPrefix(a.header.Get("Location"), s.url+"/connections?done=grant.") {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	if s.lives("g1") || !s.lives("g2") {
		t.Error("the wrong one was cut, or none")
	}
	page := alice.send(http.MethodGet, a.header.Get("Location"), nil).body
	if !strings.Contains(page, `role="status"`) || !strings.Contains(page, "Cut. The application") || strings.Contains(page, "cut?grant=g1") || !strings.Contains(page, "cut?grant=g2") {
		t.Errorf("after it: %s", page)
	}
	if left, err := s.vault.Consents(t.Context(), who.UserID); err != nil || len(left) != 1 || left[0].ClientID != "other" {
		t.Errorf("remembered consents: %v, %v", left, err)
	}
	if g, err := s.server.GrantInfo(t.Context(), "g1"); err != nil || g.Reason != "ended by the user" {
		t.Errorf("%+v, %v", g, err)
	}
	if again := alice.get("/connections/cut?grant=g1"); again.status != http.StatusNotFound {
		t.Errorf("again: %d", again.status)
	}
	if text := alice.get("/connections?done=%3Cb%3Eyou+have+won").body; strings.Contains(text, "you have won") {
		t.Error("a link writes on the page")
	}
}

func TestUserDisconnectsOneAccount(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice := s.person()
	who := alice.signIn("alice")
	s.grant(who, "g1", "bot", "Bot", "alice@idp")
	s.grant(who, "g2", "other", "Other", "alice@idp")
	s.grant(who, "g3", "third", "Third", "else@idp")
	account := func(owner string) string { return "idp." + s.vault.Hash("test", owner) }
	a := alice.post("/connections/cut", url.Values{"csrf": {who.CSRF}, "account": {account("alice@idp")}})
	if a.status != http.StatusSeeOther || s.lives("g1") || s.lives("g2") || !s.lives("g3") {
		t.Errorf("%d: %t %t %t", a.status, s.lives("g1"), s.lives("g2"), s.lives("g3"))
	}
	if page := alice.get("/connections").body; strings.Contains(page, "alice@idp") || !strings.Contains(page, "else@idp") {
		t.Errorf("after it: %s", page)
	}
}

func TestUserCutsEverything(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice, desk := s.person(), s.person()
	who := alice.signIn("alice")
	desk.signIn("alice")
	s.grant(who, "g1", "bot", "Bot", "alice@idp")
	s.grant(who, "g2", "other", "Other", "else@idp")
	if page := alice.get("/connections").body; !strings.Contains(page, "Sign out in all browsers (2)") {
		t.Error("the page does not say that two browsers are signed in")
	}
	a := alice.post("/connections/cut", url.Values{"csrf": {who.CSRF}, "all": {"1"}})
	if a.status != http.StatusOK || !strings.Contains(a.body, "Everything is cut") || s.lives("g1") || s.lives("g2") {
		t.Errorf("%d %s: %t %t", a.status, a.body, s.lives("g1"), s.lives("g2"))
	}
	if alice.signedIn() != nil || desk.signedIn() != nil {
		t.Error("still signed in")
	}
	alice.signIn("alice")
	if page := alice.get("/connections").body; !strings.Contains(page, "No application may act") {
		t.Errorf("after it: %s", page)
	}
}

func TestUserSignsOutEverywhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice, desk := s.person(), s.person()
	who := alice.signIn("alice")
	desk.signIn("alice")
	s.grant(who, "g1", "bot", "Bot", "alice@idp")
	a := alice.post("/connections/cut", url.Values{"csrf": {who.CSRF}, "browsers": {"1"}})
	if a.status != http.StatusOK || alice.signedIn() != nil || desk.signedIn() != nil || !s.lives("g1") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// When an operator ends a user's grants, the user can still see that.
func TestSignInOutlivesTheGrants(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice := s.person()
	s.grant(alice.signIn("alice"), "g1", "bot", "Bot", "alice@idp")
	if _, err := s.server.EndGrant(t.Context(), "g1", "by an operator"); err != nil {
		t.Fatal(err)
	}
	if a := alice.get("/connections"); a.status != http.StatusOK || strings.Contains(a.body, "cut?grant=g1") {
		t.Errorf("%d %s", a.status, a.body)
	}
}
