package tokenstore_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// writable is a store to which somebody without the key can write: edit changes the rows that are
// read from it, and listed stands for an index that lists other rows than it should.
type writable struct {
	tokenstore.Store
	edit   func(tokenstore.Row) tokenstore.Row
	listed []tokenstore.Row
}

func (w *writable) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	row, err := w.Store.Get(ctx, kind, id)
	if err == nil && w.edit != nil {
		row = w.edit(row)
	}
	return row, err
}

func (w *writable) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	if w.listed != nil {
		return w.listed, nil
	}
	rows, err := w.Store.List(ctx, kind, q)
	for i := range rows {
		if w.edit != nil {
			rows[i] = w.edit(rows[i])
		}
	}
	return rows, err
}

// victims fills a vault with two grants and two accounts, and a record of each other kind.
func victims(t testing.TB) (*tokenstore.Vault, *writable) {
	t.Helper()
	s := &writable{Store: newStore(t)}
	v := openVault(t, s, tokenstore.NewRootKey())
	for record := range oneOfEach(v) {
		commit(t, v, tokenstore.Save(record))
	}
	commit(t, v, tokenstore.Save(newGrant("grant-2")), tokenstore.Save(newAccount("account-2")))
	return v, s
}

// wantTampered reads everything that a change could have struck.
func wantTampered(t *testing.T, what string, v *tokenstore.Vault) {
	t.Helper()
	grant, err := v.Grant(t.Context(), "grant-1")
	if grant != nil || !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("%s: Grant = %v, %v; want ErrTampered", what, grant, err)
	}
	account, err := v.Account(t.Context(), "account-1")
	if account != nil || !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("%s: Account = %v, %v; want ErrTampered", what, account, err)
	}
	for _, secret := range []string{"secret", "ann@example.com", "00u1"} {
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error tells %q: %v", what, secret, err)
		}
	}
}

// stored reads a row as it lies in a store.
func stored(t *testing.T, s *writable, kind tokenstore.Kind, id string) tokenstore.Row {
	t.Helper()
	row, err := s.Store.Get(t.Context(), kind, id)
	if err != nil {
		t.Fatal(err)
	}
	return row
}

func TestT71ValueOfAnotherRowIsRefused(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	_, foreign := victims(t)
	neighbour := func(row tokenstore.Row) tokenstore.Row {
		return stored(t, s, row.Kind, strings.Replace(row.ID, "-1", "-2", 1))
	}
	for name, edit := range map[string]func(tokenstore.Row) tokenstore.Row{
		"sealed value of the neighbour": func(row tokenstore.Row) tokenstore.Row { row.Sealed = neighbour(row).Sealed; return row },
		"whole row of the neighbour":    neighbour,
		"sealed value of another kind": func(row tokenstore.Row) tokenstore.Row {
			if row.Kind == tokenstore.KindGrant {
				row.Sealed = stored(t, s, tokenstore.KindAccount, "account-1").Sealed
			} else {
				row.Sealed = stored(t, s, tokenstore.KindGrant, "grant-1").Sealed
			}
			return row
		},
		"row of another vault": func(row tokenstore.Row) tokenstore.Row { return stored(t, foreign, row.Kind, row.ID) },
	} {
		s.edit = edit
		wantTampered(t, name, v)
	}
	s.edit = nil
	if _, err := v.Grant(t.Context(), "grant-1"); err != nil {
		t.Errorf("Grant after all = %v; want it untouched", err)
	}
}

func TestT71OlderValueOfTheSameRowIsRefused(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	grant, account := stored(t, s, tokenstore.KindGrant, "grant-1"), stored(t, s, tokenstore.KindAccount, "account-1")
	g, err := v.Grant(t.Context(), "grant-1")
	if err != nil {
		t.Fatal(err)
	}
	a, err := v.Account(t.Context(), "account-1")
	if err != nil {
		t.Fatal(err)
	}
	commit(t, v, tokenstore.Save(g), tokenstore.Save(a))
	s.edit = func(row tokenstore.Row) tokenstore.Row {
		if row.Kind == tokenstore.KindGrant {
			row.Sealed = grant.Sealed
		} else {
			row.Sealed = account.Sealed
		}
		return row
	}
	wantTampered(t, "value of the version before", v)
}

