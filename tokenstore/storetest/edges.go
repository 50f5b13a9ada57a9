package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// testImpossible looks for what no row can be called. Ids and references come out of requests.
func testImpossible(t *testing.T, s tokenstore.Store) {
	mustApply(t, s, insert(row("a", "user:1")), insert(row("b", "user:1")))
	for _, text := range []string{"", "\x00", "a\x00", "a\x00b", " a", "a ", "a b", "\xff", "a\xff", "é", "\xed\xa0\x80", "a\n", "a\x7f", "a'; --", `\`, "%", "{}", strings.Repeat("a", 100_000)} {
		for name, get := range gets(s) {
			if _, err := get(t.Context(), tokenstore.KindGrant, text); !errors.Is(err, tokenstore.ErrNotFound) {
				t.Errorf("%s(%.20q) = %v; want ErrNotFound", name, text, err)
			}
		}
		for _, refs := range [][]string{{text}, {"user:1", text}, {text, text}} {
			if rows, err := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Refs: refs}); len(rows) != 0 || err != nil {
				t.Errorf("List(%.20q) = %d rows, %v", refs, len(rows), err)
			}
			if n, err := s.Count(t.Context(), tokenstore.KindGrant, refs...); n != 0 || err != nil {
				t.Errorf("Count(%.20q) = %d, %v", refs, n, err)
			}
		}
		for _, refs := range [][]string{nil, {"user:1"}} {
			var want []string
			for _, id := range []string{"a", "b"} {
				if id > text {
					want = append(want, id)
				}
			}
			wantIDs(t, s, tokenstore.Query{Refs: refs, After: text}, want...)
		}
	}
}

// testByteOrder has ids that a language orders otherwise.
func testByteOrder(t *testing.T, s tokenstore.Store) {
	ids := []string{"!", "-", "-a", "0", "10", "9", "A", "AB", "Ab", "B", "Z", "_", "_a", "a", "a-b", "aA", "aB", "a_b", "aa", "ab", "b", "z", "~", "~~"}
	if !slices.IsSorted(ids) {
		t.Fatal("the test's ids are not sorted")
	}
	for _, i := range []int{5, 3, 20, 0, 1, 9, 8, 7, 2, 4, 6, 10, 23, 22, 21, 11, 12, 13, 14, 15, 16, 17, 18, 19} {
		r := row(ids[i], "user:1")
		r.Due, r.DeleteAfter = at(5), at(5)
		mustApply(t, s, insert(r))
	}
	for _, refs := range [][]string{nil, {"user:1"}} {
		wantIDs(t, s, tokenstore.Query{Refs: refs}, ids...)
		for i, id := range ids {
			wantIDs(t, s, tokenstore.Query{Refs: refs, After: id}, ids[i+1:]...)
		}
	}
	wantDue(t, s, 6, 100, ids...)
	if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(6), 20); n != 20 || err != nil {
		t.Fatalf("Sweep = %d, %v", n, err)
	}
	wantIDs(t, s, tokenstore.Query{}, ids[20:]...)
}

// testTimes has times that 32 bits, or a clock that begins in 1970, do not have.
func testTimes(t *testing.T, s tokenstore.Store) {
	far := []time.Time{time.UnixMilli(2), time.Date(2038, 1, 20, 0, 0, 0, 1e6, time.UTC), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC)}
	for i, when := range far {
		r := row(fmt.Sprint("far-", i))
		r.Due, r.DeleteAfter = when, when
		mustApply(t, s, insert(r))
		wantRow(t, s, r)
	}
	old := row("old") // before there were computers
	old.Due, old.DeleteAfter = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	mustApply(t, s, insert(old))
	got, err := s.Get(t.Context(), tokenstore.KindGrant, "old")
	if err != nil || got.Due.IsZero() || got.DeleteAfter.IsZero() || got.Due.After(time.UnixMilli(1)) {
		t.Errorf("Due of a row that has long been = %v, DeleteAfter = %v, %v", got.Due, got.DeleteAfter, err)
	}
	wantDue(t, s, 3, 10, "old", "far-0")
	for i, when := range far[1:] {
		rows, err := s.Due(t.Context(), tokenstore.KindGrant, when.Add(time.Millisecond), 10)
		if err != nil || len(rows) != i+3 {
			t.Errorf("Due before %s = %d rows, %v; want %d", when, len(rows), err, i+3)
		}
	}
	for name, none := range map[string]time.Time{"zero": {}, "before all": time.Date(1800, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if rows, err := s.Due(t.Context(), tokenstore.KindGrant, none, 10); len(rows) != 0 || err != nil {
			t.Errorf("Due of %s = %d rows, %v", name, len(rows), err)
		}
		if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, none, 10); n != 0 || err != nil {
			t.Errorf("Sweep of %s = %d, %v", name, n, err)
		}
	}
	if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, far[3].Add(time.Millisecond), 10); n != 5 || err != nil {
		t.Errorf("Sweep = %d, %v; want all 5", n, err)
	}
}

func testEmptySealed(t *testing.T, s tokenstore.Store) {
	for id, sealed := range map[string][]byte{"nil": nil, "empty": {}, "nul": {0}, "any": slices.Repeat([]byte{0, 0xff, '\\', '\'', '"'}, 300)} {
		r := row(id)
		r.Sealed, r.State = sealed, ""
		mustApply(t, s, insert(r))
		got, err := s.Get(t.Context(), tokenstore.KindGrant, id)
		if err != nil || !bytes.Equal(got.Sealed, sealed) || got.State != "" {
			t.Errorf("%s comes back as %q of state %q, %v", id, got.Sealed, got.State, err)
		}
		r.Version, r.Sealed = 2, nil
		mustApply(t, s, update(r))
		wantRow(t, s, r)
	}
}

// testManyChanges makes, changes and deletes many rows at once, and none where one of the changes loses.
func testManyChanges(t *testing.T, s tokenstore.Store) {
	const n = 3000
	inserts, updates, removals := make([]tokenstore.Change, 0, n), make([]tokenstore.Change, 0, n), make([]tokenstore.Change, 0, n)
	for i := range n {
		r := row(fmt.Sprintf("%05d", n-i), "all", fmt.Sprint("third:", i%3))
		inserts = append(inserts, insert(r))
		r.Version, r.Refs, r.State = 2, []string{"all", fmt.Sprint("half:", i%2)}, "revoked"
		updates = append(updates, update(r))
		removals = append(removals, remove(r, 2))
	}
	count := func(want int, refs ...string) {
		t.Helper()
		if got, err := s.Count(t.Context(), tokenstore.KindGrant, refs...); got != want || err != nil {
			t.Errorf("Count(%q) = %d, %v; want %d", refs, got, err, want)
		}
	}
	mustApply(t, s, inserts...)
	count(n)
	count(n/3, "third:0", "all")
	wantConflict(t, s, append(slices.Clone(updates[:n-1]), insert(row("00001")))...)
	wantConflict(t, s, append(slices.Clone(updates[1:]), update(tokenstore.Row{Kind: tokenstore.KindGrant, ID: "none", Version: 2}))...)
	count(n/3, "third:0")
	count(0, "half:0")
	mustApply(t, s, updates...)
	count(0, "third:0")
	count(n/2, "half:0", "all")
	wantConflict(t, s, append(slices.Clone(removals[:n-1]), remove(row("00001"), 7), insert(row("new")))...)
	count(n)
	mustApply(t, s, removals...)
	count(0)
	count(0, "all")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"all"}})
}
