//go:build slow

package e2e

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// R12, R17: tokens that live five seconds, 200 calls at a time for a minute, at a provider that ends a login when a refresh
// token is used twice.
func TestSlowR12R17ShortTokensUnderLoad(t *testing.T) {
	const (
		life     = 5 * time.Second
		duration = time.Minute
		callers  = 200
	)
	w := testenv.Start(t, testenv.Options{TokenLife: life})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	ctx, stop := context.WithTimeout(t.Context(), duration)
	defer stop()
	var calls, failed atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				who, err := b.WhoAmI(t.Context())
				calls.Add(1)
				if err != nil || !strings.Contains(who, "You are alice") {
					if failed.Add(1) < 5 {
						t.Errorf("%q, %v", who, err)
					}
				}
			}
		})
	}
	wg.Wait()
	s := w.Provider.Stats()
	// No token is refreshed twice: there is no replay. And none before half of its life, which the provider says in whole
	// seconds, cut off.
	most := int(duration/((life-time.Second)/2)) + 2
	t.Logf("%d calls, %d failed; %d refreshes, at most %d expected; %+v", calls.Load(), failed.Load(), s.Refreshes, most, s)
	if failed.Load() != 0 || s.Refreshes > most || s.Refreshes < int(duration/life)-1 || s.Replays != 0 || s.Refused != 0 || s.Logins != 1 {
		t.Errorf("%d of %d calls failed; %+v", failed.Load(), calls.Load(), s)
	}
}
