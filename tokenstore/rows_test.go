package tokenstore

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// ringVault is a vault without a store, for what needs none.
func ringVault(t *testing.T) *Vault {
	t.Helper()
	ring := storedRing{Instance: "test"}
	for _, use := range keyUses {
		ring.Keys = append(ring.Keys, storedKey{ID: random(8), Use: use, Secret: random(32)})
	}
	keys, err := newKeyring(ring)
	if err != nil {
		t.Fatal(err)
	}
	return &Vault{keys: newKeys(Options{}, keys), now: time.Now, trail: newTrail(Options{})}
}

// planted is a row whose sealed value is the vault's own and holds the text.
func planted(v *Vault, text string) Row {
	row := Row{Kind: KindLogin, ID: "login-1", Version: 3}
	l := new(Login).layout()
	ring := v.ring()
	row.Sealed = ring.sealing[l.use].seal(ring.rowContext(l.use, row), []byte(text))
	return row
}

func TestRecordOfANewerReleaseOpens(t *testing.T) {
	t.Parallel()
	v := ringVault(t)
	var login Login
	row := planted(v, `{"record":{"provider":"okta","invented_later":[1]},"also_later":{}}`)
	if err := v.openRecord(row, &login); err != nil || login.Provider != "okta" || login.ID != "login-1" || login.Version != 3 {
		t.Errorf("openRecord = %+v, %v; want the login", login, err)
	}
}

func TestWhatIsNoRecordIsRefusedAndNotQuoted(t *testing.T) {
	t.Parallel()
	v := ringVault(t)
	for _, text := range []string{
		"", "sesame", `{"record":{"provider":"sesame"}} `[:20], `{"record":{"provider":"sesame"}}}`, `{"record":{"provider":"sesame"}}{}`,
		`{"record":"sesame"}`, `{"record":{"provider":["sesame"]}}`, `{}`, `{"state":"sesame","record":{}}`,
	} {
		err := v.openRecord(planted(v, text), new(Login))
		if !errors.Is(err, ErrTampered) {
			t.Errorf("%q: %v; want ErrTampered", text, err)
		} else if strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q: error quotes the record: %v", text, err)
		}
	}
}

func TestDamagedKeyringIsRefused(t *testing.T) {
	t.Parallel()
	whole := func() storedRing {
		ring := storedRing{Instance: "test"}
		for _, use := range keyUses {
			ring.Keys = append(ring.Keys, storedKey{ID: random(8), Use: use, Secret: random(32)})
		}
		return ring
	}
	if _, err := newKeyring(whole()); err != nil {
		t.Fatal(err)
	}
	for i, use := range keyUses {
		missing, short, unnamed := whole(), whole(), whole()
		missing.Keys = append(missing.Keys[:i], missing.Keys[i+1:]...)
		short.Keys[i].Secret = short.Keys[i].Secret[:16]
		unnamed.Keys[i].ID = nil
		for name, ring := range map[string]storedRing{"missing": missing, "short": short, "without id": unnamed} {
			if _, err := newKeyring(ring); !errors.Is(err, ErrTampered) {
				t.Errorf("key for %s %s: %v; want ErrTampered", use, name, err)
			}
		}
	}
}