func TestT72EditedClearColumnIsRefused(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	for name, edit := range map[string]func(*tokenstore.Row){
		"state":              func(r *tokenstore.Row) { r.State = "revoked" },
		"no state":           func(r *tokenstore.Row) { r.State = "" },
		"version":            func(r *tokenstore.Row) { r.Version++ },
		"reference":          func(r *tokenstore.Row) { r.Refs[0] = "user:mallory" },
		"reference more":     func(r *tokenstore.Row) { r.Refs = append(r.Refs, "user:mallory") },
		"reference less":     func(r *tokenstore.Row) { r.Refs = r.Refs[1:] },
		"no references":      func(r *tokenstore.Row) { r.Refs = nil },
		"references as one":  func(r *tokenstore.Row) { r.Refs = []string{strings.Join(r.Refs, " ")} },
		"deletion time":      func(r *tokenstore.Row) { r.DeleteAfter = r.DeleteAfter.Add(time.Millisecond) },
		"due time":           func(r *tokenstore.Row) { r.Due = r.Due.Add(time.Millisecond) },
		"another time":       func(r *tokenstore.Row) { r.DeleteAfter = now.Add(1000 * time.Hour) },
		"sealed value empty": func(r *tokenstore.Row) { r.Sealed = nil },
	} {
		s.edit = func(row tokenstore.Row) tokenstore.Row { edit(&row); return row }
		wantTampered(t, name, v)
	}
}

func TestT72GrantListedForAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	s.listed = []tokenstore.Row{stored(t, s, tokenstore.KindGrant, "grant-1")}
	grants, err := v.Grants(t.Context(), tokenstore.GrantQuery{UserID: "mallory"})
	if len(grants) != 0 || !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("Grants = %v, %v; want ErrTampered", grants, err)
	}
	s.listed = []tokenstore.Row{stored(t, s, tokenstore.KindAccount, "account-1")}
	if grants, err := v.Grants(t.Context(), tokenstore.GrantQuery{}); len(grants) != 0 || !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("Grants with an account among them = %v, %v; want ErrTampered", grants, err)
	}
}

func TestTamperedGrantDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	s.edit = func(row tokenstore.Row) tokenstore.Row {
		if row.ID == "grant-1" {
			row.State = "revoked"
		}
		return row
	}
	grants, err := v.Grants(t.Context(), tokenstore.GrantQuery{UserID: "user-1"})
	if len(grants) != 1 || grants[0].ID != "grant-2" || !errors.Is(err, tokenstore.ErrTampered) || !strings.Contains(err.Error(), "grant-1") {
		t.Errorf("Grants = %v, %v; want grant-2, and ErrTampered that names grant-1", grants, err)
	}
}

func TestT73PlantedValueIsRefused(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	for name, plant := range map[string]func(sealed []byte) []byte{
		"plaintext":          func([]byte) []byte { return []byte(`{"record":{"access_token":"planted","state":"active"}}`) },
		"nothing":            func([]byte) []byte { return nil },
		"header only":        func(sealed []byte) []byte { return sealed[:11] },
		"header and nothing": func(sealed []byte) []byte { return sealed[:11+12+16] },
		"cut in half":        func(sealed []byte) []byte { return sealed[:len(sealed)/2] },
		"version zero":       func(sealed []byte) []byte { sealed[1] = 0; return sealed },
		"no cipher":          func(sealed []byte) []byte { sealed[2] = 0; return sealed },
		"unknown key":        func(sealed []byte) []byte { clear(sealed[3:11]); return sealed },
		"key of a login":     func(sealed []byte) []byte { return stored(t, s, tokenstore.KindLogin, "login-1").Sealed },
	} {
		s.edit = func(row tokenstore.Row) tokenstore.Row { row.Sealed = plant(row.Sealed); return row }
		wantTampered(t, name, v)
	}
}

