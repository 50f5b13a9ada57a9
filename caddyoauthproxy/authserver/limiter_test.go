package authserver

import (
	"errors"
	"strconv"
	"testing"
	"time"
)

func TestLimiterRemembersABoundedNumberOfKeys(t *testing.T) {
	t.Parallel()
	l := newLimiter(Rate{1, time.Hour}, Rate{})
	now := time.Now()
	l.take("first", now)
	for i := range 3 * maxLimited {
		l.take(strconv.Itoa(i), now)
	}
	if len(l.cells) != maxLimited || l.order.Len() != maxLimited {
		t.Errorf("%d and %d keys, want %d", len(l.cells), l.order.Len(), maxLimited)
	}
	if l.take(strconv.Itoa(3*maxLimited-1), now) == 0 {
		t.Error("the newest key was forgotten")
	}
	if l.take("first", now) != 0 {
		t.Error("the key that was quiet for longest was kept")
	}
}

func TestLimiterNeverGivesMoreThanItTook(t *testing.T) {
	t.Parallel()
	l := newLimiter(Rate{2, time.Minute}, Rate{})
	now := time.Now()
	for range 10 {
		l.giveBack("key")
	}
	passed := 0
	for range 10 {
		if l.take("key", now) == 0 {
			passed++
		}
	}
	if passed != 2 {
		t.Errorf("%d passed, want 2", passed)
	}
	for range 10 {
		l.giveBack("key")
	}
	passed = 0
	for range 10 {
		if l.take("key", now) == 0 {
			passed++
		}
	}
	if passed != 2 {
		t.Errorf("%d passed after all was given back, want 2", passed)
	}
}

func TestOpenLoginsAreNotCountedForEveryRequest(t *testing.T) {
	t.Parallel()
	o := openLogins{most: 100}
	now := time.Now()
	counts, stored := 0, 20 // as another node has begun
	begin := func(now time.Time) {
		before, due := o.begin(now)
		if due {
			counts++
			if _, again := o.begin(now); again {
				t.Fatal("two count at once")
			}
			o.done(before, stored, now, nil)
		}
		stored++
	}
	for range 50 {
		begin(now)
	}
	if counts != 1 {
		t.Errorf("%d counts for 50 logins, want 1", counts)
	}
	begin(now.Add(recountAfter))
	if counts != 2 {
		t.Errorf("%d counts after a minute, want 2", counts)
	}
	for stored < 110 {
		begin(now.Add(recountAfter))
	}
	if counts < 3 {
		t.Error("nobody counted above the bound")
	}
	now = now.Add(2 * recountAfter)
	before, _ := o.begin(now)
	o.done(before, 0, now, errors.New("the vault is gone"))
	if _, due := o.begin(now); !due {
		t.Error("a count that failed is not repeated")
	}
}
