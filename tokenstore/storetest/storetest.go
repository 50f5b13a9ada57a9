// Package storetest holds the suite that every tokenstore.Store must pass. An implementation runs it from a test:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) tokenstore.Store { … })
//	}
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Run checks the whole contract of tokenstore.Store. open returns an empty store of its own for every call, which it closes
// when t ends; closing it twice must be harmless.
func Run(t *testing.T, open func(t *testing.T) tokenstore.Store) {
	t.Helper()
	tests := map[string]func(*testing.T, tokenstore.Store){
		"row comes back as it was inserted":                       testRoundTrip,
		"recall returns what is made of the row as it is":         testRecallOpens,
		"recall remembers nothing that was refused":               testRecallRefused,
		"row that does not exist is not found":                    testNotFound,
		"insert of an existing id conflicts":                      testInsertConflict,
		"update replaces exactly the version before":              testUpdate,
		"delete removes exactly its version":                      testDelete,
		"reseal replaces the sealed value of exactly its version": testReseal,
		"reseals are made with all other changes or none":         testResealAllOrNone,
		"check finds exactly its version, and changes nothing":    testOpCheck,
		"what was checked holds while changes are made":           testCheckHolds,
		"watchers are told of reseals, and not of checks":         testWatchReseal,
		"kinds are apart": testKindsApart,
		"ids and references are compared byte by byte":           testExactMatch,
		"rows in and out belong to the caller":                   testOwnership,
		"apply makes all changes or none":                        testAllOrNone,
		"apply of nothing is nil":                                testEmptyApply,
		"apply refuses what is outside the limits":               testInvalid,
		"rows at the limits are kept whole":                      testLimits,
		"texts that no row can have find nothing":                testImpossible,
		"ids order by their bytes":                               testByteOrder,
		"times long past and far ahead are kept":                 testTimes,
		"rows of nothing are rows":                               testEmptySealed,
		"apply makes thousands of changes":                       testManyChanges,
		"list orders by id and pages":                            testPaging,
		"list limits a page to 100, or 1000 at most":             testPageLimits,
		"list finds rows by each reference and no other":         testRefs,
		"list follows references that an update changed":         testRefsChange,
		"list finds rows that carry all of several references":   testIntersection,
		"list follows updates in intersections":                  testIntersectionChanges,
		"list intersects long lists as well as short ones":       testIntersectionOfMany,
		"count counts rows of a kind and of references":          testCount,
		"counts follow many who write at once":                   testConcurrentCounts,
		"due lists the oldest first, up to the limit":            testDueOrder,
		"due lists only what lies before, of its kind":           testDueBounds,
		"due follows updates, deletions and sweeps":              testDueFollows,
		"sweep deletes the oldest first, up to the limit":        testSweepOrder,
		"sweep deletes only what lies before, of its kind":       testSweepBounds,
		"sweep follows a deletion time that an update changed":   testSweepFollows,
		"sweep deletes more than a batch":                        testSweepMany,
		"indexes find what a scan of all rows finds":             testModel,
		"context that has ended is honoured":                     testContext,
		"closed store answers closed":                            testClosed,
		"close lets running calls end, and ends them":            testCloseUnderLoad,
		"one of many updates wins each version":                  testConcurrentUpdates,
		"one of many inserts wins":                               testConcurrentInserts,
		"readers never see half of an apply":                     testConcurrentReaders,
		"conflict of one apply does not disturb the others":      testConcurrentConflicts,
		"sweeps and updates of the same rows do not lose either": testConcurrentSweep,
		"watchers are told of every insert, update, delete":      testWatch,
		"watchers are told of their kind":                        testWatchKind,
		"watchers read the change that they are told of":         testWatchReads,
		"watchers that were stopped are not told":                testWatchStop,
		"watchers that stop wait for their last call":            testWatchStopWaits,
		"watchers of a closed store are not told":                testWatchClose,
		"slow watchers hold up nobody else":                      testWatchSlow,
		"check finds nothing wrong in what applies have made":    testWhole,
		"check takes no change for a fault":                      testWholeUnderLoad,
	}
	for name, test := range movable {
		tests[name] = onMovable(test)
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// RunDurability checks that what a store acknowledged is there after it was closed and opened again. create makes
// one empty storage, and returns what opens it.
func RunDurability(t *testing.T, create func(t *testing.T) (open func(t *testing.T) tokenstore.Store)) {
	t.Helper()
	t.Run("reopened store has every change", func(t *testing.T) {
		t.Parallel()
		testReopen(t, create(t))
	})
	t.Run("frozen store stays frozen", func(t *testing.T) {
		t.Parallel()
		testFrozenReopen(t, create(t))
	})
}

func testReopen(t *testing.T, open func(*testing.T) tokenstore.Store) {
	s := open(t)
	kept, changed, gone := row("kept", "user:1"), row("changed", "user:1"), row("gone", "user:1")
	kept.DeleteAfter, kept.Due = at(1000), at(500)
	mustApply(t, s, insert(kept), insert(changed), insert(gone))
	changed.Version, changed.Sealed, changed.Refs = 2, []byte("second"), []string{"user:2"}
	mustApply(t, s, update(changed))
	mustApply(t, s, remove(gone, 1))

	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	s = open(t)
	wantRow(t, s, kept)
	wantRow(t, s, changed)
	wantMissing(t, s, "gone")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}}, "kept")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:2"}}, "changed")
	wantDue(t, s, 501, 10, "kept")
	if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(1001), 10); n != 1 || err != nil {
		t.Fatalf("Sweep after reopening = %d, %v; want 1", n, err)
	}
}

