package bbolt

import (
	"bytes"
	"context"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Import implements tokenstore.Movable.
func (s *Store) Import(ctx context.Context, kind tokenstore.Kind, rows []tokenstore.Row, gone []string) error {
	if err := tokenstore.CheckImport(kind, rows, gone); err != nil {
		return err
	}
	rows, gone = slices.Clone(rows), slices.Clone(gone) // the committer may read them after Import has returned
	for i := range rows {
		rows[i].Refs, rows[i].Sealed = slices.Clone(rows[i].Refs), bytes.Clone(rows[i].Sealed)
	}
	return s.exclusive(ctx, &pending{alone: func(tx *bolt.Tx) error {
		f, err := freezeIn(tx)
		if err != nil {
			return err
		}
		if f.State != tokenstore.FreezeFilling {
			return tokenstore.ErrNotImporting(f)
		}
		for _, row := range rows {
			before, err := stored(tx, kind, row.ID)
			if err != nil {
				return err
			}
			if err := put(tx, row, before); err != nil {
				return err
			}
		}
		for _, id := range gone {
			before, err := stored(tx, kind, id)
			if err != nil {
				return err
			}
			if before == nil {
				continue
			}
			if err := remove(tx, *before); err != nil {
				return err
			}
		}
		return nil
	}})
}

// stored reads a row, nil where there is none.
func stored(tx *bolt.Tx, kind tokenstore.Kind, id string) (*tokenstore.Row, error) {
	rows, err := bucket(tx, kind, "")
	if err != nil {
		return nil, err
	}
	value := rows.Get([]byte(id))
	if value == nil {
		return nil, nil
	}
	row, err := decodeRow(kind, id, value)
	return &row, err
}
