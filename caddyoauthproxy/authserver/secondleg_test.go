package authserver_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// twoLegs is a world in which users of proxy a log in at a provider "work", and connect their account at "idp".
func twoLegs(t *testing.T, options ...option) (*world, *fakeProvider) {
	t.Helper()
	work := &fakeProvider{user: map[string]any{"sub": "w1", "email": "alice@work.example", "email_verified": true}}
	srv := httptest.NewServer(work)
	t.Cleanup(srv.Close)
	provider, err := upstream.New("work", upstream.Config{
		Type: "oauth2", ClientID: "gateway", ClientSecret: "gateway-secret", Scopes: []string{"groups", "offline_access"}, Retries: -1,
		AuthorizationURL: srv.URL + "/authorize", TokenURL: srv.URL + "/token", UserinfoURL: srv.URL + "/userinfo", RevocationURL: srv.URL + "/revoke",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	login := func(o *authserver.Options) { o.Proxies[0].Login = provider }
	return newWorld(t, append([]option{login}, options...)...), work
}

// secondLeg follows the first callback to the second provider, and returns the second callback's address.
func (w *world) secondLeg(br *browser, first string) string {
	w.t.Helper()
	a := br.get(first)
	if a.status != http.StatusSeeOther || !strings.Contains(a.header.Get("Location"), "/authorize?") {
		w.t.Fatalf("first callback: %d to %s %s", a.status, a.header.Get("Location"), a.body)
	}
	return w.callbackURL(a)
}

func TestUserLogsInAtOneProviderAndConnectsAnAccountAtAnother(t *testing.T) {
	t.Parallel()
	w, work := twoLegs(t)
	b, br := w.register(""), w.browser()
	page := br.authorize(authorizeParams(b))
	if !strings.Contains(page.body, "You will log in at work next, and then connect your account at idp.") {
		t.Errorf("page: %s", page.body)
	}
	toWork := br.allow(page)
	asked, err := url.Parse(toWork.header.Get("Location"))
	if err != nil || asked.Query().Get("scope") != "groups" {
		t.Errorf("the login asks for more than who the user is: %s", asked)
	}
	first := w.callbackURL(toWork)
	second := w.secondLeg(br, first)
	if again := w.secondLeg(br, first); again != second {
		t.Errorf("the repeated callback leads elsewhere: %s, %s", second, again)
	}
	if one, two := state(t, first), state(t, second); one == two {
		t.Error("both legs have one state")
	}
	end := br.get(second)
	code := location(t, end).Query().Get("code")
	got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, code)))
	grant, _, err := w.server.Authenticate(t.Context(), got.access, "a")
	if err != nil {
		t.Fatal(err)
	}
	if grant.User.Provider != "work" || grant.User.Email != "alice@work.example" {
		t.Errorf("user %+v", grant.User)
	}
	account, err := w.vault.Account(t.Context(), grant.AccountID)
	if err != nil || account.Provider != "idp" || account.Owner != "alice@example.com" || account.UserID != grant.UserID || !strings.HasPrefix(account.AccessToken, "up-access-") {
		t.Errorf("account %+v, %v", account, err)
	}
	waitFor(t, "the login's own tokens to be ended", func() bool {
		work.mu.Lock()
		defer work.mu.Unlock()
		return len(work.revoked) > 0
	})
	if n := work.tokenRequests(); n != 1 {
		t.Errorf("the login's code was redeemed %d times", n)
	}
	if a := br.get(first); a.status != http.StatusBadRequest {
		t.Errorf("first callback after the end: %d to %s", a.status, a.header.Get("Location"))
	}
}

func TestT29PolicyIsJudgedOnWhoLoggedIn(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		allow string
		in    bool
	}{
		"address at the login":    {"alice@work.example", true},
		"address of the account":  {"alice@example.com", false},
		"somebody else's address": {"bob@work.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _ := twoLegs(t, func(o *authserver.Options) { o.Proxies[0].Allow.Emails = []string{tt.allow} })
			b, br := w.register(""), w.browser()
			first := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
			if tt.in {
				if q := location(t, br.get(w.secondLeg(br, first))).Query(); q.Get("code") == "" {
					t.Errorf("got %v", q)
				}
				return
			}
			if q := location(t, br.get(first)).Query(); q.Get("error") != "access_denied" || w.provider.tokenRequests() != 0 {
				t.Errorf("got %v", q)
			}
		})
	}
}

// Whoever logs in and has somebody else finish would get that person's account.
func TestT02SecondLegIsBoundToTheBrowserOfTheFirst(t *testing.T) {
	t.Parallel()
	w, _ := twoLegs(t)
	b, attacker, victim := w.register(""), w.browser(), w.browser()
	second := w.secondLeg(attacker, w.callbackURL(attacker.allow(attacker.authorize(authorizeParams(b)))))
	if a := victim.get(second); a.status != http.StatusForbidden || w.provider.tokenRequests() != 0 {
		t.Errorf("the victim finishes the attacker's login: %d", a.status)
	}
	if a := attacker.get(second); a.status == http.StatusSeeOther || w.provider.tokenRequests() != 0 {
		t.Errorf("the login goes on after that: %d", a.status)
	}
}

