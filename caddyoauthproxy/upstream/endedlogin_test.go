package upstream

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Providers that allow so many tokens per user end the oldest when there is one more.
func TestT33LoginThatTheProviderEndsTakesNoOtherWithIt(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	ids := []string{"oldest", "older", "newer", "newest"}
	for _, id := range ids {
		w.add(id, time.Minute, time.Hour)
	}
	w.idp.set(func(p *fakeProvider) { p.families["oldest"].dead = true })
	if got := w.token("oldest"); got != "at.oldest.0" {
		t.Errorf("got %s; want the token that nobody has refused yet", got)
	}
	if _, err := w.accounts.Rejected(t.Context(), "oldest", "at.oldest.0"); !errors.Is(err, ErrNeedsReauth) {
		t.Errorf("got %v", err)
	}
	if acc := w.stored("oldest"); acc.State != tokenstore.StateNeedsReauth {
		t.Errorf("stored %+v", acc)
	}
	for round, want := range []string{".0", ".1"} {
		for _, id := range ids[1:] {
			if got := w.token(id); got != "at."+id+want || w.stored(id).State != tokenstore.StateActive {
				t.Errorf("%s, round %d: got %s", id, round, got)
			}
		}
		w.clock.turn(61 * time.Minute)
	}
	if n := w.idp.tokenPosts(); n != 1+len(ids)-1 {
		t.Errorf("%d refreshes", n)
	}
}