// row is a grant row in its first version.
func row(id string, refs ...string) tokenstore.Row {
	return tokenstore.Row{Kind: tokenstore.KindGrant, ID: id, Version: 1, State: "active", Refs: refs, Sealed: []byte("sealed " + id)}
}

func insert(r tokenstore.Row) tokenstore.Change {
	r.Version = 1
	return tokenstore.Change{Op: tokenstore.OpInsert, Row: r}
}

func update(r tokenstore.Row) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpUpdate, Row: r}
}

func remove(r tokenstore.Row, version uint64) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: r.Kind, ID: r.ID, Version: version}}
}

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func mustApply(t *testing.T, s tokenstore.Store, changes ...tokenstore.Change) {
	t.Helper()
	if err := s.Apply(t.Context(), changes...); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

func wantConflict(t *testing.T, s tokenstore.Store, changes ...tokenstore.Change) {
	t.Helper()
	if err := s.Apply(t.Context(), changes...); !errors.Is(err, tokenstore.ErrConflict) {
		t.Fatalf("Apply = %v; want ErrConflict", err)
	}
}

func wantRow(t *testing.T, s tokenstore.Store, want tokenstore.Row) {
	t.Helper()
	for name, get := range gets(s) {
		got, err := get(t.Context(), want.Kind, want.ID)
		if err != nil {
			t.Fatalf("%s(%s, %s): %v", name, want.Kind, want.ID, err)
		}
		if diff := compare(got, want); diff != "" {
			t.Fatalf("%s(%s, %s): %s", name, want.Kind, want.ID, diff)
		}
	}
}

// gets are the two ways to get a row, which see the same wherever one Store is all there is.
func gets(s tokenstore.Store) map[string]func(context.Context, tokenstore.Kind, string) (tokenstore.Row, error) {
	return map[string]func(context.Context, tokenstore.Kind, string) (tokenstore.Row, error){"Get": s.Get, "Recall": Recalling(s)}
}

// Recalling is the Recall of a store as a way to get rows: they are what is made of them.
func Recalling(s tokenstore.Store) func(context.Context, tokenstore.Kind, string) (tokenstore.Row, error) {
	open := func(row tokenstore.Row) (any, int, error) { return row, len(row.Sealed), nil }
	return func(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
		opened, err := s.Recall(ctx, kind, id, open)
		if err != nil {
			return tokenstore.Row{}, err
		}
		row := opened.(tokenstore.Row) // which others have as well
		row.Refs, row.Sealed = slices.Clone(row.Refs), bytes.Clone(row.Sealed)
		return row, nil
	}
}

// compare says in which field two rows differ.
func compare(got, want tokenstore.Row) string {
	refs := slices.Equal(slices.Sorted(slices.Values(got.Refs)), slices.Sorted(slices.Values(want.Refs)))
	switch {
	case got.Kind != want.Kind || got.ID != want.ID:
		return fmt.Sprintf("row is %s %q; want %s %q", got.Kind, got.ID, want.Kind, want.ID)
	case got.Version != want.Version:
		return fmt.Sprintf("version is %d; want %d", got.Version, want.Version)
	case got.State != want.State:
		return fmt.Sprintf("state is %q; want %q", got.State, want.State)
	case !refs:
		return fmt.Sprintf("references are %q; want %q", got.Refs, want.Refs)
	case !got.DeleteAfter.Equal(want.DeleteAfter.Truncate(time.Millisecond)):
		return fmt.Sprintf("deletion time is %v; want %v", got.DeleteAfter, want.DeleteAfter)
	case !got.Due.Equal(want.Due.Truncate(time.Millisecond)):
		return fmt.Sprintf("due time is %v; want %v", got.Due, want.Due)
	case string(got.Sealed) != string(want.Sealed):
		return fmt.Sprintf("sealed value is %q; want %q", got.Sealed, want.Sealed)
	}
	return ""
}

func wantMissing(t *testing.T, s tokenstore.Store, id string) {
	t.Helper()
	for name, get := range gets(s) {
		if _, err := get(t.Context(), tokenstore.KindGrant, id); !errors.Is(err, tokenstore.ErrNotFound) {
			t.Fatalf("%s(%s) = %v; want ErrNotFound", name, id, err)
		}
	}
}

func wantIDs(t *testing.T, s tokenstore.Store, q tokenstore.Query, want ...string) {
	t.Helper()
	rows, err := s.List(t.Context(), tokenstore.KindGrant, q)
	if err != nil {
		t.Fatalf("List(%+v): %v", q, err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, r.ID)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("List(%+v) = %q; want %q", q, got, want)
	}
}
