package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Get implements tokenstore.Store.
func (s *Store) Get(ctx context.Context, kind tokenstore.Kind, id string) (row tokenstore.Row, err error) {
	err = s.do(ctx, func(ctx context.Context, pool *pgxpool.Pool) error {
		rows, err := pool.Query(ctx, "SELECT "+columns+" FROM "+s.schema+".rows WHERE kind = $1 AND id = $2", string(kind), id)
		if err != nil {
			return err
		}
		row, err = pgx.CollectExactlyOneRow(rows, scan(kind))
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%s %s: %w", kind, id, tokenstore.ErrNotFound)
		}
		return err
	})
	return row, err
}

// columns are what scan reads.
const columns = "id, version, state, refs, due, delete_after, sealed"

// scan makes a row of a kind.
func scan(kind tokenstore.Kind) pgx.RowToFunc[tokenstore.Row] {
	return func(r pgx.CollectableRow) (tokenstore.Row, error) {
		row := tokenstore.Row{Kind: kind}
		var due, deleteAfter *int64
		err := r.Scan(&row.ID, &row.Version, &row.State, &row.Refs, &due, &deleteAfter, &row.Sealed)
		row.Due, row.DeleteAfter = fromMillis(due), fromMillis(deleteAfter)
		return row, err
	}
}

// fromMillis is a time of the database: milliseconds since 1970, or null for none.
func fromMillis(ms *int64) time.Time {
	if ms == nil {
		return time.Time{}
	}
	return time.UnixMilli(*ms).UTC()
}
