//go:build slow

package e2e

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// Ten thousand requests find one grant's upstream token ended, a thousand of them at a time: the provider is asked once, and all are served.
func TestSlowTenThousandRequestsOnAnExpiredGrantMakeOneRefresh(t *testing.T) {
	const (
		requests = 10_000
		callers  = 1000
		life     = 2 * time.Second
	)
	w := testenv.Start(t, testenv.Options{TokenLife: time.Hour, Ledger: true})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	w.Ledger.SayLife(life)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	ended := time.Now().Add(life)
	testenv.Eventually(t, "the token to end", func() bool { return time.Now().After(ended) })
	w.Ledger.SayLife(time.Hour)
	w.Ledger.Linger(2 * time.Second)

	var next, served atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for next.Add(1) <= requests {
				who, err := b.WhoAmI(t.Context())
				if err != nil || !strings.Contains(who, "You are alice") {
					t.Errorf("%q, %v", who, err)
					continue
				}
				served.Add(1)
			}
		})
	}
	group.Wait()
	s := scrape(t, w)
	waited := s.of("upstream_refresh_wait_seconds_count", `provider="demo"`)
	t.Logf("%d of %d served, %g waited for the refresh of another", served.Load(), requests, waited)
	if served.Load() != requests {
		t.Errorf("%d of %d served", served.Load(), requests)
	}
	if p := w.Provider.Stats(); p.Refreshes != 1 || p.Refused != 0 || s.of("upstream_refreshes_total", `outcome="ok"`) != 1 {
		t.Errorf("provider: %+v; want one refresh", p)
	}
}

// Users whose upstream tokens live for half a minute, at a provider that takes up to two seconds to renew one, call all the time: each token is renewed
// before it ends, so that nobody waits for the provider. If a token ended, one call would begin its refresh and the others of that user would wait for it.
func TestSlowSteadyTrafficDoesNotWaitForTheProvider(t *testing.T) {
	const (
		life     = 30 * time.Second
		duration = 75 * time.Second
		callers  = 8 // of each user
		every    = 50 * time.Millisecond
	)
	w := testenv.Start(t, testenv.Options{TokenLife: life, Ledger: true})
	bots := []*testenv.PlainBot{w.NewPlainBot(t), w.NewPlainBot(t)}
	for i, user := range []*testenv.Browser{testenv.NewBrowser(testenv.Alice), testenv.NewBrowser(testenv.Bob)} {
		bots[i].UseHTTP2()
		bots[i].Login(t, user)
	}
	w.Ledger.Linger(2 * time.Second)
	end := time.After(duration)
	over := make(chan struct{})
	go func() {
		<-end
		close(over)
	}()
	var calls atomic.Int64
	var group sync.WaitGroup
	for _, b := range bots {
		for range callers {
			group.Go(func() {
				tick := time.NewTicker(every)
				defer tick.Stop()
				for {
					select {
					case <-over:
						return
					case <-tick.C:
					}
					if _, err := b.WhoAmI(t.Context()); err != nil {
						t.Error(err)
					}
					calls.Add(1)
				}
			})
		}
	}
	group.Wait()
	s, p := scrape(t, w), w.Provider.Stats()
	waited := s.of("upstream_refresh_wait_seconds_count", `provider="demo"`)
	t.Logf("%d calls, %g waited for a refresh; provider: %+v", calls.Load(), waited, p)
	if waited > float64(calls.Load())/10_000 {
		t.Errorf("%g of %d calls waited for a refresh; want less than 0.01%%", waited, calls.Load())
	}
	if least := len(bots) * int(duration/life); p.Refreshes < least || p.Refused != 0 || p.Logins != len(bots) {
		t.Errorf("provider: %+v; want %d refreshes or more", p, least)
	}
}
