package postgres

import (
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What checks the keyring is not committed behind the back of who changes it: that waits for what has checked, and is not committed yet.
func TestChangeOfTheKeyringWaitsForWhatHasCheckedIt(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t), Wait: 20 * time.Second})
	ring := tokenstore.Row{Kind: tokenstore.KindKeyring, ID: "ring", Version: 1}
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: ring}); err != nil {
		t.Fatal(err)
	}
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }() // of what was committed
	p := &pending{slot: maxSlots, sequence: 1, batch: newBatch([]tokenstore.Change{
		{Op: tokenstore.OpCheck, Row: ring}, {Op: tokenstore.OpInsert, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: "grant-1", Version: 1}},
	})}
	var outcome int
	if err := tx.QueryRow(t.Context(), s.applySQL, s.arguments(p)...).Scan(&outcome); err != nil || outcome != outcomeMade {
		t.Fatal(outcome, err)
	}
	changed := make(chan error, 1)
	ring.Version = 2
	go func() { changed <- s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: ring}) }()
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var waiting int
		if err := s.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		if waiting > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the change of the keyring does not wait")
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-changed; err != nil {
		t.Errorf("Apply = %v", err)
	}
}
