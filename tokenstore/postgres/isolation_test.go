package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// A transaction that sees what was when it began would pass by a freeze that it has waited for.
func TestTransactionsThatDoNotSeeAFreezeAreRefused(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	c, err := pgx.ParseConfig(connection)
	if err != nil {
		t.Fatal(err)
	}
	run(t, testpg.Shared(t).Admin(t, connection), "ALTER DATABASE "+pgx.Identifier{c.Database}.Sanitize()+" SET default_transaction_isolation = 'repeatable read'")
	wantOpenFails(t, postgres.Options{Connection: connection + "&default_query_exec_mode=exec"}, "default_transaction_isolation is \"repeatable read\"", "read committed")
	open(t, postgres.Options{Connection: connection})
}
