package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// reseal has only what the operation reads.
func reseal(r tokenstore.Row, version uint64, sealed string) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpReseal, Row: tokenstore.Row{Kind: r.Kind, ID: r.ID, Version: version, Sealed: []byte(sealed)}}
}

func check(id string, version uint64) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpCheck, Row: tokenstore.Row{Kind: tokenstore.KindKeyring, ID: id, Version: version}}
}

func ring(id string) tokenstore.Row {
	return tokenstore.Row{Kind: tokenstore.KindKeyring, ID: id, Version: 1, Sealed: []byte("sealed " + id)}
}

func testReseal(t *testing.T, s tokenstore.Store) {
	r := row("a", "user:1", "client:1")
	r.DeleteAfter, r.Due = at(1000), at(500)
	wantConflict(t, s, reseal(r, 1, "of nothing"))
	mustApply(t, s, insert(r))
	for _, version := range []uint64{0, 2} {
		wantConflict(t, s, reseal(r, version, "of another version"))
	}
	wantRow(t, s, r)
	for _, sealed := range []string{"again", "", "and again"} {
		mustApply(t, s, reseal(r, 1, sealed))
		r.Sealed = []byte(sealed)
		wantRow(t, s, r)
	}
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1", "client:1"}}, "a")
	wantDue(t, s, 501, 10, "a")
	next := r
	next.Version, next.Refs = 2, []string{"user:2"}
	mustApply(t, s, update(next)) // of the version that whoever reads it held before
	wantConflict(t, s, reseal(r, 1, "late"))
	wantRow(t, s, next)
	mustApply(t, s, reseal(next, 2, "of the second"))
	if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(1001), 10); n != 1 || err != nil {
		t.Fatalf("Sweep = %d, %v; want 1", n, err)
	}
	wantConflict(t, s, reseal(next, 2, "of what is gone"))
	wantMissing(t, s, "a")
}

func testResealAllOrNone(t *testing.T, s tokenstore.Store) {
	a, b := row("a"), row("b")
	mustApply(t, s, insert(a), insert(b))
	wantConflict(t, s, reseal(a, 1, "x"), reseal(b, 2, "x"))
	wantConflict(t, s, reseal(a, 1, "x"), remove(b, 2))
	wantConflict(t, s, reseal(a, 1, "x"), insert(b))
	wantRow(t, s, a)
	wantRow(t, s, b)
	mustApply(t, s, reseal(a, 1, "x"), remove(b, 1), insert(row("c")))
	a.Sealed = []byte("x")
	wantRow(t, s, a)
	wantMissing(t, s, "b")
	wantRow(t, s, row("c"))
}

func testOpCheck(t *testing.T, s tokenstore.Store) {
	wantFailed := func(changes ...tokenstore.Change) {
		t.Helper()
		if err := s.Apply(t.Context(), changes...); !errors.Is(err, tokenstore.ErrCheckFailed) || !errors.Is(err, tokenstore.ErrConflict) {
			t.Fatalf("Apply = %v; want ErrCheckFailed", err)
		}
		wantMissing(t, s, "a")
	}
	wantFailed(insert(row("a")), check("ring", 1)) // there is no such row
	mustApply(t, s, check("ring", 0))
	mustApply(t, s, insert(ring("ring")), check("other", 0))
	wantRow(t, s, ring("ring"))
	for _, version := range []uint64{0, 2} {
		wantFailed(check("ring", version), insert(row("a")))
	}
	wantFailed(check("ring", 1), check("other", 1), insert(row("a")))
	mustApply(t, s, check("ring", 1), check("other", 0))
	second := ring("ring")
	second.Version = 2
	mustApply(t, s, update(second))
	wantFailed(insert(row("a")), check("ring", 1))
	mustApply(t, s, insert(row("a")), check("ring", 2))
	for _, lost := range [][]tokenstore.Change{{insert(row("a")), check("ring", 1)}, {check("ring", 1), insert(row("b")), remove(row("a"), 2)}} {
		if err := s.Apply(t.Context(), lost...); !errors.Is(err, tokenstore.ErrConflict) || errors.Is(err, tokenstore.ErrCheckFailed) {
			t.Fatalf("Apply that conflicts in itself as well = %v; want an ErrConflict that says so", err)
		}
	}
	wantRow(t, s, second)
}

// testCheckHolds has one change the ring again and again, and others write what is good by one version of it alone.
func testCheckHolds(t *testing.T, s tokenstore.Store) {
	const versions = 12
	mustApply(t, s, insert(ring("ring")))
	var current atomic.Uint64 // is no older than what is stored
	current.Store(1)
	var made atomic.Int64
	race(writers, func(worker int) {
		if worker == 0 {
			for version := uint64(2); version <= versions; version++ {
				for goal := made.Load() + 3; made.Load() < goal && !t.Failed(); {
					if err := s.Apply(t.Context(), check("ring", version-1), insert(row(fmt.Sprintf("own-%d-%d", version, made.Add(1))))); err != nil {
						t.Errorf("Apply by who alone changes the ring = %v", err)
					}
				}
				r := ring("ring")
				r.Version = version
				current.Store(version)
				if err := s.Apply(t.Context(), update(r), insert(row(fmt.Sprintf("changed-%02d", version)))); err != nil {
					t.Errorf("Apply: %v", err)
				}
			}
			return
		}
		for n := 0; !t.Failed(); n++ {
			before := current.Load()
			version := before - uint64(n%2)
			err := s.Apply(t.Context(), check("ring", version), insert(row(fmt.Sprintf("by-%d-%d", worker, n))))
			switch {
			case err == nil:
				made.Add(1)
				if _, changed := s.Get(t.Context(), tokenstore.KindGrant, fmt.Sprintf("changed-%02d", before-1)); before > 2 && version < before-1 && changed == nil {
					t.Errorf("written by version %d when %d was there", version, before-1)
				}
			case !errors.Is(err, tokenstore.ErrCheckFailed):
				t.Errorf("Apply: %v", err)
			}
			if before == versions {
				return
			}
		}
	})
}

func testWatchReseal(t *testing.T, s tokenstore.Store) {
	mustApply(t, s, insert(ring("ring")), insert(row("a")))
	rings, grants := watch(t, s, tokenstore.KindKeyring), watch(t, s, tokenstore.KindGrant)
	wantRow(t, s, row("a")) // which a store may remember
	mustApply(t, s, insert(ring("next")))
	rings.want(t, "insert", "next") // and nothing of before is still to be told
	mustApply(t, s, reseal(row("a"), 1, "again"), check("ring", 1))
	again := row("a")
	again.Sealed = []byte("again")
	wantRow(t, s, again)
	grants.want(t, "reseal", "a")
	second := ring("ring")
	second.Version = 2
	mustApply(t, s, insert(row("b")), check("ring", 1))
	grants.want(t, "insert beside a check", "b")
	if told := rings.take(); slices.Contains(told, "ring") {
		t.Errorf("those who watch the ring were told of %q, which was only checked", told)
	}
	mustApply(t, s, update(second))
	rings.want(t, "update", "ring")
}
