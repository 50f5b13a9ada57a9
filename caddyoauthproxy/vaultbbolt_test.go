package caddyoauthproxy

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// openedFile opens a vault in a file as a config does.
func openedFile(t *testing.T, path string) (store tokenstore.Store, v *BboltVault, release func()) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	v = &BboltVault{Path: path}
	if err := v.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	store, release, err := v.OpenVault(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return store, v, release
}

// A second handle on a file that this process has open would wait for the first for ever.
func TestR29FileIsOpenOnceHoweverItsPathIsSpelled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.Mkdir(real, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	first, v, release := openedFile(t, filepath.Join(real, "vault.db"))
	releases := []func(){release}
	for _, path := range []string{real + "/./vault.db", real + "/../real/vault.db", filepath.Join(link, "vault.db"), link + "//vault.db"} {
		again, _, release := openedFile(t, path)
		if again != first {
			t.Errorf("%s is a file of its own", path)
		}
		releases = append(releases, release)
	}
	for i, release := range releases {
		if _, err := first.Count(t.Context(), tokenstore.KindGrant); err != nil {
			t.Errorf("after %d of %d have left: %v", i, len(releases), err)
		}
		release()
	}
	if n, open := bboltFiles.References(v.Path); open {
		t.Errorf("nobody uses the file, and %d hold it open", n)
	}
	if _, err := first.Count(t.Context(), tokenstore.KindGrant); err == nil {
		t.Error("the file was not closed")
	}
}
