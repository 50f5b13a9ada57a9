package tokenstore_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// turned is a clock that tests turn.
type turned struct{ offset atomic.Int64 }

func (c *turned) now() time.Time { return now.Add(time.Duration(c.offset.Load())) }

func (c *turned) turn(d time.Duration) { c.offset.Add(int64(d)) }

// nodes are vaults of several processes on one store, with one clock.
func nodes(t *testing.T, n int) (vaults []*tokenstore.Vault, s tokenstore.Store, c *turned) {
	t.Helper()
	s = newStore(t)
	key := tokenstore.NewRootKey()
	c = new(turned)
	for range n {
		v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		vaults = append(vaults, v)
	}
	return vaults, s, c
}

func done(context.Context) error { return nil }

func TestJobIsDoneByOneProcessOfMany(t *testing.T) {
	t.Parallel()
	vaults, _, clock := nodes(t, 8)
	for hour := range 3 {
		var runs atomic.Int32
		var all sync.WaitGroup
		for _, v := range vaults {
			all.Go(func() {
				ran, err := v.RunJob(t.Context(), "clean-up", time.Hour, func(context.Context) error {
					runs.Add(1)
					return nil
				})
				if err != nil {
					t.Errorf("RunJob = %v, %v", ran, err)
				}
			})
		}
		all.Wait()
		if runs.Load() != 1 {
			t.Errorf("hour %d: done %d times", hour, runs.Load())
		}
		clock.turn(59 * time.Minute)
		if ran, err := vaults[0].RunJob(t.Context(), "clean-up", time.Hour, done); ran || err != nil {
			t.Errorf("before its time: %v, %v", ran, err)
		}
		if ran, err := vaults[0].RunJob(t.Context(), "another", time.Minute, done); !ran || err != nil {
			t.Errorf("another job: %v, %v", ran, err)
		}
		clock.turn(time.Minute)
	}
}

func TestJobThatCouldNotBeGivenBackIsTakenAgainByItsProcess(t *testing.T) {
	t.Parallel()
	vaults, s, _ := nodes(t, 2)
	m, frozen := s.(tokenstore.Movable), tokenstore.Freeze{State: tokenstore.FreezeMoving, From: "a", To: "b", Since: now}
	ran, err := vaults[0].RunJob(t.Context(), "clean-up", time.Hour, func(ctx context.Context) error {
		return m.Freeze(ctx, tokenstore.Freeze{}, frozen)
	})
	if !ran || !errors.Is(err, tokenstore.ErrReadOnly) {
		t.Fatalf("RunJob = %v, %v", ran, err)
	}
	if err := m.Freeze(t.Context(), frozen, tokenstore.Freeze{}); err != nil {
		t.Fatal(err)
	}
	if ran, err := vaults[1].RunJob(t.Context(), "clean-up", time.Hour, done); ran || err != nil {
		t.Errorf("another process, which cannot know that nobody does it: %v, %v", ran, err)
	}
	if ran, err := vaults[0].RunJob(t.Context(), "clean-up", time.Hour, done); !ran || err != nil {
		t.Errorf("its process: %v, %v", ran, err)
	}
	for i := range vaults {
		if ran, err := vaults[i].RunJob(t.Context(), "clean-up", time.Hour, done); ran || err != nil {
			t.Errorf("once it was done, process %d: %v, %v", i, ran, err)
		}
	}
}

func TestJobOfAProcessThatDiesIsTakenOver(t *testing.T) {
	t.Parallel()
	vaults, _, clock := nodes(t, 2)
	dead, err := tokenstore.TakeJob(vaults[0], t.Context(), "clean-up", time.Hour) // and nothing is heard of it any more
	if err != nil || dead == nil {
		t.Fatalf("takeJob = %v, %v", dead, err)
	}
	if ran, err := vaults[1].RunJob(t.Context(), "clean-up", time.Hour, done); ran || err != nil {
		t.Errorf("while it is another's: %v, %v", ran, err)
	}
	clock.turn(3 * time.Minute)
	if ran, err := vaults[1].RunJob(t.Context(), "clean-up", time.Hour, done); !ran || err != nil {
		t.Errorf("after its lease: %v, %v", ran, err)
	}
	if err := vaults[0].Commit(t.Context(), tokenstore.Save(dead)); !errors.Is(err, tokenstore.ErrConflict) {
		t.Errorf("who had died saves its job: %v", err)
	}
}

