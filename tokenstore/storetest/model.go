package storetest

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// model is what a store is to have, in which everything is found by looking at all rows.
type model map[string]tokenstore.Row

// modelRefs begin as others do, so that one list could run into the next. Some are counted, see tokenstore.Counted.
var modelRefs = []string{"a", "ab", "a:1", "b", "user:1", "user:12", "user:1:2", "health:valid", "health:broken"}

// testModel makes random changes, and compares what is found in the indexes with what the model has.
func testModel(t *testing.T, s tokenstore.Store) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	m := make(model)
	for step := range 300 {
		var changes []tokenstore.Change
		for _, n := range random.Perm(40)[:1+random.IntN(8)] {
			changes = append(changes, m.change(fmt.Sprintf("id-%02d", n), random))
		}
		mustApply(t, s, changes...)
		if step%20 == 19 {
			before, limit := int64(random.IntN(1000)), 1+random.IntN(5)
			want := m.sweep(before, limit)
			if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(before), limit); err != nil || n != want {
				t.Fatalf("step %d: Sweep(%d, %d) = %d, %v; want %d", step, before, limit, n, err, want)
			}
		}
		m.compare(t, s, random)
	}
}

// change inserts, updates or deletes a row of the model.
func (m model) change(id string, random *rand.Rand) tokenstore.Change {
	r, there := m[id]
	if there && random.IntN(4) == 0 {
		delete(m, id)
		return remove(r, r.Version)
	}
	if there && random.IntN(4) == 0 {
		r.Sealed = fmt.Appendf(nil, "sealed anew %d", random.Int())
		m[id] = r
		return reseal(r, r.Version, string(r.Sealed))
	}
	next := row(id)
	for _, ref := range modelRefs {
		if random.IntN(2) == 0 {
			next.Refs = append(next.Refs, ref)
		}
	}
	if random.IntN(3) > 0 {
		next.Due = at(1 + int64(random.IntN(1000)))
	}
	if random.IntN(3) > 0 {
		next.DeleteAfter = at(1 + int64(random.IntN(1000)))
	}
	next.Version = r.Version + 1
	m[id] = next
	if there {
		return update(next)
	}
	return insert(next)
}

// timed are the rows that have a time before another, the first first.
func (m model) timed(of func(tokenstore.Row) time.Time, before int64) []tokenstore.Row {
	found := slices.DeleteFunc(slices.Collect(maps.Values(m)), func(r tokenstore.Row) bool { return of(r).IsZero() || !of(r).Before(at(before)) })
	slices.SortFunc(found, func(a, b tokenstore.Row) int { return cmp.Or(of(a).Compare(of(b)), cmp.Compare(a.ID, b.ID)) })
	return found
}

func (m model) sweep(before int64, limit int) int {
	found := m.timed(func(r tokenstore.Row) time.Time { return r.DeleteAfter }, before)
	found = found[:min(limit, len(found))]
	for _, r := range found {
		delete(m, r.ID)
	}
	return len(found)
}

func (m model) compare(t *testing.T, s tokenstore.Store, random *rand.Rand) {
	t.Helper()
	for _, r := range m {
		wantRow(t, s, r)
	}
	var refs []string
	for _, n := range random.Perm(len(modelRefs))[:random.IntN(4)] {
		refs = append(refs, modelRefs[n])
	}
	after, limit := fmt.Sprintf("id-%02d", random.IntN(40)), 1+random.IntN(10)
	var all, page []string
	for _, id := range slices.Sorted(maps.Keys(m)) {
		if slices.ContainsFunc(refs, func(ref string) bool { return !slices.Contains(m[id].Refs, ref) }) {
			continue
		}
		if all = append(all, id); id > after && len(page) < limit {
			page = append(page, id)
		}
	}
	wantIDs(t, s, tokenstore.Query{Refs: refs}, all...)
	wantIDs(t, s, tokenstore.Query{Refs: refs, After: after, Limit: limit}, page...)
	if n, err := s.Count(t.Context(), tokenstore.KindGrant, refs...); err != nil || n != len(all) {
		t.Fatalf("Count(%q) = %d, %v; want %d", refs, n, err, len(all))
	}
	for _, ref := range modelRefs {
		want := 0
		for _, r := range m {
			if slices.Contains(r.Refs, ref) {
				want++
			}
		}
		if n, err := s.Count(t.Context(), tokenstore.KindGrant, ref); err != nil || n != want {
			t.Fatalf("Count(%q) = %d, %v; want %d", ref, n, err, want)
		}
	}
	before := int64(random.IntN(1100))
	var due []string
	for _, r := range m.timed(func(r tokenstore.Row) time.Time { return r.Due }, before) {
		if len(due) < limit {
			due = append(due, r.ID)
		}
	}
	wantDue(t, s, before, limit, due...)
}
