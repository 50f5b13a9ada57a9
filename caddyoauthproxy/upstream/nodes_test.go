package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Nodes on one vault spend each refresh token once between them, in front of a provider that ends the family when one comes twice.
func TestR19NodesSpendEachRefreshTokenOnce(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 5} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			t.Parallel()
			const rounds = 200
			c := clusterIn(realWorld(t), nodes)
			c.add("a", 2*time.Hour, time.Hour)
			for round := 1; round <= rounds; round++ {
				c.all("a", fmt.Sprintf("at.a.%d", round), 3)
				c.clock.turn(61 * time.Minute)
			}
			c.sound("a", rounds)
		})
	}
}

// However many requests find the token expired on however many nodes, it is renewed once, and all get it.
func TestR17OneRefreshForAllRequestsOfAllNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clusterIn(bubbleWorld(t), 5)
		slowly(c.idp, time.Second)
		c.add("a", 2*time.Hour, time.Hour)
		began := time.Now()
		c.all("a", "at.a.1", 500)
		if d := time.Since(began); d != time.Second {
			t.Errorf("all waited %v for a provider that takes a second", d)
		}
		c.sound("a", 1)
	})
}

// A node that is told of no change, or not in time, finds out all the same.
func TestNodeThatIsToldOfNothingLooksByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clusterIn(bubbleWorld(t), 2)
		slowly(c.idp, 1500*time.Millisecond)
		c.nodes[1].store.set(func(s *nodeStore) { s.deaf = true })
		c.add("a", 2*time.Hour, time.Hour)
		began := time.Now()
		c.all("a", "at.a.1", 10)
		if d := time.Since(began); d > 1500*time.Millisecond+slowLook {
			t.Errorf("waited %v", d)
		}
		c.sound("a", 1)
		// It remembers a token that another node renews: it looks before it renews it, too.
		c.clock.turn(2 * time.Hour)
		if got, err := c.nodes[0].Token(t.Context(), "a"); err != nil || got != "at.a.2" {
			t.Fatalf("got %s, %v", got, err)
		}
		if got, err := c.nodes[1].Token(t.Context(), "a"); err != nil || got != "at.a.2" {
			t.Errorf("got %s, %v", got, err)
		}
		c.sound("a", 2)
		// And what would have the user log in again it does not believe.
		c.add("b", 0, time.Hour, func(acc *tokenstore.Account) { end(acc, tokenstore.StateNeedsReauth, "test") })
		if _, err := c.nodes[1].Token(t.Context(), "b"); !errors.Is(err, ErrNeedsReauth) {
			t.Errorf("got %v", err)
		}
		acc := c.stored("b")
		acc.State, acc.AccessToken, acc.Expires = tokenstore.StateActive, "back", time.Time{}
		if err := c.world.vault.Commit(t.Context(), tokenstore.Save(acc)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.nodes[1].Token(t.Context(), "b"); err != nil || got != "back" {
			t.Errorf("got %s, %v", got, err)
		}
	})
}

// A token that is good costs the vault nothing, also while another node renews it.
func TestGoodTokensAreHandedOutFromMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clusterIn(bubbleWorld(t), 1)
		node := c.nodes[0]
		c.add("a", 0, time.Hour)
		c.add("b", 59*time.Minute, time.Hour, crashed(c.world, false))
		synctest.Wait() // the node has been told
		for _, id := range []string{"a", "b"} {
			for range 100 {
				if got, err := node.Token(t.Context(), id); err != nil || got != "at."+id+".0" {
					t.Fatalf("got %s, %v", got, err)
				}
				synctest.Wait()
			}
		}
		node.store.lose(true)
		node.store.set(func(s *nodeStore) {
			if s.gets > 4 { // the keyring, and the accounts
				t.Errorf("the vault was read %d times", s.gets)
			}
		})
		if got, err := node.Token(t.Context(), "a"); err != nil || got != "at.a.0" {
			t.Errorf("without the vault: got %s, %v", got, err)
		}
	})
}

