package upstream

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// herdSize is how many requests come at once.
const herdSize = 10_000

// herd has all of them ask for one account's token at once, and returns how long each waited, in order.
func (w *world) herd(id, want string) []time.Duration {
	w.t.Helper()
	waits := make([]time.Duration, herdSize)
	start := make(chan struct{})
	var callers sync.WaitGroup
	for i := range herdSize {
		callers.Go(func() {
			<-start
			begin := time.Now()
			token, err := w.accounts.Token(w.t.Context(), id)
			waits[i] = time.Since(begin)
			if err != nil || token != want {
				w.t.Errorf("request %d: got %q, %v", i, token, err)
			}
		})
	}
	close(start)
	callers.Wait()
	slices.Sort(waits)
	return waits
}

// share is the wait that this part of the requests does not exceed.
func share(waits []time.Duration, part float64) time.Duration {
	return waits[int(part*float64(len(waits)-1))]
}

// Ten thousand requests that find one token expired cost one refresh, and wait for the provider and nothing else.
func TestTenThousandRequestsMakeOneRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		const answers = time.Second
		slowly(w.idp, answers)
		w.add("a", 2*time.Hour, time.Hour)
		if _, err := w.provider.metadata.get(t.Context()); err != nil {
			t.Fatal(err)
		}
		waits := w.herd("a", "at.a.1")
		if n := w.idp.tokenPosts(); n != 1 || w.idp.reused() != 0 {
			t.Errorf("%d refreshes, %d refresh tokens came twice", n, w.idp.reused())
		}
		if p99 := share(waits, 0.99); p99 > answers*11/10 {
			t.Errorf("p99 waits %v for a provider that takes %v", p99, answers)
		}
		if longest := waits[len(waits)-1]; longest > answers*11/10 {
			t.Errorf("one waits %v for a provider that takes %v", longest, answers)
		}
		if acc := w.stored("a"); acc.AccessToken != "at.a.1" || acc.RefreshToken != "rt.a.1" {
			t.Errorf("stored %+v", acc)
		}
	})
}

// The same in real time, where processors are scarce: how long it takes is told and not judged.
func TestTenThousandRequestsMakeOneRefreshInRealTime(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	const answers = time.Second
	slowly(w.idp, answers)
	w.add("a", 2*time.Hour, time.Hour)
	waits := w.herd("a", "at.a.1")
	if n := w.idp.tokenPosts(); n != 1 || w.idp.reused() != 0 {
		t.Errorf("%d refreshes, %d refresh tokens came twice", n, w.idp.reused())
	}
	for id := range w.accounts.needed.Range {
		t.Errorf("the refresh of %v is still waited for", id)
	}
	t.Logf("%d requests, provider takes %v: they wait p50 %v, p99 %v, at most %v",
		herdSize, answers, share(waits, 0.5), share(waits, 0.99), waits[len(waits)-1])
}
