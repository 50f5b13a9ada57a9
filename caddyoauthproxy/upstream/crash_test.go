package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// crashed leaves the account as a process does that dies while it refreshes it.
func crashed(w *world, replayed bool) func(*tokenstore.Account) {
	return func(a *tokenstore.Account) {
		a.State = tokenstore.StateRefreshing
		a.Lease = tokenstore.Lease{Owner: "dead", Until: w.vault.Now().Add(leaseTime), Replayed: replayed}
	}
}

// A process died after taking the lease and before asking the provider: somebody waits, nobody notices more.
func TestR01LeaseOfADeadProcessIsTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", 2*time.Hour, time.Hour, crashed(w, false))
		begin := time.Now()
		for {
			got, err := w.accounts.Token(t.Context(), "a")
			if err == nil {
				if got != "at.a.1" {
					t.Errorf("got %s", got)
				}
				break
			}
			if !isUnavailable(err) || w.idp.tokenPosts() != 0 {
				t.Fatalf("got %v after %d requests", err, w.idp.tokenPosts())
			}
		}
		if d := time.Since(begin); d < leaseTime || d > leaseTime+time.Second {
			t.Errorf("taken over after %v", d)
		}
		if acc := w.stored("a"); acc.State != tokenstore.StateActive || acc.Lease != (tokenstore.Lease{}) || w.idp.tokenPosts() != 1 {
			t.Errorf("stored %+v after %d requests", acc, w.idp.tokenPosts())
		}
	})
}

func TestR01ValidTokenIsUsedWhileADeadProcessHoldsTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", 58*time.Minute, time.Hour, crashed(w, false))
		for range int(leaseTime/time.Second) + 1 {
			if got := w.token("a"); got != "at.a.0" {
				t.Fatalf("got %s", got)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if got := w.token("a"); got != "at.a.1" || w.idp.tokenPosts() != 1 {
			t.Errorf("got %s after %d requests", got, w.idp.tokenPosts())
		}
	})
}

// A process died after the provider rotated: the old refresh token is tried once. A strict provider
// refuses it, and then the user logs in again and the reason is on record.
func TestR02LostRefreshIsTriedOnceMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", 2*time.Hour, time.Hour, crashed(w, false))
		w.idp.families["a"].newest = 1 // rotated, and nobody knows
		time.Sleep(leaseTime)
		seen := tokenstore.Lease{}
		w.idp.answer = func(rw http.ResponseWriter, r *http.Request) {
			seen = w.stored("a").Lease
			w.idp.mu.Lock()
			status, m := w.idp.issue(r.PostForm)
			w.idp.mu.Unlock()
			writeJSON(rw, status, m)
		}
		for range 10 {
			if _, err := w.accounts.Token(t.Context(), "a"); !errors.Is(err, ErrNeedsReauth) {
				t.Errorf("got %v", err)
			}
			time.Sleep(time.Minute)
		}
		acc := w.stored("a")
		if acc.State != tokenstore.StateNeedsReauth || !strings.Contains(acc.Reason, "refresh lost") || acc.RefreshToken != "" {
			t.Errorf("stored %+v", acc)
		}
		if !seen.Replayed || seen.Owner == "dead" {
			t.Errorf("lease during the last try: %+v", seen)
		}
		if w.idp.tokenPosts() != 1 || w.idp.reused() != 1 {
			t.Errorf("%d requests, %d tokens came twice", w.idp.tokenPosts(), w.idp.reused())
		}
	})
}

// Processes die in the last try too: there is no third.
func TestR02CrashInTheLastTryIsTheEnd(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", 2*time.Hour, time.Hour, crashed(w, true))
	w.clock.turn(leaseTime)
	if _, err := w.accounts.Token(t.Context(), "a"); !errors.Is(err, ErrNeedsReauth) {
		t.Errorf("got %v", err)
	}
	if acc := w.stored("a"); acc.State != tokenstore.StateNeedsReauth || !strings.Contains(acc.Reason, "refresh lost") {
		t.Errorf("stored %+v", acc)
	}
	if w.idp.tokenPosts() != 0 {
		t.Error("the refresh token was tried again")
	}
}