// Nodes that see an account become due have it renewed by one of them, behind requests that go on, and the others cost the vault next to nothing.
func TestDueAccountIsRenewedByOneNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const accounts, rounds, life = 20, 4, 10 * time.Minute
		c := clusterIn(bubbleWorld(t), 5)
		slowly(c.idp, 300*time.Millisecond)
		c.idp.set(func(p *fakeProvider) { p.lives = life.Seconds() })
		for i := range accounts {
			c.add(fmt.Sprintf("u%d", i), 0, life)
		}
		applies := func() (n int) {
			for _, node := range c.nodes {
				node.store.set(func(s *nodeStore) { n += s.applies })
			}
			return n
		}
		before := applies()
		var users sync.WaitGroup
		for i := range accounts {
			for _, node := range c.nodes {
				users.Go(func() {
					id := fmt.Sprintf("u%d", i)
					for end := time.Now().Add(rounds * life / 2); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
						asked := time.Now()
						if _, err := node.Token(t.Context(), id); err != nil || time.Since(asked) != 0 {
							t.Errorf("%s: %v after %v", id, err, time.Since(asked))
							return
						}
					}
				})
			}
		}
		users.Wait()
		renewed := c.idp.tokenPosts()
		if renewed < accounts*(rounds-1) || renewed > accounts*rounds || c.idp.reused() != 0 {
			t.Errorf("%d refreshes, %d refresh tokens came twice", renewed, c.idp.reused())
		}
		if n := applies() - before; n > renewed*5/2 {
			t.Errorf("%d writes for %d refreshes", n, renewed)
		} else {
			t.Logf("%d writes for %d refreshes", n, renewed)
		}
	})
}

// A provider that takes its time keeps its lease: it is renewed, and nobody else asks.
func TestLeaseIsRenewedWhileTheProviderTakesItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clusterIn(bubbleWorld(t), 3)
		slowly(c.idp, 28*time.Second)
		c.add("a", 2*time.Hour, time.Hour)
		for begin := time.Now(); time.Since(begin) < 27*time.Second; time.Sleep(time.Second) {
			for _, node := range c.nodes {
				go func() { _, _ = node.Token(t.Context(), "a") }()
			}
			synctest.Wait()
			if left := time.Until(c.stored("a").Lease.Until); left < leaseTime/2 {
				t.Errorf("after %v the lease has %v left", time.Since(begin), left)
			}
		}
		c.all("a", "at.a.1", 1)
		c.sound("a", 1)
	})
}

// A node dies while it refreshes: the others go on when its lease has run out, with requests that wait for it.
func TestR20LeaseOfAKilledNodeIsTakenOver(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		rotated bool // the provider had answered
		grace   time.Duration
		lost    bool
	}{
		"before the provider has rotated": {},
		"after it, with grace":            {rotated: true, grace: time.Minute},
		"after it, strict":                {rotated: true, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := clusterIn(bubbleWorld(t), 3)
				c.add("a", 2*time.Hour, time.Hour)
				hung := insteadOnceIn(c.idp, tt.rotated, tt.grace)
				go func() { _, _ = c.nodes[0].Token(t.Context(), "a") }()
				<-hung
				c.nodes[0].kill()
				c.nodes = c.nodes[1:]
				began := time.Now()
				if tt.lost {
					if _, err := c.nodes[0].Token(t.Context(), "a"); !errors.Is(err, ErrNeedsReauth) {
						t.Errorf("got %v", err)
					}
				} else {
					c.idp.mu.Lock()
					want := fmt.Sprintf("at.a.%d", c.idp.families["a"].issued+1)
					c.idp.mu.Unlock()
					c.all("a", want, 50)
					c.sound("a", 2)
				}
				if d := time.Since(began); d > leaseTime+slowLook || d < leaseTime-slowLook {
					t.Errorf("waited %v", d)
				}
			})
		})
	}
}

// insteadOnceIn has the first token request hang for ever, where told after it has rotated, and tells when it came.
func insteadOnceIn(idp *fakeProvider, rotated bool, grace time.Duration) <-chan struct{} {
	came := make(chan struct{})
	idp.set(func(p *fakeProvider) {
		p.grace = grace
		hang := func(http.ResponseWriter, *http.Request) {
			p.set(func(p *fakeProvider) { p.answer, p.late = nil, nil })
			close(came)
			time.Sleep(5 * time.Minute)
		}
		if rotated {
			p.late = hang
		} else {
			p.answer = hang
		}
	})
	return came
}

