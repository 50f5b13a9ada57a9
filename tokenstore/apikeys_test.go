package tokenstore_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func newAPIKey(id string) *tokenstore.APIKey {
	return &tokenstore.APIKey{
		Meta: tokenstore.Meta{ID: id, DeleteAfter: now.Add(time.Hour)}, Name: "nightly", Proxies: []string{"github"}, Scopes: []string{"repo"},
		Hash: "key-hash", Created: now, Expires: now.Add(time.Minute), Used: now,
	}
}

func TestAPIKeysComeBackAsTheyWereSaved(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	v := openVault(t, s, tokenstore.NewRootKey())
	key := newAPIKey("key-1")
	for _, c := range []struct {
		revoked time.Time
		state   tokenstore.State
	}{{time.Time{}, tokenstore.StateActive}, {now, tokenstore.StateRevoked}} {
		key.Revoked = c.revoked
		commit(t, v, tokenstore.Save(key))
		if got, err := v.APIKey(t.Context(), "key-1"); err != nil || !reflect.DeepEqual(got, key) {
			t.Errorf("came back as\n%+v, %v; want\n%+v", got, err, key)
		}
		row, err := s.Get(t.Context(), tokenstore.KindAPIKey, "key-1")
		if err != nil || row.State != string(c.state) || strings.Contains(string(row.Sealed), "nightly") {
			t.Errorf("row = %+v, %v; want it sealed, and %s", row, err, c.state)
		}
	}
	for _, id := range []string{"key-2", "", "a b"} {
		if _, err := v.APIKey(t.Context(), id); !errors.Is(err, tokenstore.ErrNotFound) {
			t.Errorf("APIKey(%q) = %v; want ErrNotFound", id, err)
		}
	}
}

func TestAPIKeysAreListedWholeWhateverIsAmongThem(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	v := openVault(t, s, tokenstore.NewRootKey())
	if keys, err := v.APIKeys(t.Context()); len(keys) != 0 || err != nil {
		t.Errorf("no keys are listed as %v, %v", keys, err)
	}
	var writes []tokenstore.Write
	for i := range 1001 { // more than a page
		writes = append(writes, tokenstore.Save(newAPIKey(fmt.Sprintf("key-%04d", i))))
	}
	commit(t, v, writes...)
	row, err := s.Get(t.Context(), tokenstore.KindAPIKey, "key-0007")
	if err != nil {
		t.Fatal(err)
	}
	row.Version++ // sealed for the version before
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: row}); err != nil {
		t.Fatal(err)
	}
	keys, err := v.APIKeys(t.Context())
	if len(keys) != 1000 || keys[0].ID != "key-0000" || keys[999].ID != "key-1000" {
		t.Errorf("%d keys are listed", len(keys))
	}
	if !errors.Is(err, tokenstore.ErrTampered) || !strings.Contains(err.Error(), "key-0007") {
		t.Errorf("err = %v; want ErrTampered that names the key", err)
	}
	if n, err := v.Sweep(t.Context(), now.Add(2*time.Hour), 2000); n != 1001 || err != nil {
		t.Errorf("Sweep = %d, %v; want every key past its time gone", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if keys, err := v.APIKeys(t.Context()); keys != nil || !errors.Is(err, tokenstore.ErrClosed) {
		t.Errorf("on a closed store: %v, %v", keys, err)
	}
}
