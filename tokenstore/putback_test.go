package tokenstore_test

import (
	"errors"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What somebody who can write to the storage, and has no key, can do: put a row of before back as a whole, or take one away. What is put back is what the vault
// itself wrote there, for the same user, and whoever holds what came after it overwrites nothing.
func TestT71RowThatIsPutBackWholeIsWhatItWasAndNothingElse(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	old := stored(t, s, tokenstore.KindGrant, "grant-1")
	now, err := v.Grant(t.Context(), "grant-1")
	if err != nil {
		t.Fatal(err)
	}
	was := *now
	now.State = tokenstore.StateRevoked
	commit(t, v, tokenstore.Save(now))
	s.edit = func(tokenstore.Row) tokenstore.Row { return old }
	back, err := v.Grant(t.Context(), "grant-1")
	if err != nil || back.State != was.State || back.UserID != was.UserID || back.Version != was.Version {
		t.Errorf("Grant = %+v, %v; want what it was", back, err)
	}
	if g, err := v.Grant(t.Context(), "grant-2"); !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("in the place of another: Grant = %v, %v; want ErrTampered", g, err)
	}
	s.edit = nil
	if err := v.Commit(t.Context(), tokenstore.Save(back)); !errors.Is(err, tokenstore.ErrConflict) {
		t.Errorf("Commit of what was put back only for the eye = %v; want ErrConflict", err)
	}
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpDelete, Row: stored(t, s, tokenstore.KindGrant, "grant-1")}); err != nil {
		t.Fatal(err)
	}
	if g, err := v.Grant(t.Context(), "grant-1"); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("Grant = %v, %v; want ErrNotFound", g, err)
	}
}
