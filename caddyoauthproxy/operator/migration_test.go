package operator_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// migrationsOfTests move nothing: they answer with all that can be answered.
func migrationsOfTests() operator.Migrations {
	full := &operator.Migration{
		State: operator.MigrationRunning, From: "bbolt /old.db", To: "bbolt /new.db", Copy: true, Began: time.Now(), Ended: time.Now(), ReadOnly: "it is being moved", Error: "none",
		Progress: &tokenstore.Progress{Step: tokenstore.MoveCopying, Kind: tokenstore.KindGrant, Done: 1, Total: 2},
		Kinds:    []tokenstore.MovedKind{{Kind: tokenstore.KindGrant, Source: tokenstore.KindDigest{Rows: 1, SHA256: "00"}}},
	}
	return operator.Migrations{
		Begin: func(_ context.Context, n operator.NewMigration) (*operator.Migration, error) {
			if strings.Contains(string(n.Vault), "taken") {
				return nil, operator.Conflict("it is taken")
			}
			return full, nil
		},
		Show: func(context.Context) (*operator.Migration, error) { return full, nil },
		Abort: func(context.Context) (*operator.Migration, error) {
			return &operator.Migration{State: operator.MigrationNone}, nil
		},
	}
}

func TestMigrationsAreBegunAtTheAdminEndpointAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, r := range [][2]string{{"GET", ""}, {"POST", `{"vault":{"module":"bbolt"}}`}, {"DELETE", ""}} {
		if a := w.send(r[0], w.site.URL+"/gw/admin/oauth/migration", r[1], header("X-Test-Cookie", "admin"), header("Content-Type", "application/json")); a.status != http.StatusForbidden || !strings.Contains(a.body, "the commands of caddy oauth-proxy") {
			t.Errorf("%s on the site: %d %s", r[0], a.status, a.body)
		}
	}
	for body, want := range map[string]string{
		`{}`: "vault is missing", `{"vault":null}`: "vault is missing", `{"vault":{"module":"bbolt"},"to":"x"}`: "unknown field", `{"vault":{"module":"taken"}}`: "it is taken",
	} {
		if a := w.ask("POST", "/migration", body); a.status != http.StatusBadRequest && a.status != http.StatusConflict || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
}
