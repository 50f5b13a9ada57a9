package tokenstore

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// outcomeTime bounds how long Commit tries to find out whether a change was made of which the store cannot say.
const outcomeTime = 2 * time.Second

// apply is Store.Apply that finds out what became of changes which the store lost sight of: a storage that goes away just then may have made them, and whoever is
// told that they failed would do again what is done. A sealed value has a random nonce, so that a row that holds ours was written by us.
func (v *Vault) apply(ctx context.Context, changes []Change) error {
	err := v.store.Apply(ctx, changes...)
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrReadOnly) || ctx.Err() != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, outcomeTime)
	defer cancel()
	mark := telling(changes)
	row, getErr := v.store.Get(ctx, mark.Row.Kind, mark.Row.ID)
	switch {
	case mark.Op == OpDelete && errors.Is(getErr, ErrNotFound), getErr == nil && mark.Op != OpDelete && bytes.Equal(row.Sealed, mark.Row.Sealed):
		return nil
	default:
		return err
	}
}

// telling is the one of some changes that says best whether all of them were made: a row that stays as it was written. Events are soon moved into their chain.
func telling(changes []Change) Change {
	best, bestRank := changes[0], 0
	for _, c := range changes {
		rank := 3
		switch {
		case c.Op == OpDelete:
			rank = 2
		case c.Row.Kind == KindEvent:
			rank = 1
		}
		if rank > bestRank {
			best, bestRank = c, rank
		}
	}
	return best
}
