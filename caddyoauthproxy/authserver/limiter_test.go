package authserver

import (
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
