package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// storedGrants are all grants in the vault of a gateway that does not run, the newest first.
func storedGrants(t *testing.T, w *testenv.World) []*tokenstore.Grant {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.Dir(), "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := tokenstore.ParseRootKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	store, err := bbolt.Open(w.VaultPath(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	vault, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	grants, err := vault.Grants(t.Context(), tokenstore.GrantQuery{})
	if err != nil {
		t.Fatal(err)
	}
	return grants
}

// Requests write nothing, and yet the last use is known when the process has ended.
func TestLastUseOfAGrantOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	before := time.Now()
	quiet, busy := w.NewPlainBot(t), w.NewPlainBot(t)
	quiet.Login(t, testenv.NewBrowser(testenv.Alice))
	busy.Login(t, testenv.NewBrowser(testenv.Alice))
	if _, err := busy.WhoAmI(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Terminate()
	grants := storedGrants(t, w)
	if len(grants) != 2 {
		t.Fatalf("%d grants", len(grants))
	}
	if used := grants[0].Used; used.Before(before) || used.After(time.Now()) {
		t.Errorf("the one that was used was so at %s", used)
	}
	if used := grants[1].Used; !used.IsZero() {
		t.Errorf("the one that was not used was so at %s", used)
	}
}
