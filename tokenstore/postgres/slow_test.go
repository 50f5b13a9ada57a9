package postgres

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A database that takes long is not gone, and nothing piles up.
func TestSlowDatabase(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	p := newProxy(t, testpg.Shared(t).Address())
	s := openStore(t, Options{Connection: p.through(t, connection), MaxStale: time.Minute})
	mustApply(t, s, insertGrant("a"), insertGrant("b"))
	wantRecall(t, s, "a", 1)
	p.delay.Store(int64(150 * time.Millisecond))
	other := openStore(t, Options{Connection: connection})
	mustApply(t, other, updateGrant("a", 2))
	time.Sleep(bound + 300*time.Millisecond)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if i%2 == 0 {
				wantRecall(t, s, "a", 2)
			} else if err := get(s, "b")(); err != nil {
				t.Errorf("Get: %v", err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > DefaultWait {
		t.Errorf("60 calls took %s", took)
	}
	mustApply(t, s, updateGrant("a", 3))
	wantRecall(t, s, "a", 3)
	if !s.Status().Reachable {
		t.Error("a slow database counts as gone")
	}
	if n := s.pool.Stat().TotalConns(); n > DefaultMaxConns {
		t.Errorf("%d connections", n)
	}
}

// Somebody holds a lock: on all rows, then on one.
func TestLockedDatabase(t *testing.T) {
	t.Parallel()
	const wait, many = 2 * time.Second, 300
	connection := testpg.Database(t)
	s := openStore(t, Options{Connection: connection, Wait: wait})
	mustApply(t, s, insertGrant("a"), insertGrant("b"))
	c := admin(t, testpg.Shared(t), connection)
	hold := func(sql string) (release func()) {
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		return func() { _ = tx.Rollback(context.Background()) }
	}

	release := hold("LOCK TABLE " + DefaultSchema + ".rows IN ACCESS EXCLUSIVE MODE")
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for range many {
		wg.Go(func() {
			if took := wantUnavailable(t, "Get of locked rows", get(s, "a")); took > wait+busy {
				t.Errorf("a call took %s", took)
			}
		})
	}
	wg.Wait()
	if n := s.pool.Stat().TotalConns(); n > DefaultMaxConns {
		t.Errorf("%d connections", n)
	}
	release()
	eventually(t, "unlocked", func() bool { return get(s, "a")() == nil })
	eventually(t, "the end of what waited", func() bool { return runtime.NumGoroutine() < before+50 })
	if !s.Status().Reachable {
		t.Error("a locked database counts as gone")
	}

	release = hold("SELECT 1 FROM " + DefaultSchema + ".rows WHERE id = 'a' FOR UPDATE")
	for range 20 {
		wg.Go(func() {
			if took := wantUnavailable(t, "Apply to a locked row", func() error { return s.Apply(context.Background(), updateGrant("a", 2)) }); took > wait+busy {
				t.Errorf("an Apply took %s", took)
			}
		})
	}
	for range 200 {
		start := time.Now()
		if err := get(s, "b")(); err != nil || time.Since(start) > wait/2 {
			t.Errorf("beside Applies that wait Get took %s: %v", time.Since(start), err)
		}
	}
	wg.Wait()
	release()
	eventually(t, "unlocked", func() bool { return s.Apply(context.Background(), insertGrant("c")) == nil })
}

func TestCloseIsBoundedAndLeavesNothing(t *testing.T) {
	connection := testpg.Database(t)
	p := newProxy(t, testpg.Shared(t).Address())
	ours := func() int { return countGoroutines("tokenstore/postgres.(", "pgx/v5", "puddle") }
	before := ours()
	for name, fault := range map[string]func(){"fine": func() {}, "swallowed": func() { p.swallow(true) }, "slow": func() { p.delay.Store(int64(300 * time.Millisecond)) }} {
		p.delay.Store(0)
		p.restore()
		const wait = time.Second
		s, err := Open(t.Context(), Options{Connection: p.through(t, connection), Wait: wait})
		if err != nil {
			t.Fatal(name, err)
		}
		s.Watch(tokenstore.KindGrant, func(string) {})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { _ = get(s, "a")() })
		}
		fault()
		for range 20 {
			wg.Go(func() { _ = get(s, "a")() })
		}
		time.Sleep(wait / 4)
		start := time.Now()
		if err := s.Close(); err != nil {
			t.Errorf("%s: Close: %v", name, err)
		}
		if took := time.Since(start); took > 2*wait+2*silence+busy {
			t.Errorf("%s: Close took %s", name, took)
		}
		wg.Wait()
		for what, call := range map[string]func() error{"Get": get(s, "a"), "Recall": recall(s, "a"), "Apply": func() error { return s.Apply(t.Context(), insertGrant("z")) }} {
			if err := call(); !errors.Is(err, tokenstore.ErrClosed) {
				t.Errorf("%s: %s of a closed store = %v", name, what, err)
			}
		}
		eventually(t, name+": the end of its goroutines", func() bool { return ours() <= before })
	}
}

// countGoroutines counts those that have one of the texts in their stack, and are not the caller's.
func countGoroutines(texts ...string) int {
	buffer := make([]byte, 4<<20)
	buffer = buffer[:runtime.Stack(buffer, true)]
	return countStacks(string(buffer), texts)
}
