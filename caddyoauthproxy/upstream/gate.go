package upstream

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// maxParallel is how many refreshes go to one provider side by side.
	maxParallel = 32

	// pauseLimit is the longest pause after failures that nobody asked for.
	pauseLimit = time.Minute
)

// gate is what all refreshes at one provider pass. It bounds how many there are at a time, and
// after a failure that concerns the provider it closes for a while, then lets a single one
// through to see whether the provider is back.
type gate struct {
	slots chan struct{}

	mu      sync.Mutex
	pause   backoff
	probing bool
}

func newGate() *gate {
	return &gate{slots: make(chan struct{}, maxParallel), pause: backoff{limit: pauseLimit}}
}

// wait is how long the gate stays closed.
func (g *gate) wait(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closedFor(now)
}

func (g *gate) closedFor(now time.Time) time.Duration {
	if g.probing {
		return max(g.pause.wait(now), time.Second)
	}
	return g.pause.wait(now)
}

// enter waits for a place. Whoever gets nil calls leave.
func (g *gate) enter(ctx context.Context, now func() time.Time) error {
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return unavailable(time.Second, errors.New("too many refreshes wait for the provider"))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if wait := g.closedFor(now()); wait > 0 {
		<-g.slots
		return unavailable(wait, errors.New("the provider failed a moment ago"))
	}
	g.probing = g.pause.fails > 0
	return nil
}

// leave gives the place back and says how it went: err is the provider's failure, nil when the provider is well.
// tried is false when it was not asked at all.
func (g *gate) leave(now time.Time, tried bool, err *Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	<-g.slots
	g.probing = false
	switch {
	case !tried:
	case concernsProvider(err):
		g.pause.failed(now, err.RetryAfter)
	default:
		g.pause = backoff{limit: pauseLimit}
	}
}

// concernsProvider reports whether a failure would meet other accounts too.
func concernsProvider(err *Error) bool {
	switch {
	case err == nil || err.Class == Rejected:
		return false
	case err.Class == Misconfigured:
		return err.Code != "invalid_scope" && err.Code != "invalid_request"
	default:
		return true
	}
}