func TestT28FirstLegCannotStandForTheSecond(t *testing.T) {
	t.Parallel()
	w, _ := twoLegs(t)
	b, br := w.register(""), w.browser()
	first := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
	second := w.secondLeg(br, first)
	mixed := strings.Replace(second, state(t, second), state(t, first), 1)
	mixed = strings.Replace(mixed, "code=", "code=other", 1)
	if a := br.get(mixed); a.status != http.StatusBadRequest || w.provider.tokenRequests() != 0 {
		t.Errorf("the account's code with the login's state: %d", a.status)
	}
	if q := location(t, br.get(second)).Query(); q.Get("code") == "" {
		t.Errorf("the sound callback then: %v", q)
	}
}

func TestFailedSecondLegLeavesNothing(t *testing.T) {
	t.Parallel()
	w, _ := twoLegs(t)
	w.provider.failToken = http.StatusServiceUnavailable
	b, br := w.register(""), w.browser()
	second := w.secondLeg(br, w.callbackURL(br.allow(br.authorize(authorizeParams(b)))))
	if q := location(t, br.get(second)).Query(); q.Get("error") != "temporarily_unavailable" {
		t.Errorf("got %v", q)
	}
	grants, err := w.vault.Grants(t.Context(), tokenstore.GrantQuery{})
	if err != nil || len(grants) != 0 {
		t.Errorf("stored %v, %v", grants, err)
	}
}

func TestBrowserConnectsOverTwoLegs(t *testing.T) {
	t.Parallel()
	w, _ := twoLegs(t)
	br := w.browser()
	page := br.get(w.url + "/oauth/authorize/a")
	if !strings.Contains(page.body, "log in at work next, and then connect your account at idp") {
		t.Errorf("page: %s", page.body)
	}
	a := br.get(w.secondLeg(br, w.callbackURL(br.allow(page))))
	if a.status != http.StatusOK || !strings.Contains(a.body, "alice@work.example") {
		t.Errorf("end: %d %s", a.status, a.body)
	}
}

// A session token stands for a login at one provider, which says nothing about an account at another.
func TestSessionTokensAreNotForProxiesWithALoginElsewhere(t *testing.T) {
	t.Parallel()
	w, _ := twoLegs(t)
	token := w.scriptSession()["session_token"].(string)
	if _, _, err := w.server.Authenticate(t.Context(), token, "b"); err != nil {
		t.Errorf("proxy b: %v", err)
	}
	if _, _, err := w.server.Authenticate(t.Context(), token, "a"); err == nil {
		t.Error("proxy a takes a session of its account's provider")
	}
	if a := w.postForm(sessions+"/authorize/work", nil); a.status != http.StatusNotFound {
		t.Errorf("session at the login provider: %d", a.status)
	}
}

