package authserver

import (
	"container/list"
	"sync"
)

// recent keeps so many values by key. The one that was not asked for the longest gives way first.
type recent[K comparable, V any] struct {
	most int

	mu      sync.Mutex
	entries map[K]*list.Element
	order   *list.List // of *kept[K, V], the latest used in front
}

type kept[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{most: most, entries: make(map[K]*list.Element), order: list.New()}
}

func (c *recent[K, V]) get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		return value, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*kept[K, V]).value, true
}

func (c *recent[K, V]) put(key K, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(key)
	c.entries[key] = c.order.PushFront(&kept[K, V]{key, value})
	if c.order.Len() > c.most {
		c.drop(c.order.Back().Value.(*kept[K, V]).key)
	}
}

func (c *recent[K, V]) remove(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(key)
}

func (c *recent[K, V]) drop(key K) {
	if e := c.entries[key]; e != nil {
		c.order.Remove(e)
		delete(c.entries, key)
	}
}

// values are all that is kept. To look at them is no use of them.
func (c *recent[K, V]) values() []V {
	c.mu.Lock()
	defer c.mu.Unlock()
	values := make([]V, 0, len(c.entries))
	for e := c.order.Front(); e != nil; e = e.Next() {
		values = append(values, e.Value.(*kept[K, V]).value)
	}
	return values
}
