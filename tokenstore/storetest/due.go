package storetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// due is a row that is due at a time.
func due(id string, ms int64) tokenstore.Row {
	r := row(id, "user:1")
	r.Due = at(ms)
	return r
}

func wantDue(t *testing.T, s tokenstore.Store, before int64, limit int, want ...string) {
	t.Helper()
	rows, err := s.Due(t.Context(), tokenstore.KindGrant, at(before), limit)
	if err != nil {
		t.Fatalf("Due(before %d, limit %d): %v", before, limit, err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, r.ID)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("Due(before %d, limit %d) = %q; want %q", before, limit, got, want)
	}
}

func testDueOrder(t *testing.T, s tokenstore.Store) {
	for i, id := range []string{"e", "a", "d", "b", "c"} { // times run against the ids
		mustApply(t, s, insert(due(id, 1000+int64(i)*300)))
	}
	mustApply(t, s, insert(due("bb", 1300)), insert(row("never")))
	wantDue(t, s, 10_000, 2, "e", "a")
	wantDue(t, s, 10_000, 10, "e", "a", "bb", "d", "b", "c")
	rows, err := s.Due(t.Context(), tokenstore.KindGrant, at(10_000), 1)
	if err != nil || len(rows) != 1 {
		t.Fatalf("Due = %v, %v", rows, err)
	}
	if diff := compare(rows[0], due("e", 1000)); diff != "" {
		t.Errorf("due row is not whole: %s", diff)
	}

	var changes []tokenstore.Change
	for i := range 1100 {
		changes = append(changes, insert(due(fmt.Sprintf("many-%04d", i), 20_000)))
	}
	mustApply(t, s, changes...)
	for limit, want := range map[int]int{0: 100, 1: 1, 1000: 1000, 5000: 1000} {
		if rows, err := s.Due(t.Context(), tokenstore.KindGrant, at(30_000), limit); err != nil || len(rows) != want {
			t.Errorf("Due with limit %d = %d rows, %v; want %d", limit, len(rows), err, want)
		}
	}
}

func testDueBounds(t *testing.T, s tokenstore.Store) {
	account := due("a", 1000)
	account.Kind = tokenstore.KindAccount
	mustApply(t, s, insert(due("early", 999)), insert(due("equal", 1000)), insert(due("late", 1001)), insert(row("never")), insert(account))
	wantDue(t, s, 0, 10)
	wantDue(t, s, 999, 10)
	wantDue(t, s, 1000, 10, "early")
	wantDue(t, s, 1<<42, 10, "early", "equal", "late")
	wantRow(t, s, account)
}

func testDueFollows(t *testing.T, s tokenstore.Store) {
	sooner, later, never, gone, swept := due("sooner", 9000), due("later", 1000), due("never", 1000), due("gone", 1000), due("swept", 1000)
	swept.DeleteAfter = at(500)
	mustApply(t, s, insert(sooner), insert(later), insert(never), insert(gone), insert(swept))
	sooner.Version, sooner.Due = 2, at(1000)
	later.Version, later.Due = 2, at(9000)
	never.Version, never.Due = 2, row("").Due
	mustApply(t, s, update(sooner), update(later), update(never), remove(gone, 1))
	sweep(t, s, 501, 10, 1)
	wantDue(t, s, 5000, 10, "sooner")
	wantDue(t, s, 1<<42, 10, "sooner", "later")

	sooner.Version, sooner.Sealed = 3, []byte("changed") // and due as before
	mustApply(t, s, update(sooner))
	wantDue(t, s, 5000, 10, "sooner")
	wantRow(t, s, sooner)
}