// A node that has lost its lease before it could send anything, because it could not connect, sends nothing.
func TestR21RequestOfALostLeaseIsNotSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clusterIn(bubbleWorld(t), 2)
		c.add("a", 2*time.Hour, time.Hour)
		slow := c.nodes[0]
		if _, err := slow.providers["idp"].metadata.get(t.Context()); err != nil {
			t.Fatal(err)
		}
		slow.transport.dialling = func() { time.Sleep(15 * time.Second) }
		slow.store.set(func(s *nodeStore) {
			s.before = func(changes []tokenstore.Change) error {
				if changes[0].Row.Version > 2 { // it takes the lease, and nothing more gets through
					return tokenstore.ErrUnavailable
				}
				return nil
			}
		})
		var first sync.WaitGroup
		first.Go(func() {
			if got, err := slow.Token(t.Context(), "a"); err != nil || got != "at.a.1" {
				t.Errorf("slow: got %s, %v", got, err)
			}
		})
		synctest.Wait()
		if got, err := c.nodes[1].Token(t.Context(), "a"); err != nil || got != "at.a.1" {
			t.Errorf("got %s, %v", got, err)
		}
		first.Wait()
		c.sound("a", 1)
	})
}

// The same when it is told so: it does not wait for its connection.
func TestLostLeaseCancelsWhatWasNotSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clusterIn(bubbleWorld(t), 1)
		c.add("a", 2*time.Hour, time.Hour)
		node := c.nodes[0]
		if _, err := node.providers["idp"].metadata.get(t.Context()); err != nil {
			t.Fatal(err)
		}
		node.transport.dialling = func() { time.Sleep(29 * time.Second) }
		go func() {
			time.Sleep(time.Second)
			acc := c.stored("a")
			release := tokenstore.Lease{Owner: "another", Until: time.Now().Add(leaseTime)}
			acc.Lease = release
			if err := c.world.vault.Commit(t.Context(), tokenstore.Save(acc)); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
			acc.State, acc.Lease, acc.AccessToken, acc.Expires = tokenstore.StateActive, tokenstore.Lease{}, "of another", time.Time{}
			if err := c.world.vault.Commit(t.Context(), tokenstore.Save(acc)); err != nil {
				t.Error(err)
			}
		}()
		began := time.Now()
		got, err := node.Token(t.Context(), "a")
		if d := time.Since(began); err != nil || got != "of another" || d != 6*time.Second {
			t.Errorf("got %s, %v after %v", got, err, d)
		}
		time.Sleep(time.Minute)
		if n := c.idp.tokenPosts(); n != 0 {
			t.Errorf("%d refreshes", n)
		}
	})
}

// A vault that is away for some seconds, in whichever step of a refresh, is waited for: no refresh token comes twice, nobody has to log in
// again, and no request fails.
func TestVaultThatIsAwayForSecondsInAnyStepCostsNothing(t *testing.T) {
	t.Parallel()
	const away = 3 * time.Second
	claims := func(c tokenstore.Change) bool { return c.Row.State == string(tokenstore.StateRefreshing) }
	saves := func(c tokenstore.Change) bool { return c.Row.State == string(tokenstore.StateActive) }
	for name, tt := range map[string]struct {
		when  func(tokenstore.Change) bool
		made  bool // the write was made, and the node does not know
		waits time.Duration
	}{
		"before the claim":                {when: claims, waits: away},
		"during the claim, which is made": {when: claims, made: true, waits: away},
		"before the save":                 {when: saves},
		"during the save, which is made":  {when: saves, made: true},
	} {
		for _, nodes := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/%d nodes", name, nodes), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					c := clusterIn(bubbleWorld(t), nodes)
					c.add("a", 2*time.Hour, time.Hour)
					var once atomic.Bool
					fails := func(changes []tokenstore.Change) error {
						if changes[0].Row.Kind != tokenstore.KindAccount || !tt.when(changes[0]) || once.Swap(true) {
							return nil
						}
						c.outage(true)
						time.AfterFunc(away, func() { c.outage(false) })
						return tokenstore.ErrUnavailable
					}
					for _, node := range c.nodes {
						node.store.set(func(s *nodeStore) {
							if tt.made {
								s.after = fails
							} else {
								s.before = fails
							}
						})
					}
					began := time.Now()
					c.all("a", "at.a.1", 20)
					if d := time.Since(began); d > away+2*slowLook || d < tt.waits {
						t.Errorf("waited %v", d)
					}
					time.Sleep(away + 2*slowLook)
					if !once.Load() {
						t.Fatal("nothing went wrong")
					}
					c.sound("a", 1)
					time.Sleep(2 * time.Hour)
					c.all("a", "at.a.2", 5)
					c.sound("a", 2)
				})
			})
		}
	}
}

