package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func testRoundTrip(t *testing.T, s tokenstore.Store) {
	for _, kind := range tokenstore.Kinds() {
		full := tokenstore.Row{
			Kind: kind, ID: "full", Version: 1, State: "active", Refs: []string{"user:1", "client:2"},
			DeleteAfter: time.Date(2040, 2, 3, 4, 5, 6, 789_999_999, time.UTC), Due: time.Date(2030, 2, 3, 4, 5, 6, 123_999_999, time.UTC), Sealed: []byte{0, 1, 0xfe, 0xff, '\n', '\''},
		}
		bare := tokenstore.Row{Kind: kind, ID: "bare", Version: 1, Sealed: []byte("x")}
		mustApply(t, s, insert(full), insert(bare))
		wantRow(t, s, full)
		wantRow(t, s, bare)
	}
}

func testNotFound(t *testing.T, s tokenstore.Store) {
	for _, id := range []string{"nothing", "", " ", "a\x00b", strings.Repeat("x", 5000)} {
		wantMissing(t, s, id)
	}
	wantIDs(t, s, tokenstore.Query{})
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}, After: "a"})
}

func testInsertConflict(t *testing.T, s tokenstore.Store) {
	r := row("a")
	mustApply(t, s, insert(r))
	other := r
	other.Sealed = []byte("other")
	wantConflict(t, s, insert(other))
	wantRow(t, s, r)
}

func testUpdate(t *testing.T, s tokenstore.Store) {
	r := row("a")
	r.Version = 2
	wantConflict(t, s, update(r)) // nothing to update
	mustApply(t, s, insert(r))
	for version := uint64(2); version < 5; version++ {
		r.Version, r.State, r.Sealed = version, "revoked", append(r.Sealed, '.')
		r.DeleteAfter = at(int64(version) * 1000)
		mustApply(t, s, update(r))
		wantRow(t, s, r)
	}
	for _, version := range []uint64{0, 1, 3, 4, 6, 7} {
		stale := r
		stale.Version, stale.Sealed = version, []byte("stale")
		wantConflict(t, s, update(stale))
	}
	wantRow(t, s, r)
}

func testDelete(t *testing.T, s tokenstore.Store) {
	r := row("a", "user:1")
	wantConflict(t, s, remove(r, 1))
	mustApply(t, s, insert(r))
	for _, version := range []uint64{0, 2} {
		wantConflict(t, s, remove(r, version))
	}
	wantRow(t, s, r)
	mustApply(t, s, remove(r, 1))
	wantMissing(t, s, "a")
	wantIDs(t, s, tokenstore.Query{})
	wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}})
	wantConflict(t, s, remove(r, 1))
	mustApply(t, s, insert(r)) // the id is free again, and begins at version 1
	wantRow(t, s, r)
}

func testKindsApart(t *testing.T, s tokenstore.Store) {
	var inserts []tokenstore.Change
	for _, kind := range tokenstore.Kinds() {
		r := row("same", "user:1")
		r.Kind, r.Sealed = kind, []byte(kind)
		inserts = append(inserts, insert(r))
	}
	mustApply(t, s, inserts...)
	mustApply(t, s, remove(inserts[0].Row, 1))
	for _, c := range inserts[1:] {
		wantRow(t, s, c.Row)
		rows, err := s.List(t.Context(), c.Row.Kind, tokenstore.Query{Refs: []string{"user:1"}})
		if err != nil || len(rows) != 1 || compare(rows[0], c.Row) != "" {
			t.Fatalf("List(%s) = %v, %v; want its own row", c.Row.Kind, rows, err)
		}
	}
}

