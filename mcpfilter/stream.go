package mcpfilter

import (
	"context"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"
)

// watch ends an event stream when the process leaves, when its grant is revoked, and some time
// after its gateway token expired. It returns when ctx ends, which is when the request does.
func (f *Filter) watch(ctx context.Context, x *exchange, end func()) {
	cut := func(reason string) {
		f.log.Debug("event stream ended", zap.String("proxy", f.Proxy), zap.String("reason", reason))
		x.cut.Store(true)
		end()
	}

	var recheck, expired <-chan time.Time
	if f.StreamRecheck > 0 {
		ticker := time.NewTicker(time.Duration(f.StreamRecheck))
		defer ticker.Stop()
		recheck = ticker.C
	}
	if expires := x.session.Expires; f.StreamPastExpiry >= 0 && !expires.IsZero() {
		timer := time.NewTimer(time.Until(expires) + time.Duration(f.StreamPastExpiry))
		defer timer.Stop()
		expired = timer.C
	}

	for {
		select {
		case <-ctx.Done():
			return
		case <-f.gateway.Stopping():
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
		}
	}
}

// revoked asks the gateway for the stream's token again. An expired token says nothing about
// its grant; an outage says nothing at all.
func (f *Filter) revoked(ctx context.Context, x *exchange) bool {
	if expires := x.session.Expires; !expires.IsZero() && time.Until(expires) < time.Second {
		return false
	}
	_, err := f.gateway.Authenticate(ctx, x.gatewayToken)
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
