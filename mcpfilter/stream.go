package mcpfilter

import (
	"context"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"
)

// errEnded is what a handler gets that goes on with a response after we ended it.
var errEnded = errors.New("the gateway ended this response")

// watch ends a response when its grant is revoked, and some time after its gateway token expired. Event streams are watched from
// the beginning, and end when the process leaves, too; other responses have lasted for some time, and may finish then.
// It returns when ctx ends, which is when the request does.
func (f *Filter) watch(ctx context.Context, x *exchange, lasted time.Duration, end func()) {
	cut := func(reason string) {
		f.log.Debug("response ended", zap.String("proxy", f.Proxy), zap.String("reason", reason))
		x.cut.Store(true)
		end()
	}

	var recheck, expired <-chan time.Time
	again := func() {}
	if every := time.Duration(f.StreamRecheck); every > 0 {
		timer := time.NewTimer(every - lasted)
		defer timer.Stop()
		recheck, again = timer.C, func() { timer.Reset(every) }
	}
	if expires := x.session.Expires; f.StreamPastExpiry >= 0 && !expires.IsZero() {
		timer := time.NewTimer(time.Until(expires) + time.Duration(f.StreamPastExpiry))
		defer timer.Stop()
		expired = timer.C
	}

	stopping := f.gateway.Stopping()
	if lasted > 0 {
		stopping = nil
	}

	for {
		select {
		case <-ctx.Done():
			return
		case <-stopping:
			cut("shutting down")
			return
		case <-expired:
			cut("gateway token expired")
			return
		case <-recheck:
			if f.revoked(ctx, x) {
				cut("grant revoked")
				return
			}
			again()
		}
	}
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
