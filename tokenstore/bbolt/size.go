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
		stats := tx.DB().Stats() // whose FreeAlloc is nothing before the first transaction that writes
		total, free = tx.Size(), int64(stats.FreePageN+stats.PendingPageN)*int64(tx.DB().Info().PageSize)
		return nil
	})
	return total, free, err
}
