package upstream

import (
	"math/rand/v2"
	"time"
)

// backoff spaces attempts after failures: 1 s after the first, doubling up to limit, each
// shortened by up to a quarter at random. The zero time and count mean that all is well.
type backoff struct {
	limit time.Duration
	fails int
	until time.Time
}

// wait is how long to leave it alone from now on, zero when an attempt may be made.
func (b *backoff) wait(now time.Time) time.Duration {
	// A clock that was set back must not stretch a wait.
	return min(max(b.until.Sub(now), 0), maxRetryAfter)
}

// failed counts a failure. Failures of attempts that ran side by side count once. atLeast
// is a wait that the other side asked for.
func (b *backoff) failed(now time.Time, atLeast time.Duration) {
	if b.wait(now) == 0 || b.fails == 0 {
		b.fails++
		d := min(time.Second<<min(b.fails-1, 30), b.limit)
		b.until = now.Add(d - rand.N(d/4+1)) //nolint:gosec // jitter is no secret
	}
	if at := now.Add(atLeast); at.After(b.until) {
		b.until = at
	}
}
