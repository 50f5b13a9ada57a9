package postgres

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/storetest"
)

// chase has one store write versions of a row, and the other recall it all the time, while faults happen; and reports where more than a second after an Apply had returned
// an older version was seen. It returns how many versions were written, and how many recalls answered.
func chase(t *testing.T, writer, reader *Store, length time.Duration, fault func(stop <-chan struct{})) (versions, recalls uint64) {
	t.Helper()
	mustApply(t, writer, insertGrant("chased"))
	type step struct {
		version uint64
		at      time.Time
	}
	var mu sync.Mutex
	steps := []step{{1, time.Now()}}
	due := func(began time.Time) uint64 { // what must be seen by a Recall that begins then
		mu.Lock()
		defer mu.Unlock()
		for len(steps) > 1 && began.Sub(steps[1].at) > bound {
			steps = steps[1:]
		}
		if began.Sub(steps[0].at) > bound {
			return steps[0].version
		}
		return 0
	}
	stop := make(chan struct{})
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	var wg sync.WaitGroup
	var answered atomic.Uint64
	wg.Go(func() { fault(stop) })
	wg.Go(func() {
		for version := uint64(2); running(); version++ {
			err := writer.Apply(t.Context(), updateGrant("chased", version))
			if errors.Is(err, tokenstore.ErrUnavailable) {
				version--
				continue
			}
			if err != nil {
				t.Errorf("Apply of version %d: %v", version, err)
				return
			}
			mu.Lock()
			steps = append(steps, step{version, time.Now()})
			versions = version
			mu.Unlock()
			time.Sleep(3 * time.Millisecond) // so that some Recalls are answered from memory
		}
	})
	for range 4 {
		wg.Go(func() {
			for running() {
				began := time.Now()
				want := due(began)
				row, err := storetest.Recalling(reader)(t.Context(), tokenstore.KindGrant, "chased")
				if errors.Is(err, tokenstore.ErrUnavailable) {
					continue
				}
				if err != nil || row.Version < want {
					t.Errorf("Recall = version %d, %v; version %d was written more than %s before", row.Version, err, want, bound)
					return
				}
				answered.Add(1)
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	time.Sleep(length)
	close(stop)
	wg.Wait()
	memory := reader.Recalls()
	t.Logf("%d versions, %d recalls, %d answered from memory, %d read", versions, answered.Load(), memory.Hits, memory.Misses)
	if versions < 20 || answered.Load() < 100 || memory.Hits == 0 {
		t.Errorf("little happened")
	}
	return versions, answered.Load()
}

// every does something again and again.
func every(d time.Duration, what func()) func(stop <-chan struct{}) {
	return func(stop <-chan struct{}) {
		for {
			select {
			case <-stop:
				return
			case <-time.After(d):
				what()
			}
		}
	}
}
