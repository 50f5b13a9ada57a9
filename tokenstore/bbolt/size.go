package bbolt

import (
	"context"

	bolt "go.etcd.io/bbolt"
)

// Size is how many bytes the file has, and how many of them are free for new rows: a file never shrinks.
func (s *Store) Size(ctx context.Context) (total, free int64, err error) {
	if err := s.usable(ctx); err != nil {
		return 0, 0, err
	}
	err = s.view(func(tx *bolt.Tx) error {
		total = tx.Size()
		return nil
	})
	return total, int64(s.db.Stats().FreeAlloc), err
}
