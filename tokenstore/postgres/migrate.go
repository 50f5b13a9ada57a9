package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The migrations, in the order of their names: each takes the schema from the version before to its own. One that was released never changes.
//
//go:embed migrations/*.sql
var migrations embed.FS

// The keys of the table meta.
const versionKey = "schema"

// checkSchema returns an error for a name that is none of a schema.
func checkSchema(name string) error {
	switch {
	case name == "" || len(name) > 63:
		return fmt.Errorf("schema %q: its name must have 1 to 63 bytes", name)
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		return fmt.Errorf("schema %q: its name must be text", name)
	case strings.Contains(name, "$$"): // which ends the text of a function
		return fmt.Errorf("schema %q: its name must not contain $$", name)
	case strings.HasPrefix(name, "pg_") || name == "information_schema":
		return fmt.Errorf("schema %q is PostgreSQL's own; name another", name)
	}
	return nil
}

// lockKey is the number of an advisory lock of a schema.
func lockKey(schema, what string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("oauth_proxy\x00" + schema + "\x00" + what)) // never fails
	return int64(h.Sum64())                                            //nolint:gosec // any number will do
}

// migration is the SQL that takes the schema to a version.
func (s *Store) migration(version int) (string, error) {
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		return "", err
	}
	text, err := migrations.ReadFile("migrations/" + files[version-1].Name())
	if err != nil {
		return "", err
	}
	return strings.NewReplacer("@schema@", s.schema, "@name@", literal(s.schema), "@channel@", literal(s.name), "@lock@", strconv.FormatInt(lockKey(s.name, "freeze"), 10)).Replace(string(text)), nil
}

// latest is the version of the schema that this release writes.
func latest() int {
	files, _ := migrations.ReadDir("migrations") // what is embedded can be read
	return len(files)
}

// literal makes a text of SQL.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// migrationTime bounds how long a node waits for the schema, of which another may be making the next version.
const migrationTime = 10 * time.Minute

// migrate makes the schema, or brings it up to date. Nodes that start together do it one after the other, and all but the first find it done.
func (s *Store) migrate(ctx context.Context) error {
	version, err := do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) (int, error) { return s.version(ctx, c.Conn()) })
	if err != nil || version == latest() {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, migrationTime)
	defer cancel()
	return translate(ctx, pgx.BeginFunc(bounded, s.pool, func(tx pgx.Tx) error { return s.migrateIn(bounded, tx) }))
}

// checkVersion refuses a schema that is not of this release's version.
func (s *Store) checkVersion(ctx context.Context) error {
	version, err := do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) (int, error) { return s.version(ctx, c.Conn()) })
	switch {
	case err != nil:
		return err
	case version == 0:
		return refused("there is no vault in the schema %s", s.name)
	case version < latest():
		return refused("the schema %s is of version %d, and is only read in version %d; start a gateway of this release on it, which brings it up to date", s.name, version, latest())
	}
	return nil
}

func (s *Store) migrateIn(ctx context.Context, tx pgx.Tx) error {
	// The limits of connections are for calls.
	for _, limit := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		if _, err := tx.Exec(ctx, "SET LOCAL "+limit+" = 0"); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil { // as in the functions
		return err
	}
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1::bigint)", lockKey(s.name, "migrate")); err != nil {
		return err
	}
	version, err := s.version(ctx, tx.Conn())
	if err != nil {
		return err
	}
	if err := s.makeSchema(ctx, tx); err != nil {
		return err
	}
	for version < latest() {
		version++
		sql, err := s.migration(version)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil { // of many statements
			return fmt.Errorf("migration of the schema %s to version %d: %w", s.name, version, err)
		}
		if _, err := tx.Exec(ctx, "INSERT INTO "+s.schema+".meta (key, value) VALUES ($1::text, $2::text) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
			versionKey, strconv.Itoa(version)); err != nil {
			return err
		}
	}
	return nil
}

// makeSchema makes the schema unless it is there: whoever may not make one may be given one.
func (s *Store) makeSchema(ctx context.Context, tx pgx.Tx) error {
	var there, create, use bool
	var user, database string
	err := tx.QueryRow(ctx, `SELECT n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, 'CREATE, USAGE'), false), has_database_privilege(current_database(), 'CREATE'),
		current_user::text, current_database()::text FROM (VALUES ($1::text)) AS v (name) LEFT JOIN pg_namespace n ON n.nspname = v.name`, s.name).Scan(&there, &use, &create, &user, &database)
	switch {
	case err != nil:
		return err
	case there && !use:
		return refused("the user %s may not make tables in the schema %s of the database %s; as its owner run: GRANT USAGE, CREATE ON SCHEMA %s TO %s",
			user, s.name, database, s.schema, quote(user))
	case there:
		return nil
	case !create:
		return refused("the user %s may not make the schema %s in the database %s; as the database's owner run: CREATE SCHEMA %s AUTHORIZATION %s",
			user, s.name, database, s.schema, quote(user))
	}
	_, err = tx.Exec(ctx, "CREATE SCHEMA "+s.schema)
	return err
}

// version is that of the schema, 0 where there is none yet.
func (s *Store) version(ctx context.Context, c *pgx.Conn) (int, error) {
	var tables []string
	rows, err := c.Query(ctx, "SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1::text AND relkind = 'r'", s.name)
	if err != nil {
		return 0, err
	}
	if tables, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return 0, err
	}
	if !slices.Contains(tables, "meta") {
		if slices.Contains(tables, "rows") || slices.Contains(tables, "refs") || slices.Contains(tables, "applies") {
			return 0, refused("the schema %s has tables of another program; name another schema", s.name)
		}
		return 0, nil
	}
	var text string
	err = c.QueryRow(ctx, "SELECT value FROM "+s.schema+".meta WHERE key = $1::text", versionKey).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) || undefined(err) {
		return 0, refused("the schema %s has tables of another program; name another schema", s.name)
	}
	if err != nil {
		return 0, err
	}
	version, err := strconv.Atoi(text)
	if err != nil || version < 1 || version > latest() {
		return 0, refused("the schema %s is of version %q, and this release knows up to %d; use the release that wrote it, or a newer one", s.name, text, latest())
	}
	return version, nil
}
