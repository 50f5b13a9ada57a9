package postgres

import (
	"sync"
	"sync/atomic"
	"time"
)

// drift is how far two clocks part in a second at the most, in parts of 1.
const drift = 0.0005

// clock is the database's, carried on by this process's monotonic clock. Whatever the wall clock here says makes no difference.
type clock struct {
	base time.Time // of the monotonic clock

	mu        sync.Mutex // of set
	low, high time.Duration
	taken     time.Duration // when low and high were, since base

	// What is added to the time since base: first the database's clock at base, by its first answer; then the middle of low and high, by which that was wrong.
	atBase   atomic.Pointer[time.Time]
	reckoned atomic.Int64
}

// newClock starts a clock. Until there is an answer of the database it shows this process's own time.
func newClock() *clock { return &clock{base: time.Now()} }

// set takes an answer of the database: its clock's time, which it read somewhen between asked and answered.
//
// Each answer bounds how far the clocks are apart by the time of its round trip. Bounds of several answers are intersected, so that a slow one spoils nothing; where they
// contradict each other somebody has set a clock, or it is another server's, and the latest alone counts.
func (c *clock) set(asked, answered, db time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from, to := asked.Sub(c.base), answered.Sub(c.base)
	first := c.atBase.Load() == nil
	if first {
		atBase := db.Round(0).Add(-to) // without a monotonic reading
		c.atBase.Store(&atBase)
	}
	at := db.Round(0).Sub(*c.atBase.Load())
	low, high := at-to, at-from
	if slack := time.Duration(drift * float64(to-c.taken)); !first {
		if l, h := max(low, c.low-slack), min(high, c.high+slack); l <= h {
			low, high = l, h
		}
	}
	c.low, c.high, c.taken = low, high, to
	c.reckoned.Store(int64(low + (high-low)/2))
}

// now is the time.
func (c *clock) now() time.Time {
	atBase := c.atBase.Load()
	if atBase == nil {
		return time.Now().UTC().Round(0)
	}
	return atBase.Add(time.Since(c.base) + time.Duration(c.reckoned.Load())).UTC()
}
