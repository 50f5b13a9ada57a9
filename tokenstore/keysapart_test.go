package tokenstore_test

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// What signs access tokens, what seals records and what the operator has are made apart, each at random: whoever gets one has none of the others.
func TestSigningKeysAreSealedByAKeyThatSealsNothingElse(t *testing.T) {
	t.Parallel()
	root := tokenstore.NewRootKey()
	var seen [][]byte
	for range 2 { // vaults with the same encryption key
		store, err := bbolt.Open(filepath.Join(t.TempDir(), "vault.db"), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		v, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{root}})
		if err != nil {
			t.Fatal(err)
		}
		meta := tokenstore.Meta{ID: "record"}
		if err := v.Commit(t.Context(), tokenstore.Save(&tokenstore.SigningKeys{}), tokenstore.Save(&tokenstore.Client{Meta: meta}), tokenstore.Save(&tokenstore.Login{Meta: meta}),
			tokenstore.Save(&tokenstore.Code{Meta: meta}), tokenstore.Save(&tokenstore.Grant{Meta: meta}), tokenstore.Save(&tokenstore.Account{Meta: meta}), tokenstore.Save(&tokenstore.Consent{Meta: meta}),
			tokenstore.Save(&tokenstore.APIKey{Meta: meta}), tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventSigningKeyRotated))); err != nil {
			t.Fatal(err)
		}
		sealedBy := make(map[string][]tokenstore.Kind) // by the id of the key, in the header of what it sealed
		for _, kind := range tokenstore.Kinds() {
			rows, err := store.List(t.Context(), kind, tokenstore.Query{})
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows {
				id := string(row.Sealed[3:11])
				sealedBy[id] = append(sealedBy[id], kind)
			}
		}
		alone := 0
		for _, kinds := range sealedBy {
			if len(kinds) == 1 && (kinds[0] == tokenstore.KindSigningKeys || kinds[0] == tokenstore.KindKeyring) {
				alone++
			}
		}
		if alone != 2 || len(sealedBy) < 4 {
			t.Errorf("keys seal %v: want one for the signing keys alone, and one, the encryption key, for the keyring alone", sealedBy)
		}
		seen = append(seen, tokenstore.RingSecrets(v, root)...)
	}
	seen = append(seen, root[:])
	if len(seen) != 2*5+1 {
		t.Fatalf("%d secrets", len(seen))
	}
	for i, a := range seen {
		for _, b := range seen[:i] {
			if bytes.Equal(a, b) || bytes.Contains(a, b[:8]) {
				t.Errorf("two secrets are the same")
			}
		}
	}
}
