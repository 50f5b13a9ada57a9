package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What becomes of a user's tokens at the provider stands in the audit trail, once each.
func TestWhatHappensToTokensAtTheProviderIsRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		want := func(eventType, outcome string, n int) {
			t.Helper()
			found := w.events.of(eventType)
			if len(found) != n {
				t.Fatalf("%d events of type %s; want %d", len(found), eventType, n)
			}
			for _, e := range found {
				if e.Account != "a" || e.Provider != "idp" || e.UserID != "user" || e.Outcome != outcome || e.Actor.Kind != tokenstore.ActorGateway || e.Version != 1 {
					t.Errorf("%s: %+v", eventType, e)
				}
			}
		}
		w.add("a", 2*time.Hour, time.Hour)
		w.token("a")
		want(tokenstore.EventUpstreamRefreshed, tokenstore.OutcomeOK, 1)
		w.store.failOutcomes(tokenstore.ErrUnavailable) // the tokens are used, and saved later
		time.Sleep(2 * time.Hour)
		w.token("a")
		want(tokenstore.EventUpstreamRefreshed, tokenstore.OutcomeOK, 1)
		w.store.failOutcomes(nil)
		time.Sleep(lastRetry)
		synctest.Wait()
		want(tokenstore.EventUpstreamRefreshed, tokenstore.OutcomeOK, 2)
		w.idp.set(func(p *fakeProvider) { p.families["a"].dead = true })
		time.Sleep(2 * time.Hour)
		if _, err := w.accounts.Token(t.Context(), "a"); err == nil {
			t.Fatal("a token though the provider refuses")
		}
		want(tokenstore.EventUpstreamRefused, tokenstore.OutcomeRefused, 1)
		w.add("b", time.Minute, time.Hour)
		if err := w.revoke(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		if told := w.events.of(tokenstore.EventUpstreamRevoked); len(told) != 1 || told[0].Account != "b" || told[0].Outcome != tokenstore.OutcomeOK {
			t.Errorf("the provider was told, and recorded is %+v", told)
		}
	})
}
