package postgres

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Whoever may make functions in the schema public can make some that fit better than PostgreSQL's own. They would run with the privileges of the vault's role.
func TestFunctionsOfOthersAreNotCalled(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "exec"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			connection := testpg.Database(t)
			c, err := pgx.ParseConfig(connection)
			if err != nil {
				t.Fatal(err)
			}
			other := `"other of ` + c.Database + `"`
			statements := []string{"CREATE ROLE " + other, "GRANT CREATE ON SCHEMA public TO " + other, "SET ROLE " + other}
			for _, function := range []string{
				"cardinality(text[]) RETURNS integer", "cardinality(integer[]) RETURNS integer", "unnest(text[]) RETURNS SETOF text", "array_fill(text, integer[]) RETURNS text[]",
				"array_to_string(text[], text) RETURNS text", "times(numeric, integer) RETURNS numeric", "less(bigint, numeric) RETURNS boolean",
			} {
				statements = append(statements, "CREATE FUNCTION public."+function+" LANGUAGE plpgsql AS $$ BEGIN RAISE 'a function of somebody else runs as %', current_user; END $$")
			}
			statements = append(statements, "CREATE OPERATOR public.* (FUNCTION = public.times, LEFTARG = numeric, RIGHTARG = integer)",
				"CREATE OPERATOR public.< (FUNCTION = public.less, LEFTARG = bigint, RIGHTARG = numeric)")
			a := admin(t, testpg.Shared(t), connection)
			for _, sql := range statements {
				run(t, a, sql)
			}

			separator := "?"
			if strings.Contains(connection, "?") {
				separator = "&"
			}
			s := openStore(t, Options{Connection: connection + separator + "default_query_exec_mode=" + mode})
			kind := tokenstore.KindGrant
			row := tokenstore.Row{Kind: kind, ID: "id", Version: 1, Refs: []string{"a", "b"}, DeleteAfter: time.Now(), Due: time.Now(), Sealed: []byte("sealed")}
			updated := row
			updated.Version, updated.Refs = 2, []string{"b", "c"}
			later := time.Now().Add(time.Minute)
			filling := tokenstore.Freeze{State: tokenstore.FreezeFilling, Since: time.Now().UTC().Truncate(time.Second)}
			for _, call := range []struct {
				name string
				call func() error
			}{
				{"insert", func() error { return s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: row}) }},
				{"update", func() error { return s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: updated}) }},
				{"List", func() error {
					_, err := s.List(t.Context(), kind, tokenstore.Query{Refs: []string{"b", "c"}})
					return err
				}},
				{"Count", func() error { _, err := s.Count(t.Context(), kind, "b", "c"); return err }},
				{"Due", func() error { _, err := s.Due(t.Context(), kind, later, 1); return err }},
				{"Sweep", func() error { _, err := s.Sweep(t.Context(), kind, later, 1); return err }},
				{"Take", func() error { _, err := s.Take(t.Context(), "key", time.Second, time.Minute); return err }},
				{"deleteEmpty", func() error { _, err := s.deleteEmpty(t.Context()); return err }},
				{"Freeze", func() error { return s.Freeze(t.Context(), tokenstore.Freeze{}, filling) }},
				{"Import", func() error { return s.Import(t.Context(), kind, []tokenstore.Row{row}, []string{"other"}) }},
			} {
				if err := call.call(); err != nil {
					t.Errorf("%s: %v", call.name, err)
				}
			}
		})
	}
}
