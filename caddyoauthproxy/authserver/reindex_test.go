package authserver_test

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// olderVaultKey encrypts testdata/vault-4.db.gz, and nothing else.
const olderVaultKey = "OS4OWOmOejYZo2q9nfrD0s3SJRmey6uCBLPMqxslxCk="

// olderVault is a vault of a release that knew nothing of the health of grants, as of the day when it was written: each grant is named after what is the matter with it.
func olderVault(t *testing.T) (*tokenstore.Vault, *meddledStore) {
	t.Helper()
	packed, err := os.Open("testdata/vault-4.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = packed.Close() })
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	file, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "vault.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := bbolt.Open(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	store := &meddledStore{Store: opened}
	key, err := tokenstore.ParseRootKey(olderVaultKey)
	if err != nil {
		t.Fatal(err)
	}
	written := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	v, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: func() time.Time { return written }})
	if err != nil {
		t.Fatal(err)
	}
	return v, store
}

func TestGrantsOfAnOlderReleaseAreFoundAsAllOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.vault, w.store = olderVault(t)
	w.reload(func(o *authserver.Options) {
		o.Vault = w.vault
		o.Accounts = upstream.NewAccounts(upstream.AccountsOptions{Vault: w.vault})
	})
	all := []string{"broken", "ended", "expired", "machine", "static", "tampered", "valid"}
	names := map[string]string{}
	for _, id := range all {
		names[id] = id
	}
	if got := listed(w.grants(authserver.GrantFilter{}), names); got != "broken ended expired machine static tampered valid" {
		t.Errorf("before they are indexed, %q are listed", got)
	}
	for range 2 { // what is done is not done again
		w.maintain()
		for _, tt := range []struct {
			filter authserver.GrantFilter
			want   string
		}{
			{authserver.GrantFilter{}, "broken ended expired machine static tampered valid"},
			{authserver.GrantFilter{Health: tokenstore.HealthValid}, "machine static valid"},
			{authserver.GrantFilter{Health: tokenstore.HealthBroken}, "broken"},
			{authserver.GrantFilter{Health: tokenstore.HealthExpired}, "expired"},
			{authserver.GrantFilter{Health: tokenstore.HealthRevoked}, "ended"},
			{authserver.GrantFilter{Provider: "idp"}, "broken ended expired static valid"},
			{authserver.GrantFilter{Text: "lovelace"}, "broken ended expired static valid"},
			{authserver.GrantFilter{Text: "ada@example.com", Health: tokenstore.HealthBroken}, "broken"},
		} {
			if got := listed(w.grants(tt.filter), names); got != tt.want {
				t.Errorf("%+v finds %q; want %q", tt.filter, got, tt.want)
			}
		}
	}
	for _, id := range all {
		if row, err := w.store.Get(t.Context(), tokenstore.KindGrant, id); err != nil || row.Version != 2 {
			t.Errorf("%s is in version %d, %v; want it written once", id, row.Version, err)
		}
	}
	if g := w.info("broken"); g.Reason != "the provider refused the refresh token" {
		t.Errorf("the broken one is so for %q", g.Reason)
	}
	if g := w.info("static"); g.UpstreamEnds.IsZero() {
		t.Error("nobody knows when the token ends that cannot be renewed")
	}
	if n, err := w.server.EndExpired(t.Context()); n != 1 || err != nil {
		t.Errorf("%d of one expired grant ended, %v", n, err)
	}
}

// The gateway serves requests from the start, and saves grants with them, before they are indexed and while they are.
func TestGrantsOfAnOlderReleaseThatAreInUseAreIndexedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vault, store := olderVault(t)
	w.vault, w.store = vault, store
	w.reload(func(o *authserver.Options) {
		o.Vault = w.vault
		o.Accounts = upstream.NewAccounts(upstream.AccountsOptions{Vault: w.vault})
	})
	inUse := func(id string) {
		g, err := w.vault.Grant(t.Context(), id)
		if err == nil {
			err = w.vault.Commit(t.Context(), tokenstore.Save(g))
		}
		if err != nil {
			t.Error(err)
		}
	}
	inUse("valid")
	inUse("broken")
	store.meddle(tokenstore.KindGrant, func() { inUse("static") })
	w.maintain()
	names := map[string]string{"broken": "broken", "ended": "ended", "expired": "expired", "machine": "machine", "static": "static", "tampered": "tampered", "valid": "valid"}
	if got := listed(w.grants(authserver.GrantFilter{Provider: "idp"}), names); got != "broken ended expired static valid" {
		t.Errorf("of the provider are %q", got)
	}
	if got := listed(w.grants(authserver.GrantFilter{Health: tokenstore.HealthBroken}), names); got != "broken" {
		t.Errorf("broken are %q", got)
	}
	if g := w.info("static"); g.UpstreamEnds.IsZero() {
		t.Error("nobody knows when the token ends that cannot be renewed")
	}
}