func TestJobThatFailsIsDueAgain(t *testing.T) {
	t.Parallel()
	vaults, _, _ := nodes(t, 2)
	broken := errors.New("broken")
	if ran, err := vaults[0].RunJob(t.Context(), "clean-up", time.Hour, func(context.Context) error { return broken }); !ran || !errors.Is(err, broken) {
		t.Errorf("RunJob = %v, %v", ran, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran, err := vaults[1].RunJob(ctx, "clean-up", time.Hour, func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	if !ran || !errors.Is(err, context.Canceled) {
		t.Errorf("RunJob that is called off = %v, %v", ran, err)
	}
	if ran, err := vaults[0].RunJob(t.Context(), "clean-up", time.Hour, done); !ran || err != nil {
		t.Errorf("afterwards: %v, %v", ran, err)
	}
}

func TestJobIsKeptWhileItsWorkGoesOnAndEndsWhenItIsLost(t *testing.T) {
	t.Parallel()
	vaults, s, clock := nodes(t, 2)
	job, err := tokenstore.TakeJob(vaults[0], t.Context(), "clean-up", time.Hour)
	if err != nil || job == nil {
		t.Fatalf("takeJob = %v, %v", job, err)
	}
	working, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		tokenstore.KeepJob(vaults[0], working, job, time.Millisecond, cancel)
	}()
	deadline := time.Now().Add(10 * time.Second)
	for range 10 { // far longer than the lease, in steps within it
		clock.turn(time.Minute)
		for from := jobVersion(t, s); jobVersion(t, s) < from+2; { // one may have begun before
			if time.Now().After(deadline) {
				t.Fatal("the lease is not renewed")
			}
		}
		if taken, err := tokenstore.TakeJob(vaults[1], t.Context(), "clean-up", time.Hour); taken != nil || err != nil {
			t.Fatalf("taken from who keeps it: %v, %v", taken, err)
		}
	}
	cancel(nil)
	<-kept

	working, cancel = context.WithCancelCause(t.Context())
	defer cancel(nil)
	clock.turn(3 * time.Minute)
	if taken, err := tokenstore.TakeJob(vaults[1], t.Context(), "clean-up", time.Hour); taken == nil || err != nil {
		t.Fatalf("takeJob after the lease = %v, %v", taken, err)
	}
	go tokenstore.KeepJob(vaults[0], working, job, time.Millisecond, cancel)
	select {
	case <-working.Done():
	case <-time.After(10 * time.Second):
		t.Error("the work goes on although its job is another's")
	}
}

func jobVersion(t *testing.T, s tokenstore.Store) uint64 {
	t.Helper()
	row, err := s.Get(t.Context(), tokenstore.KindJob, "clean-up")
	if err != nil {
		t.Fatal(err)
	}
	return row.Version
}

func TestErrorsOfTheStoreReachWhoRunsAJob(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	v := openVault(t, s, tokenstore.NewRootKey())
	ran, err := v.RunJob(t.Context(), "clean-up", time.Hour, func(context.Context) error { return s.Close() })
	if !ran || !errors.Is(err, tokenstore.ErrClosed) {
		t.Errorf("RunJob on a store that is closed meanwhile = %v, %v", ran, err)
	}
	if ran, err := v.RunJob(t.Context(), "clean-up", time.Hour, done); ran || !errors.Is(err, tokenstore.ErrClosed) {
		t.Errorf("RunJob on a closed store = %v, %v", ran, err)
	}
}

func TestJobTellsEveryProcessWhenItLastCameToItsEnd(t *testing.T) {
	t.Parallel()
	vaults, _, clock := nodes(t, 2)
	began := func(want time.Time) {
		t.Helper()
		if at, err := vaults[1].JobBegan(t.Context(), "clean-up"); err != nil || !at.Equal(want) {
			t.Errorf("JobBegan = %v, %v; want %v", at, err, want)
		}
	}
	began(time.Time{})
	first := clock.now()
	if _, err := vaults[0].RunJob(t.Context(), "clean-up", time.Hour, done); err != nil {
		t.Fatal(err)
	}
	clock.turn(time.Hour)
	if _, err := vaults[0].RunJob(t.Context(), "clean-up", time.Hour, func(context.Context) error { return errors.New("broken off") }); err == nil {
		t.Fatal("no error")
	}
	began(first)
}
