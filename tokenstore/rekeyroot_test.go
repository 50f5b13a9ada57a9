package tokenstore_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// TestRekeyDoesNotTakeTheEncryptionKeyBack: a node, or the gateway of before a reload, may have the keys in another order. Who was told that a key encrypts nothing any more has
// perhaps thrown it away.
func TestRekeyDoesNotTakeTheEncryptionKeyBack(t *testing.T) {
	t.Parallel()
	s, first, second := newStore(t), tokenstore.NewRootKey(), tokenstore.NewRootKey()
	before := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{first, second}})
	rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{second, first}})
	if err := tokenstore.CheckKeys(t.Context(), s, []tokenstore.RootKey{second}); err != nil {
		t.Fatalf("the vault was not moved to the new key: %v", err)
	}
	defer before.KeepKeys()()
	rekey(t, before, tokenstore.RekeyDone)
	if err := tokenstore.CheckKeys(t.Context(), s, []tokenstore.RootKey{second}); err != nil {
		t.Errorf("the vault does not open with the new key alone: %v", err)
	}
}

// TestVaultThatLearnsTheNewKeyGoesOn: what was begun under a configuration outlives a reload that changes the encryption key.
func TestVaultThatLearnsTheNewKeyGoesOn(t *testing.T) {
	t.Parallel()
	s, first, second := newStore(t), tokenstore.NewRootKey(), tokenstore.NewRootKey()
	var failed atomic.Int32
	before := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{first}, KeysFailed: func(error) { failed.Add(1) }})
	g := newGrant("grant-1")
	commit(t, before, tokenstore.Save(g))
	before.LearnKeys(first, second)
	v := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{second, first}})
	defer before.KeepKeys()()
	rekey(t, v, tokenstore.RekeyDone)
	now, err := v.Grant(t.Context(), "grant-1")
	if err != nil {
		t.Fatal(err)
	}
	now.State = tokenstore.StateRevoked
	commit(t, v, tokenstore.Save(now))
	if now, err = before.Grant(t.Context(), "grant-1"); err != nil || now.State != tokenstore.StateRevoked {
		t.Errorf("Grant = %+v, %v; want that it was ended", now, err)
	}
	if err := before.Commit(t.Context(), tokenstore.Save(newGrant("grant-2"))); err != nil {
		t.Errorf("Commit = %v", err)
	}
	if n := failed.Load(); n != 0 {
		t.Errorf("the operator was told %d times that a key is missing", n)
	}
	if err := tokenstore.CheckKeys(t.Context(), s, []tokenstore.RootKey{first}); !errors.Is(err, tokenstore.ErrWrongKey) {
		t.Errorf("the key before opens the vault: %v", err)
	}
}
