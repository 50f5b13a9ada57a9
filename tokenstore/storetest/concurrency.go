package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const writers = 8

// race runs f in several goroutines at once, and waits for them.
func race(n int, f func(worker int)) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { f(i) })
	}
	group.Wait()
}

func testConcurrentUpdates(t *testing.T, s tokenstore.Store) {
	const versions = 20
	mustApply(t, s, insert(row("a")))
	var won [versions + 1]atomic.Int32
	race(writers, func(worker int) {
		for {
			r, err := s.Get(t.Context(), tokenstore.KindGrant, "a")
			if err != nil {
				t.Errorf("Get: %v", err)
				return
			}
			if r.Version > versions {
				return
			}
			r.Version++
			r.Sealed = []byte(strconv.Itoa(worker))
			switch err := s.Apply(t.Context(), update(r)); {
			case err == nil:
				won[r.Version-1].Add(1)
			case !errors.Is(err, tokenstore.ErrConflict):
				t.Errorf("Apply: %v", err)
				return
			}
		}
	})
	for version := 1; version <= versions; version++ {
		if n := won[version].Load(); n != 1 {
			t.Errorf("%d updates of version %d were acknowledged; want 1", n, version)
		}
	}
}

// testConcurrentCounts has writers insert, update, delete and sweep rows, of which each Apply leaves as many as there were.
func testConcurrentCounts(t *testing.T, s tokenstore.Store) {
	health := func(turn int) string { return []string{"health:valid", "health:expired", "health:broken"}[turn%3] }
	name := func(worker, turn int) string { return fmt.Sprintf("%d-%d", turn, worker) }
	const turns = 25
	race(writers, func(worker int) {
		mustApply(t, s, insert(row(name(worker, 0), health(0))))
	})
	race(writers+1, func(worker int) {
		for turn := range turns {
			if worker == writers {
				if n, err := s.Count(t.Context(), tokenstore.KindGrant); n != writers || err != nil {
					t.Errorf("Count beside writers = %d, %v; want %d", n, err, writers)
				}
				continue
			}
			r := row(name(worker, turn), health(turn+1))
			r.Version = 2
			err := s.Apply(t.Context(), update(r))
			if err == nil {
				err = s.Apply(t.Context(), insert(row(name(worker, turn+1), health(turn+1))), remove(r, 2))
			}
			if err != nil {
				t.Errorf("Apply: %v", err)
				return
			}
		}
	})
	want := map[string]int{"": writers, health(turns): writers, health(turns + 1): 0, health(turns + 2): 0}
	for ref, want := range want {
		if n, err := s.Count(t.Context(), tokenstore.KindGrant, strings.Fields(ref)...); n != want || err != nil {
			t.Errorf("Count(%q) = %d, %v; want %d", ref, n, err, want)
		}
	}
}

func testConcurrentInserts(t *testing.T, s tokenstore.Store) {
	for round := range 10 {
		id := strconv.Itoa(round)
		var winner atomic.Int32
		var won atomic.Int32
		race(writers, func(worker int) {
			r := row(id)
			r.Sealed = []byte(strconv.Itoa(worker))
			switch err := s.Apply(t.Context(), insert(r)); {
			case err == nil:
				won.Add(1)
				winner.Store(int32(worker))
			case !errors.Is(err, tokenstore.ErrConflict):
				t.Errorf("Apply: %v", err)
			}
		})
		if won.Load() != 1 {
			t.Fatalf("%d inserts of one id were acknowledged; want 1", won.Load())
		}
		want := row(id)
		want.Sealed = []byte(strconv.Itoa(int(winner.Load())))
		wantRow(t, s, want)
	}
}

// testConcurrentReaders writes two rows together, and reads them in the order in which half an Apply would show.
func testConcurrentReaders(t *testing.T, s tokenstore.Store) {
	pair := func(version uint64) []tokenstore.Row {
		a, b := row("a", "pair:1"), row("b", "pair:1")
		a.Version, b.Version = version, version
		return []tokenstore.Row{a, b}
	}
	first := pair(1)
	mustApply(t, s, insert(first[0]), insert(first[1]))
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				rows, err := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Refs: []string{"pair:1"}})
				if err != nil || len(rows) != 2 || rows[0].Version != rows[1].Version {
					t.Errorf("List = %v, %v; want both rows in one version", rows, err)
					return
				}
			}
		})
	}
	for version := uint64(2); version <= 50; version++ {
		next := pair(version)
		mustApply(t, s, update(next[0]), update(next[1]))
		wantRow(t, s, next[0]) // what has returned is seen by every read after it
		wantRow(t, s, next[1])
	}
	stop()
	readers.Wait()
}

