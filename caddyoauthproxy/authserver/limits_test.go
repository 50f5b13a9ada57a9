package authserver_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

func limits(l authserver.Limits) option {
	return func(o *authserver.Options) { o.Limits = l }
}

// until sends a request until it is refused, and says how often it was not.
func until(t *testing.T, send func() answer) (sent int, refused answer) {
	t.Helper()
	for sent = range 1000 {
		if refused = send(); refused.status == http.StatusTooManyRequests {
			if n, err := strconv.Atoi(refused.header.Get("Retry-After")); err != nil || n < 1 {
				t.Errorf("Retry-After: %q", refused.header.Get("Retry-After"))
			}
			return sent, refused
		}
	}
	t.Fatal("never refused")
	return 0, answer{}
}

func TestT19EachEndpointIsLimitedByAddress(t *testing.T) {
	t.Parallel()
	few := authserver.Rate{Events: 3, Window: time.Hour}
	all := authserver.Limits{Register: few, Authorize: few, Login: few, Token: few}
	for name, send := range map[string]func(w *world, b bot, address func(*http.Request)) answer{
		"register": func(w *world, _ bot, a func(*http.Request)) answer {
			return w.postJSON(endpoints+"/a/register", plainRegistration, a)
		},
		"authorize": func(w *world, b bot, a func(*http.Request)) answer {
			return w.browser().get(w.url+endpoints+"/a/authorize?"+authorizeParams(b).Encode(), a)
		},
		"connect": func(w *world, _ bot, a func(*http.Request)) answer {
			return w.browser().get(w.url+"/oauth/authorize/a", a)
		},
		"callback": func(w *world, _ bot, a func(*http.Request)) answer {
			return w.browser().get(w.url+"/oauth/callback?code=x&state=x", a)
		},
		"session": func(w *world, _ bot, a func(*http.Request)) answer {
			return w.postForm("/api/v1/oauth/authorize/idp", nil, a)
		},
		"validate": func(w *world, _ bot, a func(*http.Request)) answer {
			return w.postJSON("/api/v1/oauth/validate", `{"session_token":"x"}`, a)
		},
		"token": func(w *world, b bot, a func(*http.Request)) answer {
			return w.postForm(endpoints+"/a/token", refreshForm(b, "gwr_x"), a)
		},
		"revoke": func(w *world, _ bot, a func(*http.Request)) answer {
			return w.postForm(endpoints+"/a/revoke", refreshForm(bot{"x", "x"}, "x"), a)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, limits(all), addressed)
			b := w.register("")
			if n, _ := until(t, func() answer { return send(w, b, from("198.51.100.1")) }); n != 3 {
				t.Errorf("%d requests passed, want 3", n)
			}
			if a := send(w, b, from("198.51.100.2")); a.status == http.StatusTooManyRequests {
				t.Error("another address is refused as well")
			}
			w.turn(20 * time.Minute)
			if a := send(w, b, from("198.51.100.1")); a.status == http.StatusTooManyRequests {
				t.Error("still refused when a third of the time is over")
			}
			if a := send(w, b, from("198.51.100.1")); a.status != http.StatusTooManyRequests {
				t.Errorf("the whole burst came back at once: %d", a.status)
			}
		})
	}
}

func TestLoginsAreLimitedWhereTheyBegin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limits(authserver.Limits{Login: authserver.Rate{Events: 3, Window: time.Hour}}))
	b := w.register("")
	n, refused := until(t, func() answer { br := w.browser(); return br.allow(br.authorize(authorizeParams(b))) })
	if n != 3 || refused.header.Get("Location") != "" {
		t.Errorf("%d logins began; then %d %v", n, refused.status, refused.header)
	}
}

