package postgres_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// TestNodesShareAVault opens one vault on several nodes at once, and has them do what only one may do, or all together.
func TestNodesShareAVault(t *testing.T) {
	t.Parallel()
	connection, key := testpg.Database(t), tokenstore.NewRootKey()
	vaults := make([]*tokenstore.Vault, 3)
	var opening sync.WaitGroup
	for i := range vaults {
		s := open(t, postgres.Options{Connection: connection, Wait: 20 * time.Second})
		opening.Go(func() {
			v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
			if err != nil {
				t.Errorf("node %d: %v", i, err)
			}
			vaults[i] = v
		})
	}
	opening.Wait()
	if t.Failed() {
		t.FailNow()
	}
	everyNode := func(what func(v *tokenstore.Vault)) {
		var nodes sync.WaitGroup
		for _, v := range vaults {
			nodes.Go(func() { what(v) })
		}
		nodes.Wait()
	}

	var runs atomic.Int32
	everyNode(func(v *tokenstore.Vault) {
		if _, err := v.RunJob(t.Context(), "clean-up", time.Hour, func(context.Context) error {
			runs.Add(1)
			return nil
		}); err != nil {
			t.Errorf("RunJob: %v", err)
		}
	})
	if runs.Load() != 1 {
		t.Errorf("a job was done %d times", runs.Load())
	}

	const events = 40
	everyNode(func(v *tokenstore.Vault) {
		for n := range events {
			v.Note(v.NewEvent(t.Context(), tokenstore.EventTokenIssued))
			if n%10 == 9 {
				if err := v.FlushAudit(t.Context()); err != nil {
					t.Errorf("FlushAudit: %v", err)
				}
			}
		}
	})
	if err := vaults[0].FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	report, err := vaults[1].VerifyAudit(t.Context(), "")
	if err != nil || !report.Whole() || report.Events != events*len(vaults) || report.Waiting != 0 {
		t.Errorf("audit trail of %d events by several nodes: %+v, %v", events*len(vaults), report, err)
	}

	told := make(chan string, 100)
	stop := vaults[2].WatchRevocationOrders(func(id string) { told <- id })
	defer stop()
	order := &tokenstore.RevocationOrder{Meta: tokenstore.Meta{ID: "order-1"}, Filter: tokenstore.RevocationFilter{UserID: "user-1"}, By: "ann", Reason: "a leak", Created: vaults[0].Now()}
	if err := vaults[0].Commit(t.Context(), tokenstore.Save(order)); err != nil {
		t.Fatal(err)
	}
	for late := time.After(10 * time.Second); ; {
		select {
		case id := <-told:
			if id != "order-1" && id != "" {
				t.Errorf("told of %q", id)
			}
		case <-late:
			t.Fatal("another node is not told of a revocation order")
		}
		if orders, err := vaults[2].RevocationOrders(t.Context(), true); err == nil && len(orders) == 1 && orders[0].ID == "order-1" {
			return
		}
	}
}