func testConcurrentConflicts(t *testing.T, s tokenstore.Store) {
	mustApply(t, s, insert(row("taken")))
	race(writers, func(worker int) {
		for i := range 20 {
			r := row(fmt.Sprintf("%d-%d", worker, i))
			if worker%2 == 0 {
				if err := s.Apply(t.Context(), insert(r)); err != nil {
					t.Errorf("Apply beside conflicting ones: %v", err)
				}
				continue
			}
			if err := s.Apply(t.Context(), insert(r), insert(row("taken"))); !errors.Is(err, tokenstore.ErrConflict) {
				t.Errorf("Apply = %v; want ErrConflict", err)
			}
		}
	})
	rows, err := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Limit: 1000})
	if want := writers/2*20 + 1; err != nil || len(rows) != want {
		t.Errorf("List = %d rows, %v; want %d", len(rows), err, want)
	}
}

// testConcurrentSweep prolongs rows while they are swept: whoever is first wins, and the other notices.
func testConcurrentSweep(t *testing.T, s tokenstore.Store) {
	const n = 100
	for i := range n {
		mustApply(t, s, insert(expiring(fmt.Sprintf("%03d", i), 1000)))
	}
	var swept, prolonged, prolonging atomic.Int32
	prolonging.Store(3)
	race(4, func(worker int) {
		if worker == 3 {
			for last := false; ; {
				deleted, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(2000), 3)
				if err != nil {
					t.Errorf("Sweep: %v", err)
					return
				}
				swept.Add(int32(deleted))
				if deleted == 0 && last {
					return
				}
				last = prolonging.Load() == 0
			}
		}
		defer prolonging.Add(-1)
		for i := worker; i < n; i += 3 {
			r := expiring(fmt.Sprintf("%03d", i), 9000)
			r.Version = 2
			switch err := s.Apply(t.Context(), update(r)); {
			case err == nil:
				prolonged.Add(1)
			case !errors.Is(err, tokenstore.ErrConflict):
				t.Errorf("Apply: %v", err)
			}
		}
	})
	rows, err := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Limit: 1000})
	if err != nil || len(rows) != int(prolonged.Load()) || int(swept.Load()+prolonged.Load()) != n {
		t.Errorf("%d rows swept, %d prolonged, %d left (%v); want %d in all", swept.Load(), prolonged.Load(), len(rows), err, n)
	}
}

func testClosed(t *testing.T, s tokenstore.Store) {
	mustApply(t, s, insert(row("a")))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	_, get := s.Get(t.Context(), tokenstore.KindGrant, "a")
	_, list := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{})
	_, sweep := s.Sweep(t.Context(), tokenstore.KindGrant, at(1), 1)
	for name, err := range map[string]error{"Get": get, "List": list, "Sweep": sweep, "Apply": s.Apply(t.Context(), insert(row("b")))} {
		if !errors.Is(err, tokenstore.ErrClosed) {
			t.Errorf("%s after Close = %v; want ErrClosed", name, err)
		}
	}
}

func testCloseUnderLoad(t *testing.T, s tokenstore.Store) {
	var started sync.WaitGroup
	started.Add(2 * writers)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		race(2*writers, func(worker int) {
			for i := 0; ; i++ {
				var err error
				if worker%2 == 0 {
					err = s.Apply(t.Context(), insert(row(fmt.Sprintf("%d-%d", worker, i))))
				} else {
					_, err = s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{})
				}
				if i == 0 {
					started.Done()
				}
				if errors.Is(err, tokenstore.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("call while the store is closed: %v", err)
					return
				}
			}
		})
	}()
	started.Wait()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("calls hang after Close")
	}
}
