package mcpfilter

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// errEnded is what a handler gets that goes on with a response after we ended it.
var errEnded = errors.New("the gateway ended this response")

// unwatched is how long a response may be waited for, and may last, before its grant is looked at again. Most are over by then.
const unwatched = 250 * time.Millisecond

// brief is that time here: no longer than between two rechecks.
func (f *Filter) brief() time.Duration {
	if every := time.Duration(f.StreamRecheck); every > 0 {
		return min(unwatched, every)
	}
	return unwatched
}

// last is when a response to a session ends at the latest, and why. Zero: never by itself.
func (f *Filter) last(s *Session) (end time.Time, why string) {
	if f.StreamPastExpiry >= 0 && !s.Expires.IsZero() {
		end, why = s.Expires.Add(time.Duration(f.StreamPastExpiry)), "gateway token expired"
	}
	if !s.Ends.IsZero() && (end.IsZero() || s.Ends.Before(end)) {
		end, why = s.Ends, "grant expired"
	}
	return end, why
}

// watchAfter is how long after its begin a response is to be watched.
func (f *Filter) watchAfter(s *Session) time.Duration {
	if end, _ := f.last(s); !end.IsZero() {
		return min(f.brief(), time.Until(end))
	}
	return f.brief()
}

// watch ends a response when its grant is revoked or expires, and some time after its gateway token expired. Event streams end when
// the process leaves, too; other responses may finish then. Nothing runs meanwhile, so that an idle response costs no more than this: a timer
// has it looked at whenever there is something to see.
type watch struct {
	filter *Filter
	x      *exchange
	ctx    context.Context // of the request
	end    func()          // cancels it

	// told says that the gateway has something to tell, and recheck when to ask it in any case; zero: never.
	told    atomic.Bool
	recheck time.Time

	mu    sync.Mutex // held while it is looked
	timer *time.Timer
	over  bool   // the request is
	leave func() // has the gateway tell no more
}

// begin has the response looked at after a while.
func (w *watch) begin(after time.Duration, look func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(after, look)
}

// stop ends the watch with its request, and waits for what is being looked at.
func (w *watch) stop() {
	w.end()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.leave != nil {
		w.leave()
	}
}

// tell has the response looked at now.
func (w *watch) tell() {
	w.told.Store(true)
	w.timer.Reset(0)
}

// look ends the response if it is to end, and otherwise has it looked at again in time.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	if w.leave == nil {
		w.recheck = w.filter.nextRecheck()
		w.leave = w.filter.gateway.Watch(w.ctx, w.x.session, w.tell)
	}
	if reason := w.judge(); reason != "" {
		w.filter.log.Debug("response ended", zap.String("proxy", w.filter.Proxy), zap.String("reason", reason))
		w.cut()
		return
	}
	next := w.recheck
	if last, _ := w.filter.last(w.x.session); next.IsZero() || !last.IsZero() && last.Before(next) {
		next = last
	}
	if !next.IsZero() {
		w.timer.Reset(time.Until(next))
	}
	if w.told.Load() { // meanwhile, and that may have been undone here
		w.timer.Reset(0)
	}
}

// judge says why the response is to end, if it is.
func (w *watch) judge() (reason string) {
	f := w.filter
	told := w.told.Swap(false) // before anything is looked at: what is told later is looked at again
	if w.x.stream {
		select {
		case <-f.gateway.Stopping():
			return "shutting down"
		default:
		}
	}
	if last, why := f.last(w.x.session); !last.IsZero() && !time.Now().Before(last) {
		return why
	}
	if told && errors.Is(f.gateway.CheckGrant(w.ctx, w.x.session), ErrInvalidToken) {
		return "grant revoked"
	}
	if !w.recheck.IsZero() && !time.Now().Before(w.recheck) {
		if f.revoked(w.ctx, w.x) {
			return "grant revoked"
		}
		w.recheck = f.nextRecheck()
	}
	return ""
}

// abandon ends what is left of a response that was refused.
func (w *watch) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.cut()
	}
}

func (w *watch) cut() {
	w.over = true
	w.x.cut.Store(true)
	w.end()
}

// nextRecheck is when a response is to be rechecked next. Zero: never.
func (f *Filter) nextRecheck() time.Time {
	if f.StreamRecheck <= 0 {
		return time.Time{}
	}
	return time.Now().Add(f.untilRecheck())
}

// untilRecheck is stream_recheck or up to a quarter less, so that responses that began together are not rechecked together for ever.
func (f *Filter) untilRecheck() time.Duration {
	every := time.Duration(f.StreamRecheck)
	return every - rand.N(every/4+1) //nolint:gosec // jitter is no secret
}

// revoked asks the gateway for the response's token again, and for its grant alone when the token
// has expired, which says nothing about the grant. An outage says nothing at all.
func (f *Filter) revoked(ctx context.Context, x *exchange) bool {
	var err error
	if expires := x.session.Expires; !expires.IsZero() && time.Until(expires) < time.Second {
		err = f.gateway.CheckGrant(ctx, x.session)
	} else {
		_, err = f.gateway.Authenticate(ctx, x.gatewayToken)
	}
	return errors.Is(err, ErrInvalidToken)
}

// streamBody is an event stream that we may end: then its reader gets a clean end,
// so that the client sees the stream finished instead of broken.
type streamBody struct {
	io.ReadCloser
	x *exchange
}

func (b *streamBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.x.cut.Load() {
		err = io.EOF
	}
	return n, err
}

// endingReader reads a response's body until we end it.
type endingReader struct {
	io.Reader
	x *exchange
}

func (r endingReader) Read(p []byte) (int, error) {
	if r.x.endsHere() {
		return 0, errEnded
	}
	return r.Reader.Read(p)
}
