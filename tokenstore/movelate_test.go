package tokenstore_test

import (
	"context"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// takenOver is a source in which somebody takes over a refresh, whose lease had run out, just before it takes no more; and ends it when he may write again.
type takenOver struct {
	*bbolt.Store
	t *testing.T
}

func (s takenOver) update(version uint64, state tokenstore.State) {
	if err := s.Apply(s.t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: refreshingAccount(version, state)}); err != nil {
		s.t.Errorf("version %d: %v", version, err)
	}
}

func (s takenOver) Freeze(ctx context.Context, was, now tokenstore.Freeze) error {
	row, err := s.Get(ctx, tokenstore.KindAccount, "acc")
	if err == nil && row.Version == 1 && now.State == tokenstore.FreezeMoving {
		s.update(2, tokenstore.StateRefreshing)
	}
	if err := s.Store.Freeze(ctx, was, now); err != nil {
		return err
	}
	if now.State == tokenstore.FreezeDraining && was.State == tokenstore.FreezeMoving {
		s.update(3, tokenstore.StateActive)
	}
	return nil
}

func TestRefreshThatIsTakenOverAtTheLastMomentEndsAndIsMoved(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	if err := w.from.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: refreshingAccount(1, tokenstore.StateRefreshing)}); err != nil {
		t.Fatal(err)
	}
	m := w.move()
	m.From = takenOver{w.from, t}
	m.Leased = func(row tokenstore.Row) bool { return row.Version == 2 }
	w.run(m)
	if r, err := w.to.Get(t.Context(), tokenstore.KindAccount, "acc"); err != nil || r.Version != 3 || string(r.Sealed) != "v3" {
		t.Errorf("the target has version %d %q, %v", r.Version, r.Sealed, err)
	}
	wantState(t, w.from, tokenstore.FreezeMoved)
}
