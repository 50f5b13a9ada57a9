package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// firstPause and lastPause are how long the outage waits before it tries the database again, give or take a half. The last bounds how long it takes to find out that
	// the database is back.
	firstPause = 50 * time.Millisecond
	lastPause  = 500 * time.Millisecond

	// quickTry bounds a try to reach a database that is gone. Every fourth may take as long as a call waits, for a database that is slow.
	quickTry = time.Second

	// maxGap is how long the database may not have answered without that it counts as a gap.
	maxGap = 3 * time.Second
)

// errGone is why calls fail that have waited for the database, or that do not wait any more.
var errGone = errors.New("the database does not answer")

// outage knows whether the database is there. Somebody whom it did not answer says so with suspect; then it is tried, over a new connection, and when that fails too it is
// gone, until a try succeeds.
type outage struct {
	wait   time.Duration                   // how long calls wait for the database to come back
	try    func(ctx context.Context) error // reaches the database over a new connection
	cut    func()                          // ends what still waits for old connections
	now    func() time.Time                // of the database's clock
	logger *zap.Logger
	base   time.Time    // of the monotonic clock
	last   atomic.Int64 // when the database last answered, since base
	steady atomic.Int64 // since when without a gap, in microseconds of the database's clock
	away   atomic.Bool  // it is gone
	life   context.Context
	end    context.CancelFunc // of life, by close
	tries  sync.WaitGroup

	mu     sync.Mutex
	trying bool
	ended  bool
	back   chan struct{} // is closed when the database is back; nil while it is there
	since  time.Time     // when it was found gone, or back
	why    error         // the last try failed, while it is gone
}

// newOutage begins with a database that has just answered.
func newOutage(wait time.Duration, now func() time.Time, logger *zap.Logger, try func(context.Context) error, cut func()) *outage {
	o := &outage{wait: wait, try: try, cut: cut, now: now, logger: logger, base: time.Now(), since: time.Now()}
	o.life, o.end = context.WithCancel(context.Background())
	o.begin()
	return o
}

// begin says that it is steady from now on, as far as anybody here knows.
func (o *outage) begin() { o.steady.Store(o.now().UnixMicro()) }

// answered says that the database has answered just now.
func (o *outage) answered() {
	at := int64(time.Since(o.base))
	for last := o.last.Load(); at > last; last = o.last.Load() {
		if o.last.CompareAndSwap(last, at) {
			if time.Duration(at-last) > maxGap {
				o.steady.Store(o.now().UnixMicro())
			}
			return
		}
	}
}

// steadySince is since when the database has answered without a gap: now, in the middle of one.
func (o *outage) steadySince() time.Time {
	if o.away.Load() || time.Since(o.base)-time.Duration(o.last.Load()) > maxGap {
		return o.now()
	}
	return time.UnixMicro(o.steady.Load()).UTC()
}

// gone says whether the database is gone.
func (o *outage) gone() bool { return o.away.Load() }

// suspect has the database tried, unless it is tried already. It does not wait.
func (o *outage) suspect() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.trying && !o.ended {
		o.trying = true
		o.tries.Go(o.find)
	}
}

// find tries the database. Where it does not answer, nor has answered anybody in the meantime, it is gone, and tried until it is back.
func (o *outage) find() {
	defer func() {
		o.mu.Lock()
		o.trying = false
		o.mu.Unlock()
	}()
	began := int64(time.Since(o.base))
	err := o.reach(min(2*quickTry, o.wait))
	if err == nil || o.last.Load() > began {
		return
	}
	o.lose(err)
	pause := firstPause
	for n := 1; ; n++ {
		select {
		case <-time.After(about(pause)):
		case <-o.life.Done():
			return
		}
		limit := min(quickTry, o.wait)
		if n%4 == 0 {
			limit = o.wait
		}
		err := o.reach(limit)
		if err == nil {
			o.regain()
			return
		}
		o.mu.Lock()
		o.why = err
		o.mu.Unlock()
		pause = min(2*pause, lastPause)
	}
}

func (o *outage) reach(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(o.life, limit)
	defer cancel()
	err := o.try(ctx)
	if err == nil {
		o.answered()
	}
	return err
}

func (o *outage) lose(err error) {
	o.mu.Lock()
	if o.ended {
		o.mu.Unlock()
		return
	}
	o.back, o.since, o.why = make(chan struct{}), time.Now(), err
	o.away.Store(true)
	o.mu.Unlock()
	o.logger.Error("the database of the vault is gone; calls wait for it, and fail when it stays away", zap.Duration("wait", o.wait), zap.Error(err))
	o.cut()
}

func (o *outage) regain() {
	o.mu.Lock()
	o.steady.Store(o.now().UnixMicro())
	away := time.Since(o.since)
	o.since = time.Now()
	o.away.Store(false)
	close(o.back)
	o.back, o.why = nil, nil
	o.mu.Unlock()
	o.logger.Info("the database of the vault is back", zap.Duration("gone_for", away))
}

// await waits until the database is there. It fails when it has been gone for longer than calls wait; at once when the call does not wait.
func (o *outage) await(ctx context.Context, waits bool) error {
	if !o.away.Load() {
		return nil
	}
	o.mu.Lock()
	back, left, why, lost := o.back, o.wait-time.Since(o.since), o.why, o.since.Sub(o.base)
	o.mu.Unlock()
	if back == nil || time.Duration(o.last.Load()) > lost { // it has answered somebody else since, as the connection that listens, which has emptied the memory
		return nil
	}
	if !waits || left <= 0 {
		return fmt.Errorf("%w: %w", errGone, explain(why))
	}
	late := time.NewTimer(left)
	defer late.Stop()
	select {
	case <-back:
		return nil
	case <-late.C:
		return fmt.Errorf("%w for %s: %w", errGone, o.wait, explain(why))
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-o.life.Done():
		return tokenstore.ErrClosed
	}
}

// about is a time, give or take a half, so that nodes do not do the same at the same moment.
func about(d time.Duration) time.Duration {
	return d/2 + rand.N(d) //nolint:gosec // nobody gains by guessing it
}

// cause is why the last try failed of a database that is gone; else nil.
func (o *outage) cause() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.why
}

// state is whether the database is there, and since when.
func (o *outage) state() (reachable bool, since time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.back == nil, o.since
}

// close ends the tries, and what waits.
func (o *outage) close() {
	o.mu.Lock()
	o.ended = true
	o.mu.Unlock()
	o.end()
	o.tries.Wait()
}

// contact is when the database last answered.
func (o *outage) contact() time.Time { return o.base.Add(time.Duration(o.last.Load())) }
