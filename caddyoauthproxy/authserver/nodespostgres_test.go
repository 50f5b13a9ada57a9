package authserver_test

import (
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

func init() { sharedStores["PostgreSQL"] = onePostgres }

// onePostgres is a database of which each node has a Store of its own.
func onePostgres(t *testing.T) func(int) tokenstore.Store {
	t.Helper()
	connection := testpg.Database(t)
	return func(int) tokenstore.Store {
		store, err := postgres.Open(t.Context(), postgres.Options{Connection: connection, MaxConns: 4, Wait: 5 * time.Second, MaxStale: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		return store
	}
}
