package postgres

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What was prepared is gone when somebody discards it, and cannot be used when somebody changes a column. Nobody notices: it is prepared anew.
func TestStatementsThatCannotBeUsedAnyMoreArePreparedAnew(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	s := openStore(t, Options{Connection: connection, MaxConns: 1})
	next := 0
	use := func() {
		t.Helper()
		ids := []string{fmt.Sprint("a", next), fmt.Sprint("b", next), fmt.Sprint("c", next)}
		next++
		mustApply(t, s, insertGrant(ids[0]))
		for i, err := range s.group(t, []tokenstore.Change{insertGrant(ids[1])}, []tokenstore.Change{insertGrant(ids[2])}) {
			if err != nil {
				t.Errorf("Apply %d of a group: %v", i, err)
			}
		}
		for _, id := range ids {
			if _, err := s.Get(t.Context(), tokenstore.KindGrant, id); err != nil {
				t.Errorf("Get: %v", err)
			}
		}
		if rows, err := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{}); err != nil || len(rows) != 3*next {
			t.Errorf("List: %d rows, %v", len(rows), err)
		}
	}
	use()
	if _, err := do(t.Context(), s, func(ctx context.Context, c *pgxpool.Conn) (struct{}, error) {
		_, err := c.Exec(ctx, "DISCARD ALL")
		return struct{}{}, err
	}); err != nil {
		t.Fatal(err)
	}
	use()
	run(t, admin(t, testpg.Shared(t), connection), "ALTER TABLE oauth_proxy.rows ALTER COLUMN state TYPE varchar(40) COLLATE \"C\"")
	if _, err := s.Get(t.Context(), tokenstore.KindGrant, "a0"); err != nil {
		t.Errorf("Get, when a column was changed: %v", err)
	}
}
