package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// run runs statements in a database.
func run(t *testing.T, connection string, statements ...string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), connection)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(t.Context()) }()
	for _, sql := range statements {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// wantOpenFails opens a store that cannot be, and returns the error.
func wantOpenFails(t *testing.T, o postgres.Options, words ...string) {
	t.Helper()
	s, err := postgres.Open(t.Context(), o)
	if err == nil {
		_ = s.Close()
		t.Fatalf("Open succeeds; want an error with %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("Open = %v; want it to say %q", err, word)
		}
	}
	for _, secret := range []string{testpg.Password, "s3cret", o.Connection} {
		if secret != "" && strings.Contains(err.Error(), secret) {
			t.Errorf("Open = %v, which tells %q", err, secret)
		}
	}
}

func TestNodesThatStartTogetherMakeTheSchemaOnce(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	var nodes sync.WaitGroup
	for node := range 10 {
		nodes.Go(func() {
			s, err := postgres.Open(t.Context(), postgres.Options{Connection: connection, MaxConns: 2})
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			if err := s.Apply(t.Context(), insert(fmt.Sprint(node), "sealed")); err != nil {
				t.Errorf("Apply: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	nodes.Wait()
	if n, err := open(t, postgres.Options{Connection: connection}).Count(t.Context(), kind); n != 10 || err != nil {
		t.Errorf("Count = %d, %v; want what all ten have written", n, err)
	}
}

func TestSchemasOfOneDatabaseAreApart(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	names := []string{"", "Other", `a$b%s%1$s@name@\\`, `with "quotes" and 'more'`, "ünïcode; DROP SCHEMA oauth_proxy CASCADE", "select"}
	for _, name := range names {
		s := open(t, postgres.Options{Connection: connection, Schema: name})
		if err := s.Apply(t.Context(), insert("id", name)); err != nil {
			t.Fatalf("schema %q: %v", name, err)
		}
	}
	for _, name := range names {
		row, err := open(t, postgres.Options{Connection: connection, Schema: name}).Get(t.Context(), kind, "id")
		if err != nil || string(row.Sealed) != name {
			t.Errorf("schema %q: %q, %v", name, row.Sealed, err)
		}
	}
}

func TestSchemaThatIsNotOursIsRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		schema string
		sql    []string
		words  []string
	}{
		"newer": {sql: []string{"CREATE SCHEMA oauth_proxy", "CREATE TABLE oauth_proxy.meta (key text, value text)", "INSERT INTO oauth_proxy.meta VALUES ('schema', '99')"},
			words: []string{"oauth_proxy", `version "99"`, "use the release that wrote it, or a newer one"}},
		"of another program":         {schema: "public", sql: []string{"CREATE SCHEMA IF NOT EXISTS public", "CREATE TABLE public.rows (id int)"}, words: []string{"public", "another program", "name another schema"}},
		"of another program's meta":  {sql: []string{"CREATE SCHEMA oauth_proxy", "CREATE TABLE oauth_proxy.meta (id int)"}, words: []string{"another program", "name another schema"}},
		"of another program's words": {sql: []string{"CREATE SCHEMA oauth_proxy", "CREATE TABLE oauth_proxy.meta (key text, value text)"}, words: []string{"another program"}},
		"PostgreSQL's":               {schema: "pg_vault", words: []string{"pg_vault", "PostgreSQL's own", "name another"}},
		"too long":                   {schema: strings.Repeat("x", 64), words: []string{"1 to 63 bytes"}},
		"what ends a function":       {schema: "a$$b", words: []string{"must not contain $$"}},
		"no text":                    {schema: "a\x00b", words: []string{"must be text"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connection := testpg.Database(t)
			run(t, testpg.Shared(t).Admin(t, connection), append(tt.sql, "GRANT ALL ON ALL TABLES IN SCHEMA public TO vault")...)
			for _, schema := range []string{"public", "oauth_proxy"} {
				if len(tt.sql) > 0 && strings.Contains(tt.sql[0], schema) {
					run(t, testpg.Shared(t).Admin(t, connection), "GRANT ALL ON SCHEMA "+schema+" TO vault", "GRANT ALL ON ALL TABLES IN SCHEMA "+schema+" TO vault")
				}
			}
			wantOpenFails(t, postgres.Options{Connection: connection, Schema: tt.schema}, tt.words...)
		})
	}
}

func TestRoleThatMayNotMakeTheSchemaIsToldWhoCan(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	c, err := pgx.ParseConfig(connection)
	if err != nil {
		t.Fatal(err)
	}
	admin, role := testpg.Shared(t).Admin(t, connection), "node of "+c.Database
	run(t, admin, `CREATE ROLE "`+role+`" LOGIN PASSWORD 's3cret'`)
	as := strings.Replace(connection, testpg.User+":"+testpg.Password, strings.ReplaceAll(role, " ", "%20")+":s3cret", 1)
	wantOpenFails(t, postgres.Options{Connection: as}, "may not make the schema oauth_proxy", `CREATE SCHEMA "oauth_proxy" AUTHORIZATION "`+role+`"`)
	run(t, admin, "CREATE SCHEMA oauth_proxy")
	wantOpenFails(t, postgres.Options{Connection: as}, "may not make tables in the schema", `GRANT USAGE, CREATE ON SCHEMA "oauth_proxy" TO "`+role+`"`)
	run(t, admin, "DROP SCHEMA oauth_proxy", `CREATE SCHEMA "oauth_proxy" AUTHORIZATION "`+role+`"`) // as it was told
	s := open(t, postgres.Options{Connection: as})
	if err := s.Apply(t.Context(), insert("id", "sealed")); err != nil {
		t.Fatal(err)
	}
	run(t, admin, `REVOKE SELECT ON oauth_proxy.rows FROM "`+role+`"`)
	_, err = s.Get(t.Context(), kind, "id")
	if !errors.Is(err, tokenstore.ErrUnavailable) || !strings.Contains(err.Error(), "lacks a privilege") {
		t.Errorf("Get without the privilege = %v", err)
	}
}

// scalar reads one value.
func scalar(t *testing.T, connection, sql string, into any) error {
	t.Helper()
	c, err := pgx.Connect(t.Context(), connection)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(t.Context()) }()
	return c.QueryRow(t.Context(), sql).Scan(into)
}
