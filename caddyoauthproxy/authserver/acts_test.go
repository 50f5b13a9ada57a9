package authserver_test

import (
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// acts counts what the server tells.
type acts struct {
	mu   sync.Mutex
	told map[string]int
}

func (a *acts) tell(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told[what]++
}

// take returns what was told since the last time.
func (a *acts) take() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := a.told
	a.told = map[string]int{}
	return told
}

func (a *acts) options() authserver.Acts {
	return authserver.Acts{
		Stepped: func(step authserver.Step, outcome authserver.Outcome, proxy string) {
			a.tell(string(step) + " " + string(outcome) + " " + proxy)
		},
		Issued: func(grantType, proxy string, life time.Duration) {
			a.tell("issued " + grantType + " " + proxy + " " + life.String())
		},
		Ended: func(why authserver.Ending, proxy string, life time.Duration) {
			a.tell("ended " + string(why) + " " + proxy + " " + life.Truncate(time.Hour).String())
		},
		Limited: func(limit string) { a.tell("limited " + limit) },
	}
}

func TestActsAreToldOfStepsTokensAndEndings(t *testing.T) {
	t.Parallel()
	a := &acts{told: map[string]int{}}
	w := newWorld(t, func(o *authserver.Options) {
		o.Acts = a.options()
		o.Limits.Register = authserver.Rate{Events: 3, Window: time.Hour}
	})
	check := func(what string, want map[string]int) {
		t.Helper()
		if told := a.take(); !maps.Equal(told, want) {
			t.Errorf("%s: told %v, not %v", what, told, want)
		}
	}
	b, got := w.session()
	check("a login", map[string]int{"register ok a": 1, "authorize ok a": 1, "consent ok a": 1, "callback ok a": 1, "code ok a": 1, "issued authorization_code a 1h0m0s": 1})

	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	w.turn(2 * time.Hour)
	w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh))
	check("a refresh token that is used again", map[string]int{"refresh ok a": 1, "issued refresh_token a 1h0m0s": 1, "refresh refused a": 1, "ended reuse a 2h0m0s": 1})

	w.provider.mu.Lock()
	w.provider.failToken = http.StatusServiceUnavailable
	w.provider.mu.Unlock()
	browser := w.browser()
	browser.get(w.callbackURL(browser.allow(browser.authorize(authorizeParams(b)))))
	check("a provider that is down", map[string]int{"authorize ok a": 1, "consent ok a": 1, "callback failed a": 1})

	page := browser.authorize(authorizeParams(b))
	no := form(t, page)
	no.Set("decision", "deny")
	browser.post(w.url+endpoints+"/consent", no)
	check("a user who says no", map[string]int{"authorize ok a": 1, "consent denied a": 1})

	for range 4 {
		w.postJSON(endpoints+"/register", `{}`)
	}
	told := a.take()
	if told["limited register"] == 0 || told["register limited "] != told["limited register"] || told["register refused "] == 0 {
		t.Errorf("registrations: told %v", told)
	}
}

func TestActsAreToldWhyGrantsEnd(t *testing.T) {
	t.Parallel()
	a := &acts{told: map[string]int{}}
	w := newWorld(t, func(o *authserver.Options) { o.Acts = a.options() })
	b, _ := w.session()
	w.login(b) // a code that nobody redeems
	c, got := w.session()
	w.postForm(endpoints+"/a/revoke", map[string][]string{"token": {got.refresh}, "client_id": {c.id}, "client_secret": {c.secret}})
	a.take()
	w.turn(31 * 24 * time.Hour)
	if _, err := w.server.EndExpired(t.Context()); err != nil {
		t.Fatal(err)
	}
	if told := a.take(); !maps.Equal(told, map[string]int{"ended expired a 744h0m0s": 1, "ended unused a 744h0m0s": 1}) {
		t.Errorf("told %v", told)
	}
	w.session()
	a.take()
	if _, err := w.server.RevokeGrants(t.Context(), tokenstore.RevocationFilter{All: true}, "operator", "incident 42"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if told := a.take(); told["ended revoked a 0s"] == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no ending of a grant that an order meant was told")
		}
	}
}