func TestT19LoginsOfStrangersGiveWayToNewOnes(t *testing.T) {
	t.Parallel()
	const most = 100
	w := newWorld(t, unlimited, addressed, func(o *authserver.Options) { o.MaxOpenLogins = most })
	open := func() int {
		t.Helper()
		n, err := w.vault.CountOpenLogins(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	flood := func(n int) {
		t.Helper()
		for i := range n {
			w.turn(time.Millisecond)
			if a := w.postForm(sessions+"/authorize/idp", nil, from(fmt.Sprintf("2001:db8:1:%x::1", i))); a.status != http.StatusOK {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
	}
	b := w.register("")
	br := w.browser()
	early := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
	flood(3 * most)
	if n := open(); n > most {
		t.Errorf("%d logins are kept, want %d at most", n, most)
	}
	if a := br.get(early); a.status != http.StatusBadRequest {
		t.Errorf("the oldest login: %d", a.status)
	}

	// Who comes back gets in, also when logins that were begun later have to give way.
	mine := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
	flood(most / 2)
	first := location(t, br.get(mine))
	flood(most / 2)
	if again := location(t, br.get(mine)); again.String() != first.String() || first.Query().Get("code") == "" {
		t.Errorf("finished: %s, repeated: %s", first, again)
	}
	for range 2 * most { // the way of the consent page is bounded too
		w.turn(time.Millisecond)
		other := w.browser()
		other.allow(other.get(w.url + "/oauth/authorize/a"))
	}
	if n := open(); n > most {
		t.Errorf("%d logins are kept, want %d at most", n, most)
	}
	w.login(b)
}

func TestRequestsThatSucceedDoNotCountAgainstAnAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limits(authserver.Limits{Token: authserver.Rate{Events: 3, Window: time.Hour}}))
	b, got := w.session()
	for range 20 {
		got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	}
}

func TestT49RequestsAboutTokensThatAreNotTheClientsOwnAreLimited(t *testing.T) {
	t.Parallel()
	key := newSigner(t, "k1")
	for name, c := range map[string]struct {
		token   func(w *world, b bot) string
		limited bool
	}{
		"junk":              {func(*world, bot) string { return "junk" }, true},
		"another client's":  {func(w *world, _ bot) string { _, got := w.session(); return got.refresh }, true},
		"its own":           {func(w *world, b bot) string { return w.keyed(b, key).access }, false},
		"its own to renew":  {func(w *world, b bot) string { return w.keyed(b, key).refresh }, false},
		"its own but older": {func(w *world, b bot) string { return w.rotated(b, key, 5) }, false},
		"forged": {func(w *world, b bot) string {
			head, _, _ := strings.Cut(w.keyed(b, key).refresh, ".")
			return head + "." + strings.Repeat("A", 43)
		}, true},
		"so old that it takes many hashes to judge": {func(w *world, b bot) string { return w.rotated(b, key, 40) }, true},
	} {
		for _, endpoint := range []string{"/a/revoke", "/a/introspect"} {
			t.Run(name+endpoint, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, limits(authserver.Limits{Token: authserver.Rate{Events: 5, Window: time.Hour}}))
				b := w.registerWithKeys(`"jwks":` + keySet(t, key.public()))
				token := c.token(w, b)
				served := 0
				for range 20 {
					f := withAssertion(url.Values{"client_id": {b.id}, "token": {token}}, key.sign(w.assertion(b.id, nil)))
					if a := w.postForm(endpoints+endpoint, f); a.status == http.StatusOK {
						served++
					}
				}
				if want := map[bool]int{true: 5, false: 20}[c.limited]; served != want {
					t.Errorf("%d of 20 requests were served, want %d", served, want)
				}
			})
		}
	}
}

// keyed logs in with a client that has keys.
func (w *world) keyed(b bot, key *signer) tokens {
	w.t.Helper()
	return w.tokens(w.postForm(endpoints+"/a/token", withAssertion(codeForm(b, w.login(b)), key.sign(w.assertion(b.id, nil)))))
}

// rotated is the first refresh token of a login that was refreshed so many times.
func (w *world) rotated(b bot, key *signer, times int) string {
	w.t.Helper()
	got := w.keyed(b, key)
	first := got.refresh
	for range times {
		got = w.tokens(w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, got.refresh), key.sign(w.assertion(b.id, nil)))))
	}
	return first
}

