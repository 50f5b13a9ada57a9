package bbolt

import (
	"context"
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// sweepBatch bounds how many rows one commit deletes, so that a long sweep does not hold up other writers. Each commit writes the pages anew that it
	// touches, and a row's index entries are on many: with fewer rows a sweep takes longer, and others wait as long.
	sweepBatch = 1000

	// sweepConflicts is how often a sweep looks again after somebody else changed a row that it was about to delete.
	sweepConflicts = 8
)

// Sweep implements tokenstore.Store. Rows that cannot be read are left.
func (s *Store) Sweep(ctx context.Context, kind tokenstore.Kind, before time.Time, limit int) (int, error) {
	deleted, conflicts := 0, 0
	for deleted < limit {
		batch := min(limit-deleted, sweepBatch)
		changes, err := s.expired(ctx, kind, before, batch)
		if err != nil {
			return deleted, err
		}
		err = s.Apply(ctx, changes...)
		if errors.Is(err, tokenstore.ErrConflict) {
			if conflicts++; conflicts > sweepConflicts {
				return deleted, nil // rows that are in such use are left to the next sweep
			}
			continue
		}
		if err != nil {
			return deleted, err
		}
		deleted += len(changes)
		if len(changes) < batch {
			break
		}
	}
	return deleted, nil
}

// expired makes the deletions of one batch, oldest first.
func (s *Store) expired(ctx context.Context, kind tokenstore.Kind, before time.Time, limit int) ([]tokenstore.Change, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	var changes []tokenstore.Change
	err := s.view(func(tx *bolt.Tx) error {
		rows, err := timed(tx, kind, expirySuffix, before, limit)
		for _, row := range rows {
			changes = append(changes, tokenstore.Change{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: kind, ID: row.ID, Version: row.Version}})
		}
		return err
	})
	return changes, err
}
