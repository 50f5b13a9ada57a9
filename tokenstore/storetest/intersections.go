package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func testIntersection(t *testing.T, s tokenstore.Store) {
	mustApply(t, s,
		insert(row("a", "user:1", "client:1", "proxy:1")),
		insert(row("b", "user:1", "client:2", "proxy:1")),
		insert(row("c", "user:2", "client:1", "proxy:1")),
		insert(row("d", "user:1", "client:1", "proxy:2")),
		insert(row("e", "user:12", "client:1")),
		insert(row("f")),
	)
	account := row("g", "user:1", "client:1", "proxy:1")
	account.Kind = tokenstore.KindAccount
	mustApply(t, s, insert(account))
	for _, tt := range []struct{ refs, ids []string }{
		{[]string{"user:1", "client:1"}, []string{"a", "d"}},
		{[]string{"client:1", "user:1"}, []string{"a", "d"}},
		{[]string{"user:1", "client:1", "proxy:1"}, []string{"a"}},
		{[]string{"proxy:1", "client:1"}, []string{"a", "c"}},
		{[]string{"user:1", "user:2"}, nil},
		{[]string{"user:1", "user:1"}, []string{"a", "b", "d"}},
		{[]string{"user:1", "nothing"}, nil},
		{[]string{"nothing", "user:1"}, nil},
		{[]string{"user:1", "client:"}, nil},
		{[]string{"user:1", ""}, nil},
		{[]string{""}, nil},
	} {
		wantIDs(t, s, tokenstore.Query{Refs: tt.refs}, tt.ids...)
	}
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1", "client:1"}, Limit: 1}, "a")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1", "client:1"}, After: "a"}, "d")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1", "client:1"}, After: "b", Limit: 1}, "d")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1", "client:1"}, After: "d"})
}

func testIntersectionChanges(t *testing.T, s tokenstore.Store) {
	r := row("a", "user:1", "client:1")
	mustApply(t, s, insert(r), insert(row("b", "user:1", "client:1")))
	r.Version, r.Refs = 2, []string{"user:1", "client:2"}
	mustApply(t, s, update(r))
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1", "client:1"}}, "b")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1", "client:2"}}, "a")
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}}, "a", "b")
	mustApply(t, s, remove(r, 2))
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1", "client:2"}})
}

// testIntersectionOfMany compares with what is found by looking at every row.
func testIntersectionOfMany(t *testing.T, s tokenstore.Store) {
	r := rand.New(rand.NewPCG(1, 2))
	var changes []tokenstore.Change
	for i := range 900 {
		refs := []string{fmt.Sprint("of2:", r.IntN(2)), fmt.Sprint("of7:", r.IntN(7)), fmt.Sprint("of100:", r.IntN(100)), "all"}
		changes = append(changes, insert(row(fmt.Sprintf("%03d", i), refs...)))
	}
	mustApply(t, s, changes...)
	for range 200 {
		refs := []string{fmt.Sprint("of2:", r.IntN(3)), fmt.Sprint("of7:", r.IntN(7)), fmt.Sprint("of100:", r.IntN(100)), "all"}
		r.Shuffle(len(refs), func(i, j int) { refs[i], refs[j] = refs[j], refs[i] })
		refs = refs[:1+r.IntN(4)]
		q := tokenstore.Query{Refs: refs, After: fmt.Sprintf("%03d", r.IntN(900)), Limit: 1 + r.IntN(20)}
		var want []string
		n := 0
		for _, c := range changes {
			if slices.ContainsFunc(refs, func(ref string) bool { return !slices.Contains(c.Row.Refs, ref) }) {
				continue
			}
			if n++; c.Row.ID > q.After && len(want) < q.Limit {
				want = append(want, c.Row.ID)
			}
		}
		wantIDs(t, s, q, want...)
		if got, err := s.Count(t.Context(), tokenstore.KindGrant, refs...); got != n || err != nil {
			t.Fatalf("Count(%q) = %d, %v; want %d", refs, got, err, n)
		}
	}
}