// An answer that does not come leaves open whether the refresh token is spent: it is left alone until the lease ends.
func TestR02UnansweredRefreshIsNotRepeatedBlindly(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		rotated bool // before the answer was lost
		grace   bool // the provider forgives one repetition
		lost    bool
	}{
		"not processed":            {},
		"rotated, with grace":      {rotated: true, grace: true},
		"rotated, strict provider": {rotated: true, lost: true},
	}
	for name, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			w := bubbleWorld(t)
			w.add("a", 2*time.Hour, time.Hour)
			if _, err := w.provider.metadata.get(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.idp.set(func(p *fakeProvider) {
				p.answer = func(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Minute) }
				if tt.rotated && !tt.grace {
					p.families["a"].newest = 1
				}
			})
			if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) {
				t.Fatalf("%s: got %v", name, err)
			}
			time.Sleep(11 * time.Second) // its request ran into the timeout
			w.idp.set(func(p *fakeProvider) { p.answer = nil })
			for range 9 {
				if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) {
					t.Fatalf("%s: got %v", name, err)
				}
				if n := w.idp.tokenPosts(); n != 1 {
					t.Fatalf("%s: %d requests while the lease lasts", name, n)
				}
				time.Sleep(time.Second)
			}
			time.Sleep(time.Minute)
			_, err := w.accounts.Token(t.Context(), "a")
			if tt.lost != errors.Is(err, ErrNeedsReauth) || !tt.lost && err != nil {
				t.Errorf("%s: got %v", name, err)
			}
			if n := w.idp.tokenPosts(); n != 2 {
				t.Errorf("%s: %d requests", name, n)
			}
		})
	}
}

// cutOnce loses the first answer with its connection, after the provider has rotated.
func cutOnce(idp *fakeProvider) {
	idp.set(func(p *fakeProvider) {
		p.late = func(rw http.ResponseWriter, r *http.Request) {
			p.set(func(p *fakeProvider) { p.late = nil })
			cut(rw, r)
		}
	})
}

// The answer was lost with the connection: the refresh token is tried once more, within short graces and by one process alone.
func TestR02CutRefreshIsTriedOnceMoreByOneOfAllNodes(t *testing.T) {
	t.Parallel()
	for name, grace := range map[string]time.Duration{"with grace": 10 * time.Second, "strict": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := bubbleWorld(t)
				w.idp.grace = grace
				cutOnce(w.idp)
				w.add("a", 2*time.Hour, time.Hour)
				nodes := []*Accounts{w.node(), w.node(), w.node()}
				var callers sync.WaitGroup
				for i := range 100 * len(nodes) {
					callers.Go(func() {
						time.Sleep(time.Duration(i) * 100 * time.Millisecond)
						begin := time.Now()
						got, err := nodes[i%len(nodes)].Token(t.Context(), "a")
						if grace > 0 && got != "at.a.2" || grace == 0 && !errors.Is(err, ErrNeedsReauth) || time.Since(begin) > cutLeaseTime+slowLook {
							t.Errorf("got %s, %v after %v", got, err, time.Since(begin))
						}
					})
				}
				callers.Wait()
				if n := w.idp.tokenPosts(); n != 2 {
					t.Errorf("%d requests", n)
				}
				w.idp.mu.Lock()
				defer w.idp.mu.Unlock()
				if again := w.idp.reuses + w.idp.forgiven; again != 1 || (w.idp.forgiven == 1) != (grace > 0) {
					t.Errorf("the refresh token came again %d times, %d of them within the grace", again, w.idp.forgiven)
				}
			})
		})
	}
}

// A process that dies between the cut and the last try leaves that one to another.
func TestR02CrashAfterACutLeavesTheLastTryToAnotherNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.idp.grace = 10 * time.Second
		cutOnce(w.idp)
		w.add("a", 2*time.Hour, time.Hour)
		dying := w.accounts
		w.accounts = w.node()
		go func() { _, _ = dying.Token(context.WithoutCancel(t.Context()), "a") }()
		time.Sleep(time.Second)
		now, cancel := context.WithCancel(t.Context())
		cancel()
		if err := dying.Close(now); err != nil {
			t.Error(err)
		}
		acc := w.stored("a")
		if acc.State != tokenstore.StateRefreshing || acc.Lease.Replayed || acc.RefreshToken != "rt.a.0" || time.Until(acc.Lease.Until) > time.Second || w.idp.tokenPosts() != 1 {
			t.Errorf("stored %+v after %d requests", acc, w.idp.tokenPosts())
		}
		if got := w.token("a"); got != "at.a.2" || w.idp.tokenPosts() != 2 || w.idp.reused() != 0 {
			t.Errorf("got %s after %d requests", got, w.idp.tokenPosts())
		}
	})
}

