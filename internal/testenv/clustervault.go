package testenv

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// Vault opens the vault of the cluster beside its nodes. It is closed when the test ends.
func (c *Cluster) Vault(t testing.TB) *tokenstore.Vault {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	store, err := postgres.Open(ctx, postgres.Options{
		Connection: c.connection(), Password: func(context.Context) (string, error) { return testpg.Password, nil }, ListenOff: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	text, err := os.ReadFile(c.keyFile())
	if err != nil {
		t.Fatal(err)
	}
	key, err := tokenstore.ParseRootKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	vault, err := tokenstore.Open(ctx, store, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	return vault
}

// Refreshing are the accounts whose refresh some node has begun and not ended.
func (c *Cluster) Refreshing(t testing.TB, v *tokenstore.Vault) (accounts []*tokenstore.Account) {
	t.Helper()
	var ids []string
	c.Query(t, &ids, "SELECT coalesce(array_agg(id), '{}') FROM "+postgres.DefaultSchema+".rows WHERE kind = $1 AND state = $2",
		string(tokenstore.KindAccount), string(tokenstore.StateRefreshing))
	slices.Sort(ids)
	for _, id := range ids {
		account, err := v.Account(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		if account.State == tokenstore.StateRefreshing { // still
			accounts = append(accounts, account)
		}
	}
	return accounts
}

// CutListeners ends the connections by which nodes are told of changes, and returns how many there were.
func (c *Cluster) CutListeners(t testing.TB) (cut int) {
	t.Helper()
	c.Query(t, &cut, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE "+listeners)
	return cut
}

// listeners selects the connections that listen.
const listeners = "usename = '" + testpg.User + "' AND application_name LIKE '%listen%'"

// Listeners are the processes of PostgreSQL that serve them.
func (c *Cluster) Listeners(t testing.TB) (pids []int) {
	t.Helper()
	c.Query(t, &pids, "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE "+listeners)
	return pids
}

// Query asks the database, as its superuser, for one value.
func (c *Cluster) Query(t testing.TB, value any, sql string, args ...any) {
	t.Helper()
	conn := c.Connect(t)
	defer func() { _ = conn.Close(context.Background()) }()
	if err := conn.QueryRow(context.Background(), sql, args...).Scan(value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Connect connects to the database as its superuser.
func (c *Cluster) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.Database.Admin(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// DatabaseCPU is how much time of processors PostgreSQL's processes have used, those that have ended with them. One of them serves the connection.
func DatabaseCPU(conn *pgx.Conn) time.Duration { return family(parent(int(conn.PgConn().PID()))) }
