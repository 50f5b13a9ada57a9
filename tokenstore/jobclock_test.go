package tokenstore_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A machine that boots with a clock a year ahead must not keep a job from being done for a year.
func TestJobIsDueAfterTheClockWasPutBack(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	vaults, _, clock := nodes(t, 2)
	ran := func(v *tokenstore.Vault) bool {
		t.Helper()
		ran, err := v.RunJob(t.Context(), "job", time.Hour, done)
		if err != nil {
			t.Fatal(err)
		}
		return ran
	}
	clock.turn(year)
	if !ran(vaults[0]) {
		t.Fatal("not done")
	}
	clock.turn(-year)
	if !ran(vaults[0]) {
		t.Error("not done, because it was in a future that did not come")
	}
	clock.turn(-time.Minute) // of a node whose clock is a little behind
	if ran(vaults[1]) {
		t.Error("done again at once")
	}

	clock.turn(year) // somebody dies with it then
	if _, err := tokenstore.TakeJob(vaults[0], t.Context(), "job", time.Hour); err != nil {
		t.Fatal(err)
	}
	clock.turn(-year)
	if !ran(vaults[1]) {
		t.Error("not taken over, because it is held until a future that did not come")
	}
}

// slowJobs holds up what writes a job's lease until the job is over.
type slowJobs struct {
	tokenstore.Store
	renewing chan struct{}
	over     chan struct{}
	once     sync.Once
}

func (s *slowJobs) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	err := s.Store.Apply(context.WithoutCancel(ctx), changes...)
	if changes[0].Row.Kind == tokenstore.KindJob && changes[0].Row.Version == 2 {
		s.once.Do(func() { close(s.renewing) })
		select {
		case <-s.over: // written, but the writer does not know if it is not asked to wait
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// The end of the work must not cut off the renewal of its lease: nobody would know whether that was written, and the job could not be given up.
func TestJobThatEndsWhileItsLeaseIsRenewedIsDone(t *testing.T) {
	t.Parallel()
	s := &slowJobs{Store: newStore(t), renewing: make(chan struct{}), over: make(chan struct{})}
	v := openVault(t, s, tokenstore.NewRootKey())
	job, err := tokenstore.TakeJob(v, t.Context(), "job", time.Hour)
	if err != nil || job == nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tokenstore.KeepJob(v, ctx, job, time.Millisecond, func(error) { t.Error("lost") })
	}()
	<-s.renewing
	cancel()
	time.AfterFunc(10*time.Millisecond, func() { close(s.over) })
	<-ended
	job.Owner = ""
	commit(t, v, tokenstore.Save(job))
}