// After a long outage the node that has new tokens goes first, however long its lease has run out.
func TestHolderOfUnsavedTokensGoesFirstAfterAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clusterIn(bubbleWorld(t), 3)
		c.add("a", 2*time.Hour, time.Hour)
		slowly(c.idp, time.Second)
		time.AfterFunc(500*time.Millisecond, func() { c.outage(true) })
		if got, err := c.nodes[0].Token(t.Context(), "a"); err != nil || got != "at.a.1" {
			t.Fatalf("got %s, %v", got, err)
		}
		time.Sleep(5 * time.Minute)
		for i, node := range c.nodes { // the others see it again a little earlier
			time.AfterFunc(5*time.Second-time.Duration(i)*time.Second, func() { node.store.lose(false) })
		}
		var others sync.WaitGroup
		for _, node := range c.nodes[1:] { // they hang on the vault, and are there at once
			others.Go(func() {
				if got, err := node.Token(t.Context(), "a"); err != nil || got != "at.a.1" {
					t.Errorf("got %s, %v", got, err)
				}
			})
		}
		others.Wait()
		c.sound("a", 1)
	})
}

// One node revokes an account while another refreshes it, and the provider cannot be told of the tokens that come then: they are not forgotten.
func TestTokensOfARefreshThatARevocationOvertookAreRevoked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clusterIn(bubbleWorld(t), 2)
		c.add("a", 2*time.Hour, time.Hour)
		slowly(c.idp, time.Second)
		down := answerWith(503, jsonType, `{}`)
		time.AfterFunc(500*time.Millisecond, func() {
			tell, err := c.nodes[1].End(t.Context(), "a")
			if err != nil {
				t.Error(err)
			} else if err := tell(t.Context()); err != nil {
				t.Error(err)
			}
			c.idp.set(func(p *fakeProvider) { p.revoke = down })
		})
		if _, err := c.nodes[0].Token(t.Context(), "a"); !errors.Is(err, ErrNeedsReauth) {
			t.Errorf("got %v", err)
		}
		c.nodes[0].kill()
		c.idp.set(func(p *fakeProvider) { p.revoke = nil })
		for range 3 {
			time.Sleep(time.Minute)
			if err := c.nodes[1].RetryRevocations(t.Context()); err != nil {
				t.Error(err)
			}
		}
		gone := map[string]int{}
		for _, form := range c.idp.revoked {
			gone[form.Get("token")]++
		}
		for _, token := range []string{"rt.a.0", "at.a.0", "rt.a.1", "at.a.1"} {
			if gone[token] != 1 {
				t.Errorf("%s was revoked %d times", token, gone[token])
			}
		}
		if acc := c.stored("a"); acc.State != tokenstore.StateRevoked || acc.Revocation != nil {
			t.Errorf("stored %+v", acc)
		}
	})
}

// However slow the provider is, nodes that go on with a revocation do so one after the other.
func TestNodesTakeTurnsWithRevocations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clusterIn(bubbleWorld(t), 3)
		c.add("a", 0, time.Hour)
		var running, most, asked atomic.Int32
		for _, node := range c.nodes {
			node.providers["idp"].timeout = 2 * time.Minute
		}
		c.idp.set(func(p *fakeProvider) {
			p.revoke = func(rw http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				n := running.Add(1)
				most.Store(max(most.Load(), n))
				p.mu.Unlock()
				time.Sleep(57 * time.Second)
				p.mu.Lock()
				running.Add(-1)
				rw.WriteHeader(http.StatusOK)
			}
		})
		var all sync.WaitGroup
		all.Go(func() {
			tell, err := c.nodes[0].End(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			_ = tell(t.Context())
		})
		for i, node := range c.nodes {
			all.Go(func() {
				for range 10 {
					if err := node.RetryRevocations(t.Context()); err != nil {
						t.Errorf("node %d: %v", i, err)
					}
					time.Sleep(20 * time.Second)
				}
			})
		}
		all.Wait()
		if most.Load() != 1 || asked.Load() < 2 {
			t.Errorf("asked %d times, %d at a time", asked.Load(), most.Load())
		}
	})
}
