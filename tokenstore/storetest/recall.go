package storetest

import (
	"errors"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// recalledKinds are those that every request asks for, and one that none does.
var recalledKinds = []tokenstore.Kind{tokenstore.KindGrant, tokenstore.KindAccount, tokenstore.KindAPIKey, tokenstore.KindClient}

// testRecallOpens recalls rows that change: what is returned was made of the row as it is.
func testRecallOpens(t *testing.T, s tokenstore.Store) {
	sealed := func(row tokenstore.Row) (any, int, error) { return string(row.Sealed), len(row.Sealed), nil }
	for _, kind := range recalledKinds {
		want := func(when string, change tokenstore.Change) {
			t.Helper()
			mustApply(t, s, change)
			for range 3 {
				got, err := s.Recall(t.Context(), kind, "recalled", sealed)
				if err != nil || got != string(change.Row.Sealed) {
					t.Fatalf("%s %s: Recall = %q, %v; want what was made of %q", kind, when, got, err, change.Row.Sealed)
				}
			}
		}
		r := row("recalled")
		r.Kind, r.Sealed = kind, []byte("first")
		want("inserted", insert(r))
		r.Version, r.Sealed = 2, []byte("second")
		want("updated", update(r))
		r.Sealed = []byte("third")
		want("sealed anew", tokenstore.Change{Op: tokenstore.OpReseal, Row: r})
		mustApply(t, s, remove(r, 2))
		if got, err := s.Recall(t.Context(), kind, "recalled", sealed); !errors.Is(err, tokenstore.ErrNotFound) {
			t.Fatalf("%s deleted: Recall = %q, %v; want ErrNotFound", kind, got, err)
		}
		r.Version, r.Sealed = 1, []byte("fourth")
		want("inserted again", insert(r))
	}
}

// testRecallRefused has open refuse a row: the error is the caller's, and the row is opened again the next time.
func testRecallRefused(t *testing.T, s tokenstore.Store) {
	refused := errors.New("refused")
	for _, kind := range recalledKinds {
		r := row("recalled")
		r.Kind = kind
		mustApply(t, s, insert(r))
		for range 3 {
			opened := 0
			_, err := s.Recall(t.Context(), kind, r.ID, func(got tokenstore.Row) (any, int, error) {
				opened++
				if diff := compare(got, r); diff != "" {
					t.Errorf("%s: to be opened: %s", kind, diff)
				}
				return nil, 0, refused
			})
			if opened != 1 || !errors.Is(err, refused) {
				t.Errorf("%s: Recall = %v, after the row was opened %d times; want the refusal of one", kind, err, opened)
			}
		}
		if _, err := Recalling(s)(t.Context(), kind, r.ID); err != nil {
			t.Errorf("%s: Recall = %v, after refusals", kind, err)
		}
	}
}
