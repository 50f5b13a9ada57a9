package caddyoauthproxy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// withKeys sets encryption_key to files that hold the keys.
func withKeys(t *testing.T, app *App, keys ...tokenstore.RootKey) *App {
	t.Helper()
	for _, key := range keys {
		path := filepath.Join(t.TempDir(), "vault.key")
		if err := os.WriteFile(path, []byte(key.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
		placeholder, err := json.Marshal("{file." + path + "}")
		if err != nil {
			t.Fatal(err)
		}
		app.EncryptionKeys = append(app.EncryptionKeys, placeholder)
	}
	return app
}

// TestResponsesOfBeforeAChangeOfKeysEndWithTheirGrant: the encryption key is changed because somebody may know it, then the vault's own keys, and then what that somebody may have is
// ended. Responses that began before all that are served by the gateway of before.
func TestResponsesOfBeforeAChangeOfKeysEndWithTheirGrant(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	first, second := tokenstore.NewRootKey(), tokenstore.NewRootKey()
	before, err := withKeys(t, provisioned(t, path), first).open()
	if err != nil {
		t.Fatal(err)
	}
	defer before.hold.leave()
	now := before.vault.Now()
	ends := now.Add(time.Hour)
	grant := &tokenstore.Grant{Meta: tokenstore.Meta{ID: "grant", DeleteAfter: ends}, State: tokenstore.StateActive, AccountID: "account", Expires: ends, Ends: ends}
	if err := before.vault.Commit(t.Context(), tokenstore.Save(grant)); err != nil {
		t.Fatal(err)
	}
	ended, done := waitFor(t, before.grants, "grant")
	defer done()

	g, err := withKeys(t, provisioned(t, path), second, first).open()
	if err != nil {
		t.Fatal(err)
	}
	defer g.hold.leave()
	if _, err := g.vault.BeginRekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		r, err := g.vault.Rekey(t.Context())
		if err == nil && r.State == tokenstore.RekeyWaiting {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("rekey is %+v, %v", r, err)
		}
	}
	select {
	case <-ended:
		t.Error("the response was told to end although its grant lives")
	default:
	}
	if grant, err = g.vault.Grant(t.Context(), "grant"); err != nil {
		t.Fatal(err)
	}
	grant.State = tokenstore.StateRevoked
	if err := g.vault.Commit(t.Context(), tokenstore.Save(grant)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the response goes on although its grant was ended")
	}
}
