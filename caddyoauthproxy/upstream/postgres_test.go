package upstream

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// postgresCluster is a cluster on a real database. Its clock can be turned, but not what the database says of itself.
func postgresCluster(t *testing.T, connection string, n int) *cluster {
	t.Helper()
	w := &world{t: t, idp: serve(t), key: tokenstore.NewRootKey(), clock: new(clock)}
	c := &cluster{world: w}
	for range n {
		store, err := postgres.Open(t.Context(), postgres.Options{Connection: connection, MaxStale: postgres.DefaultMaxStale})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		now := func() time.Time { return store.Now().Add(w.clock.ahead()) }
		vault, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{w.key}, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		w.vault, w.provider = vault, w.idp.provider(t)
		c.nodes = append(c.nodes, &clusterNode{vault: vault, Accounts: w.node()})
	}
	w.accounts = c.nodes[0].Accounts
	return c
}

func TestR19NodesOnPostgreSQLSpendEachRefreshTokenOnce(t *testing.T) {
	t.Parallel()
	const rounds = 100
	c := postgresCluster(t, testpg.Database(t), 3)
	c.add("a", 2*time.Hour, time.Hour)
	for round := 1; round <= rounds; round++ {
		c.all("a", fmt.Sprintf("at.a.%d", round), 3)
		c.clock.turn(61 * time.Minute)
	}
	c.sound("a", rounds)
}

// Nodes that wait for another's refresh are told when it is done.
func TestNodesOnPostgreSQLAreWoken(t *testing.T) {
	t.Parallel()
	c := postgresCluster(t, testpg.Database(t), 2)
	c.add("a", 2*time.Hour, time.Hour)
	const rounds, answers = 5, 100 * time.Millisecond
	slowly(c.idp, answers)
	began := time.Now()
	for round := 1; round <= rounds; round++ {
		c.all("a", fmt.Sprintf("at.a.%d", round), 3)
		c.clock.turn(61 * time.Minute)
	}
	if d := time.Since(began); d > rounds*slowLook {
		t.Errorf("%d refreshes of %v took %v", rounds, answers, d)
	}
	c.sound("a", rounds)
}

// The database is restarted, and killed and started again, while tokens of seconds are used and renewed on all nodes: nobody is logged out, no refresh token
// comes twice, and no request fails.
func TestRestartsOfPostgreSQLCostNoLogin(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	c := postgresCluster(t, server.Connection(), 3)
	const users, life = 8, 3 * time.Second
	c.idp.set(func(p *fakeProvider) { p.lives = life.Seconds() })
	for i := range users {
		c.add(fmt.Sprintf("u%d", i), 0, life)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asked atomic.Int64
	var all sync.WaitGroup
	for i := range users {
		for n, node := range c.nodes {
			all.Go(func() {
				id := fmt.Sprintf("u%d", i)
				for ctx.Err() == nil {
					if _, err := node.Token(t.Context(), id); err != nil {
						t.Errorf("%s on node %d: %v", id, n, err)
						return
					}
					asked.Add(1)
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
	}
	time.Sleep(2 * time.Second)
	server.Restart(t)
	time.Sleep(2 * time.Second)
	server.Kill(t)
	time.Sleep(time.Second)
	server.Restart(t)
	time.Sleep(2 * time.Second)
	stop()
	all.Wait()
	if n := c.idp.reused(); n != 0 {
		t.Errorf("%d refresh tokens came twice", n)
	}
	if n := c.idp.tokenPosts(); n < users {
		t.Errorf("%d refreshes", n)
	}
	t.Logf("%d requests, %d refreshes", asked.Load(), c.idp.tokenPosts())
}
