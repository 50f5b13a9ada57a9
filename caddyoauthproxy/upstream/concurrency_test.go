package upstream

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// However many requests find the token expired, the refresh token is spent once.
func TestR17OneRefreshForAllRequests(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", 2*time.Hour, time.Hour)
	var callers sync.WaitGroup
	for range 500 {
		callers.Go(func() {
			if got, err := w.accounts.Token(t.Context(), "a"); err != nil || got != "at.a.1" {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	callers.Wait()
	if n := w.idp.tokenPosts(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

// Requests that wait for the same refresh wait together: they cost the vault and the provider's places nothing.
func TestR17RequestsThatWaitShareOneFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		slowly(w.idp, time.Second)
		w.add("a", 2*time.Hour, time.Hour)
		var flights atomic.Int32
		node := w.node(func(o *AccountsOptions) {
			o.Acquire = func() (func(), error) { flights.Add(1); return func() {}, nil }
		})
		var callers sync.WaitGroup
		for range 500 {
			callers.Go(func() {
				if got, err := node.Token(t.Context(), "a"); err != nil || got != "at.a.1" {
					t.Errorf("got %s, %v", got, err)
				}
			})
		}
		synctest.Wait() // all of them wait for the provider
		if n := flights.Load(); n != 1 {
			t.Errorf("%d flights", n)
		}
		callers.Wait()
	})
}

// Two processes on one vault spend each refresh token once between them, in front of a provider that
// ends the family when one comes twice.
func TestR19TwoNodesNeverSpendARefreshTokenTwice(t *testing.T) {
	t.Parallel()
	const rounds = 100
	w := realWorld(t)
	w.add("a", 2*time.Hour, time.Hour)
	nodes := []*Accounts{w.node(), w.node()}
	for round := 1; round <= rounds; round++ {
		want := fmt.Sprintf("at.a.%d", round)
		var callers sync.WaitGroup
		for _, node := range nodes {
			for range 5 {
				callers.Go(func() {
					if got, err := node.Token(t.Context(), "a"); err != nil || got != want {
						t.Errorf("round %d: got %s, %v", round, got, err)
					}
				})
			}
		}
		callers.Wait()
		w.clock.turn(61 * time.Minute)
	}
	if n := w.idp.tokenPosts(); n != rounds {
		t.Errorf("%d refreshes in %d rounds", n, rounds)
	}
	if n := w.idp.reused(); n != 0 {
		t.Errorf("%d refresh tokens came twice", n)
	}
	if got := w.stored("a").RefreshToken; got != fmt.Sprintf("rt.a.%d", rounds) {
		t.Errorf("stored refresh token %s", got)
	}
}

// Two processes that are told of a 401 at once force one refresh between them.
func TestR15TwoNodesForceOneRefresh(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", time.Minute, time.Hour)
	nodes := []*Accounts{w.node(), w.node()}
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			if got, err := nodes[i%2].Rejected(t.Context(), "a", "at.a.0"); err != nil || got != "at.a.1" {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	callers.Wait()
	if n := w.idp.tokenPosts(); n != 1 || w.idp.reused() != 0 {
		t.Errorf("%d refreshes, %d tokens came twice", n, w.idp.reused())
	}
}

// slowly makes every answer of the token endpoint take some time, and returns the most that ran side by side.
func slowly(idp *fakeProvider, d time.Duration) *atomic.Int32 {
	var running, most atomic.Int32
	idp.set(func(p *fakeProvider) {
		p.answer = func(rw http.ResponseWriter, r *http.Request) {
			n := running.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(d)
			running.Add(-1)
			p.mu.Lock()
			status, m := p.issue(r.PostForm)
			p.mu.Unlock()
			writeJSON(rw, status, m)
		}
	})
	return &most
}

// All users come back after a night: they wait for a moment, and none is refused.
func TestR18ManyExpiredAccountsAreRefreshedABoundedNumberAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		most := slowly(w.idp, 200*time.Millisecond)
		const users = 2000
		var callers sync.WaitGroup
		begin := time.Now()
		for i := range users {
			id := fmt.Sprintf("u%d", i)
			w.add(id, 10*time.Hour, time.Hour)
			callers.Go(func() {
				if got, err := w.accounts.Token(t.Context(), id); err != nil || got != "at."+id+".1" {
					t.Errorf("got %s, %v", got, err)
				}
			})
		}
		callers.Wait()
		if n := most.Load(); n != maxParallel {
			t.Errorf("%d side by side", n)
		}
		t.Logf("%d users at 200 ms each: all served within %v", users, time.Since(begin))
	})
}

// A request that leaves takes nothing with it: the refresh goes on and is saved.
func TestR08ClientThatLeavesDoesNotCancelTheRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		slowly(w.idp, 5*time.Second)
		w.add("a", 2*time.Hour, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.accounts.Token(ctx, "a"); !isUnavailable(err) {
			t.Errorf("got %v", err)
		}
		time.Sleep(5 * time.Second)
		if acc := w.stored("a"); acc.AccessToken != "at.a.1" || acc.RefreshToken != "rt.a.1" {
			t.Errorf("stored %+v", acc)
		}
		if w.token("a"); w.idp.tokenPosts() != 1 {
			t.Errorf("%d refreshes", w.idp.tokenPosts())
		}
	})
}

// A slow provider holds requests for a bounded time, and no login is lost over it.
func TestR08SlowProviderHoldsRequestsForABoundedTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		most := slowly(w.idp, 25*time.Second)
		var callers sync.WaitGroup
		for i := range 200 {
			id := fmt.Sprintf("u%d", i)
			w.add(id, 10*time.Hour, time.Hour)
			callers.Go(func() {
				begin := time.Now()
				if _, err := w.accounts.Token(t.Context(), id); !isUnavailable(err) {
					t.Errorf("got %v", err)
				}
				if d := time.Since(begin); d > waitTime+time.Second {
					t.Errorf("waited %v", d)
				}
			})
		}
		callers.Wait()
		if n := most.Load(); n > maxParallel {
			t.Errorf("%d side by side", n)
		}
		time.Sleep(time.Minute)
		slowly(w.idp, 0)
		for i := range 200 {
			w.token(fmt.Sprintf("u%d", i))
		}
		if w.idp.reused() != 0 {
			t.Errorf("%d refresh tokens came twice", w.idp.reused())
		}
	})
}
