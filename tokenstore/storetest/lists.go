package storetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func testPaging(t *testing.T, s tokenstore.Store) {
	for _, id := range []string{"d", "b", "e", "a", "c"} {
		mustApply(t, s, insert(row(id, "user:1", "client:1")))
	}
	mustApply(t, s, insert(row("bb", "user:2", "client:2")))
	for _, refs := range [][]string{nil, {"user:1"}, {"user:1", "client:1"}} {
		wantIDs(t, s, tokenstore.Query{Refs: refs, Limit: 1}, "a")
		wantIDs(t, s, tokenstore.Query{Refs: refs, After: "c", Limit: 1}, "d")
		wantIDs(t, s, tokenstore.Query{Refs: refs, After: "d", Limit: 2}, "e")
		wantIDs(t, s, tokenstore.Query{Refs: refs, After: "cc", Limit: 2}, "d", "e") // a row that is gone meanwhile
		wantIDs(t, s, tokenstore.Query{Refs: refs, After: "e"})
		wantIDs(t, s, tokenstore.Query{Refs: refs, After: "zzz"})
	}
	wantIDs(t, s, tokenstore.Query{After: "a", Limit: 3}, "b", "bb", "c")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}, After: "a", Limit: 3}, "b", "c", "d")
}

func testPageLimits(t *testing.T, s tokenstore.Store) {
	for page := range 11 {
		var changes []tokenstore.Change
		for i := range 100 {
			changes = append(changes, insert(row(fmt.Sprintf("%02d-%02d", page, i), "user:1", "client:1")))
		}
		mustApply(t, s, changes...)
	}
	for limit, want := range map[int]int{0: 100, 1: 1, 999: 999, 1000: 1000, 5000: 1000} {
		for _, refs := range [][]string{nil, {"user:1"}, {"user:1", "client:1"}} {
			rows, err := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Refs: refs, Limit: limit})
			if err != nil || len(rows) != want {
				t.Errorf("List with limit %d and references %q = %d rows, %v; want %d", limit, refs, len(rows), err, want)
			}
		}
	}
}

func testRefs(t *testing.T, s tokenstore.Store) {
	mustApply(t, s, insert(row("a", "user:1", "client:1")))
	mustApply(t, s, insert(row("b", "client:1", "user:12")))
	mustApply(t, s, insert(row("c")))
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}}, "a")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:12"}}, "b")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:"}})
	wantIDs(t, s, tokenstore.Query{Refs: []string{"client:1"}}, "a", "b")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"a"}})
	wantIDs(t, s, tokenstore.Query{}, "a", "b", "c")
	rows, err := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Refs: []string{"user:1"}})
	if err != nil || len(rows) != 1 {
		t.Fatalf("List = %v, %v", rows, err)
	}
	if diff := compare(rows[0], row("a", "user:1", "client:1")); diff != "" {
		t.Errorf("listed row is not whole: %s", diff)
	}
}

func testRefsChange(t *testing.T, s tokenstore.Store) {
	r := row("a", "user:1", "client:1")
	mustApply(t, s, insert(r))
	r.Version, r.Refs = 2, []string{"user:2", "client:1"}
	mustApply(t, s, update(r))
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}})
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:2"}}, "a")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"client:1"}}, "a")
	r.Version, r.Refs = 3, nil
	mustApply(t, s, update(r))
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:2"}})
	wantIDs(t, s, tokenstore.Query{Refs: []string{"client:1"}})
	wantIDs(t, s, tokenstore.Query{}, "a")
}

