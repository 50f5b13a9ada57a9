package upstream

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Users whose tokens live for a minute, and who call twice a second, do not wait for a provider that takes seconds to renew one: each token is renewed before
// it ends. The bubble has its own time, so that a call which does not wait takes none.
func TestSteadyTrafficNeverWaitsForTheProvider(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const (
			accounts = 20
			life     = time.Minute
			duration = 10 * time.Minute
			every    = 500 * time.Millisecond
		)
		w := bubbleWorld(t)
		w.idp.lives = int(life / time.Second)
		slowly(w.idp, 3*time.Second)
		var calls, waited atomic.Int64
		var group sync.WaitGroup
		for i := range accounts {
			id := fmt.Sprintf("account-%d", i)
			w.add(id, 0, life)
			group.Go(func() {
				for begun := time.Now(); time.Since(begun) < duration; time.Sleep(every) {
					asked := time.Now()
					if _, err := w.accounts.Token(t.Context(), id); err != nil {
						t.Errorf("%s: %v", id, err)
					}
					calls.Add(1)
					if time.Since(asked) > 0 {
						waited.Add(1)
					}
				}
			})
		}
		group.Wait()
		if waited.Load() != 0 {
			t.Errorf("%d of %d calls waited", waited.Load(), calls.Load())
		}
		if n, least := w.idp.tokenPosts(), accounts*int(duration/life); n < least || n > 3*least || w.idp.reused() != 0 {
			t.Errorf("%d refreshes, %d refresh tokens came twice; want %d to %d", n, w.idp.reused(), least, 3*least)
		}
	})
}
