package tokenstore

import (
	"context"
	"errors"
	"fmt"
)

// undo has the source served as before, after an error.
func (m *Move) undo(ctx context.Context, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	err := ErrConflict
	if m.tried.Frozen() { // which may come late, behind what runs; and this comes behind that
		err = m.From.Freeze(ctx, m.tried, Freeze{})
	}
	if errors.Is(err, ErrConflict) {
		err = m.Thaw(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w; and the source remains read-only: %w", failed, err)
	}
	return failed
}

// Thaw has the source written again, unless the move came to its end.
func (m *Move) Thaw(ctx context.Context) error {
	f, err := m.From.Frozen(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Source, err)
	}
	if f.State != FreezeDraining && f.State != FreezeMoving {
		return nil
	}
	if err := m.From.Freeze(ctx, f, Freeze{}); err != nil {
		return fmt.Errorf("%s: %w", m.Source, err)
	}
	return nil
}

// finish has the target served, and then the source no more. From here on nothing is undone: the target may be in use. Run again, it goes on.
func (m *Move) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	f, err := m.From.Frozen(ctx)
	if err == nil && (f.State != FreezeEnding || f.To != m.Target) {
		if f.State != FreezeMoving || f.Text() != m.frozen.Text() { // which may be the freeze of a move that was begun after this one was ended
			return noMove("%s was written again meanwhile: somebody ended the migration", m.Source)
		}
		ending := m.state(FreezeEnding)
		err = m.From.Freeze(ctx, f, ending)
		f = ending
	}
	if err != nil {
		return m.unfinished(m.Source, err)
	}
	target, err := m.To.Frozen(ctx)
	if err == nil && target.State == FreezeFilling {
		err = m.To.Freeze(ctx, target, Freeze{})
	}
	if err != nil {
		return m.unfinished(m.Target, err)
	}
	if err := m.From.Freeze(ctx, f, m.state(FreezeMoved)); err != nil {
		return m.unfinished(m.Source, err)
	}
	return nil
}

func (*Move) unfinished(where string, err error) error {
	return fmt.Errorf("everything was copied, and is the same; the source remains read-only until the move is run again: %s: %w", where, err)
}