func testExactMatch(t *testing.T, s tokenstore.Store) {
	ids := []string{"%", "A", "A/b", "A_b", "_", "a", "a:b", "aB", "b'--", `b\`}
	for _, id := range ids {
		mustApply(t, s, insert(row(id, "ref:"+id)))
	}
	wantIDs(t, s, tokenstore.Query{}, ids...)
	for _, id := range ids {
		wantRow(t, s, row(id, "ref:"+id))
		wantIDs(t, s, tokenstore.Query{Refs: []string{"ref:" + id}}, id)
	}
	wantIDs(t, s, tokenstore.Query{Refs: []string{"ref:"}})
	wantIDs(t, s, tokenstore.Query{Refs: []string{"ref:a\x00a"}})
	wantIDs(t, s, tokenstore.Query{Refs: []string{"REF:a"}})
}

func testOwnership(t *testing.T, s tokenstore.Store) {
	r, want := row("a", "user:1", "client:1"), row("a", "user:1", "client:1")
	r.Sealed = bytes.Repeat([]byte("sealed"), 10_000) // too large for a store to keep it among other things
	want.Sealed = bytes.Clone(r.Sealed)
	change := insert(r)
	mustApply(t, s, change)
	if diff := compare(change.Row, want); diff != "" {
		t.Fatalf("Apply changed what it was given: %s", diff)
	}
	change.Row.Sealed[0], change.Row.Refs[0] = '!', "user:2"
	wantRow(t, s, want)

	got, err := s.Get(t.Context(), want.Kind, "a")
	if err != nil {
		t.Fatal(err)
	}
	clear(got.Sealed)
	clear(got.Refs)
	listed, err := s.List(t.Context(), want.Kind, tokenstore.Query{})
	if err != nil || len(listed) != 1 {
		t.Fatalf("List = %v, %v", listed, err)
	}
	clear(listed[0].Sealed)
	wantRow(t, s, want)
}

func testAllOrNone(t *testing.T, s tokenstore.Store) {
	a, b, c := row("a", "user:1"), row("b", "user:1"), row("c", "user:1")
	mustApply(t, s, insert(a), insert(b))
	a2, b9 := row("a", "user:2"), row("b")
	a2.Version, b9.Version = 2, 9
	for _, doomed := range [][]tokenstore.Change{
		{insert(c), update(a2), remove(b, 7)},
		{remove(b, 1), insert(c), update(b9), insert(a)},
		{update(a2), insert(c), insert(b)},
		{insert(c), remove(a, 1), remove(row("nothing"), 1)},
	} {
		if err := s.Apply(t.Context(), doomed...); err == nil {
			t.Fatalf("Apply(%v) = nil; want an error", doomed)
		}
		wantRow(t, s, a)
		wantRow(t, s, b)
		wantMissing(t, s, "c")
		wantIDs(t, s, tokenstore.Query{Refs: []string{"user:1"}}, "a", "b")
		wantIDs(t, s, tokenstore.Query{Refs: []string{"user:2"}})
	}
	account := row("x")
	account.Kind = tokenstore.KindAccount
	mustApply(t, s, update(a2), remove(b, 1), insert(c), insert(account))
	wantRow(t, s, a2)
	wantMissing(t, s, "b")
	wantRow(t, s, c)
	wantRow(t, s, account)
}

func testEmptyApply(t *testing.T, s tokenstore.Store) { mustApply(t, s) }

func testInvalid(t *testing.T, s tokenstore.Store) {
	with := func(edit func(*tokenstore.Row)) tokenstore.Change {
		r := row("bad")
		edit(&r)
		return insert(r)
	}
	refs := func(refs ...string) tokenstore.Change {
		return with(func(r *tokenstore.Row) { r.Refs = refs })
	}
	invalid := map[string][]tokenstore.Change{
		"no operation":                   {{Row: row("bad")}},
		"unknown operation":              {{Op: tokenstore.OpCheck + 1, Row: row("bad")}},
		"no kind":                        {with(func(r *tokenstore.Row) { r.Kind = "" })},
		"unknown kind":                   {with(func(r *tokenstore.Row) { r.Kind = "grants" })},
		"empty id":                       {insert(row(""))},
		"long id":                        {insert(row(strings.Repeat("x", 129)))},
		"space in id":                    {insert(row("a b"))},
		"NUL in id":                      {insert(row("a\x00b"))},
		"id beyond ASCII":                {insert(row("ä"))},
		"long state":                     {with(func(r *tokenstore.Row) { r.State = strings.Repeat("x", 33) })},
		"line in state":                  {with(func(r *tokenstore.Row) { r.State = "a\nb" })},
		"sealed too large":               {with(func(r *tokenstore.Row) { r.Sealed = make([]byte, tokenstore.MaxSealed+1) })},
		"33 references":                  {refs(numbers(33)...)},
		"empty reference":                {refs("")},
		"long reference":                 {refs(strings.Repeat("x", 193))},
		"NUL in reference":               {refs("a\x00b")},
		"reference repeated":             {refs("a", "b", "a")},
		"row inserted twice":             {insert(row("bad")), insert(row("bad"))},
		"row changed twice":              {insert(row("bad")), update(row("bad"))},
		"sealed anew too large":          {reseal(row("bad"), 1, string(make([]byte, tokenstore.MaxSealed+1)))},
		"check of a grant":               {{Op: tokenstore.OpCheck, Row: row("bad")}},
		"check with a change of the row": {update(ring("ring")), check("ring", 1)},
		"row deleted as well":            {insert(row("bad")), remove(row("bad"), 1)},
	}
	for name, changes := range invalid {
		changes = append([]tokenstore.Change{insert(row("good"))}, changes...)
		if err := s.Apply(t.Context(), changes...); !errors.Is(err, tokenstore.ErrInvalid) {
			t.Errorf("%s: Apply = %v; want ErrInvalid", name, err)
		}
	}
	wantIDs(t, s, tokenstore.Query{})
}

// numbers are so many references.
func numbers(n int) (refs []string) {
	for i := range n {
		refs = append(refs, fmt.Sprint(i))
	}
	return refs
}

func testLimits(t *testing.T, s tokenstore.Store) {
	r := row(strings.Repeat("~", 128))
	r.State = strings.Repeat("!", 32)
	for i := range 32 {
		r.Refs = append(r.Refs, strings.Repeat(string(rune('A'+i)), 192))
	}
	r.Sealed = bytes.Repeat([]byte{0xff, 0}, tokenstore.MaxSealed/2)
	r.DeleteAfter = time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC)
	r.Due = r.DeleteAfter
	mustApply(t, s, insert(r))
	wantRow(t, s, r)
	wantIDs(t, s, tokenstore.Query{Refs: r.Refs}, r.ID)
	for _, ref := range r.Refs {
		wantIDs(t, s, tokenstore.Query{Refs: []string{ref}}, r.ID)
	}
	empty := row("empty")
	empty.Sealed = nil
	mustApply(t, s, insert(empty))
	wantRow(t, s, empty)
}

func testContext(t *testing.T, s tokenstore.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, get := s.Get(ctx, tokenstore.KindGrant, "a")
	_, list := s.List(ctx, tokenstore.KindGrant, tokenstore.Query{})
	_, count := s.Count(ctx, tokenstore.KindGrant)
	_, due := s.Due(ctx, tokenstore.KindGrant, at(1), 1)
	_, sweep := s.Sweep(ctx, tokenstore.KindGrant, at(1), 1)
	for name, err := range map[string]error{"Get": get, "List": list, "Count": count, "Due": due, "Sweep": sweep, "Apply": s.Apply(ctx, insert(row("a")))} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v; want context.Canceled", name, err)
		}
	}
}
