//go:build slow && !race

package e2e

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// What was revoked on one node is refused on the two others within a second, a thousand times while all is well, a thousand while the connections
// that listen are cut again and again, and some more while these stand still, as when a network swallows what is sent.
func TestSlowClusterRevocationsAreSeenInTime(t *testing.T) {
	c := testenv.StartCluster(t, testenv.ClusterOptions{Options: testenv.Options{TokenLife: time.Hour}})
	c.Ledger.ForgetRevocations() // the grants of the test come of one login
	vault := c.Vault(t)
	for _, mode := range []struct {
		name    string
		times   int
		disturb func(ctx context.Context) (count int)
	}{
		{"in peace", 1000, func(ctx context.Context) int { <-ctx.Done(); return 0 }},
		{"with listeners cut", 1000, func(ctx context.Context) (cut int) {
			for ctx.Err() == nil {
				cut += c.CutListeners(t)
				rest(ctx, 20*time.Millisecond)
			}
			return cut
		}},
		{"with listeners that stand still", 300, func(ctx context.Context) int { return halt(ctx, t, c) }},
	} {
		t.Run(mode.name, func(t *testing.T) {
			b := c.NewPlainBot(t, nil)
			b.Login(t, testenv.NewBrowser(testenv.Alice))
			tokens := copies(t, vault, b.ID, mode.times)
			ctx, stop := context.WithCancel(t.Context())
			var disturbance, wg sync.WaitGroup
			count := 0
			disturbance.Go(func() { count = mode.disturb(ctx) })
			var mu sync.Mutex
			took := make(durations, 0, 2*mode.times)
			work := make(chan string)
			for range 4 {
				wg.Go(func() {
					for token := range work {
						twin := via(c, b.Twin(token), 2)
						if err := twin.TryRefresh(); err != nil {
							t.Error(err)
							continue
						}
						seen := revocationSeen(t, c, twin)
						mu.Lock()
						took = append(took, seen...)
						mu.Unlock()
					}
				})
			}
			for _, token := range tokens {
				work <- token
			}
			close(work)
			wg.Wait()
			stop()
			disturbance.Wait()
			t.Logf("refused on the other nodes after a revocation: %s; %d listeners disturbed", took, count)
			if count == 0 && strings.HasPrefix(mode.name, "with") {
				t.Error("no listener was disturbed: nothing was shown")
			}
		})
	}
}

// halt stops the processes that serve the connections which listen, those of new ones too, and lets them go on in the end.
func halt(ctx context.Context, t *testing.T, c *testenv.Cluster) (halted int) {
	stopped := make(map[int]bool)
	for ctx.Err() == nil {
		for _, pid := range c.Listeners(t) {
			if !stopped[pid] && syscall.Kill(pid, syscall.SIGSTOP) == nil {
				stopped[pid] = true
			}
		}
		rest(ctx, 500*time.Millisecond)
	}
	for pid := range stopped {
		_ = syscall.Kill(pid, syscall.SIGCONT) // or it has ended
	}
	return len(stopped)
}
