package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestCheckTellsOfEveryEntryThatDoesNotFitItsRow(t *testing.T) {
	t.Parallel()
	server := testpg.Shared(t)
	for name, test := range map[string]struct {
		sql  string
		want []string // one of each fault
	}{
		"entry is missing":              {"DELETE FROM refs WHERE ref = 'user:1' AND id = 'a0600'", []string{"not found by the reference user:1"}},
		"entries are missing":           {"DELETE FROM refs WHERE id = 'a0600'", []string{"not found by the reference user:1", "not found by the reference client:1"}},
		"row is missing":                {"DELETE FROM rows WHERE id = 'a0600'", []string{`"client:1" without a row`, `"user:1" without a row`}},
		"entry leads nowhere":           {"INSERT INTO refs VALUES ('grant', 'user:2', 'nobody')", []string{`"user:2" without a row`}},
		"entry is of a row of a kind":   {"INSERT INTO refs VALUES ('account', 'user:1', 'a0600')", []string{`"user:1" without a row`}},
		"row does not have it":          {"INSERT INTO refs VALUES ('grant', 'user:2', 'a0600')", []string{`"user:2" that the row does not`}},
		"row has another":               {"UPDATE rows SET refs = '{client:1,user:2}' WHERE id = 'a0600'", []string{"not found by the reference user:2", `"user:1" that the row does not`}},
		"row has none":                  {"UPDATE rows SET refs = '{}' WHERE id = 'a0600'", []string{`"client:1" that the row does not`, `"user:1" that the row does not`}},
		"last row of all has one more":  {"UPDATE rows SET refs = refs || '{z}'::text[] WHERE id = 'a1199'", []string{"not found by the reference z"}},
		"first row of all has one more": {"UPDATE rows SET refs = refs || '{z}'::text[] WHERE id = 'a0000'", []string{"not found by the reference z"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connection := server.Database(t)
			s := openStore(t, Options{Connection: connection})
			var changes []tokenstore.Change
			for i := range 1200 {
				c := insertGrant(fmt.Sprintf("a%04d", i))
				c.Row.Refs, c.Row.DeleteAfter, c.Row.Due = []string{"client:1", "user:1"}, time.UnixMilli(1000), time.UnixMilli(2000)
				changes = append(changes, c)
			}
			mustApply(t, s, changes...)
			conn := admin(t, server, connection)
			run(t, conn, "SET search_path = oauth_proxy")
			run(t, conn, test.sql)

			var found []tokenstore.StoreFault
			if err := s.Check(t.Context(), func(f tokenstore.StoreFault) { found = append(found, f) }, func(tokenstore.Progress) {}); err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !slices.ContainsFunc(found, func(f tokenstore.StoreFault) bool {
					return f.Class == tokenstore.FaultIndex && f.ID != "" && f.Kind != "" && strings.Contains(f.Problem, want)
				}) {
					t.Errorf("Check does not tell of %q: %+v", want, found)
				}
			}
			if len(found) != len(test.want) {
				t.Errorf("Check tells of %d faults; want %d: %+v", len(found), len(test.want), found)
			}
		})
	}
}

func TestCheckReadsItsRowsAlone(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	s := openStore(t, Options{Connection: connection})
	fillMany(t, s, 6000)
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
			run(t, c, strings.Replace(checkSettings, "true", "false", 1))
			for _, q := range []struct {
				most int // entries of indexes
				sql  string
				args []any
			}{
				{checkStep * (2 + 5), fmt.Sprintf(rowsWithoutEntries, s.schema, checkStep), []any{"grant", "00001000"}},
				{2*checkEntries + 10, fmt.Sprintf(entriesWithoutRows, s.schema, checkEntries), []any{"grant", "all", "00001000"}},
			} {
				if scans, entries := reading(t, c, q.sql, q.args); scans > 0 || entries > q.most {
					t.Errorf("analyzed %t, %s: %d tables are read from end to end, and %d entries of indexes; want 0, and at most %d: %s", analyzed, mode, scans, entries, q.most, q.sql)
				}
			}
		}
	}
}
