package upstream

import "sync"

// waiters are those who wait for accounts to be changed, by whichever node.
type waiters struct {
	mu sync.Mutex
	of map[string]map[chan struct{}]struct{} // by account
}

// await has changed tell of every change of the account from now on, until stop is called. Changes that nobody has looked after are told once.
func (w *waiters) await(id string) (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of = make(map[string]map[chan struct{}]struct{})
	}
	if w.of[id] == nil {
		w.of[id] = make(map[chan struct{}]struct{})
	}
	w.of[id][c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if delete(w.of[id], c); len(w.of[id]) == 0 {
			delete(w.of, id)
		}
	}
}

// wake tells of a change of an account, or of all when the id is empty.
func (w *waiters) wake(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id != "" {
		tell(w.of[id])
		return
	}
	for _, waiting := range w.of {
		tell(waiting)
	}
}

func tell(waiting map[chan struct{}]struct{}) {
	for c := range waiting {
		select {
		case c <- struct{}{}:
		default: // it is told already
		}
	}
}
