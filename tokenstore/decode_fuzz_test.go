package tokenstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// FuzzRecords reads what a sealed record of each kind may hold that a release wrote with other members, or that was damaged before it was sealed: it is a record, or an error.
func FuzzRecords(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `"x"`, `{"state":"active"}`, `{"state":7}`, `{"created":"2026-11-21T12:00:00Z","expires":"0001-01-01T00:00:00Z"}`,
		`{"state":"active","client_id":"c","proxy":"p","user_id":"u","user":{"provider":"okta","groups":null},"account_id":"a","family":{"generation":4294967295,"replaced":[]}}`,
		`{"keys":[{"id":"kid","algorithm":"ES256","jwk":"e30=","created":"2026-11-21T12:00:00Z"}]}`, `{"revocation":null,"owner_id":"o","provider":"p","user_id":"u"}`,
		`{"filter":{"all":true},"closed":"2026-11-21T12:00:00Z"}`, `{"id":"x","time":"2026-11-21T12:00:00Z","details":{"a":"b"},"actor":{"kind":"gateway"}}`,
		`{"number":18446744073709551615,"lines":"AAAA","events":-1}`, `{"number":-1}`, `{"jwks":{"keys":[]},"redirect_uris":["x"],"address":"a"}`,
		`{"clients":[{"client_id":"x"}],"registering":{"owner":"o"}}`, strings.Repeat(`{"user":`, 50), `{"created":"9999-12-31T23:59:60Z"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var sealed sealedRecord
		_ = decode(data, &sealed)
		for _, kind := range Kinds() {
			record := newRecord(kind)
			if record == nil {
				continue
			}
			if err := decode(data, record); err != nil {
				if bytes.Contains(data, []byte("secret")) && strings.Contains(err.Error(), "secret") {
					t.Errorf("%s: the error quotes the record: %v", kind, err)
				}
				continue
			}
			record.meta().ID = "id"
			if l := record.layout(); l.kind != kind {
				t.Errorf("%T is of the kind %s; want %s", record, l.kind, kind)
			}
			again, err := json.Marshal(record)
			if err != nil { // a time that JSON has no form for
				continue
			}
			if err := decode(again, newRecord(kind)); err != nil {
				t.Errorf("%T does not read what it has written: %v: %s", record, err, again)
			}
		}
	})
}

// FuzzKeyring reads what the ring may hold, sealed by the right key.
func FuzzKeyring(f *testing.F) {
	root := RootKey{1}
	by, err := newSealKey(root.id(), root[:])
	if err != nil {
		f.Fatal(err)
	}
	whole := storedRing{Instance: "00112233445566778899aabbccddeeff"}
	for i, use := range keyUses {
		whole.Keys = append(whole.Keys, storedKey{ID: bytes.Repeat([]byte{byte(i)}, 8), Use: use, Secret: bytes.Repeat([]byte{7}, 32), Created: time.Unix(1, 0).UTC()})
	}
	text, err := json.Marshal(whole)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(bytes.Replace(text, []byte("grant"), []byte("index"), 1))
	f.Add(bytes.Replace(text, []byte("derive"), []byte("other"), 1))
	f.Add(text[:len(text)/2])
	f.Add([]byte(`{"keys":[{"id":"AAAAAAAAAAA=","use":"grant","secret":"AAAA"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		row := Row{Kind: KindKeyring, ID: keyringRow, Version: 1, Sealed: by.seal(ringContext(1), plain)}
		stored, _, err := unsealRing(row, []RootKey{{2}, root})
		if err == nil {
			var ring *keyring
			if ring, err = newKeyring(stored); err == nil {
				if len(ring.index.secret) != 32 || len(ring.derive.secret) != 32 {
					t.Errorf("a ring without keys for hashes opens: %s", plain)
				}
				for _, use := range keyUses[:3] {
					if key, ok := ring.sealing[use]; !ok || key.aead == nil {
						t.Errorf("a ring without a key for %s opens: %s", use, plain)
					}
				}
				return
			}
		}
		if !errors.Is(err, ErrTampered) {
			t.Errorf("%v; want ErrTampered", err)
		}
	})
}

// FuzzSealedHeader reads the header of what may be a sealed value.
func FuzzSealedHeader(f *testing.F) {
	f.Add([]byte("G\x01\x0112345678"))
	f.Add([]byte("G\x02\x0112345678"))
	f.Add([]byte("G\x01\x01"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		by, err := sealedBy(sealed)
		if err == nil && !bytes.Equal(by[:], sealed[3:11]) || err != nil && !errors.Is(err, ErrTampered) {
			t.Errorf("%x: %x, %v", sealed, by, err)
		}
	})
}

// FuzzFreeze reads what a store may say of why it is frozen.
func FuzzFreeze(f *testing.F) {
	for _, s := range []FreezeState{FreezeDraining, FreezeMoving, FreezeEnding, FreezeMoved, FreezeFilling, "other"} {
		f.Add(Freeze{State: s, Vault: "v", From: "bbolt /a", To: "postgres b", Since: time.Unix(1, 0).UTC()}.Text())
	}
	f.Add("")
	f.Add("null")
	f.Add("{}")
	f.Add(`{"state":"moved","since":7}`)
	f.Fuzz(func(t *testing.T, text string) {
		freeze, err := ParseFreeze(text)
		switch {
		case err != nil && !errors.Is(err, ErrUnavailable):
			t.Errorf("%q: %v; want ErrUnavailable", text, err)
		case err == nil && freeze.Frozen() != (text != ""): // a store that says something is never written
			t.Errorf("%q is frozen: %t", text, freeze.Frozen())
		case err == nil && freeze.Frozen():
			if again, err := ParseFreeze(freeze.Text()); err != nil || again.State != freeze.State || freeze.String() == "" || !errors.Is(freeze.Refuse(), ErrReadOnly) {
				t.Errorf("%q: %+v, %v", text, again, err)
			}
		}
	})
}

// FuzzEvent reads a line of the audit trail.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"id":"2AKZZJLOIC22225DJJN3JB3YQG","time":"2026-11-21T12:00:00Z","type":"grant.ended","outcome":"ok","actor":{"kind":"gateway"}}`))
	f.Add([]byte(`{"id":7}`))
	f.Add([]byte(`{"details":{"a":"\u202e\n"},"reason":"\u0000"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e := new(Event)
		if json.Unmarshal(line, e) != nil {
			return
		}
		if eventTime(e.ID).After(time.UnixMilli(1 << 48)) {
			t.Errorf("the id %q is of %s", e.ID, eventTime(e.ID))
		}
		e.clean()
		again, err := json.Marshal(e)
		if err != nil { // a year that JSON has no form for
			return
		}
		twice := new(Event)
		if err := json.Unmarshal(again, twice); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		twice.clean()
		if third, err := json.Marshal(twice); err != nil || !bytes.Equal(again, third) {
			t.Errorf("what was cleaned is not clean: %s, %s, %v", again, third, err)
		}
	})
}

// FuzzAnchor reads what somebody gives as an anchor.
func FuzzAnchor(f *testing.F) {
	f.Add("17:" + strings.Repeat("a", 64))
	f.Add("0:" + strings.Repeat("a", 64))
	f.Add("18446744073709551616:")
	f.Add(" 1:x\n")
	f.Fuzz(func(t *testing.T, text string) {
		a := new(audit)
		if err := a.parseAnchor(text); err != nil && !errors.Is(err, ErrAnchor) || err == nil && text != "" && (!a.anchored || a.anchor.Number == 0) {
			t.Errorf("%q: %+v, %v", text, a.anchor, err)
		}
	})
}
