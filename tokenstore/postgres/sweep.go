package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// sweepBatch is how many rows one call of the function sweep deletes: so long others may wait for one of them.
const sweepBatch = 200

// Sweep implements tokenstore.Store. It deletes in batches, each in a transaction of its own. Rows that somebody else is changing are left for the next time.
func (s *Store) Sweep(ctx context.Context, kind tokenstore.Kind, before time.Time, limit int) (int, error) {
	total := 0
	for total < limit {
		most := min(sweepBatch, limit-total)
		gone, err := ask(ctx, s, manner{lane: s.writing}, func(ctx context.Context, c *pgxpool.Conn) (ids *[]string, err error) {
			err = c.QueryRow(ctx, s.sweepSQL, string(kind), before.UnixMilli(), most).Scan(&ids)
			return ids, err
		})
		if err != nil {
			s.forgetKind(kind) // some may be gone all the same
			return total, err
		}
		if gone == nil {
			return total, s.refuse(ctx)
		}
		for _, id := range *gone {
			s.forget(tokenstore.Row{Kind: kind, ID: id})
		}
		if total += len(*gone); len(*gone) < most {
			break
		}
	}
	return total, nil
}
