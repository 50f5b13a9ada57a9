package caddyoauthproxy

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestHoldReleasesOnceWhenTheLastUserLeaves(t *testing.T) {
	t.Parallel()
	var released atomic.Int32
	h := newHold(func() { released.Add(1) })
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 1000 {
				if !h.enter() {
					t.Error("could not enter while it was held")
					return
				}
				if released.Load() != 0 {
					t.Error("released under a user")
				}
				h.leave()
			}
		})
	}
	wg.Wait()
	if !h.enter() {
		t.Fatal("could not enter")
	}
	h.leave() // the first holder
	if released.Load() != 0 {
		t.Error("released while a user was still in")
	}
	h.leave()
	if released.Load() != 1 {
		t.Errorf("released %d times", released.Load())
	}
	if h.enter() {
		t.Error("entered after the release")
	}
}
