package postgres

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Import implements tokenstore.Movable. It is one call of the function import, which does no harm twice.
func (s *Store) Import(ctx context.Context, kind tokenstore.Kind, rows []tokenstore.Row, gone []string) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if err := tokenstore.CheckImport(kind, rows, gone); err != nil {
		return err
	}
	changes := make([]tokenstore.Change, 0, len(rows))
	for _, row := range rows {
		changes = append(changes, tokenstore.Change{Op: tokenstore.OpUpdate, Row: row})
	}
	b, deleted := newBatch(changes), append([]string{}, gone...)
	defer func() {
		for _, id := range append(b.ids, deleted...) {
			s.forget(tokenstore.Row{Kind: kind, ID: id})
		}
	}()
	filling, err := do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) (filling bool, err error) {
		err = c.QueryRow(ctx, "SELECT "+s.schema+".import($1::text, $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bytea[], $9::text[])",
			string(kind), b.ids, b.versions, b.states, b.refs, b.due, b.deletions, b.seals, deleted).Scan(&filling)
		return filling, err
	})
	if err != nil || filling {
		return err
	}
	f, err := s.Frozen(ctx)
	if err != nil {
		return err
	}
	return tokenstore.ErrNotImporting(f)
}
