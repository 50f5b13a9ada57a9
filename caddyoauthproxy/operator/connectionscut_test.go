package operator_test

import (
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"sync"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestWhatUsersEndIsRecordedWithTheAddressThatTheyDidItFrom(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.person()
	alice := p.signIn("alice")
	s.grant(alice, "g1", "c1", "Bot", "alice")
	for _, form := range []url.Values{{"grant": {"g1"}}, {"all": {"1"}}} {
		form.Set("csrf", alice.CSRF)
		p.post("/connections/cut", form)
	}
	types := []string{tokenstore.EventGrantEnded, tokenstore.EventRevocationOrdered, tokenstore.EventSignInEnded}
	for _, eventType := range types {
		events, _, err := s.vault.Events(t.Context(), tokenstore.EventFilter{Types: []string{eventType}, Limit: 100})
		must(t, err)
		if len(events) != 1 || events[0].Address != "127.0.0.1" || events[0].Actor.Kind != tokenstore.ActorUser || events[0].Actor.ID != alice.UserID {
			t.Errorf("%s: %+v", eventType, events)
		}
	}
}

// Orders stay in force for hours, in the memory of every node. A user who sends many at once gives one.
func TestT80SignInIsGoodForOneOrderToCutEverything(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.person()
	alice := p.signIn("alice")
	s.grant(alice, "g1", "c1", "Bot", "alice")
	u, err := url.Parse(s.url)
	must(t, err)
	var all sync.WaitGroup
	for range 50 {
		jar, _ := cookiejar.New(nil)
		jar.SetCookies(u, p.client.Jar.Cookies(u))
		same := &person{s, &http.Client{Transport: connections, Jar: jar, CheckRedirect: p.client.CheckRedirect}}
		all.Go(func() {
			if a := same.post("/connections/cut", url.Values{"all": {"1"}, "csrf": {alice.CSRF}}); a.status != http.StatusOK && a.status != http.StatusUnauthorized {
				t.Errorf("%d %s", a.status, bodyText(a.body))
			}
		})
	}
	all.Wait()
	if orders, err := s.server.RevocationOrders(t.Context()); err != nil || len(orders) != 1 {
		t.Errorf("%d orders, %v", len(orders), err)
	}
	if s.lives("g1") || p.signedIn() != nil {
		t.Error("nothing was cut, or the user is signed in still")
	}
	p.signIn("alice")
	if a := p.post("/connections/cut", url.Values{"all": {"1"}, "csrf": {p.signedIn().CSRF}}); a.status != http.StatusOK {
		t.Errorf("after another sign-in: %d", a.status)
	}
}
