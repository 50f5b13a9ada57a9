package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// movable are the tests of what a tokenstore.Movable can do beside. A store that is none passes them.
var movable = map[string]func(*testing.T, tokenstore.Movable){
	"frozen store is read, and not written":                 testFrozen,
	"draining store lets refreshes end and nothing else":    testDraining,
	"freezing goes from the state that is there":            testFreezeFrom,
	"freezing waits for every apply that is acknowledged":   testFreezeWaits,
	"import writes rows as they are, over what is there":    testImport,
	"imported rows are found in all indexes":                testImportIndexes,
	"imported rows are updated from the version they have":  testImportedUpdate,
	"import writes only to a store that is being filled":    testImportRefused,
	"import refuses what is outside the limits, as a whole": testImportInvalid,
	"freezing and importing honour context and close":       testFreezeEnds,
	"snapshot visits every row whole and in order":          testSnapshot,
	"snapshot is of one moment":                             testSnapshotMoment,
	"snapshot ends with what ends its visits":               testSnapshotEnds,
}

func onMovable(test func(*testing.T, tokenstore.Movable)) func(*testing.T, tokenstore.Store) {
	return func(t *testing.T, s tokenstore.Store) {
		if m, ok := s.(tokenstore.Movable); ok {
			test(t, m)
		}
	}
}

func frozenAs(state tokenstore.FreezeState) tokenstore.Freeze {
	return tokenstore.Freeze{State: state, Vault: "vault-1", From: `file "old" 'x'`, To: "the new store", Since: at(1_700_000_000_123)}
}

func mustFreeze(t *testing.T, s tokenstore.Movable, was, now tokenstore.Freeze) {
	t.Helper()
	if err := s.Freeze(t.Context(), was, now); err != nil {
		t.Fatalf("Freeze(%v): %v", now.State, err)
	}
	wantFrozen(t, s, now)
}

func wantFrozen(t *testing.T, s tokenstore.Movable, want tokenstore.Freeze) {
	t.Helper()
	if f, err := s.Frozen(t.Context()); err != nil || f != want {
		t.Fatalf("Frozen = %+v, %v; want %+v", f, err, want)
	}
}

func wantReadOnly(t *testing.T, err error, f tokenstore.Freeze) {
	t.Helper()
	if !errors.Is(err, tokenstore.ErrReadOnly) || !errors.Is(err, tokenstore.ErrUnavailable) || !strings.Contains(err.Error(), f.String()) {
		t.Fatalf("%v; want ErrReadOnly, and why: %s", err, f)
	}
}

func account(id string, state tokenstore.State) tokenstore.Row {
	r := row(id)
	r.Kind, r.State = tokenstore.KindAccount, string(state)
	return r
}

func testFrozen(t *testing.T, s tokenstore.Movable) {
	r, refreshing := row("a", "user:1"), account("b", tokenstore.StateRefreshing)
	r.DeleteAfter, r.Due = at(1000), at(500)
	mustApply(t, s, insert(r), insert(refreshing))
	was := tokenstore.Freeze{}
	wantFrozen(t, s, was)
	for _, state := range []tokenstore.FreezeState{tokenstore.FreezeMoving, tokenstore.FreezeEnding, tokenstore.FreezeMoved, tokenstore.FreezeFilling} {
		f := frozenAs(state)
		mustFreeze(t, s, was, f)
		was = f
		next, ended := r, refreshing
		next.Version, ended.Version = 2, 2
		for _, changes := range [][]tokenstore.Change{{insert(row("new"))}, {update(next)}, {remove(r, 1)}, {update(ended)}, {insert(row("new")), update(ended)}, {reseal(r, 1, "x")}, {reseal(refreshing, 1, "x")}} {
			wantReadOnly(t, s.Apply(t.Context(), changes...), f)
		}
		_, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(2000), 10)
		wantReadOnly(t, err, f)
		mustApply(t, s) // of nothing
		wantRow(t, s, r)
		wantRow(t, s, refreshing)
		wantIDs(t, s, tokenstore.Query{}, "a")
		wantDue(t, s, 501, 10, "a")
		if n, err := s.Count(t.Context(), tokenstore.KindGrant, "user:1"); n != 1 || err != nil {
			t.Fatalf("Count = %d, %v", n, err)
		}
	}
	mustFreeze(t, s, was, tokenstore.Freeze{})
	mustApply(t, s, insert(row("new")))
	if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(2000), 10); n != 1 || err != nil {
		t.Fatalf("Sweep after thawing = %d, %v; want 1", n, err)
	}
}

