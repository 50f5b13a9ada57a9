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

	// outageAfter is how many failures in a row make an outage, none of them of the same account as the one before.
	outageAfter = 3
)

// gate is what all refreshes at one provider pass. It bounds how many there are at a time. In an outage it
// closes for a while, then lets a single one through to see whether the provider is back.
//
// A failure that speaks for the whole provider is an outage at once. Any other may be the account's, or a slip among
// thousands of good answers: it takes several in a row. Until then the account that failed pauses alone.
type gate struct {
	provider string
	slots    chan struct{}

	mu      sync.Mutex
	pause   backoff // of an outage
	probing bool
	inRow   int    // failures since the last success, those of one account after one another counted once
	failing string // the account that failed last
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

// enter waits for a place. Whoever gets nil calls leave or giveBack.
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

// giveBack gives the place back when the provider was not asked.
func (g *gate) giveBack() {
	g.mu.Lock()
	defer g.mu.Unlock()
	<-g.slots
	g.probing = false
}

// leave gives the place back and says how it went for the account: err is the provider's failure, nil when the provider is well.
func (g *gate) leave(now time.Time, account string, err *Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	<-g.slots
	g.probing = false
	if !mayConcernOthers(err) {
		g.pause, g.inRow, g.failing = backoff{limit: pauseLimit}, 0, ""
		return
	}
	if account != g.failing {
		g.inRow++
		g.failing = account
	}
	if g.pause.fails > 0 || g.inRow >= outageAfter || concernsAll(err) {
		g.pause.failed(now, err.RetryAfter)
	}
}

// concernsAll reports whether a failure speaks for the whole provider: it asks to be left alone, or nothing can be sent to it.
func concernsAll(err *Error) bool {
	return err.Class == Throttled || err.RetryAfter > 0 || err.Unsent
}

// mayConcernOthers reports whether a failure may meet other accounts too.
func mayConcernOthers(err *Error) bool {
	switch {
	case err == nil || err.Class == Rejected:
		return false
	case err.Class == Misconfigured:
		return err.Code != "invalid_scope" && err.Code != "invalid_request"
	default:
		return true
	}
}