// What the vault was not told, because its process died, nobody else can know: the lease lasts as long as it says there.
func TestR02CutThatCannotBeWrittenKeepsTheWholeLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.idp.grace = time.Minute
		cutOnce(w.idp)
		w.add("a", 2*time.Hour, time.Hour)
		writes := 0
		w.store.failApply = func([]tokenstore.Change) error {
			if writes++; writes > 1 {
				return tokenstore.ErrUnavailable
			}
			return nil
		}
		begin := time.Now()
		if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) || time.Since(begin) > waitTime {
			t.Fatalf("got %v after %v", err, time.Since(begin))
		}
		dead, cancel := context.WithCancel(t.Context())
		cancel()
		_ = w.accounts.Close(dead)
		w.store.failWrites(nil)
		w.accounts = w.node()
		_, err := w.accounts.Token(t.Context(), "a")
		if d := time.Since(begin); err != nil || d < leaseTime || d > leaseTime+time.Second {
			t.Fatalf("got %v after %v", err, d)
		}
		if got := w.token("a"); got != "at.a.2" || w.idp.tokenPosts() != 2 {
			t.Errorf("got %s after %d requests", got, w.idp.tokenPosts())
		}
	})
}

// A provider that takes requests and answers none, for an hour, costs nobody the login.
func TestR08HangingProviderCostsNoLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", 2*time.Hour, time.Hour)
		w.idp.set(func(p *fakeProvider) {
			p.answer = func(http.ResponseWriter, *http.Request) { time.Sleep(time.Minute) }
		})
		for begin := time.Now(); time.Since(begin) < time.Hour; time.Sleep(5 * time.Second) {
			if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) {
				t.Fatalf("got %v", err)
			}
		}
		if n := w.idp.tokenPosts(); n < 10 || n > 90 {
			t.Errorf("asked %d times in an hour", n)
		}
		w.idp.set(func(p *fakeProvider) { p.answer = nil })
		time.Sleep(2 * time.Minute)
		if got := w.token("a"); got != "at.a.1" {
			t.Errorf("got %s", got)
		}
	})
}

// Clocks that jump and come back leave nothing expired for ever and nothing refreshed twice.
func TestR37ClockThatJumpsAndComesBack(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", 0, time.Hour)
	w.clock.turn(24 * time.Hour)
	if got := w.token("a"); got != "at.a.1" {
		t.Errorf("got %s", got)
	}
	w.clock.turn(-24 * time.Hour)
	if got := w.token("a"); got != "at.a.1" {
		t.Errorf("got %s", got)
	}
	// The token now claims a day too much. The upstream says so when it ends, and it is renewed.
	w.clock.turn(2 * time.Hour)
	if got, err := w.accounts.Rejected(t.Context(), "a", "at.a.1"); err != nil || got != "at.a.2" {
		t.Errorf("got %s, %v", got, err)
	}
	if acc := w.stored("a"); acc.Expires.Sub(w.vault.Now()) > time.Hour || w.idp.reused() != 0 {
		t.Errorf("stored %+v", acc)
	}
}

// A refresh that an upstream's 401 forced has no outcome either when it is cut: it is tried once more, like any other.
func TestR15ForcedRefreshThatIsCutIsTriedOnceMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		cutOnce(w.idp)
		w.idp.set(func(p *fakeProvider) { p.grace = 30 * time.Second })
		w.add("a", time.Minute, time.Hour)
		if got, err := w.accounts.Rejected(t.Context(), "a", "at.a.0"); err != nil || got == "at.a.0" {
			t.Errorf("got %s, %v", got, err)
		}
		if acc := w.stored("a"); acc.State != tokenstore.StateActive || w.idp.tokenPosts() != 2 {
			t.Errorf("%d requests, stored %+v", w.idp.tokenPosts(), acc)
		}
	})
}
