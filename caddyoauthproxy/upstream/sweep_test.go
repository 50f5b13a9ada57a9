package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// While every account is due on three nodes at once, somebody else saves the same accounts over and over, and the clean-up deletes all that it may: each
// refresh token is spent once, and the vault ends with the newest.
func TestR24RefreshesCleanUpAndOtherWritesTogetherLoseNoToken(t *testing.T) {
	t.Parallel()
	const rounds, users = 50, 8
	w := &world{t: t, idp: serve(t), key: tokenstore.NewRootKey(), clock: new(clock)}
	file := openFile(t)
	c := &cluster{world: w}
	for range 3 {
		vault, err := tokenstore.Open(t.Context(), file, tokenstore.Options{Keys: []tokenstore.RootKey{w.key}, Now: w.clock.now})
		if err != nil {
			t.Fatal(err)
		}
		w.vault, w.provider = vault, w.idp.provider(t)
		c.nodes = append(c.nodes, &clusterNode{vault: vault, Accounts: w.node(func(o *AccountsOptions) { o.Logger = zap.NewNop() })})
	}
	w.accounts = c.nodes[0].Accounts
	for i := range users {
		c.add(fmt.Sprintf("u%d", i), 2*time.Hour, time.Hour)
	}
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	saved, swept := 0, 0
	others.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			acc := c.stored(fmt.Sprintf("u%d", i%users))
			acc.DeleteAfter = w.vault.Now().Add(10_000 * time.Hour).Truncate(time.Second)
			switch err := w.vault.Commit(context.Background(), tokenstore.Save(acc)); {
			case err == nil:
				saved++
			case !errors.Is(err, tokenstore.ErrConflict):
				t.Error(err)
			}
		}
	})
	others.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			gone := &tokenstore.Login{Meta: tokenstore.Meta{ID: fmt.Sprint("login-", i), DeleteAfter: w.vault.Now().Add(-time.Second)}}
			if err := w.vault.Commit(context.Background(), tokenstore.Save(gone)); err != nil {
				t.Error(err)
			}
			n, err := w.vault.Sweep(context.Background(), w.vault.Now(), 1000)
			if err != nil {
				t.Error(err)
			}
			swept += n
		}
	})
	for round := 1; round <= rounds; round++ {
		var all sync.WaitGroup
		for i := range users {
			all.Go(func() { c.all(fmt.Sprintf("u%d", i), fmt.Sprintf("at.u%d.%d", i, round), 2) })
		}
		all.Wait()
		w.clock.turn(61 * time.Minute)
	}
	stop()
	others.Wait()
	for i := range users {
		c.sound(fmt.Sprintf("u%d", i), rounds*users)
	}
	if saved == 0 || swept == 0 {
		t.Errorf("%d other writes and %d deletions beside %d refreshes", saved, swept, rounds*users)
	}
	t.Logf("%d refreshes, %d other writes, %d deletions", rounds*users, saved, swept)
}
