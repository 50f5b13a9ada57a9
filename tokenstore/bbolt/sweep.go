package bbolt

import (
	"bytes"
	"context"
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// sweepBatch bounds how many rows one commit deletes, so that a long sweep does not hold up other writers.
	sweepBatch = 256

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
		b, err := bucket(tx, kind, expirySuffix)
		if err != nil {
			return err
		}
		var last []byte
		end := expiryKey(before, "")
		c := b.Cursor()
		for key, _ := c.First(); key != nil && bytes.Compare(key, end) < 0 && len(changes) < limit; key, _ = c.Next() {
			if len(key) <= expirySize || len(key) > expirySize+tokenstore.MaxKey || bytes.Compare(key, last) <= 0 {
				continue // damaged
			}
			last = bytes.Clone(key)
			row, err := get(tx, kind, string(key[expirySize:]))
			if err != nil || !bytes.Equal(key, expiryKey(row.DeleteAfter, row.ID)) {
				continue
			}
			deletion := tokenstore.Row{Kind: kind, ID: row.ID, Version: row.Version}
			changes = append(changes, tokenstore.Change{Op: tokenstore.OpDelete, Row: deletion})
		}
		return nil
	})
	return changes, err
}
