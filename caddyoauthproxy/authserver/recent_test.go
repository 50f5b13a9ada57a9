package authserver

import (
	"sync"
	"testing"
)

func TestRecentKeepsWhatWasAskedForLast(t *testing.T) {
	t.Parallel()
	c := newRecent[int, int](100)
	for i := range 1000 {
		c.put(i, i)
		if v, ok := c.get(0); !ok || v != 0 {
			t.Fatalf("the value that is asked for all the time is gone after %d", i)
		}
	}
	for i := 1; i <= 900; i++ {
		if _, ok := c.get(i); ok {
			t.Fatalf("%d is still there", i)
		}
	}
	if len(c.entries) != 100 || c.order.Len() != 100 {
		t.Errorf("%d entries, %d in order", len(c.entries), c.order.Len())
	}
	c.remove(0)
	if _, ok := c.get(0); ok {
		t.Error("what was removed is there")
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 2000 {
				c.put(i, i)
				if v, ok := c.get(i % 50); ok && v != i%50 {
					t.Errorf("%d is %d", i%50, v)
				}
			}
		})
	}
	group.Wait()
	if len(c.entries) != 100 || c.order.Len() != 100 {
		t.Errorf("%d entries, %d in order", len(c.entries), c.order.Len())
	}
}
