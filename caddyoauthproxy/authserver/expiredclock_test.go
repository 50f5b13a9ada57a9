package authserver_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// saveGrants saves grants that live for a while yet, which come before all that users were given.
func saveGrants(t *testing.T, w *world, n int, life time.Duration) {
	t.Helper()
	var writes []tokenstore.Write
	now := w.vault.Now()
	for i := range n {
		writes = append(writes, tokenstore.Save(&tokenstore.Grant{
			Meta: tokenstore.Meta{ID: fmt.Sprintf("00-%04d", i), DeleteAfter: now.Add(2 * life)}, State: tokenstore.StateActive, Proxy: "a", AccountID: fmt.Sprintf("00-account-%04d", i),
			Expires: now.Add(life), Ends: now.Add(life), Family: tokenstore.RefreshFamily{Generation: 1},
		}))
	}
	if err := w.vault.Commit(t.Context(), writes...); err != nil {
		t.Fatal(err)
	}
}

func revoked(t *testing.T, w *world) int {
	t.Helper()
	n, err := w.vault.CountGrants(t.Context(), tokenstore.HealthRevoked)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestR37ClockThatJumpsAheadAndBackEndsATenthOfAllGrantsAtMost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	saveGrants(t, w, 199, 30*24*time.Hour)
	b, got := w.session()
	w.turn(365 * 24 * time.Hour)
	if n, err := w.server.EndExpired(t.Context()); n != 20 || !errors.Is(err, authserver.ErrManyExpired) {
		t.Fatalf("a year ahead: %d ended, %v", n, err)
	}
	w.turn(-365 * 24 * time.Hour)
	for range 2 {
		if n, err := w.server.EndExpired(t.Context()); n != 0 || err != nil {
			t.Errorf("when the clock is right again: %d ended, %v", n, err)
		}
	}
	if n := revoked(t, w); n != 20 {
		t.Errorf("%d of 200 grants are lost", n)
	}
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
}

func TestClockThatJumpsADayAheadAndBackCostsNobodyWhoHadTimeLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	other, quiet := w.session()
	w.turn(24 * time.Hour)
	got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	if n, err := w.server.EndExpired(t.Context()); n != 0 || err != nil {
		t.Errorf("a day ahead: %d ended, %v", n, err)
	}
	w.turn(-24*time.Hour - 10*time.Minute)
	if n, err := w.server.EndExpired(t.Context()); n != 0 || err != nil {
		t.Errorf("back: %d ended, %v", n, err)
	}
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(other, quiet.refresh)))
}

func TestAGatewayThatWasOffForLongEndsAllThatExpiredInTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	saveGrants(t, w, 60, time.Hour)
	w.turn(100 * 24 * time.Hour)
	for want := range 6 {
		n, err := w.server.EndExpired(t.Context())
		if last := want == 5; n != 10 || errors.Is(err, authserver.ErrManyExpired) == last || err != nil && last {
			t.Errorf("run %d: %d ended, %v", want+1, n, err)
		}
	}
	if n := revoked(t, w); n != 60 {
		t.Errorf("%d of 60 ended", n)
	}
}

// pass has time pass by all clocks.
func (w *world) pass(d time.Duration) {
	w.turn(d)
	w.server.Pass(d)
}

// Short lives, and many logins of the same day, expire by more than a tenth between two runs.
func TestGrantsThatExpireInTheirOwnTimeAreAllEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	saveGrants(t, w, 100, 8*time.Hour)
	for range 8 {
		w.pass(time.Hour)
		if n, err := w.server.EndExpired(t.Context()); n != 0 || err != nil {
			t.Fatalf("%d ended, %v", n, err)
		}
	}
	w.pass(2 * time.Hour)
	if n, err := w.server.EndExpired(t.Context()); n != 100 || err != nil {
		t.Errorf("when their time is over: %d ended, %v", n, err)
	}
}

func TestClockThatGoesOnFromWhereItWasSetIsNoBetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	saveGrants(t, w, 100, 30*24*time.Hour)
	w.pass(time.Hour)
	w.turn(365 * 24 * time.Hour)
	for run := range 2 {
		if n, err := w.server.EndExpired(t.Context()); n != 10 || !errors.Is(err, authserver.ErrManyExpired) {
			t.Errorf("a year ahead, run %d: %d ended, %v", run+1, n, err)
		}
		w.pass(4 * time.Hour)
	}
}
