package mcpfilter

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// changingGateway tells of a change, and again while it is asked of it, and only then has the grant ended.
type changingGateway struct {
	Gateway
	told  func()
	asked atomic.Int64
	left  atomic.Int64
}

func (g *changingGateway) Watch(_ context.Context, _ *Session, told func()) func() {
	g.told = told
	told()
	return func() { g.left.Add(1) }
}

func (g *changingGateway) CheckGrant(context.Context, *Session) error {
	if g.asked.Add(1) == 1 {
		g.told()
		return nil
	}
	return ErrInvalidToken
}

func TestT58GrantsEndIsSeenThatIsToldWhileItIsLookedAt(t *testing.T) {
	t.Parallel()
	for range 200 {
		g := new(changingGateway)
		ctx, end := context.WithCancel(t.Context())
		w := &watch{filter: &Filter{gateway: g, log: zap.NewNop(), StreamRecheck: caddy.Duration(time.Hour), StreamPastExpiry: -1}, x: &exchange{session: new(Session)}, ctx: ctx, end: end}
		w.begin(0, w.look)
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("the response goes on; the gateway was asked %d times", g.asked.Load())
		}
		w.stop()
		if !w.x.cut.Load() || g.asked.Load() != 2 || g.left.Load() != 1 {
			t.Fatalf("cut: %t, asked %d times, left %d times", w.x.cut.Load(), g.asked.Load(), g.left.Load())
		}
	}
}

// leavingGateway is one whose process is told to leave right after it was asked whether it is.
type leavingGateway struct {
	changingGateway
	stopping chan struct{}
}

func (g *leavingGateway) Watch(_ context.Context, _ *Session, told func()) func() {
	g.told = told
	return func() {}
}

func (g *leavingGateway) CheckGrant(context.Context, *Session) error { return nil }

func (g *leavingGateway) Stopping() <-chan struct{} {
	if g.asked.Add(1) > 1 {
		return g.stopping
	}
	close(g.stopping)
	g.told()
	return nil // as it was before
}

func TestR06StreamEndsWhoseProcessLeavesWhileItIsLookedAt(t *testing.T) {
	t.Parallel()
	for range 200 {
		g := &leavingGateway{stopping: make(chan struct{})}
		ctx, end := context.WithCancel(t.Context())
		w := &watch{filter: &Filter{gateway: g, log: zap.NewNop(), StreamRecheck: caddy.Duration(time.Hour), StreamPastExpiry: -1}, x: &exchange{session: new(Session), stream: true}, ctx: ctx, end: end}
		w.begin(0, w.look)
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the stream goes on")
		}
		w.stop()
	}
}