func testCount(t *testing.T, s tokenstore.Store) {
	mustApply(t, s, insert(row("a", "user:1", "client:1")))
	mustApply(t, s, insert(row("b", "user:12")))
	mustApply(t, s, insert(row("c", "user:1")))
	mustApply(t, s, insert(row("d")))
	for refs, want := range map[string]int{
		"": 4, "user:1": 2, "user:12": 1, "user:": 0, "client:1": 1, "client:2": 0, "user:1 client:1": 1, "client:1 user:1": 1, "user:12 client:1": 0, "user:1 user:1": 2,
	} {
		if n, err := s.Count(t.Context(), tokenstore.KindGrant, strings.Fields(refs)...); n != want || err != nil {
			t.Errorf("Count(%q) = %d, %v; want %d", refs, n, err, want)
		}
	}
	if n, err := s.Count(t.Context(), tokenstore.KindAccount); n != 0 || err != nil {
		t.Errorf("Count of another kind = %d, %v; want 0", n, err)
	}
	sweepAll := expiring("a", 1000)
	sweepAll.ID = "e"
	mustApply(t, s, insert(sweepAll))
	sweep(t, s, 2000, 10, 1)
	if n, err := s.Count(t.Context(), tokenstore.KindGrant, "user:1"); n != 2 || err != nil {
		t.Errorf("Count after a sweep = %d, %v; want 2", n, err)
	}
}

// expiring is a row with a deletion time.
func expiring(id string, ms int64) tokenstore.Row {
	r := row(id, "user:1")
	r.DeleteAfter = at(ms)
	return r
}

func sweep(t *testing.T, s tokenstore.Store, before int64, limit, want int) {
	t.Helper()
	if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(before), limit); n != want || err != nil {
		t.Fatalf("Sweep(before %d, limit %d) = %d, %v; want %d", before, limit, n, err, want)
	}
}

func testSweepOrder(t *testing.T, s tokenstore.Store) {
	for i, id := range []string{"e", "a", "d", "b", "c"} { // deletion times run against the ids
		mustApply(t, s, insert(expiring(id, 1000+int64(i)*300)))
	}
	sweep(t, s, 10_000, 0, 0)
	sweep(t, s, 10_000, 2, 2)
	wantIDs(t, s, tokenstore.Query{}, "b", "c", "d")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}}, "b", "c", "d")
	sweep(t, s, 10_000, 1, 1)
	wantIDs(t, s, tokenstore.Query{}, "b", "c")
	sweep(t, s, 10_000, 100, 2)
	sweep(t, s, 10_000, 100, 0)
}

func testSweepBounds(t *testing.T, s tokenstore.Store) {
	account := expiring("a", 1000)
	account.Kind = tokenstore.KindAccount
	mustApply(t, s, insert(expiring("early", 999)), insert(expiring("equal", 1000)), insert(expiring("late", 1001)),
		insert(row("forever")), insert(account))
	sweep(t, s, 1000, 100, 1)
	wantIDs(t, s, tokenstore.Query{}, "equal", "forever", "late")
	sweep(t, s, 1<<42, 100, 2)
	wantIDs(t, s, tokenstore.Query{}, "forever")
	wantRow(t, s, account)
}

func testSweepFollows(t *testing.T, s tokenstore.Store) {
	longer, shorter, forever := expiring("longer", 1000), expiring("shorter", 9000), expiring("forever", 1000)
	mustApply(t, s, insert(longer), insert(shorter), insert(forever))
	longer.Version, longer.DeleteAfter = 2, at(9000)
	shorter.Version, shorter.DeleteAfter = 2, at(1000)
	forever.Version, forever.DeleteAfter = 2, row("").DeleteAfter
	mustApply(t, s, update(longer), update(shorter), update(forever))
	sweep(t, s, 5000, 100, 1)
	wantIDs(t, s, tokenstore.Query{}, "forever", "longer")
	sweep(t, s, 1<<42, 100, 1)
	wantIDs(t, s, tokenstore.Query{}, "forever")

	again := expiring("again", 1000) // its entry must have gone with the row
	mustApply(t, s, insert(again))
	mustApply(t, s, remove(again, 1))
	sweep(t, s, 1<<42, 100, 0)
}

func testSweepMany(t *testing.T, s tokenstore.Store) {
	var changes []tokenstore.Change
	for i := range 700 {
		changes = append(changes, insert(expiring(fmt.Sprintf("%03d", i), 1000+int64(i))))
	}
	mustApply(t, s, changes...)
	sweep(t, s, 10_000, 600, 600)
	rows, err := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Limit: 1000})
	if err != nil || len(rows) != 100 || rows[0].ID != "600" {
		t.Fatalf("List after Sweep = %d rows, %v; want the 100 youngest", len(rows), err)
	}
	sweep(t, s, 10_000, 600, 100)
}
