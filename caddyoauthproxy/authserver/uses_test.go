package authserver

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

func TestUsesThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	var u uses
	now := time.Now()
	grant := func(i int) *tokenstore.Grant {
		return &tokenstore.Grant{Meta: tokenstore.Meta{ID: fmt.Sprint("grant-", i)}}
	}
	for i := range maxUses + 1000 {
		u.note(grant(i), now)
		u.note(grant(i), now.Add(time.Second)) // noted already
	}
	taken := u.take()
	if len(taken) != maxUses || !taken["grant-5"].Equal(now) {
		t.Errorf("%d wait, the fifth since %s", len(taken), taken["grant-5"])
	}
	if len(u.take()) != 0 {
		t.Error("what was taken still waits")
	}
	used := grant(1)
	used.Used = now
	u.note(used, now.Add(usedAfter-time.Second))
	u.note(grant(2), now)
	if taken := u.take(); len(taken) != 1 {
		t.Errorf("%v wait; want the grant alone that was not used for an hour", taken)
	}
}

func TestGrantsAreSavedButThoseThatSomebodyElseHasChanged(t *testing.T) {
	t.Parallel()
	store, err := bbolt.Open(filepath.Join(t.TempDir(), "vault.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	vault, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{vault: vault}
	var grants []*tokenstore.Grant
	for i := range 250 {
		g := &tokenstore.Grant{Meta: tokenstore.Meta{ID: fmt.Sprintf("grant-%03d", i)}, State: tokenstore.StateActive}
		if err := vault.Commit(t.Context(), tokenstore.Save(g)); err != nil {
			t.Fatal(err)
		}
		grants = append(grants, g)
	}
	stale := *grants[50]
	if err := vault.Commit(t.Context(), tokenstore.Save(grants[50])); err != nil {
		t.Fatal(err)
	}
	grants[50] = &stale
	if n, err := s.saveGrants(t.Context(), grants); n != 249 || err != nil {
		t.Errorf("%d of 250 saved, %v; want all but the one that was changed", n, err)
	}
	for _, id := range []string{"grant-000", "grant-049", "grant-050", "grant-051", "grant-249"} {
		if g, err := vault.Grant(t.Context(), id); err != nil || g.Version != 2 {
			t.Errorf("%s: %+v, %v; want it in its second version", id, g, err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.saveGrants(t.Context(), grants); n != 0 || !errors.Is(err, tokenstore.ErrClosed) {
		t.Errorf("on a closed vault %d saved, %v", n, err)
	}
}

func BenchmarkNoteUse(b *testing.B) {
	var u uses
	now := time.Now()
	lately, long := &tokenstore.Grant{Used: now}, &tokenstore.Grant{Meta: tokenstore.Meta{ID: "grant"}}
	for name, g := range map[string]*tokenstore.Grant{"used lately": lately, "noted": long} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					u.note(g, now)
				}
			})
		})
	}
}
