package bbolt

import (
	"context"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Snapshot implements tokenstore.Movable. It is one transaction that reads: pages that are changed meanwhile are kept for it, so the file may grow.
func (s *Store) Snapshot(ctx context.Context, visit func(tokenstore.Row) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	var ended error // what visit or ctx said, which is no fault of the file's and remains as it is
	err := s.view(func(tx *bolt.Tx) error {
		for _, kind := range tokenstore.Kinds() {
			rows, err := bucket(tx, kind, "")
			if err != nil {
				return err
			}
			c := rows.Cursor()
			for id, value := c.First(); id != nil; id, value = c.Next() {
				row, err := decodeRow(kind, string(id), value)
				if err != nil {
					return err
				}
				if ended = s.usable(ctx); ended == nil {
					ended = visit(row)
				}
				if ended != nil {
					return ended
				}
			}
		}
		return nil
	})
	if ended != nil {
		return ended
	}
	return err
}