func testDraining(t *testing.T, s tokenstore.Movable) {
	under, active, grant := account("under", tokenstore.StateRefreshing), account("active", tokenstore.StateActive), row("grant")
	mustApply(t, s, insert(under), insert(active), insert(grant))
	f := frozenAs(tokenstore.FreezeDraining)
	mustFreeze(t, s, tokenstore.Freeze{}, f)

	claimed, broken, other := active, grant, grant
	claimed.Version, claimed.State = 2, string(tokenstore.StateRefreshing)
	broken.Version, other.State = 2, string(tokenstore.StateRefreshing)
	other.ID = "other"
	for name, changes := range map[string][]tokenstore.Change{
		"begins a refresh":                     {update(claimed)},
		"inserts an account that refreshes":    {insert(account("new", tokenstore.StateRefreshing))},
		"changes a grant":                      {update(broken)},
		"seals an account anew that refreshes": {reseal(under, 1, "x")},
		"deletes an account that refreshes":    {remove(under, 1)},
		"inserts":                              {insert(other)},
	} {
		if err := s.Apply(t.Context(), changes...); !errors.Is(err, tokenstore.ErrReadOnly) {
			t.Fatalf("%s: %v; want ErrReadOnly", name, err)
		}
	}
	renewed := under
	renewed.Version, renewed.Sealed = 2, []byte("lease renewed")
	mustApply(t, s, update(renewed))
	ended := renewed
	ended.Version, ended.State = 3, string(tokenstore.StateNeedsReauth)
	stale := ended
	stale.Version = 2
	wantConflict(t, s, update(stale))
	event := row("event")
	event.Kind = tokenstore.KindEvent
	mustApply(t, s, insert(event), update(broken), update(ended))
	for _, want := range []tokenstore.Row{ended, broken, event, active} {
		wantRow(t, s, want)
	}
	again := ended
	again.Version, again.State = 4, string(tokenstore.StateRefreshing)
	wantReadOnly(t, s.Apply(t.Context(), update(again)), f)
	mustFreeze(t, s, f, tokenstore.Freeze{})
	mustApply(t, s, update(again))
}

func testFreezeFrom(t *testing.T, s tokenstore.Movable) {
	draining, moving := frozenAs(tokenstore.FreezeDraining), frozenAs(tokenstore.FreezeMoving)
	wantLost := func(was, now, want tokenstore.Freeze) {
		t.Helper()
		if err := s.Freeze(t.Context(), was, now); !errors.Is(err, tokenstore.ErrConflict) {
			t.Fatalf("Freeze = %v; want ErrConflict", err)
		}
		wantFrozen(t, s, want)
	}
	wantLost(draining, moving, tokenstore.Freeze{})
	mustApply(t, s, insert(row("a")))
	mustFreeze(t, s, tokenstore.Freeze{}, draining)
	elsewhere := draining
	elsewhere.To = "another store"
	wantLost(elsewhere, moving, draining)
	wantLost(tokenstore.Freeze{}, moving, draining)
	mustFreeze(t, s, draining, moving)
	mustFreeze(t, s, draining, moving) // as by who lost the answer
	wantLost(draining, tokenstore.Freeze{}, moving)
}

