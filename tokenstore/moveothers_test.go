package tokenstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// A move that another node aborted while it compared does not take the freeze of the next one for its own: the source was written in between.
func TestMoveThatIsAbortedAndBegunAgainElsewhereIsNotFinished(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"the same target", "another target"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			w := newMoveWorld(t)
			populate(t, w.from, 5)
			m, begun := w.move(), false
			change := func(was, now tokenstore.Freeze) tokenstore.Freeze {
				if err := w.from.Freeze(t.Context(), was, now); err != nil {
					t.Error(err)
				}
				return now
			}
			m.Progress = func(p tokenstore.Progress) {
				if begun || p.Step != tokenstore.MoveVerifying || p.Kind == tokenstore.Kinds()[0] {
					return
				}
				begun = true
				was, err := w.from.Frozen(t.Context())
				if err != nil {
					t.Error(err)
				}
				change(was, tokenstore.Freeze{})
				row := tokenstore.Row{Kind: tokenstore.Kinds()[0], ID: "written-meanwhile", Version: 1, Sealed: []byte("sealed")}
				if err := w.from.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: row}); err != nil {
					t.Error(err)
				}
				now := was
				now.State, now.Since = tokenstore.FreezeMoving, was.Since.Add(time.Second)
				if to == "another target" {
					now.State, now.To = tokenstore.FreezeEnding, "elsewhere"
				}
				change(tokenstore.Freeze{}, now)
			}
			if _, err := m.Run(t.Context()); !errors.Is(err, tokenstore.ErrMove) {
				t.Errorf("Run = %v; want ErrMove", err)
			}
			if !begun {
				t.Fatal("nothing was compared")
			}
			wantState(t, w.to, tokenstore.FreezeFilling)
		})
	}
}

// usedJustNow is a target that somebody begins to use when it was found to be empty.
type usedJustNow struct{ *bbolt.Store }

func (u usedJustNow) Freeze(ctx context.Context, was, now tokenstore.Freeze) error {
	if now.State == tokenstore.FreezeFilling {
		if err := u.Apply(ctx, tokenstore.Change{Op: tokenstore.OpInsert, Row: tokenstore.Row{Kind: tokenstore.KindKeyring, ID: "used", Version: 1}}); err != nil {
			return err
		}
	}
	return u.Store.Freeze(ctx, was, now)
}

func TestTargetThatIsUsedAtTheLastMomentIsNotOverwritten(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	populate(t, w.from, 5)
	m := w.move()
	m.To = usedJustNow{w.to}
	if _, err := m.Run(t.Context()); !errors.Is(err, tokenstore.ErrMove) {
		t.Errorf("Run = %v; want ErrMove", err)
	}
	wantState(t, w.from, "")
	wantState(t, w.to, "")
	if _, err := w.to.Get(t.Context(), tokenstore.KindKeyring, "used"); err != nil {
		t.Errorf("what was written in the target is lost: %v", err)
	}
}

// A target that was emptied when the move was about to end is not said to hold the vault.
func TestMoveDoesNotEndWhereTheTargetWasEmptied(t *testing.T) {
	t.Parallel()
	w := newMoveWorld(t)
	populate(t, w.from, 5)
	m, at := w.move(), 4
	m.From = cutting{Store: w.from, at: &at} // which is not told that the move has ended
	if _, err := m.Run(t.Context()); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	wantState(t, w.from, tokenstore.FreezeEnding)
	emptied := newMoveWorld(t)
	again := w.move()
	again.To = emptied.to
	if _, err := again.Run(t.Context()); !errors.Is(err, tokenstore.ErrMove) {
		t.Errorf("Run = %v; want ErrMove", err)
	}
	wantState(t, w.from, tokenstore.FreezeEnding)
}
