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

// snapshot are the rows that a snapshot visits.
func snapshot(t *testing.T, s tokenstore.Movable) (rows []tokenstore.Row) {
	t.Helper()
	err := s.Snapshot(t.Context(), func(r tokenstore.Row) error {
		rows = append(rows, r)
		return nil
	})
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	return rows
}

func testSnapshot(t *testing.T, s tokenstore.Movable) {
	if rows := snapshot(t, s); len(rows) > 0 {
		t.Fatalf("snapshot of an empty store has %d rows", len(rows))
	}
	var want []tokenstore.Row
	for _, kind := range tokenstore.Kinds() {
		for i, id := range []string{"!", "A", "a", "aa", "~"} {
			r := row(id, "user:1", "z", "a")
			r.Kind, r.Sealed = kind, []byte(strings.Repeat(string(kind)+id, 1+2000*i))
			switch i {
			case 0:
				r.Refs, r.State, r.Sealed = nil, "", nil
			case 1:
				r.Due, r.DeleteAfter = at(1), at(2)
			}
			mustApply(t, s, insert(r))
			want = append(want, r)
		}
	}
	for i := range 1500 { // more than a page
		r := row(fmt.Sprintf("m-%04d", i))
		r.Kind = tokenstore.KindJob // the last of the kinds, behind "aa"
		want = slices.Insert(want, len(want)-1, r)
	}
	for some := range slices.Chunk(want[len(want)-1501:len(want)-1], 500) {
		changes := make([]tokenstore.Change, 0, len(some))
		for _, r := range some {
			changes = append(changes, insert(r))
		}
		mustApply(t, s, changes...)
	}
	mustFreeze(t, s, tokenstore.Freeze{}, frozenAs(tokenstore.FreezeMoving)) // which is no obstacle
	got := snapshot(t, s)
	if len(got) != len(want) {
		t.Fatalf("snapshot has %d rows; want %d", len(got), len(want))
	}
	for i := range want {
		want[i].Version = 1
		if diff := compare(got[i], want[i]); diff != "" {
			t.Fatalf("row %d of the snapshot: %s", i, diff)
		}
	}
}

// Two rows at both ends of the snapshot are always changed together, and a row comes and goes with each change.
func testSnapshotMoment(t *testing.T, s tokenstore.Movable) {
	first, last := row("first"), row("last")
	first.Kind, last.Kind = tokenstore.KindClient, tokenstore.KindJob
	mustApply(t, s, insert(first), insert(last))
	var between []tokenstore.Change
	for i := range 600 { // so that they are read in several pages
		between = append(between, insert(row(fmt.Sprintf("between-%03d", i))))
	}
	mustApply(t, s, between...)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		for version := uint64(2); ctx.Err() == nil; version++ {
			a, b, c := first, last, row("comes-and-goes")
			a.Version, b.Version = version, version
			change := insert(c)
			if version%2 == 1 {
				change = remove(c, 1)
			}
			if err := s.Apply(context.WithoutCancel(ctx), update(a), update(b), change); err != nil {
				t.Errorf("Apply: %v", err)
				return
			}
		}
	})
	defer writing.Wait()
	defer stop()
	seen := make(map[uint64]bool)
	for n, end := 0, time.Now().Add(time.Minute); n < 20 || len(seen) < 2 && time.Now().Before(end); n++ {
		versions, there := make(map[string]uint64), false
		for _, r := range snapshot(t, s) {
			versions[r.ID] = r.Version
			there = there || r.ID == "comes-and-goes"
		}
		if versions["first"] != versions["last"] || there != (versions["first"]%2 == 0) {
			t.Fatalf("snapshot has version %d of the first row, %d of the last, and the one in between: %t", versions["first"], versions["last"], there)
		}
		seen[versions["first"]] = true
	}
	if len(seen) < 2 {
		t.Error("nothing was changed between the snapshots")
	}
}

func testSnapshotEnds(t *testing.T, s tokenstore.Movable) {
	mustApply(t, s, insert(row("a")), insert(row("b")))
	enough := errors.New("enough")
	visits := 0
	err := s.Snapshot(t.Context(), func(tokenstore.Row) error {
		visits++
		return enough
	})
	if err != enough || visits != 1 { //nolint:errorlint // as it is
		t.Errorf("Snapshot = %v after %d visits; want the visit's error after one", err, visits)
	}
	ctx, cancel := context.WithCancel(t.Context())
	visits = 0
	err = s.Snapshot(ctx, func(tokenstore.Row) error {
		visits++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || visits != 1 {
		t.Errorf("Snapshot = %v after %d visits; want context.Canceled after one", err, visits)
	}
	if err := s.Snapshot(ctx, func(tokenstore.Row) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Snapshot = %v; want context.Canceled", err)
	}
	mustApply(t, s, insert(row("c"))) // and nobody is held up by those that ended
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Snapshot(t.Context(), func(tokenstore.Row) error { return nil }); !errors.Is(err, tokenstore.ErrClosed) {
		t.Errorf("Snapshot after Close = %v; want ErrClosed", err)
	}
}