func testFreezeWaits(t *testing.T, s tokenstore.Movable) {
	var acknowledged sync.Map
	var working sync.WaitGroup
	begun := make(chan struct{}, 8)
	for worker := range cap(begun) {
		working.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%04d", worker, i)
				err := s.Apply(context.Background(), insert(row(id)))
				switch {
				case errors.Is(err, tokenstore.ErrReadOnly):
					return
				case err != nil:
					t.Errorf("Apply: %v", err)
					return
				}
				acknowledged.Store(id, true)
				if i == 5 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	mustFreeze(t, s, tokenstore.Freeze{}, frozenAs(tokenstore.FreezeMoving))
	frozen := allIDs(t, s)
	working.Wait()
	if later := allIDs(t, s); !slices.Equal(frozen, later) {
		t.Errorf("there were %d rows when Freeze had returned, and are %d", len(frozen), len(later))
	}
	for id := range acknowledged.Range {
		if !slices.Contains(frozen, id.(string)) {
			t.Errorf("row %s was acknowledged, and is not there", id)
		}
	}
}

func allIDs(t *testing.T, s tokenstore.Store) (ids []string) {
	t.Helper()
	for q := (tokenstore.Query{Limit: 1000}); ; {
		page, err := s.List(t.Context(), tokenstore.KindGrant, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			ids, q.After = append(ids, r.ID), r.ID
		}
		if len(page) < q.Limit {
			return ids
		}
	}
}

// filling opens a store for Import.
func filling(t *testing.T, s tokenstore.Movable) (thaw func()) {
	t.Helper()
	f := frozenAs(tokenstore.FreezeFilling)
	mustFreeze(t, s, tokenstore.Freeze{}, f)
	return func() {
		t.Helper()
		mustFreeze(t, s, f, tokenstore.Freeze{})
	}
}

func mustImport(t *testing.T, s tokenstore.Movable, kind tokenstore.Kind, gone []string, rows ...tokenstore.Row) {
	t.Helper()
	if err := s.Import(t.Context(), kind, rows, gone); err != nil {
		t.Fatalf("Import: %v", err)
	}
}

func testImport(t *testing.T, s tokenstore.Movable) {
	old, gone, kept := row("old", "user:1"), row("gone", "user:1"), row("kept", "user:1")
	mustApply(t, s, insert(old), insert(gone), insert(kept))
	filling(t, s)
	old.Version, old.State, old.Refs, old.Sealed = 1<<53+1, "revoked", []string{"z", "a"}, []byte{0, 0xff, '\''}
	fresh := row("new")
	fresh.Version, fresh.State, fresh.Due, fresh.DeleteAfter, fresh.Sealed = 7, "", at(1), time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC), nil
	mustImport(t, s, tokenstore.KindGrant, []string{"gone", "never"}, old, fresh)
	for _, want := range []tokenstore.Row{old, fresh, kept} {
		wantRow(t, s, want)
	}
	wantMissing(t, s, "gone")
	mustImport(t, s, tokenstore.KindGrant, []string{"gone"}, old, fresh) // again, as after a crash
	old.Version = 2                                                      // back to what was before
	mustImport(t, s, tokenstore.KindGrant, nil, old)
	wantRow(t, s, old)
	mustImport(t, s, tokenstore.KindGrant, nil)
	for _, kind := range tokenstore.Kinds() {
		r := row("of-"+string(kind), "user:1")
		r.Kind, r.Version = kind, 3
		mustImport(t, s, kind, nil, r)
		wantRow(t, s, r)
	}
}

func testImportIndexes(t *testing.T, s tokenstore.Movable) {
	moved, gone := row("moved", "user:1", "both", "health:valid"), row("gone", "user:1", "both", "health:valid")
	moved.Due, moved.DeleteAfter, gone.Due, gone.DeleteAfter = at(10), at(20), at(10), at(20)
	mustApply(t, s, insert(moved), insert(gone))
	thaw := filling(t, s)
	moved.Version, moved.Refs, moved.Due, moved.DeleteAfter = 5, []string{"user:2", "both"}, at(30), at(40)
	fresh := row("new", "user:2", "both", "health:valid")
	fresh.Due, fresh.DeleteAfter = at(31), at(41)
	mustImport(t, s, tokenstore.KindGrant, []string{"gone"}, fresh, moved)
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}})
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:2", "both"}}, "moved", "new")
	for ref, want := range map[string]int{"": 2, "health:valid": 1, "user:1": 0} {
		if n, err := s.Count(t.Context(), tokenstore.KindGrant, strings.Fields(ref)...); n != want || err != nil {
			t.Errorf("Count(%q) = %d, %v; want %d", ref, n, err, want)
		}
	}
	wantDue(t, s, 30, 10)
	wantDue(t, s, 32, 10, "moved", "new")
	thaw()
	for _, sweep := range []struct {
		before int64
		want   int
	}{{40, 0}, {42, 2}} {
		if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(sweep.before), 10); n != sweep.want || err != nil {
			t.Fatalf("Sweep(%d) = %d, %v; want %d", sweep.before, n, err, sweep.want)
		}
	}
}

