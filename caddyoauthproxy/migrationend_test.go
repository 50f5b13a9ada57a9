package caddyoauthproxy

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// A vault may be moved back while the gateway that it was moved from is still open: then neither can write what the first has to tell.
func TestEventsOfAMovedVaultAreKeptWhereThatIsBeingMovedAsWell(t *testing.T) {
	t.Parallel()
	dir, key := t.TempDir(), tokenstore.NewRootKey()
	open := func(path string) (*bbolt.Store, *gateway) {
		store, err := bbolt.Open(path, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		vault, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
		if err != nil {
			t.Fatal(err)
		}
		return store, &gateway{vault: vault}
	}
	left, leaving := open(filepath.Join(dir, "left.db"))
	text, err := os.ReadFile(filepath.Join(dir, "left.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "next.db"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	next, used := open(filepath.Join(dir, "next.db"))
	moved := tokenstore.Freeze{State: tokenstore.FreezeMoved, Vault: leaving.vault.Identity(), To: "elsewhere"}
	for _, store := range []*bbolt.Store{left, next} {
		if err := store.Freeze(t.Context(), tokenstore.Freeze{}, moved); err != nil {
			t.Fatal(err)
		}
	}
	event := leaving.vault.NewEvent(t.Context(), tokenstore.EventVaultMove)
	leaving.vault.Note(event)
	if err := leaving.vault.FlushAudit(t.Context()); !errors.Is(err, tokenstore.ErrReadOnly) {
		t.Fatalf("FlushAudit = %v; want ErrReadOnly", err)
	}
	leaving.handOverTo(used)
	if err := next.Freeze(t.Context(), moved, tokenstore.Freeze{}); err != nil {
		t.Fatal(err)
	}
	if err := used.vault.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := used.vault.Event(t.Context(), event.ID); err != nil {
		t.Errorf("the event that was handed over: %v", err)
	}
}
