package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// checkStep is how many rows, and checkEntries how many entries of the index of references, are looked at in one statement, which sees one moment.
const (
	checkStep    = 200
	checkEntries = 2000
)

// checkSettings keep the planner from reading more than the step: it does not know how few rows that is.
const checkSettings = `SELECT set_config(name, 'off', true) FROM unnest('{enable_seqscan,enable_bitmapscan,enable_hashjoin,enable_mergejoin,enable_material,jit}'::text[]) AS s (name)`

// rowsWithoutEntries goes through rows, and gathers of each the references under which it is not found.
const rowsWithoutEntries = `SELECT id, ARRAY(SELECT r FROM unnest(refs) AS u (r) WHERE NOT EXISTS (SELECT 1 FROM %[1]s.refs AS e WHERE e.kind = page.kind AND e.ref = u.r AND e.id = page.id))
	FROM (SELECT kind, id, refs FROM %[1]s.rows WHERE kind = $1::text AND id > $2::text ORDER BY id LIMIT %[2]d) AS page ORDER BY id`

// entriesWithoutRows goes through entries, and says of each whether there is a row, and whether that has the reference.
const entriesWithoutRows = `SELECT page.ref, page.id, r.id IS NOT NULL, coalesce(page.ref = ANY (r.refs), false)
	FROM (SELECT kind, ref, id FROM %[1]s.refs WHERE kind = $1::text AND (ref, id) > ($2::text, $3::text) ORDER BY ref, id LIMIT %[2]d) AS page
	LEFT JOIN %[1]s.rows AS r ON r.kind = page.kind AND r.id = page.id ORDER BY page.ref, page.id`

// Check implements tokenstore.Store: it compares every row with its entries in the table of references, and the other way round. By time rows are found in the
// database's own indexes; these, and the tables' pages, pg_amcheck checks.
func (s *Store) Check(ctx context.Context, fault func(tokenstore.StoreFault), progress func(tokenstore.Progress)) error {
	for _, kind := range tokenstore.Kinds() {
		c := &indexCheck{store: s, kind: kind, fault: fault, progress: progress}
		for _, look := range []func(context.Context) error{c.rows, c.entries} {
			err := look(ctx)
			if errors.Is(err, tokenstore.ErrDamaged) {
				fault(tokenstore.StoreFault{Class: tokenstore.FaultStorage, Kind: kind, Problem: err.Error()})
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// indexCheck checks the rows and the entries of a kind.
type indexCheck struct {
	store    *Store
	kind     tokenstore.Kind
	fault    func(tokenstore.StoreFault)
	progress func(tokenstore.Progress)
	checked  int
}

func (c *indexCheck) index(id, format string, args ...any) {
	c.fault(tokenstore.StoreFault{Class: tokenstore.FaultIndex, Kind: c.kind, ID: id, Problem: fmt.Sprintf(format, args...)})
}

func (c *indexCheck) told(n int) {
	if c.checked += n; n == 0 {
		return
	}
	c.progress(tokenstore.Progress{Step: tokenstore.VerifyIndexes, Kind: c.kind, Done: c.checked, Total: c.checked})
}

// rows looks for the entries of rows.
func (c *indexCheck) rows(ctx context.Context) error {
	type checked struct {
		ID      string
		Missing []string
	}
	sql := fmt.Sprintf(rowsWithoutEntries, c.store.schema, checkStep)
	for after := ""; ; {
		page, err := checkPage[checked](ctx, c.store, sql, string(c.kind), after)
		if err != nil {
			return err
		}
		for _, row := range page {
			for _, ref := range row.Missing {
				c.index(row.ID, "the row is not found by the reference %s: the entry is missing", ref)
			}
			after = row.ID
		}
		if c.told(len(page)); len(page) < checkStep {
			return nil
		}
	}
}

// entries looks for the rows of entries.
func (c *indexCheck) entries(ctx context.Context) error {
	type entry struct {
		Ref, ID     string
		Row, HasRef bool
	}
	sql := fmt.Sprintf(entriesWithoutRows, c.store.schema, checkEntries)
	for last := (entry{}); ; {
		page, err := checkPage[entry](ctx, c.store, sql, string(c.kind), last.Ref, last.ID)
		if err != nil {
			return err
		}
		for _, e := range page {
			switch {
			case !e.Row:
				c.index(e.ID, "the table refs has an entry %q without a row", e.Ref)
			case !e.HasRef:
				c.index(e.ID, "the table refs has an entry %q that the row does not", e.Ref)
			}
			last = e
		}
		if c.told(len(page)); len(page) < checkEntries {
			return nil
		}
	}
}

// checkPage reads a page of what is checked.
func checkPage[T any](ctx context.Context, s *Store, sql string, args ...any) ([]T, error) {
	return do(ctx, s, func(ctx context.Context, conn *pgxpool.Conn) (page []T, err error) {
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, checkSettings); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, sql, args...)
			if err != nil {
				return err
			}
			page, err = pgx.CollectRows(rows, pgx.RowToStructByPos[T])
			return err
		})
		return page, err
	})
}