func testImportedUpdate(t *testing.T, s tokenstore.Movable) {
	thaw := filling(t, s)
	r := row("a", "user:1")
	r.Version = 41
	mustImport(t, s, tokenstore.KindGrant, nil, r)
	thaw()
	r.Version = 41
	wantConflict(t, s, update(r))
	r.Version, r.Refs = 42, []string{"user:2"}
	mustApply(t, s, update(r))
	wantRow(t, s, r)
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}})
	wantConflict(t, s, insert(r))
	wantConflict(t, s, remove(r, 41))
	mustApply(t, s, remove(r, 42))
	wantMissing(t, s, "a")
}

func testImportRefused(t *testing.T, s tokenstore.Movable) {
	r := row("a")
	mustApply(t, s, insert(r))
	was := tokenstore.Freeze{}
	for _, f := range []tokenstore.Freeze{{}, frozenAs(tokenstore.FreezeDraining), frozenAs(tokenstore.FreezeMoving), frozenAs(tokenstore.FreezeMoved)} {
		mustFreeze(t, s, was, f)
		was = f
		next := r
		next.Version = 9
		if err := s.Import(t.Context(), r.Kind, []tokenstore.Row{next, row("b")}, nil); !errors.Is(err, tokenstore.ErrConflict) {
			t.Fatalf("Import into a store that is %q = %v; want ErrConflict", f.State, err)
		}
		if err := s.Import(t.Context(), r.Kind, nil, []string{"a"}); !errors.Is(err, tokenstore.ErrConflict) {
			t.Fatalf("Import into a store that is %q = %v; want ErrConflict", f.State, err)
		}
		wantRow(t, s, r)
		wantMissing(t, s, "b")
	}
}

func testImportInvalid(t *testing.T, s tokenstore.Movable) {
	filling(t, s)
	other, unversioned, large := row("x"), row("x"), row("x")
	other.Kind, unversioned.Version, large.Sealed = tokenstore.KindClient, 0, make([]byte, tokenstore.MaxSealed+1)
	for name, rows := range map[string][]tokenstore.Row{
		"row of another kind": {other}, "row without a version": {unversioned}, "too large": {large}, "bad id": {row("a b")}, "row twice": {row("x"), row("x")},
	} {
		if err := s.Import(t.Context(), tokenstore.KindGrant, append([]tokenstore.Row{row("good")}, rows...), nil); !errors.Is(err, tokenstore.ErrInvalid) {
			t.Errorf("%s: Import = %v; want ErrInvalid", name, err)
		}
	}
	if err := s.Import(t.Context(), tokenstore.KindGrant, []tokenstore.Row{row("good")}, []string{"good"}); !errors.Is(err, tokenstore.ErrInvalid) {
		t.Errorf("written and deleted: Import = %v; want ErrInvalid", err)
	}
	wantIDs(t, s, tokenstore.Query{})
}

func testFreezeEnds(t *testing.T, s tokenstore.Movable) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	all := func(ctx context.Context) map[string]error {
		_, frozen := s.Frozen(ctx)
		return map[string]error{
			"Freeze": s.Freeze(ctx, tokenstore.Freeze{}, frozenAs(tokenstore.FreezeMoving)), "Frozen": frozen,
			"Import": s.Import(ctx, tokenstore.KindGrant, []tokenstore.Row{row("a")}, nil),
		}
	}
	for name, err := range all(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v; want context.Canceled", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, err := range all(t.Context()) {
		if !errors.Is(err, tokenstore.ErrClosed) {
			t.Errorf("%s after Close = %v; want ErrClosed", name, err)
		}
	}
}

// testFrozenReopen is part of RunDurability.
func testFrozenReopen(t *testing.T, open func(*testing.T) tokenstore.Store) {
	s, ok := open(t).(tokenstore.Movable)
	if !ok {
		return
	}
	mustApply(t, s, insert(row("a")))
	was := tokenstore.Freeze{}
	for _, state := range []tokenstore.FreezeState{tokenstore.FreezeDraining, tokenstore.FreezeMoving, tokenstore.FreezeMoved, tokenstore.FreezeFilling} {
		f := frozenAs(state)
		mustFreeze(t, s, was, f)
		was = f
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t).(tokenstore.Movable)
		wantFrozen(t, s, f)
		wantReadOnly(t, s.Apply(t.Context(), insert(row("b"))), f)
		wantRow(t, s, row("a"))
	}
	mustFreeze(t, s, was, tokenstore.Freeze{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t).(tokenstore.Movable)
	wantFrozen(t, s, tokenstore.Freeze{})
	mustApply(t, s, insert(row("b")))
}
