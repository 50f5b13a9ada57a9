package upstream

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Whatever happens to the vault, in whatever order, no refresh token comes twice at a provider that forgives nothing: writes fail before they are made, or
// are made and seem to fail, nodes lose sight of the vault all together for up to a minute, and are told of no change.
func TestFaultsOfTheVaultOnManyNodesCostNoLogin(t *testing.T) {
	t.Parallel()
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to repeat: -args -soak.seed=%d", seed)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		const users, life, lasts = 30, 30 * time.Second, 20 * time.Minute
		c := clusterIn(bubbleWorld(t), 4)
		c.idp.set(func(p *fakeProvider) { p.lives = life.Seconds() })
		slowly(c.idp, 700*time.Millisecond)
		var mu sync.Mutex
		dice := rand.New(rand.NewPCG(seed, 0))
		roll := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return dice.IntN(n)
		}
		var calm atomic.Bool
		var faults, refused, asked atomic.Int64
		fault := func([]tokenstore.Change) error {
			if calm.Load() || roll(50) != 0 {
				return nil
			}
			faults.Add(1)
			return tokenstore.ErrUnavailable
		}
		for i := range users {
			c.add(fmt.Sprintf("u%d", i), 0, life)
		}
		for _, node := range c.nodes {
			node.store.set(func(s *nodeStore) { s.before, s.after = fault, fault })
		}
		var all sync.WaitGroup
		end := time.Now().Add(lasts)
		for i := range users {
			for n, node := range c.nodes {
				all.Go(func() {
					id := fmt.Sprintf("u%d", i)
					for time.Now().Before(end) && !t.Failed() {
						asked.Add(1)
						switch _, err := node.Token(t.Context(), id); {
						case err == nil:
						case isUnavailable(err):
							refused.Add(1)
						default:
							t.Errorf("%s on node %d at %v: %v", id, n, time.Now(), err)
						}
						time.Sleep(time.Duration(500+roll(10_000)) * time.Millisecond)
					}
				})
			}
		}
		for time.Now().Before(end) && !t.Failed() {
			time.Sleep(time.Duration(5+roll(60)) * time.Second)
			switch n := c.nodes[roll(len(c.nodes))]; roll(3) {
			case 0:
				c.outage(true)
				time.Sleep(time.Duration(1+roll(60)) * time.Second)
				c.outage(false)
			case 1:
				n.store.set(func(s *nodeStore) { s.deaf = true })
				time.Sleep(time.Duration(1+roll(10)) * time.Second)
				n.store.set(func(s *nodeStore) { s.deaf = false; clear(s.memory); s.forgets++ })
			default: // a node that loses sight of the vault for less than a lease loses none
				n.store.lose(true)
				time.Sleep(time.Duration(1+roll(3)) * time.Second)
				n.store.lose(false)
			}
		}
		calm.Store(true)
		all.Wait()
		time.Sleep(time.Minute)
		if n := c.idp.reused(); n != 0 {
			t.Errorf("%d refresh tokens came twice", n)
		}
		for i := range users {
			id := fmt.Sprintf("u%d", i)
			if acc := c.stored(id); acc.State != tokenstore.StateActive {
				t.Errorf("%s: stored %+v", id, acc)
			}
			for _, node := range c.nodes {
				if _, err := node.Token(t.Context(), id); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		}
		t.Logf("%d requests, %d refused for a while, %d refreshes, %d writes failed", asked.Load(), refused.Load(), c.idp.tokenPosts(), faults.Load())
	})
}
