package postgres

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// imagined is an outage whose database answers when it is told to.
func imagined(t *testing.T, wait time.Duration) (o *outage, there *atomic.Bool, cuts *atomic.Int32) {
	t.Helper()
	there, cuts = new(atomic.Bool), new(atomic.Int32)
	there.Store(true)
	try := func(context.Context) error {
		if there.Load() {
			return nil
		}
		return errors.New("refused")
	}
	o = newOutage(wait, func() time.Time { return time.Now().UTC() }, zap.NewNop(), try, func() { cuts.Add(1) })
	t.Cleanup(o.close)
	return o, there, cuts
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%s did not come to hold", what)
		}
	}
}

func TestDatabaseIsGoneWhenATryFailsAndBackWhenOneSucceeds(t *testing.T) {
	t.Parallel()
	o, there, cuts := imagined(t, time.Minute)
	began := o.steadySince()
	o.suspect()
	if err := o.await(t.Context(), true); err != nil {
		t.Errorf("await while it answers = %v", err)
	}
	there.Store(false)
	eventually(t, "gone", func() bool { o.suspect(); return o.gone() })
	if reachable, since := o.state(); reachable || time.Since(since) > time.Minute {
		t.Errorf("state = %v since %v", reachable, since)
	}
	eventually(t, "cut", func() bool { return cuts.Load() == 1 })
	if err := o.await(t.Context(), false); !errors.Is(err, errGone) {
		t.Errorf("who does not wait gets %v", err)
	}
	waited := make(chan error)
	go func() { waited <- o.await(t.Context(), true) }()
	select {
	case err := <-waited:
		t.Fatalf("who waits got %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if now := o.steadySince(); time.Since(now) > 100*time.Millisecond {
		t.Errorf("while it is gone it is steady since %v", now)
	}
	there.Store(true)
	back := time.Now()
	if err := <-waited; err != nil {
		t.Errorf("who waited got %v", err)
	}
	if took := time.Since(back); took > 2*lastPause {
		t.Errorf("it was found back after %s", took)
	}
	if since := o.steadySince(); !since.After(began) || since.Before(back.Add(-time.Second)) {
		t.Errorf("steady since %v; want since it is back, %v", since, back)
	}
}

func TestCallsWaitOnceUpToTheLimit(t *testing.T) {
	t.Parallel()
	const wait = 300 * time.Millisecond
	o, there, _ := imagined(t, wait)
	there.Store(false)
	eventually(t, "gone", func() bool { o.suspect(); return o.gone() })
	start := time.Now()
	if err := o.await(t.Context(), true); !errors.Is(err, errGone) {
		t.Errorf("the first call got %v", err)
	}
	if took := time.Since(start); took < wait/2 || took > 5*wait {
		t.Errorf("the first call waited %s; want %s", took, wait)
	}
	start = time.Now()
	for range 1000 {
		if err := o.await(t.Context(), true); !errors.Is(err, errGone) {
			t.Fatalf("a later call got %v", err)
		}
	}
	if took := time.Since(start); took > wait {
		t.Errorf("a thousand later calls took %s; want none of them to wait", took)
	}
}

func TestWaitingEndsWithTheCallAndWithTheStore(t *testing.T) {
	t.Parallel()
	o, there, _ := imagined(t, time.Minute)
	there.Store(false)
	eventually(t, "gone", func() bool { o.suspect(); return o.gone() })
	cause := errors.New("the caller left")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
	if err := o.await(ctx, true); !errors.Is(err, cause) {
		t.Errorf("a call whose caller left got %v", err)
	}
	time.AfterFunc(20*time.Millisecond, o.close)
	if err := o.await(t.Context(), true); !errors.Is(err, tokenstore.ErrClosed) {
		t.Errorf("a call of a closed store got %v", err)
	}
	o.suspect() // does nothing
}

// A new connection may fail, for want of places, where those that are there do well.
func TestDatabaseThatAnswersOthersIsNotGone(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	release := make(chan struct{})
	var tries atomic.Int32
	try := func(context.Context) error {
		tries.Add(1)
		began <- struct{}{}
		<-release
		return errors.New("no place left")
	}
	o := newOutage(time.Minute, time.Now, zap.NewNop(), try, func() { t.Error("connections were cut") })
	defer o.close()
	o.suspect()
	<-began
	o.suspect() // is tried already
	o.answered()
	close(release)
	eventually(t, "the end of the try", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return !o.trying })
	if o.gone() || tries.Load() != 1 {
		t.Errorf("after %d tries gone = %v", tries.Load(), o.gone())
	}
}

func TestSilenceIsAGap(t *testing.T) {
	t.Parallel()
	o, _, _ := imagined(t, time.Minute)
	first := o.steadySince()
	o.base = o.base.Add(-2 * time.Second)
	o.answered()
	if since := o.steadySince(); !since.Equal(first) {
		t.Errorf("after two seconds it is steady since %v; want since %v", since, first)
	}
	o.base = o.base.Add(-maxGap)
	if since := o.steadySince(); time.Since(since) > time.Second {
		t.Errorf("in a silence it is steady since %v", since)
	}
	o.answered()
	since := o.steadySince()
	if time.Since(since) > time.Second || !since.After(first) {
		t.Errorf("after a silence it is steady since %v; want since now", since)
	}
	o.base = o.base.Add(-2 * time.Second)
	if again := o.steadySince(); !again.Equal(since) {
		t.Errorf("then it is steady since %v; want since %v", again, since)
	}
}
