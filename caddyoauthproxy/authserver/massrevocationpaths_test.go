package authserver_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// revocable is something that lives until an order means it: lives asks, once.
type revocable struct {
	options []option
	arrange func(w *world, b bot) (lives func() bool)
	session bool // it is a script's, which is no client of ours and of no proxy
}

// withTokens is a revocable that is a bot with tokens.
func withTokens(lives func(w *world, b bot, got tokens, grant string) bool) revocable {
	return revocable{arrange: func(w *world, b bot) func() bool {
		got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
		grant := w.grantOf(got.access).ID
		return func() bool { return lives(w, b, got, grant) }
	}}
}

// withSession is a revocable that is a script with a session token.
func withSession(lives func(w *world, token string) bool) revocable {
	return revocable{session: true, arrange: func(w *world, _ bot) func() bool {
		token := w.scriptSession()["session_token"].(string)
		return func() bool { return lives(w, token) }
	}}
}

func introspected(w *world, b bot, token string) bool {
	a := w.postForm(endpoints+"/introspect", url.Values{"token": {token}, "client_id": {b.id}, "client_secret": {b.secret}})
	return a.json(w.t)["active"] == true
}

// Every way in which somebody comes to be let in, or is told that they are.
var revocables = map[string]revocable{
	"MCP request": withTokens(func(w *world, _ bot, got tokens, _ string) bool { return w.works(got.access) }),
	"request that goes on": withTokens(func(w *world, _ bot, _ tokens, grant string) bool {
		return w.server.CheckGrant(w.t.Context(), grant, "a") == nil
	}),
	"stream": withTokens(func(w *world, _ bot, _ tokens, grant string) bool { return !w.server.Ended(w.t.Context(), grant) }),
	"refresh": withTokens(func(w *world, b bot, got tokens, _ string) bool {
		return w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)).status == http.StatusOK
	}),
	"introspection of an access token": withTokens(func(w *world, b bot, got tokens, _ string) bool { return introspected(w, b, got.access) }),
	"introspection of a refresh token": withTokens(func(w *world, b bot, got tokens, _ string) bool { return introspected(w, b, got.refresh) }),
	"code": {arrange: func(w *world, b bot) func() bool {
		code := w.login(b)
		return func() bool { return w.postForm(endpoints+"/a/token", codeForm(b, code)).status == http.StatusOK }
	}},
	"login under way": {arrange: func(w *world, b bot) func() bool {
		br := w.browser()
		callback := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
		return func() bool { return location(w.t, br.get(callback)).Query().Has("code") }
	}},
	"login under way by a remembered consent": {options: []option{consentMode(authserver.ConsentRemember)}, arrange: func(w *world, b bot) func() bool {
		br := w.browser()
		br.agree(br.authorizeFrom(authorizeParams(b), "none"), url.Values{"remember": {"1"}})
		callback := w.callbackURL(br.authorizeFrom(authorizeParams(b), "none"))
		return func() bool { return location(w.t, br.get(callback)).Query().Has("code") }
	}},
	"remembered consent": {options: []option{consentMode(authserver.ConsentRemember)}, arrange: func(w *world, b bot) func() bool {
		br := w.browser()
		br.agree(br.authorizeFrom(authorizeParams(b), "none"), url.Values{"remember": {"1"}})
		return func() bool { return br.authorizeFrom(authorizeParams(b), "none").status == http.StatusSeeOther }
	}},
	"place among a proxy's grants": {options: []option{func(o *authserver.Options) { o.Proxies[0].MaxGrants = 1 }}, arrange: func(w *world, b bot) func() bool {
		w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
		return func() bool {
			br := w.browser()
			return location(w.t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(w.register(""))))))).Query().Has("error")
		}
	}},
	"MCP request with a session": withSession(func(w *world, token string) bool { return w.works(token) }),
	"validation of a session": withSession(func(w *world, token string) bool {
		return w.post("/validate", token).json(w.t)["valid"] == true
	}),
	"refresh of a session": withSession(func(w *world, token string) bool { return w.post("/refresh", token).status == http.StatusOK }),
	"session's login under way": {session: true, arrange: func(w *world, _ bot) func() bool {
		callback, _ := w.startSession()
		return func() bool { return w.fetch(callback, acceptJSON).status == http.StatusOK }
	}},
	"session's callback again": {session: true, arrange: func(w *world, _ bot) func() bool {
		callback, _ := w.startSession()
		w.fetch(callback, acceptJSON)
		return func() bool { return w.fetch(callback, acceptJSON).status == http.StatusOK }
	}},
}

