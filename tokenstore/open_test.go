package tokenstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func initialized(t *testing.T, s tokenstore.Store) bool {
	t.Helper()
	ok, err := tokenstore.Initialized(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestOpenBeginsAVaultOnce(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	if initialized(t, s) {
		t.Error("an empty store counts as a vault")
	}
	v := openVault(t, s, key)
	if !initialized(t, s) {
		t.Error("a new vault does not count as one")
	}
	commit(t, v, tokenstore.Save(newGrant("grant-1")))
	again := openVault(t, s, key)
	if _, err := again.Grant(t.Context(), "grant-1"); err != nil {
		t.Errorf("Grant after opening again = %v", err)
	}
	if again.Hash("state", "x") != v.Hash("state", "x") || again.Derive("csrf", "x") != v.Derive("csrf", "x") {
		t.Error("hashes change when the vault is opened again")
	}
	if !again.Now().Equal(now) {
		t.Errorf("Now = %v; want the clock of the options, %v", again.Now(), now)
	}
}

func TestT75WithoutTheKeyNothingOpensAndNothingIsWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	s, key := openFile(t, path), tokenstore.NewRootKey()
	commit(t, openVault(t, s, key), tokenstore.Save(newGrant("grant-1")))
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		keys []tokenstore.RootKey
		want error
	}{
		"no key":          {nil, tokenstore.ErrNoKey},
		"empty key":       {[]tokenstore.RootKey{{}}, tokenstore.ErrNoKey},
		"empty key ahead": {[]tokenstore.RootKey{{}, key}, tokenstore.ErrNoKey},
		"another key":     {[]tokenstore.RootKey{tokenstore.NewRootKey()}, tokenstore.ErrWrongKey},
		"other keys":      {[]tokenstore.RootKey{tokenstore.NewRootKey(), tokenstore.NewRootKey()}, tokenstore.ErrWrongKey},
	} {
		if v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: tt.keys}); v != nil || !errors.Is(err, tt.want) {
			t.Errorf("%s: Open = %v; want %v", name, err, tt.want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file was written to (%v)", err)
	}
	if _, err := openVault(t, openFile(t, path), key).Grant(t.Context(), "grant-1"); err != nil {
		t.Errorf("Grant with the right key afterwards = %v", err)
	}
}

func TestNoKeyBeginsNoVault(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := tokenstore.Open(t.Context(), s, tokenstore.Options{}); !errors.Is(err, tokenstore.ErrNoKey) {
		t.Errorf("Open = %v; want ErrNoKey", err)
	}
	if initialized(t, s) {
		t.Error("a vault was begun without a key")
	}
}

func TestRootKeyIsChangedByListingTheNewOneFirst(t *testing.T) {
	t.Parallel()
	s, old, fresh := newStore(t), tokenstore.NewRootKey(), tokenstore.NewRootKey()
	commit(t, openVault(t, s, old), tokenstore.Save(newGrant("grant-1")))
	running := openVault(t, s, old)
	openVault(t, s, old, fresh) // the first has not changed
	openVault(t, s, old)

	var nodes sync.WaitGroup
	for range 4 { // nodes that are reloaded together
		nodes.Go(func() {
			if _, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{fresh, old}}); err != nil {
				t.Errorf("Open with the new key first = %v", err)
			}
		})
	}
	nodes.Wait()
	if _, err := openVault(t, s, fresh).Grant(t.Context(), "grant-1"); err != nil {
		t.Errorf("Grant with the new key alone = %v", err)
	}
	if _, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{old}}); !errors.Is(err, tokenstore.ErrWrongKey) {
		t.Errorf("Open with the old key alone = %v; want ErrWrongKey", err)
	}
	if _, err := running.Grant(t.Context(), "grant-1"); err != nil {
		t.Errorf("Grant on a node that was not reloaded = %v", err)
	}
}

func TestNodesThatStartTogetherShareOneKeyring(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	vaults := make([]*tokenstore.Vault, 8)
	var nodes sync.WaitGroup
	for i := range vaults {
		nodes.Go(func() {
			v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: clock})
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			if err := v.Commit(t.Context(), tokenstore.Save(newAccount("account-"+string(rune('a'+i))))); err != nil {
				t.Errorf("Commit: %v", err)
			}
			vaults[i] = v
		})
	}
	nodes.Wait()
	if t.Failed() {
		return
	}
	for i, v := range vaults {
		if v.Hash("state", "x") != vaults[0].Hash("state", "x") {
			t.Errorf("node %d has keys of its own", i)
		}
		for j := range vaults {
			if _, err := v.Account(t.Context(), "account-"+string(rune('a'+j))); err != nil {
				t.Errorf("node %d reads what node %d wrote: %v", i, j, err)
			}
		}
	}
}

func TestVaultThatLostItsKeyringIsNotBegunAnew(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	commit(t, openVault(t, s, key), tokenstore.Save(newGrant("grant-1")))
	ring := tokenstore.Row{Kind: tokenstore.KindKeyring, ID: "ring", Version: 1}
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpDelete, Row: ring}); err != nil {
		t.Fatal(err)
	}
	_, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	if !errors.Is(err, tokenstore.ErrTampered) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("Open = %v; want ErrTampered that speaks of the backup", err)
	}
	if initialized(t, s) {
		t.Error("a new keyring was made")
	}
}

func TestTamperedKeyringIsRefused(t *testing.T) {
	t.Parallel()
	s, key := &writable{Store: newStore(t)}, tokenstore.NewRootKey()
	openVault(t, s, key)
	for name, edit := range map[string]func(*tokenstore.Row){
		"flipped":   func(r *tokenstore.Row) { r.Sealed[len(r.Sealed)/2] ^= 1 },
		"version":   func(r *tokenstore.Row) { r.Version = 2 },
		"plaintext": func(r *tokenstore.Row) { r.Sealed = []byte(`{"instance":"00","keys":[]}`) },
		"empty":     func(r *tokenstore.Row) { r.Sealed = nil },
	} {
		s.edit = func(row tokenstore.Row) tokenstore.Row { edit(&row); return row }
		if _, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{key}}); !errors.Is(err, tokenstore.ErrTampered) {
			t.Errorf("%s: Open = %v; want ErrTampered", name, err)
		}
	}
}
