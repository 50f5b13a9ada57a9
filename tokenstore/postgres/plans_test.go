package postgres

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// fillMany stores rows: ten of each user, each in one of two halves, and half of them due.
func fillMany(t *testing.T, s *Store, n int) {
	t.Helper()
	var changes []tokenstore.Change
	for i := range n {
		ms := int64(1000 + i)
		row := tokenstore.Row{Kind: tokenstore.KindGrant, ID: fmt.Sprintf("%08d", i), Version: 1, State: "active", Sealed: []byte("sealed"),
			Refs: []string{"all", fmt.Sprint("user:", i/10), fmt.Sprint("half:", i%2)}, DeleteAfter: fromMillis(&ms)}
		if i%2 == 0 {
			row.Due = row.DeleteAfter
		}
		if changes = append(changes, tokenstore.Change{Op: tokenstore.OpInsert, Row: row}); len(changes) == 500 || i == n-1 {
			if err := s.Apply(t.Context(), changes...); err != nil {
				t.Fatal(err)
			}
			changes = changes[:0]
		}
	}
}

// TestQueriesReadTheirRowsAlone counts what queries read: none reads a table from end to end, and none more entries of indexes than it needs, whether the planner knows the tables or
// not, and whether it plans for the arguments or for any.
func TestQueriesReadTheirRowsAlone(t *testing.T) {
	t.Parallel()
	const n, few = 6000, 1001 // few is what the length of a list is judged by; ten are for what was undone
	connection := testpg.Database(t)
	s := openStore(t, Options{Connection: connection})
	fillMany(t, s, n)
	list := func(after string, limit int, refs ...string) (string, []any) {
		return s.listSQL, []any{"grant", distinct(refs), after, pageSize(limit)}
	}
	count := func(refs ...string) (string, []any) { return s.countSQL, []any{"grant", distinct(refs)} }
	type query struct {
		name string
		most int // entries of indexes
		sql  string
		args []any
	}
	reads := func(name string, most int) func(sql string, args []any) query {
		return func(sql string, args []any) query { return query{name, most, sql, args} }
	}
	one := newBatch([]tokenstore.Change{{Op: tokenstore.OpUpdate, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: "00003000", Version: 2, Refs: []string{"all", "user:new"}}}})
	queries := []query{
		{"get", 1, s.getSQL, []any{"grant", "00001234"}},
		{"due", 10, s.dueSQL, []any{"grant", int64(3000), 10}},
		reads("list", 40)(list("00002000", 20)),
		reads("list of a user", 20)(list("", 0, "user:77")),
		reads("list of all", 40)(list("00000100", 20, "all")),
		reads("list of a user in a half", few+10+10+10+5)(list("", 0, "user:77", "half:0")),
		reads("list of nobody in a half", few)(list("", 0, "user:nobody", "half:0")),
		reads("list of two halves", 2*few+n)(list("", 0, "half:0", "half:1")),
		reads("late page of all in a half", 2*few+3*20+20)(list("00005000", 20, "all", "half:0")),
		reads("count", n+10)(count()),
		reads("count of a user", 10)(count("user:77")),
		reads("count of a user in a half", few+10+10+10)(count("user:77", "half:1")),
		reads("count of all in a half", 2*few+n+n/2+1)(count("all", "half:1")),
		{"apply", 20, s.applySQL, (&Store{node: 1}).arguments(&pending{batch: one, sequence: 1})},
		{"ahead", 5, s.aheadSQL, []any{int64(1), []int32{1}, []string{"grant"}, []string{"00000100"}}},
		{"sweep", 10*(2+2*3) + 10, s.sweepSQL, []any{"grant", int64(5000), 10}},
	}
	c, err := pgx.Connect(t.Context(), connection)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			run(t, c, "VACUUM ANALYZE oauth_proxy.rows, oauth_proxy.refs")
		}
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			run(t, c, "SET plan_cache_mode = "+mode)
			run(t, c, "DISCARD PLANS")
			for _, q := range queries {
				scans, entries := reading(t, c, q.sql, q.args)
				if scans > 0 || entries > q.most {
					t.Errorf("%s, analyzed %t, %s: %d tables are read from end to end, and %d entries of indexes; want 0, and at most %d", q.name, analyzed, mode, scans, entries, q.most)
				}
			}
		}
	}
}

func run(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// reading runs a query in a transaction that is undone, and returns how many scans of tables it has made, and how many entries of indexes it has read.
func reading(t *testing.T, c *pgx.Conn, sql string, args []any) (scans, entries int) {
	t.Helper()
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	const counters = `SELECT sum(pg_stat_get_xact_numscans(t.oid)) FILTER (WHERE relkind = 'r'), sum(pg_stat_get_xact_tuples_returned(t.oid)) FILTER (WHERE relkind = 'i')
		FROM pg_class AS t WHERE relnamespace = 'oauth_proxy'::regnamespace AND relname NOT LIKE 'meta%' AND relname NOT LIKE 'rates%'`
	var scansBefore, entriesBefore int
	if err := tx.QueryRow(t.Context(), counters).Scan(&scansBefore, &entriesBefore); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if err := tx.QueryRow(t.Context(), counters).Scan(&scans, &entries); err != nil {
		t.Fatal(err)
	}
	return scans - scansBefore, entries - entriesBefore
}