// TestT70NothingSecretIsInTheFile leads a vault through a life of writes, and looks for every secret in the raw file,
// where what was deleted or replaced stays until its page is used again.
func TestT70NothingSecretIsInTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	s, root := openFile(t, path), tokenstore.NewRootKey()
	v := openVault(t, s, root)
	for record := range oneOfEach(v) {
		commit(t, v, tokenstore.Save(record))
	}
	for i := range 100 {
		login, account, grant := newLogin(v.Hash("state", fmt.Sprint("state-secret-", i))), newAccount(fmt.Sprint("a-", i)), newGrant(fmt.Sprint("g-", i))
		grant.Family.Current = v.Hash("refresh_token", fmt.Sprint("rt-secret-", i))
		commit(t, v, tokenstore.Save(login))
		commit(t, v, tokenstore.Save(account), tokenstore.Save(grant), tokenstore.Delete(login))
		account.AccessToken, account.RefreshToken = fmt.Sprint("at-secret-new-", i), fmt.Sprint("rt-secret-new-", i)
		commit(t, v, tokenstore.Save(account))
		if i%2 == 0 {
			commit(t, v, tokenstore.Delete(account), tokenstore.Delete(grant))
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rootBytes, err := base64.StdEncoding.DecodeString(root.Text())
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]string{
		"token, state, verifier, nonce or key": "secret",
		"the same in base64":                   base64.StdEncoding.EncodeToString([]byte("secret")),
		"the same in hex":                      hex.EncodeToString([]byte("secret")),
		"mail address":                         "ann@example.com",
		"subject":                              "00u1",
		"issuer":                               "okta.test",
		"resource":                             "gw.test",
		"client's name":                        "Chatbot",
		"redirect URI":                         "127.0.0.1",
		"root key":                             string(rootBytes),
		"root key in base64":                   root.Text(),
		"root key in hex":                      hex.EncodeToString(rootBytes),
		"keyring":                              "jwtkey",
	} {
		if bytes.Contains(file, []byte(secret)) {
			t.Errorf("the file holds a %s: %q", name, secret)
		}
	}
	if !bytes.Contains(file, []byte("client:client-1")) {
		t.Error("the file does not even hold a reference: this test looks in the wrong place")
	}
}

// FuzzRow reads rows that somebody without the key made of a real one.
func FuzzRow(f *testing.F) {
	v, s := victims(f)
	row, err := s.Store.Get(context.Background(), tokenstore.KindGrant, "grant-1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(row.State, row.Refs[0], row.Version, row.DeleteAfter.UnixMilli(), row.Sealed)
	f.Add("revoked", row.Refs[0], row.Version, row.DeleteAfter.UnixMilli(), row.Sealed)
	f.Add("", "", uint64(0), int64(0), row.Sealed[:20])
	f.Fuzz(func(t *testing.T, state, ref string, version uint64, ms int64, sealed []byte) {
		s.edit = func(row tokenstore.Row) tokenstore.Row {
			row.State, row.Refs[0], row.Version, row.DeleteAfter, row.Sealed = state, ref, version, time.UnixMilli(ms), sealed
			return row
		}
		same := state == row.State && ref == row.Refs[0] && version == row.Version && ms == row.DeleteAfter.UnixMilli() && bytes.Equal(sealed, row.Sealed)
		if _, err := v.Grant(t.Context(), "grant-1"); same != (err == nil) || err != nil && !errors.Is(err, tokenstore.ErrTampered) {
			t.Errorf("Grant = %v for a row that is the real one: %v", err, same)
		}
	})
}