func TestT50AssertionsOfOneClientAreLimited(t *testing.T) {
	t.Parallel()
	key := newSigner(t, "k1")
	w := newWorld(t, addressed, limits(authserver.Limits{Client: authserver.Rate{Events: 5, Window: time.Hour}, Token: authserver.Rate{Events: -1, Window: time.Hour}}))
	b := w.registerWithKeys(`"jwks":` + keySet(t, key.public()))
	i := 0
	introspect := func(assertion string) answer {
		i++
		return w.postForm(endpoints+"/introspect", withAssertion(url.Values{"client_id": {b.id}, "token": {"junk"}}, assertion), from(fmt.Sprintf("198.51.100.%d", i)))
	}
	once := key.sign(w.assertion(b.id, nil))
	introspect(once)
	for range 10 {
		if a := introspect(once); a.oauthError(t) != "invalid_client" {
			t.Fatalf("used before: %d %s", a.status, a.body)
		}
	}
	n, _ := until(t, func() answer { return introspect(key.sign(w.assertion(b.id, nil))) })
	if n != 4 { // and the first; repeating it used nothing up
		t.Errorf("%d more assertions were accepted, want 4", n)
	}
	other := w.registerWithKeys(`"jwks":` + keySet(t, key.public()))
	w.keyed(other, key)
}

func TestOneClientGetsSoManyTokensFromAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, addressed, limits(authserver.Limits{Client: authserver.Rate{Events: 5, Window: time.Hour}}))
	b, got := w.session()
	i := 0
	n, _ := until(t, func() answer {
		i++
		a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh), from(fmt.Sprintf("198.51.100.%d", i)))
		if a.status == http.StatusOK {
			got = w.tokens(a)
		}
		return a
	})
	if n != 4 { // and one for the code
		t.Errorf("%d refreshes passed, want 4", n)
	}
	other, tokens := w.session()
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(other, tokens.refresh)))
	w.turn(time.Hour)
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh))) // the refused attempts used nothing up
}

func TestT25OneUserDoesNotUseUpTheRateOfASharedClient(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := newWorld(t, p.accepted, limits(authserver.Limits{Client: authserver.Rate{Events: 5, Window: time.Hour}}))
	b := bot{id: p.id()} // a public one
	mine := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	n, _ := until(t, func() answer {
		a := w.postForm(endpoints+"/a/token", refreshForm(b, mine.refresh))
		if a.status == http.StatusOK {
			mine = w.tokens(a)
		}
		return a
	})
	if n != 4 { // and one for the code
		t.Errorf("%d refreshes of one login passed, want 4", n)
	}
	w.provider.user = map[string]any{"sub": "u2"}
	theirs := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, theirs.refresh)))
}

func TestOneMachineGetsSoManyTokens(t *testing.T) {
	t.Parallel()
	machine := configuredClient("machine", "a-secret-of-the-operator", "client_credentials")
	w := newWorld(t, configured(machine), limits(authserver.Limits{Client: authserver.Rate{Events: 5, Window: time.Hour}}),
		func(o *authserver.Options) { o.Proxies[0].Machines = true })
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"machine"}, "client_secret": {"a-secret-of-the-operator"}}
	if n, _ := until(t, func() answer { return w.postForm(endpoints+"/a/token", form) }); n != 5 {
		t.Errorf("%d tokens, want 5", n)
	}
}

func TestIPv6AddressesCountByTheirNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t, addressed, limits(authserver.Limits{Register: authserver.Rate{Events: 3, Window: time.Hour}}))
	i := 0
	n, _ := until(t, func() answer {
		i++
		return w.postJSON(endpoints+"/a/register", plainRegistration, from(fmt.Sprintf("2001:db8::%x", i)))
	})
	if n != 3 {
		t.Errorf("%d registrations of one /64 passed, want 3", n)
	}
	if a := w.postJSON(endpoints+"/a/register", plainRegistration, from("2001:db8:0:1::1")); a.status != http.StatusCreated {
		t.Errorf("another /64: %d", a.status)
	}
}
