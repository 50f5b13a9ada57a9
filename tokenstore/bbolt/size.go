package bbolt

import (
	"context"

	bolt "go.etcd.io/bbolt"
)

// Size is how many bytes the file has, and how many of them are free for new rows: a file never shrinks by itself.
func (s *Store) Size(ctx context.Context) (total, free int64, err error) {
	if err := s.usable(ctx); err != nil {
		return 0, 0, err
	}
	err = s.view(func(tx *bolt.Tx) error {
		total, free = tx.Size(), int64(tx.DB().Stats().FreeAlloc)
		return nil
	})
	return total, free, err
}
