package caddyoauthproxy

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// opened provisions a vault of a config of its own, and opens it.
func opened(t *testing.T, p PostgresVault) (store tokenstore.Store, v *PostgresVault, release func()) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := p.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	bounded, end := context.WithTimeout(t.Context(), openTimeout)
	defer end()
	store, release, err := p.OpenVault(bounded)
	if err != nil {
		t.Fatal(err)
	}
	return store, &p, release
}

func TestConfigsWithTheSameVaultInPostgreSQLShareOneStore(t *testing.T) {
	password := filepath.Join(t.TempDir(), "pg")
	if err := os.WriteFile(password, []byte(testpg.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TEST_VAULT_URL", strings.Replace(testpg.Database(t), ":"+testpg.Password, "", 1))
	settings := PostgresVault{Connection: "{env.TEST_VAULT_URL}", Password: "{file." + password + "}"}
	one, v, release := opened(t, settings)
	two, _, releaseTwo := opened(t, settings)
	spelled := settings
	spelled.Pool, spelled.Wait, spelled.Schema = 10, caddy.Duration(5*time.Second), "oauth_proxy"
	three, _, releaseThree := opened(t, spelled)
	if one != two || one != three {
		t.Error("the same settings open a store of their own")
	}
	if n, _ := postgresStores.References(v.options); n != 3 {
		t.Errorf("%d configs hold the store", n)
	}
	settings.Pool = 2
	four, other, releaseFour := opened(t, settings)
	if four == one {
		t.Error("another pool takes no effect")
	}
	release()
	releaseTwo()
	if _, err := one.Count(t.Context(), tokenstore.KindGrant); err != nil {
		t.Errorf("a store that one config still holds: %v", err)
	}
	releaseThree()
	if _, open := postgresStores.References(v.options); open {
		t.Error("nobody holds the store, and it is open")
	}
	if _, err := four.Count(t.Context(), tokenstore.KindGrant); err != nil {
		t.Errorf("the other store: %v", err)
	}
	releaseFour()
	if _, open := postgresStores.References(other.options); open {
		t.Error("the other store is open")
	}
}

func TestVaultThatCannotBeOpenedIsHeldByNobody(t *testing.T) {
	t.Parallel()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	p := &PostgresVault{Connection: "postgres://gateway@127.0.0.1:1/vault?sslmode=disable"}
	if err := p.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	bounded, end := context.WithTimeout(t.Context(), openTimeout)
	defer end()
	began := time.Now()
	_, _, err := p.OpenVault(bounded)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1, database vault: ") || time.Since(began) > openTimeout+time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if _, open := postgresStores.References(p.options); open {
		t.Error("it counts as open")
	}
}
