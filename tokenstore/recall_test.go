package tokenstore_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// countedStore counts what Recall opens, and can answer with another row.
type countedStore struct {
	tokenstore.Store
	opened int
	bytes  int // of what was opened last
	other  string
}

func (s *countedStore) Recall(ctx context.Context, kind tokenstore.Kind, id string, open tokenstore.OpenRow) (any, error) {
	if s.other != "" {
		id = s.other
	}
	return s.Store.Recall(ctx, kind, id, func(row tokenstore.Row) (opened any, bytes int, err error) {
		s.opened++
		opened, s.bytes, err = open(row)
		return opened, s.bytes, err
	})
}

func newCountedStore(t testing.TB) *countedStore { return &countedStore{Store: newStore(t)} }

func TestRecalledRecordIsOpenedOnceUntilItChanges(t *testing.T) {
	t.Parallel()
	s := newCountedStore(t)
	v := rekeyVault(t, s, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}})
	g, a := newGrant("grant-1"), newAccount("account-1")
	commit(t, v, tokenstore.Save(g), tokenstore.Save(a))
	wantRecalled := func(when string, opened int) {
		t.Helper()
		s.opened = 0
		for range 3 {
			grant, err := v.RecallGrant(t.Context(), g.ID)
			if err != nil || !reflect.DeepEqual(grant, g) {
				t.Fatalf("%s: the grant is %+v, %v; want %+v", when, grant, err, g)
			}
			account, err := v.RecallAccount(t.Context(), a.ID)
			if err != nil || !reflect.DeepEqual(account, a) {
				t.Fatalf("%s: the account is %+v, %v; want %+v", when, account, err, a)
			}
		}
		if s.opened != opened {
			t.Errorf("%s: opened %d times; want %d", when, s.opened, opened)
		}
	}
	wantRecalled("at first", 2)
	wantRecalled("unchanged", 0)
	g.Reason, a.AccessToken = "changed", "at-secret-2"
	commit(t, v, tokenstore.Save(g), tokenstore.Save(a))
	wantRecalled("changed", 2)
	defer v.KeepKeys()()
	rekey(t, v, tokenstore.RekeyDone)
	wantRecalled("sealed anew", 2)
	commit(t, v, tokenstore.Delete(g))
	if _, err := v.RecallGrant(t.Context(), g.ID); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("the grant that was deleted: %v; want ErrNotFound", err)
	}
}

func TestRecalledRecordIsTheCallersOwn(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	g := newGrant("grant-1")
	g.Scopes, g.Providers = []string{"one", "two", "three"}, []string{"okta"}
	commit(t, v, tokenstore.Save(g))
	for range 2 {
		got, err := v.RecallGrant(t.Context(), g.ID)
		if err != nil || !reflect.DeepEqual(got, g) {
			t.Fatalf("the grant is %+v, %v; want %+v", got, err, g)
		}
		got.Client, got.Scopes[0], got.Providers = "changed", "changed", append(got.Providers, "changed")
	}
}

func TestRecordThatDoesNotOpenIsNotRemembered(t *testing.T) {
	t.Parallel()
	s := newCountedStore(t)
	v := openVault(t, s, tokenstore.NewRootKey())
	commit(t, v, tokenstore.Save(newGrant("grant-1")))
	row, err := s.Get(t.Context(), tokenstore.KindGrant, "grant-1")
	if err != nil {
		t.Fatal(err)
	}
	damaged := tokenstore.Change{Op: tokenstore.OpReseal, Row: row}
	damaged.Row.Sealed = append([]byte(nil), row.Sealed...)
	damaged.Row.Sealed[len(row.Sealed)-1] ^= 1
	for _, step := range []struct {
		change tokenstore.Change
		opened int // by two recalls
		want   error
	}{{damaged, 2, tokenstore.ErrTampered}, {tokenstore.Change{Op: tokenstore.OpReseal, Row: row}, 1, nil}, {damaged, 2, tokenstore.ErrTampered}} {
		if err := s.Apply(t.Context(), step.change); err != nil {
			t.Fatal(err)
		}
		s.opened = 0
		for range 2 {
			if g, err := v.RecallGrant(t.Context(), "grant-1"); !errors.Is(err, step.want) || (g == nil) != (err != nil) {
				t.Errorf("RecallGrant = %v, %v; want %v", g, err, step.want)
			}
		}
		if s.opened != step.opened {
			t.Errorf("opened %d times; want %d", s.opened, step.opened)
		}
	}
}

