package tokenstore

import (
	"errors"
	"testing"
)

// What opens was sealed by the vault's own key; yet it is a record only where there is one in it.
func TestSealedValueWithoutItsRecordIsNone(t *testing.T) {
	t.Parallel()
	id := keyID{1}
	key, err := newSealKey(id, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	ring := &keyring{instance: "i", opening: map[string]map[keyID]sealKey{useGrant: {id: key}}}
	for plain, good := range map[string]bool{
		`{"state":"active","record":{"state":"active","client_id":"c"}}`: true,
		`{"state":"active","record":{"state":"active"}`:                  false,
		`{"state":"active","record":{"state":7}}`:                        false,
		`{"state":"active","record":null}`:                               false,
		`{"state":"active","record":[]}`:                                 false,
		`{"state":"active"}`:                                             false,
		`{"state":"revoked","record":{"state":"active"}}`:                false,
		`null`: false,
	} {
		row := Row{Kind: KindGrant, ID: "g", Version: 1, State: "active"}
		row.Sealed = key.seal(ring.rowContext(useGrant, row), []byte(plain))
		var g Grant
		switch err := ring.unsealRecord(g.layout(), row, &g); {
		case good && (err != nil || g.ClientID != "c" || g.ID != "g"):
			t.Errorf("%s: %+v, %v", plain, g, err)
		case !good && !errors.Is(err, ErrTampered):
			t.Errorf("%s: %v; want ErrTampered", plain, err)
		}
	}
}
