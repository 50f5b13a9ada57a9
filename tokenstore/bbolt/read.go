package bbolt

import (
	"bytes"
	"context"
	"fmt"

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
		return nil, fmt.Errorf("%w: kind %q has no bucket in the vault file", tokenstore.ErrUnavailable, kind)
	}
	return b, nil
}

// Sizes of a page of List.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// List implements tokenstore.Store.
func (s *Store) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	if q.Limit <= 0 {
		q.Limit = defaultLimit
	}
	q.Limit = min(q.Limit, maxLimit)
	var rows []tokenstore.Row
	err := s.view(func(tx *bolt.Tx) error {
		ids, err := listIDs(tx, kind, q)
		if err != nil {
			return err
		}
		for _, id := range ids {
			row, err := get(tx, kind, id)
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// listIDs reads one page of ids, from the rows themselves or from the index of references.
func listIDs(tx *bolt.Tx, kind tokenstore.Kind, q tokenstore.Query) ([]string, error) {
	suffix, prefix := "", ""
	if q.Ref != "" {
		suffix, prefix = refsSuffix, refKey(q.Ref, "")
	}
	b, err := bucket(tx, kind, suffix)
	if err != nil {
		return nil, err
	}
	c := b.Cursor()
	from := []byte(prefix + q.After)
	key, _ := c.Seek(from)
	if q.After != "" && bytes.Equal(key, from) {
		key, _ = c.Next()
	}
	var ids []string
	for ; key != nil && len(ids) < q.Limit; key, _ = c.Next() {
		id, ok := bytes.CutPrefix(key, []byte(prefix))
		if !ok {
			break
		}
		if len(id) > tokenstore.MaxKey {
			return nil, fmt.Errorf("%w: %s list cannot be read: the vault file is damaged", tokenstore.ErrUnavailable, kind)
		}
		ids = append(ids, string(id))
	}
	return ids, nil
}

// Count implements tokenstore.Store.
func (s *Store) Count(ctx context.Context, kind tokenstore.Kind, ref string) (n int, err error) {
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	suffix, prefix := "", ""
	if ref != "" {
		suffix, prefix = refsSuffix, refKey(ref, "")
	}
	err = s.view(func(tx *bolt.Tx) error {
		b, err := bucket(tx, kind, suffix)
		if err != nil {
			return err
		}
		c := b.Cursor()
		for key, _ := c.Seek([]byte(prefix)); key != nil && bytes.HasPrefix(key, []byte(prefix)); key, _ = c.Next() {
			n++
		}
		return nil
	})
	return n, err
}
