package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// A dump that is made while nodes write is the vault of one moment. Restored into an empty database it opens with its key, whole, and with no other.
func TestDumpUnderLoadIsRestored(t *testing.T) {
	t.Parallel()
	server := testpg.Shared(t)
	live, empty := server.Database(t), server.Database(t)
	key := tokenstore.NewRootKey()
	v := openVault(t, live, key)
	ctx, stop := context.WithCancel(t.Context())
	var saved atomic.Int64 // grants whose commits have returned
	written := make(chan error, 1)
	go func() {
		for i := int64(1); ; i++ {
			if err := commitUser(context.WithoutCancel(ctx), v, i); err != nil || ctx.Err() != nil {
				written <- err
				return
			}
			saved.Store(i)
			if i%20 == 0 {
				if err := v.FlushAudit(ctx); err != nil && ctx.Err() == nil {
					written <- err
					return
				}
			}
		}
	}()
	for saved.Load() < 50 {
		select {
		case err := <-written:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}

	before := saved.Load()
	dump := filepath.Join(t.TempDir(), "vault.dump")
	postgresProgram(t, live, "pg_dump", "--format=custom", "--schema=oauth_proxy", "--file="+dump)
	after := saved.Load()
	stop()
	if err := <-written; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	postgresProgram(t, empty, "pg_restore", "--exit-on-error", "--no-owner", "--dbname=", dump)

	if _, err := tokenstore.Open(t.Context(), openStore(t, empty), tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}}); !errors.Is(err, tokenstore.ErrWrongKey) {
		t.Errorf("with another key: %v", err)
	}
	restored := openVault(t, empty, key)
	grants, err := restored.Count(t.Context(), tokenstore.KindGrant)
	if err != nil || int64(grants) < before || int64(grants) > after+1 {
		t.Errorf("%d grants were restored, %v, of %d before the dump and %d after it", grants, err, before, after)
	}
	for i := int64(1); i <= int64(grants); i++ {
		g, err := restored.Grant(t.Context(), fmt.Sprintf("grant-%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if a, err := restored.Account(t.Context(), g.AccountID); err != nil || a.RefreshToken != fmt.Sprintf("refresh-%d", i) {
			t.Errorf("account of grant %d: %+v, %v", i, a, err)
		}
	}
	if report, err := restored.VerifyAudit(t.Context(), ""); err != nil || len(report.Faults) > 0 || report.Events == 0 {
		t.Errorf("audit trail: %+v, %v", report, err)
	}
	// And it is a vault to go on with.
	if err := commitUser(t.Context(), restored, int64(grants)+1); err != nil {
		t.Error(err)
	}
}

// commitUser stores a grant, its account and an event, all or none.
func commitUser(ctx context.Context, v *tokenstore.Vault, i int64) error {
	now := v.Now()
	account := fmt.Sprintf("account-%d", i)
	return v.Commit(ctx,
		tokenstore.Save(&tokenstore.Grant{
			Meta: tokenstore.Meta{ID: fmt.Sprintf("grant-%d", i), DeleteAfter: now.AddDate(0, 6, 0)}, State: tokenstore.StateActive, ClientID: "client", Proxy: "jira",
			UserID: fmt.Sprintf("user-%d", i), AccountID: account, Created: now, Expires: now.AddDate(0, 1, 0), Ends: now.AddDate(0, 3, 0),
		}),
		tokenstore.Save(&tokenstore.Account{
			Meta: tokenstore.Meta{ID: account}, State: tokenstore.StateActive, Provider: "okta", UserID: fmt.Sprintf("user-%d", i), RefreshToken: fmt.Sprintf("refresh-%d", i),
		}),
		tokenstore.RecordEvent(v.NewEvent(ctx, tokenstore.EventTokenIssued)))
}

func openStore(t *testing.T, connection string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Options{Connection: connection})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func openVault(t *testing.T, connection string, key tokenstore.RootKey) *tokenstore.Vault {
	t.Helper()
	v, err := tokenstore.Open(t.Context(), openStore(t, connection), tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// postgresProgram runs one of the programs that the server came with, on a database.
func postgresProgram(t *testing.T, connection, name string, args ...string) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), testpg.Shared(t).Admin(t, connection))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background()) //nolint:errcheck // on the way out
	var bin string
	if err := db.QueryRow(t.Context(), "SELECT setting FROM pg_config WHERE name = 'BINDIR'").Scan(&bin); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(connection)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name))
	for _, arg := range args {
		if arg == "--dbname=" {
			arg += strings.TrimPrefix(u.Path, "/")
		}
		cmd.Args = append(cmd.Args, arg)
	}
	cmd.Env = append(os.Environ(), "PGHOST="+u.Hostname(), "PGPORT="+u.Port(), "PGUSER="+u.User.Username(), "PGPASSWORD="+password, "PGDATABASE="+strings.TrimPrefix(u.Path, "/"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}
