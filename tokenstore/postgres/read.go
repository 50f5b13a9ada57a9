package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Sizes of a page of List.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// Get implements tokenstore.Store.
func (s *Store) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	return s.get(ctx, manner{}, kind, id)
}

func (s *Store) get(ctx context.Context, m manner, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	return ask(ctx, s, m, func(ctx context.Context, c *pgxpool.Conn) (row tokenstore.Row, err error) {
		missing := fmt.Errorf("%s %w", kind, tokenstore.ErrNotFound)
		if !key(string(kind)) || !key(id) {
			return row, missing
		}
		rows, err := c.Query(ctx, s.getSQL, string(kind), id)
		if err != nil {
			return row, err
		}
		row, err = pgx.CollectExactlyOneRow(rows, scan(kind))
		if errors.Is(err, pgx.ErrNoRows) {
			err = missing
		}
		return row, err
	})
}

// List implements tokenstore.Store.
func (s *Store) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	return do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) ([]tokenstore.Row, error) {
		if !selectable(kind, q.Refs) {
			return nil, nil
		}
		return collect(ctx, c.Conn(), kind, s.listSQL, string(kind), distinct(q.Refs), after(q.After), pageSize(q.Limit))
	})
}

// Count implements tokenstore.Store.
func (s *Store) Count(ctx context.Context, kind tokenstore.Kind, refs ...string) (int, error) {
	return do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) (n int, err error) {
		if selectable(kind, refs) {
			err = c.QueryRow(ctx, s.countSQL, string(kind), distinct(refs)).Scan(&n)
		}
		return n, err
	})
}

// distinct are references without repetition, and an array even when there are none.
func distinct(refs []string) []string {
	refs = append([]string{}, refs...)
	slices.Sort(refs)
	return slices.Compact(refs)
}

// selectable reports whether rows can carry the references at all.
func selectable(kind tokenstore.Kind, refs []string) bool {
	return key(string(kind)) && !slices.ContainsFunc(refs, func(ref string) bool { return !key(ref) })
}

// Due implements tokenstore.Store.
func (s *Store) Due(ctx context.Context, kind tokenstore.Kind, before time.Time, limit int) ([]tokenstore.Row, error) {
	return do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) ([]tokenstore.Row, error) {
		return collect(ctx, c.Conn(), kind, s.dueSQL, string(kind), before.UnixMilli(), pageSize(limit))
	})
}

func pageSize(limit int) int {
	if limit <= 0 {
		return defaultLimit
	}
	return min(limit, maxLimit)
}

// key reports whether a text can be that of a row: PostgreSQL refuses some others.
func key(text string) bool {
	return text != "" && len(text) <= tokenstore.MaxKey && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// after is what comes before the same ids as a text does that may not be that of a row.
func after(text string) string {
	for i := range len(text) {
		switch {
		case text[i] <= ' ':
			return text[:i]
		case text[i] >= 0x7f:
			return text[:i] + "\x7f"
		}
	}
	return text
}

// columns are what scan reads.
const columns = "id, version, state, refs, due, delete_after, sealed"

// collect reads rows of a kind.
func collect(ctx context.Context, c *pgx.Conn, kind tokenstore.Kind, sql string, args ...any) ([]tokenstore.Row, error) {
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan(kind))
}

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
