package postgres

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// A freeze that waits for what runs goes on when the move is cancelled. It does not leave a vault behind that is read-only for nobody.
func TestMoveThatIsCancelledWhileItFreezesLeavesTheSourceAsItWas(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	s := openStore(t, Options{Connection: connection})
	mustApply(t, s, insertGrant("grant"))
	to, err := bbolt.Open(filepath.Join(t.TempDir(), "to.db"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = to.Close() }()
	running := admin(t, testpg.Shared(t), connection) // an Apply that takes a while
	if _, err := running.Exec(t.Context(), "SELECT pg_advisory_lock_shared($1)", lockKey(DefaultSchema, "freeze")); err != nil {
		t.Fatal(err)
	}
	waiting := func() (n int) {
		err := running.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").Scan(&n)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := (&tokenstore.Move{From: s, To: to, Source: "from", Target: "to", Vault: "vault"}).Run(ctx)
		ended <- err
	}()
	eventually(t, "the freeze waits", func() bool { return waiting() == 1 })
	cancel()
	eventually(t, "the move is over, or undoes what it did", func() bool { return len(ended) == 1 || waiting() == 2 })
	if _, err := running.Exec(t.Context(), "SELECT pg_advisory_unlock_shared($1)", lockKey(DefaultSchema, "freeze")); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v", err)
	}
	eventually(t, "nobody waits any more", func() bool { return waiting() == 0 && s.pool.Stat().AcquiredConns() == 0 })
	if f, err := s.Frozen(t.Context()); err != nil || f.Frozen() {
		t.Errorf("the source is %+v, %v", f, err)
	}
	mustApply(t, s, updateGrant("grant", 2))
}
