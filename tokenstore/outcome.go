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
	ring := v.ring() // which may be another by then
	err := v.store.Apply(ctx, changes...)
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrReadOnly) || ctx.Err() != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, outcomeTime)
	defer cancel()
	mark := telling(changes)
	row, getErr := v.store.Get(ctx, mark.Row.Kind, mark.Row.ID)
	shows := getErr == nil && mark.Op != OpDelete && v.holds(ring, row, mark.Row) || mark.Op == OpDelete && errors.Is(getErr, ErrNotFound)
	if shows && v.lasts(ctx) {
		return nil
	}
	return err
}

// lasts reports whether what shows is durable. In a file on a disk that refuses to sync it is not, and a power cut would take it back; but it is made durable together with what is
// committed after it, here nothing. A store that is read-only is about to be copied as it shows.
func (v *Vault) lasts(ctx context.Context) bool {
	err := v.store.Apply(ctx, Change{OpCheck, Row{Kind: KindKeyring, ID: generationRow, Version: v.ring().Generation}})
	return err == nil || errors.Is(err, ErrCheckFailed) || errors.Is(err, ErrReadOnly)
}

// holds reports whether a row holds the sealed value that was to be written, or, where the vault is sealed anew, what was in it.
func (v *Vault) holds(by *keyring, stored, written Row) bool {
	if bytes.Equal(stored.Sealed, written.Sealed) {
		return true
	}
	now, err := sealedBy(stored.Sealed)
	was, wasErr := sealedBy(written.Sealed)
	use, sealed := uses[written.Kind]
	if err != nil || wasErr != nil || now == was || !sealed || stored.Version != written.Version {
		return false
	}
	ring, err := v.newerRing(by)
	if err != nil {
		return false
	}
	stored.Kind, stored.ID = written.Kind, written.ID
	plain, err := ring.open(use, ring.rowContext(use, stored), stored.Sealed)
	ours, oursErr := by.open(use, by.rowContext(use, written), written.Sealed)
	return err == nil && oursErr == nil && bytes.Equal(plain, ours)
}

// telling is the one of some changes that says best whether all of them were made: a row that stays as it was written. Events are soon moved into their chain.
func telling(changes []Change) Change {
	best, bestRank := changes[0], 0
	for _, c := range changes {
		rank := 3
		switch {
		case c.Op == OpCheck:
			rank = 0
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
