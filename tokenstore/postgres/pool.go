package postgres

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// newPool reads the connection string. It connects to nothing.
func newPool(o Options) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(o.Connection)
	if err != nil {
		return nil, fmt.Errorf("vault in PostgreSQL: the connection string: %w", err)
	}
	c.MaxConns = int32(min(o.MaxConns, math.MaxInt32)) //nolint:gosec // bounded
	c.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) (err error) {
		if o.Password != nil {
			c.Password, err = o.Password(ctx)
		}
		return err
	}
	return pgxpool.NewWithConfig(context.Background(), c)
}

// quote makes an identifier of a name.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