// Whoever can write to the storage has it answer with another record, which opens as what it is.
func TestRecalledRecordIsTheOneThatWasAskedFor(t *testing.T) {
	t.Parallel()
	s := newCountedStore(t)
	v := openVault(t, s, tokenstore.NewRootKey())
	commit(t, v, tokenstore.Save(newGrant("grant-1")), tokenstore.Save(newGrant("grant-2")))
	s.other = "grant-2"
	if g, err := v.RecallGrant(t.Context(), "grant-1"); !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("RecallGrant = %+v, %v; want ErrTampered", g, err)
	}
}

func TestRecallFromMemoryMakesACopyWithItsListsAndNothingElse(t *testing.T) {
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	commit(t, v, tokenstore.Save(newGrant("grant-1")), tokenstore.Save(newAccount("account-1")))
	for what, recall := range map[string]func() error{
		"grant":   func() error { _, err := v.RecallGrant(context.Background(), "grant-1"); return err },
		"account": func() error { _, err := v.RecallAccount(context.Background(), "account-1"); return err },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if err := recall(); err != nil {
				t.Fatal(err)
			}
		}); n > 3 { // the lists are of texts, and of times
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}

// The memory is bounded by the bytes that records are said to take.
func TestOpenedRecordTakesNoMoreThanIsCounted(t *testing.T) {
	s := newCountedStore(t)
	v := openVault(t, s, tokenstore.NewRootKey())
	const n, around = 5000, 256 // bytes of a record's place in the memory, and of what its texts are rounded up by
	ids := saveGrants(t, v, n)
	held := func() uint64 {
		var m runtime.MemStats
		runtime.GC() // twice, so that what was waiting to be collected is gone
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, counted := held(), 0
	for _, id := range ids {
		if _, err := v.RecallGrant(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		counted += s.bytes + around
	}
	after := held()
	if took := float64(after) - float64(before); took > 1.25*float64(counted) || took < 0.5*float64(counted) {
		t.Errorf("%d grants take %.0f bytes each, and are counted as %d", n, took/n, counted/n)
	}
	runtime.KeepAlive(s)
}

// saveGrants saves so many typical grants, and returns their ids.
func saveGrants(t testing.TB, v *tokenstore.Vault, n int) []string {
	t.Helper()
	ids := make([]string, 0, n)
	for len(ids) < n {
		writes := make([]tokenstore.Write, 0, 1000)
		for len(writes) < cap(writes) && len(ids) < n {
			g := typicalGrant(v, len(ids))
			writes, ids = append(writes, tokenstore.Save(g)), append(ids, g.ID)
		}
		commit(t, v, writes...)
	}
	return ids
}

// BenchmarkRecallGrant recalls a grant that is in memory, grants of which there are more than fit in, at random, and one that is read and opened each time.
func BenchmarkRecallGrant(b *testing.B) {
	run := func(b *testing.B, v *tokenstore.Vault, ids []string) {
		b.Helper()
		for _, id := range ids {
			if _, err := v.RecallGrant(b.Context(), id); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := v.RecallGrant(b.Context(), ids[rand.IntN(len(ids))]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.Run("hit", func(b *testing.B) {
		v := openVault(b, newStore(b), tokenstore.NewRootKey())
		run(b, v, saveGrants(b, v, 1000))
	})
	b.Run("of-100000", func(b *testing.B) {
		s := newStore(b)
		v := openVault(b, s, tokenstore.NewRootKey())
		ids := saveGrants(b, v, 100_000)
		before := recallsOf(s)
		run(b, v, ids) // which recalls each once, before it measures
		after := recallsOf(s)
		hits, misses := float64(after.Hits-before.Hits), float64(after.Misses-before.Misses)-float64(len(ids))
		b.ReportMetric(hits/(hits+misses), "hits/op")
		b.ReportMetric(float64(after.Rows), "rows")
	})
	b.Run("miss", func(b *testing.B) {
		v := openVault(b, newStore(b), tokenstore.NewRootKey())
		ids := saveGrants(b, v, 1000)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Grant(b.Context(), ids[rand.IntN(len(ids))]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func recallsOf(s tokenstore.Store) tokenstore.Recalls {
	return s.(interface{ Recalls() tokenstore.Recalls }).Recalls()
}
