package postgres

import (
	"testing"
	"time"
)

// far is what a database's clock says that has nothing to do with this process's.
var far = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)

// answer has the clock take an answer after some time, of a database whose clock showed far at the base, and went on from there by ahead more.
func answer(c *clock, asked, read, answered, ahead time.Duration) {
	c.set(c.base.Add(asked), c.base.Add(answered), far.Add(read+ahead))
}

// off is how far the clock is from a database's that showed far at the base.
func off(c *clock) time.Duration {
	elapsed := time.Since(c.base)
	return c.now().Sub(far.Add(elapsed)).Round(time.Millisecond)
}

func TestClockIsTheDatabasesWhateverTheOwnSays(t *testing.T) {
	t.Parallel()
	c := newClock()
	if d := time.Since(c.now()).Abs(); d > time.Second {
		t.Errorf("before the first answer the clock is %s off the process's own", d)
	}
	answer(c, 0, 10*time.Millisecond, 20*time.Millisecond, 0)
	if d := off(c); d != 0 {
		t.Errorf("the clock is %s off", d)
	}
}

// An answer that took long, in one direction, would otherwise move the clock by half of it.
func TestSlowAnswersDoNotMoveTheClock(t *testing.T) {
	t.Parallel()
	c := newClock()
	answer(c, 0, time.Millisecond, 2*time.Millisecond, 0)
	for i := range 20 {
		at := time.Duration(i) * 250 * time.Millisecond
		answer(c, at, at, at+900*time.Millisecond, 0)
		answer(c, at, at+900*time.Millisecond, at+900*time.Millisecond, 0)
		if d := off(c).Abs(); d > 5*time.Millisecond {
			t.Fatalf("after slow answer %d the clock is %s off", i, d)
		}
	}
}

func TestClockNeverGoesBackByMoreThanTheRoundTrip(t *testing.T) {
	t.Parallel()
	c := newClock()
	const roundTrip = 40 * time.Millisecond
	var before time.Duration
	for i := range 200 {
		at := time.Duration(i) * 250 * time.Millisecond
		read := at + time.Duration(i*7%41)*time.Millisecond // anywhere in the round trip
		answer(c, at, read, at+roundTrip, 0)
		reckoned := time.Duration(c.reckoned.Load())
		if i > 0 && before-reckoned > roundTrip {
			t.Fatalf("answer %d moved the clock back by %s", i, before-reckoned)
		}
		before = reckoned
	}
	if d := off(c).Abs(); d > roundTrip/2 {
		t.Errorf("the clock is %s off", d)
	}
}

func TestClockFollowsADatabaseWhoseClockWasSet(t *testing.T) {
	t.Parallel()
	c := newClock()
	answer(c, 0, 0, time.Millisecond, 0)
	for i, ahead := range []time.Duration{time.Hour, -time.Hour, 0} {
		at := time.Duration(i+1) * 250 * time.Millisecond
		answer(c, at, at, at+time.Millisecond, ahead)
		if d := off(c); (d - ahead).Abs() > 2*time.Millisecond {
			t.Errorf("of a database %s ahead the clock is %s ahead", ahead, d)
		}
	}
}

// Over a day, at the drift that a bad clock has.
func TestClockFollowsDrift(t *testing.T) {
	t.Parallel()
	c := newClock()
	for s := range 24 * 60 * 60 / 10 {
		at := time.Duration(s) * 10 * time.Second
		ahead := time.Duration(float64(at) * 0.0001)
		answer(c, at, at+time.Millisecond, at+2*time.Millisecond, ahead)
		if d := (time.Duration(c.reckoned.Load()) - (ahead - time.Millisecond)).Abs(); d > 10*time.Millisecond {
			t.Fatalf("after %s the clock is %s off", at, d)
		}
	}
}
