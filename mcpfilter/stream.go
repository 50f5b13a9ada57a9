package mcpfilter

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
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
// the process leaves, too; other responses may finish then. It returns when ctx ends, which is when the request does.
func (f *Filter) watch(ctx context.Context, x *exchange, stream bool, end func()) {
	cut := func(reason string) {
		f.log.Debug("response ended", zap.String("proxy", f.Proxy), zap.String("reason", reason))
		x.cut.Store(true)
		end()
	}

	var recheck, over <-chan time.Time
	again := func() {}
	if f.StreamRecheck > 0 {
		timer := time.NewTimer(f.untilRecheck())
		defer timer.Stop()
		recheck, again = timer.C, func() { timer.Reset(f.untilRecheck()) }
	}
	last, why := f.last(x.session)
	if !last.IsZero() {
		timer := time.NewTimer(time.Until(last))
		defer timer.Stop()
		over = timer.C
	}
	var stopping <-chan struct{}
	if stream {
		stopping = f.gateway.Stopping()
	}
	ended, stop := f.gateway.Watch(ctx, x.session)
	defer stop()

	for {
		select {
		case <-ctx.Done():
			return
		case <-stopping:
			cut("shutting down")
			return
		case <-over:
			cut(why)
			return
		case <-ended:
			if errors.Is(f.gateway.CheckGrant(ctx, x.session), ErrInvalidToken) {
				cut("grant revoked")
				return
			}
		case <-recheck:
			if f.revoked(ctx, x) {
				cut("grant revoked")
				return
			}
			again()
		}
	}
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
