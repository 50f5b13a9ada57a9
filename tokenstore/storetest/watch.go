package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// told is what a watcher was called with.
type told struct {
	mu  sync.Mutex
	ids []string
}

func (w *told) changed(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids = append(w.ids, id)
}

// take returns what was told since the last time.
func (w *told) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := w.ids
	w.ids = nil
	return ids
}

// want waits until each of the ids was told, for longer than a second only because the machine may be busy.
func (w *told) want(t *testing.T, what string, ids ...string) {
	t.Helper()
	const patience = 5 * time.Second
	var all []string
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		all = append(all, w.take()...)
		if slices.Contains(all, "") || !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(all, id) }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %q were told within %s; want %q", what, all, patience, ids)
		}
	}
}

func watch(t *testing.T, s tokenstore.Store, kind tokenstore.Kind) *told {
	t.Helper()
	w := new(told)
	t.Cleanup(s.Watch(kind, w.changed))
	return w
}

func testWatch(t *testing.T, s tokenstore.Store) {
	first, second := watch(t, s, tokenstore.KindGrant), watch(t, s, tokenstore.KindGrant)
	a, b := row("a"), expiring("b", 1000)
	for _, step := range []struct {
		name string
		make func()
		ids  []string
	}{
		{"insert", func() { mustApply(t, s, insert(a), insert(b)) }, []string{"a", "b"}},
		{"update", func() { a.Version = 2; mustApply(t, s, update(a)) }, []string{"a"}},
		{"delete", func() { mustApply(t, s, remove(a, 2)) }, []string{"a"}},
		{"sweep", func() {
			if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, at(2000), 10); n != 1 || err != nil {
				t.Fatalf("Sweep = %d, %v", n, err)
			}
		}, []string{"b"}},
	} {
		step.make()
		first.want(t, step.name, step.ids...)
		second.want(t, step.name, step.ids...)
	}
}

// testWatchKind waits for a change that comes after one of another kind, which is not told as its own.
func testWatchKind(t *testing.T, s tokenstore.Store) {
	grants, accounts := watch(t, s, tokenstore.KindGrant), watch(t, s, tokenstore.KindAccount)
	account := row("an-account")
	account.Kind = tokenstore.KindAccount
	mustApply(t, s, insert(account))
	mustApply(t, s, insert(row("a-grant")))
	accounts.want(t, "change of an account", "an-account")
	deadline := time.Now().Add(5 * time.Second)
	for ids := []string(nil); !slices.Contains(ids, "a-grant") && !slices.Contains(ids, ""); time.Sleep(time.Millisecond) {
		ids = append(ids, grants.take()...)
		if slices.Contains(ids, "an-account") || time.Now().After(deadline) {
			t.Fatalf("those who watch grants were told of %q", ids)
		}
	}
}

// testWatchReads reads the row in the call, as whoever acts on a change does: the last call must find the last version.
func testWatchReads(t *testing.T, s tokenstore.Store) {
	const versions = 50
	seen := make(chan uint64, 10*versions)
	mustApply(t, s, insert(row("a")))
	defer s.Watch(tokenstore.KindGrant, func(string) {
		r, err := s.Get(t.Context(), tokenstore.KindGrant, "a")
		if err != nil {
			t.Errorf("Get when told: %v", err)
		}
		seen <- r.Version
	})()
	for version := uint64(2); version <= versions; version++ {
		r := row("a")
		r.Version = version
		mustApply(t, s, update(r))
	}
	late := time.After(5 * time.Second)
	for last := uint64(0); last != versions; {
		select {
		case last = <-seen:
		case <-late:
			t.Fatalf("the newest version that was seen when told is %d; want %d", last, versions)
		}
	}
}

func testWatchStop(t *testing.T, s tokenstore.Store) {
	other := watch(t, s, tokenstore.KindGrant)
	race(writers, func(worker int) {
		for i := range 10 {
			var mu sync.Mutex
			stopped := false
			stop := s.Watch(tokenstore.KindGrant, func(string) {
				mu.Lock()
				defer mu.Unlock()
				if stopped {
					t.Error("told after it was stopped")
				}
			})
			if err := s.Apply(t.Context(), insert(row(fmt.Sprintf("%d-%d", worker, i)))); err != nil {
				t.Errorf("Apply: %v", err)
			}
			stop()
			mu.Lock()
			stopped = true
			mu.Unlock()
			stop()
		}
	})
	mustApply(t, s, insert(row("last")))
	other.want(t, "after others have stopped", "last")
}

// testWatchStopWaits stops in the middle of a call.
func testWatchStopWaits(t *testing.T, s tokenstore.Store) {
	release, began := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	defer goOn()
	var once sync.Once
	stop := s.Watch(tokenstore.KindGrant, func(string) {
		once.Do(func() { close(began) })
		<-release
	})
	mustApply(t, s, insert(row("a")))
	<-began
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	select {
	case <-stopped:
		t.Error("stop returned in the middle of a call")
	case <-time.After(50 * time.Millisecond):
	}
	goOn()
	<-stopped
}

func testWatchClose(t *testing.T, s tokenstore.Store) {
	var mu sync.Mutex
	closed := false
	stop := s.Watch(tokenstore.KindGrant, func(string) {
		mu.Lock()
		defer mu.Unlock()
		if closed {
			t.Error("told after the store was closed")
		}
	})
	race(writers, func(worker int) {
		if worker == 0 {
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			mu.Lock()
			closed = true
			mu.Unlock()
			return
		}
		for i := 0; ; i++ {
			err := s.Apply(t.Context(), insert(row(fmt.Sprintf("%d-%d", worker, i))))
			if errors.Is(err, tokenstore.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("Apply: %v", err)
				return
			}
		}
	})
	stop()
	s.Watch(tokenstore.KindGrant, func(string) { t.Error("told by a closed store") })()
}

// testWatchSlow holds one watcher up while others go on. When it goes on itself, it is told of everything.
func testWatchSlow(t *testing.T, s tokenstore.Store) {
	release, began := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := new(told)
	stop := s.Watch(tokenstore.KindGrant, func(id string) {
		once.Do(func() { close(began) })
		<-release
		slow.changed(id)
	})
	defer stop()
	goOn := sync.OnceFunc(func() { close(release) })
	defer goOn()
	quick := watch(t, s, tokenstore.KindGrant)
	mustApply(t, s, insert(row("first")))
	<-began
	start := time.Now()
	for i := range 20 {
		mustApply(t, s, insert(row(fmt.Sprint("row-", i))))
	}
	quick.want(t, "beside a slow watcher", "first", "row-0", "row-19")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("20 Applies took %s beside a slow watcher", took)
	}
	goOn()
	slow.want(t, "late", "first", "row-0", "row-19")
}
