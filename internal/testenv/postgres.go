package testenv

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
)

// keepInPostgres makes a database for the vault, and has Caddy find it.
func (w *World) keepInPostgres() {
	w.t.Helper()
	w.database = w.options.Postgres.Database(w.t)
	w.options.Env = append([]string{"DATABASE_URL=" + strings.Replace(w.database, ":"+testpg.Password, "", 1)}, w.options.Env...)
	w.WritePassword(w.t, testpg.Password)
	if err := os.WriteFile(filepath.Join(w.dir, "vault.key"), []byte(NewKey()), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// WritePassword changes the file that has the database's password.
func (w *World) WritePassword(t testing.TB, password string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "pg"), []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// vaultLines are the vault in the Caddyfile.
func (w *World) vaultLines() string {
	if w.options.Postgres == nil {
		return "vault bbolt " + w.VaultPath()
	}
	return w.VaultInPostgres("")
}

// VaultInPostgres are the lines of the Caddyfile for the world's database, with further options of the vault.
func (w *World) VaultInPostgres(options string) string {
	return `vault postgres {env.DATABASE_URL} {
			password {file.` + w.dir + `/pg}
			` + options + `
		}
		encryption_key {file.` + w.dir + `/vault.key}`
}

// Ask asks the database of the vault, as its superuser, for one value.
func (w *World) Ask(t testing.TB, value any, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.options.Postgres.Admin(t, w.database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, sql, args...).Scan(value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Connections is how many connections Caddy has to the database of the vault.
func (w *World) Connections(t testing.TB) (n int) {
	t.Helper()
	w.Ask(t, &n, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1", testpg.User)
	return n
}

// CutConnections ends all of them.
func (w *World) CutConnections(t testing.TB) (cut int) {
	t.Helper()
	w.Ask(t, &cut, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1", testpg.User)
	return cut
}
