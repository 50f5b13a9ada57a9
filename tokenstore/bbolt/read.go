package bbolt

import (
	"context"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Get implements tokenstore.Store.
func (s *Store) Get(ctx context.Context, kind tokenstore.Kind, id string) (row tokenstore.Row, err error) {
	if err := s.usable(ctx); err != nil {
		return row, err
	}
	err = s.view(func(tx *bolt.Tx) (err error) {
		row, err = get(tx, kind, id)
		return err
	})
	return row, err
}

// Now implements tokenstore.Store: there is one process, and it has this machine's clock.
func (*Store) Now() time.Time { return time.Now() }

// Steady implements tokenstore.Store: a file has no gaps.
func (*Store) Steady() time.Time { return time.Time{} }

func get(tx *bolt.Tx, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	b, err := bucket(tx, kind, "")
	if err != nil {
		return tokenstore.Row{}, err
	}
	value := b.Get([]byte(id))
	if value == nil {
		return tokenstore.Row{}, fmt.Errorf("%s %w", kind, tokenstore.ErrNotFound)
	}
	return decodeRow(kind, id, value)
}

func bucket(tx *bolt.Tx, kind tokenstore.Kind, suffix string) (*bolt.Bucket, error) {
	b := tx.Bucket([]byte(string(kind) + suffix))
	if b == nil {
		return nil, fmt.Errorf("%w: kind %q has no bucket in the vault file", tokenstore.ErrDamaged, kind)
	}
	return b, nil
}

// Sizes of a page of List.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

func pageSize(limit int) int {
	if limit <= 0 {
		return defaultLimit
	}
	return min(limit, maxLimit)
}

// List implements tokenstore.Store.
func (s *Store) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	q.Limit = pageSize(q.Limit)
	var rows []tokenstore.Row
	err := s.view(func(tx *bolt.Tx) error {
		var ids []string
		err := walk(tx, kind, q.Refs, q.After, func(id []byte) bool {
			ids = append(ids, string(id))
			return len(ids) < q.Limit
		})
		if err != nil {
			return err
		}
		rows, err = getAll(tx, kind, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

func getAll(tx *bolt.Tx, kind tokenstore.Kind, ids []string) ([]tokenstore.Row, error) {
	rows := make([]tokenstore.Row, 0, len(ids))
	for _, id := range ids {
		row, err := get(tx, kind, id)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Count implements tokenstore.Store.
func (s *Store) Count(ctx context.Context, kind tokenstore.Kind, refs ...string) (n int, err error) {
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	err = s.view(func(tx *bolt.Tx) error {
		if known, ok := kept(tx, kind, refs); ok {
			n = known
			return nil
		}
		return walk(tx, kind, refs, "", func([]byte) bool {
			n++
			return true
		})
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Due implements tokenstore.Store.
func (s *Store) Due(ctx context.Context, kind tokenstore.Kind, before time.Time, limit int) ([]tokenstore.Row, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	var rows []tokenstore.Row
	err := s.view(func(tx *bolt.Tx) (err error) {
		rows, err = timed(tx, kind, dueSuffix, before, pageSize(limit))
		return err
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}