// elsewhere is a further provider, which nobody can use.
func elsewhere(t *testing.T, name string) *upstream.Provider {
	t.Helper()
	p, err := upstream.New(name, upstream.Config{
		Type: "oauth2", ClientID: "gateway", ClientSecret: "gateway-secret",
		AuthorizationURL: "https://elsewhere.test/authorize", TokenURL: "https://elsewhere.test/token", UserinfoURL: "https://elsewhere.test/userinfo",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Another provider knows other people by the same ids, and what it would be sent are not its tokens.
func TestT29T47GrantIsGoodForTheProvidersThatItWasMadeWith(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(p *authserver.Proxy, own, other *upstream.Provider){
		"nothing":                         func(*authserver.Proxy, *upstream.Provider, *upstream.Provider) {},
		"another provider":                func(p *authserver.Proxy, _, other *upstream.Provider) { p.Provider = other },
		"login elsewhere":                 func(p *authserver.Proxy, _, other *upstream.Provider) { p.Login = other },
		"another provider, and the login": func(p *authserver.Proxy, own, other *upstream.Provider) { p.Provider, p.Login = other, own },
		"the name is another provider's":  func(p *authserver.Proxy, _, _ *upstream.Provider) { p.Provider = elsewhere(t, "idp") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b, got := w.session()
			connected, script := shownToken(t, w.connect(w.browser())), w.scriptSession()["session_token"].(string)
			code := w.login(b)
			w.reload(func(o *authserver.Options) {
				p := *o.Proxies[0]
				change(&p, p.Provider, elsewhere(t, "other"))
				p.Allow.Users = []string{"u1"}
				o.Proxies = []*authserver.Proxy{&p}
			})
			same := name == "nothing"
			for what, token := range map[string]string{"access token": got.access, "connect token": connected, "session token": script} {
				if w.works(token) != same {
					t.Errorf("%s: accepted %v", what, !same)
				}
			}
			for what, token := range map[string]string{"connect token": connected, "session token": script} {
				if a := w.post("/refresh", token); (a.status == http.StatusOK) != same {
					t.Errorf("refresh of a %s: %d", what, a.status)
				}
			}
			for what, f := range map[string]url.Values{"refresh": refreshForm(b, got.refresh), "code": codeForm(b, code)} {
				if a := w.postForm(endpoints+"/a/token", f); (a.status == http.StatusOK) != same || !same && a.oauthError(t) != "invalid_grant" {
					t.Errorf("%s: %d %s", what, a.status, a.body)
				}
			}
		})
	}
}

func TestT29T47GrantOverTwoLegsIsGoodForBothProviders(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(p *authserver.Proxy, own, other *upstream.Provider){
		"nothing":         func(*authserver.Proxy, *upstream.Provider, *upstream.Provider) {},
		"another login":   func(p *authserver.Proxy, _, other *upstream.Provider) { p.Login = other },
		"another account": func(p *authserver.Proxy, _, other *upstream.Provider) { p.Provider = other },
		"no login":        func(p *authserver.Proxy, _, _ *upstream.Provider) { p.Login = nil },
		"login alone":     func(p *authserver.Proxy, _, _ *upstream.Provider) { p.Provider, p.Login = p.Login, nil },
		"exchanged":       func(p *authserver.Proxy, own, _ *upstream.Provider) { p.Provider, p.Login = p.Login, own },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _ := twoLegs(t)
			b, br := w.register(""), w.browser()
			end := br.get(w.secondLeg(br, w.callbackURL(br.allow(br.authorize(authorizeParams(b))))))
			got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, location(t, end).Query().Get("code"))))
			half := w.secondLeg(br, w.callbackURL(br.allow(br.authorize(authorizeParams(b)))))
			w.reload(func(o *authserver.Options) {
				p := *o.Proxies[0]
				change(&p, p.Provider, elsewhere(t, "other"))
				o.Proxies = []*authserver.Proxy{&p}
			})
			same := name == "nothing"
			if w.works(got.access) != same {
				t.Errorf("accepted: %v", !same)
			}
			if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); (a.status == http.StatusOK) != same {
				t.Errorf("refresh: %d %s", a.status, a.body)
			}
			if a := br.get(half); (a.status == http.StatusSeeOther) != same {
				t.Errorf("second leg of a login of before: %d to %s", a.status, a.header.Get("Location"))
			}
		})
	}
}

func TestGrantFromBeforeProvidersWereKeptIsJudgedByItsUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	grant, _, err := w.server.Authenticate(t.Context(), got.access, "a")
	if err != nil {
		t.Fatal(err)
	}
	grant.Providers = nil
	if err := w.vault.Commit(t.Context(), tokenstore.Save(grant)); err != nil {
		t.Fatal(err)
	}
	if !w.works(got.access) {
		t.Error("refused")
	}
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	w.reload(func(o *authserver.Options) { o.Proxies[0].Provider = elsewhere(t, "other") })
	if w.works(got.access) {
		t.Error("accepted for another provider")
	}
}

func state(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("state")
}

// A configuration that is loaded between the legs may give the login provider's name to another one.
func TestT28SecondLegIsOfTheLoginProviderOfTheFirst(t *testing.T) {
	t.Parallel()
	w, _ := twoLegs(t)
	b, br := w.register(""), w.browser()
	half := w.secondLeg(br, w.callbackURL(br.allow(br.authorize(authorizeParams(b)))))
	w.reload(func(o *authserver.Options) {
		p := *o.Proxies[0]
		p.Login = elsewhere(t, "work")
		o.Proxies = []*authserver.Proxy{&p}
	})
	if a := br.get(half); a.status != http.StatusBadRequest || w.provider.tokenRequests() != 0 {
		t.Errorf("got %d to %s", a.status, a.header.Get("Location"))
	}
}

// The user agreed to log in at one provider; a reload makes it another one before Allow is pressed.
func TestConsentIsForTheProvidersThatThePageNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, br := w.register(""), w.browser()
	page, connect := br.authorize(authorizeParams(b)), br.get(w.url+"/oauth/authorize/a")
	w.reload(func(o *authserver.Options) {
		p := *o.Proxies[0]
		p.Provider = elsewhere(t, "other")
		o.Proxies = []*authserver.Proxy{&p}
	})
	for _, page := range []answer{page, connect} {
		if a := br.allow(page); a.status != http.StatusBadRequest || !strings.Contains(a.body, "has changed meanwhile") {
			t.Errorf("%d to %s", a.status, a.header.Get("Location"))
		}
	}
}