func TestOrdersHoldWhereverAGrantIsJudged(t *testing.T) {
	t.Parallel()
	for name, r := range revocables {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for order, of := range map[string]func(user, client string) []authserver.RevocationFilter{
				"of others": func(user, client string) []authserver.RevocationFilter {
					return []authserver.RevocationFilter{{UserID: "other"}, {ClientID: "other"}, {Proxy: "b"}, {Provider: "id"}, {Provider: "idp2"},
						{UserID: user, Proxy: "b"}, {ClientID: client, Provider: "other"}}
				},
				"of the user": func(user, _ string) []authserver.RevocationFilter {
					return []authserver.RevocationFilter{{UserID: user}}
				},
				"of the client": func(_, client string) []authserver.RevocationFilter {
					return []authserver.RevocationFilter{{ClientID: client}}
				},
				"of the proxy": func(_, _ string) []authserver.RevocationFilter { return []authserver.RevocationFilter{{Proxy: "a"}} },
				"of the provider": func(_, _ string) []authserver.RevocationFilter {
					return []authserver.RevocationFilter{{Provider: "idp"}}
				},
				"of all four": func(user, client string) []authserver.RevocationFilter {
					return []authserver.RevocationFilter{{UserID: user, ClientID: client, Proxy: "a", Provider: "idp"}}
				},
				"of everybody": func(_, _ string) []authserver.RevocationFilter { return []authserver.RevocationFilter{{All: true}} },
			} {
				w, _ := gatedWorld(t, r.options...) // so that no row is changed
				_, known := w.session()
				g := w.grantOf(known.access)
				if err := w.vault.Commit(t.Context(), tokenstore.Delete(g)); err != nil {
					t.Fatal(err)
				}
				b := w.register("")
				client := b.id
				if r.session {
					client = "(session)"
				}
				lives := r.arrange(w, b)
				for _, f := range of(g.UserID, client) {
					w.revoke(f)
				}
				want := order == "of others" || r.session && (order == "of the proxy" || order == "of all four")
				if got := lives(); got != want {
					t.Errorf("after an order %s: lives %t, want %t", order, got, want)
				}
			}
		})
	}
}

// Where the user has logged in already and is on the way to connect an account, both providers are those of the login.
func TestOrdersEndLoginsBetweenTheirLegs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		filter authserver.RevocationFilter
		lives  bool
	}{
		"of others":               {authserver.RevocationFilter{Provider: "other"}, true},
		"of the login's provider": {authserver.RevocationFilter{Provider: "work"}, false},
		"of the account's":        {authserver.RevocationFilter{Provider: "idp"}, false},
		"of the proxy":            {authserver.RevocationFilter{Proxy: "a"}, false},
		"of everybody":            {authserver.RevocationFilter{All: true}, false},
	} {
		for between := range 3 {
			w, _ := twoLegs(t)
			b, br := w.register(""), w.browser()
			first := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
			if between == 0 {
				w.revoke(c.filter)
			}
			a := br.get(first)
			if between == 0 {
				if lives := location(t, a).Path == "/authorize"; lives != c.lives {
					t.Errorf("after an order %s, before the first callback: lives %t", name, lives)
				}
				continue
			}
			second := w.callbackURL(a)
			if between == 1 {
				w.revoke(c.filter)
			}
			code := location(t, br.get(second)).Query().Get("code")
			if between == 2 {
				w.revoke(c.filter)
				code, _ = w.postForm(endpoints+"/a/token", codeForm(b, code)).json(t)["access_token"].(string)
			}
			if lives := code != ""; lives != c.lives {
				t.Errorf("after an order %s, after %d legs: lives %t", name, between, lives)
			}
		}
	}
}

// A node that has missed an order makes grants that it means; they can be told by when they were agreed to.
func TestGrantsSayWhenTheyWereAgreedTo(t *testing.T) {
	t.Parallel()
	w, _ := twoLegs(t, func(o *authserver.Options) { o.Lifetimes.Login = time.Hour })
	b, br := w.register(""), w.browser()
	toWork := br.allow(br.authorize(authorizeParams(b)))
	w.turn(10 * time.Minute)
	second := w.secondLeg(br, w.callbackURL(toWork))
	w.turn(10 * time.Minute)
	code := location(t, br.get(second)).Query().Get("code")
	g := w.grantOf(w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, code))).access)
	if early := g.Created.Sub(g.Agreed); early < 20*time.Minute || early > 21*time.Minute {
		t.Errorf("agreed to %s before the grant", early)
	}
}

// The rows of remembered consents go, too, and those that are given after the order stay.
func TestOrdersForgetRememberedConsents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, consentMode(authserver.ConsentRemember))
	b, br := w.register(""), w.browser()
	remember := func() {
		br.agree(br.authorizeFrom(authorizeParams(b), "none"), url.Values{"remember": {"1"}})
	}
	remember()
	if a := br.authorizeFrom(authorizeParams(b), "none"); a.status != http.StatusSeeOther {
		t.Fatalf("not remembered: %d", a.status)
	}
	w.finished(w.revoke(authserver.RevocationFilter{Proxy: "a"}).ID)
	rows, err := w.store.List(t.Context(), tokenstore.KindConsent, tokenstore.Query{})
	if err != nil || len(rows) != 0 {
		t.Errorf("%d consents are left, %v", len(rows), err)
	}
	remember()
	w.turn(time.Hour)
	a := br.authorizeFrom(authorizeParams(b), "none")
	if a.status != http.StatusSeeOther {
		t.Fatalf("the new consent is not remembered: %d", a.status)
	}
	// What comes out of it was agreed to when it was given: a node that has missed an order would otherwise let it pass.
	code := location(t, br.get(w.callbackURL(a))).Query().Get("code")
	g := w.grantOf(w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, code))).access)
	if early := g.Created.Sub(g.Agreed); early < 59*time.Minute || early > 61*time.Minute {
		t.Errorf("agreed to %s before the grant", early)
	}
}
