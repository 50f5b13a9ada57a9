package bbolt

import (
	"slices"
	"sync"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// maxUntold bounds how many changes wait for a watcher that is slow. When there are more it is told that it has missed some.
const maxUntold = 1024

// watcher is told of changes of one kind, by a goroutine of its own.
type watcher struct {
	kind    tokenstore.Kind
	changed func(id string)
	wake    chan struct{} // there is something to tell
	stopped chan struct{}
	once    sync.Once     // of closing stopped
	ended   chan struct{} // changed is not called again

	mu     sync.Mutex
	untold []string
}

// Watch implements tokenstore.Store.
func (s *Store) Watch(kind tokenstore.Kind, changed func(id string)) (stop func()) {
	w := &watcher{
		kind: kind, changed: changed,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), ended: make(chan struct{}),
	}
	s.watching.Lock()
	defer s.watching.Unlock()
	s.watchers = append(s.watchers, w)
	go w.tell(s.closed)
	return func() {
		s.forget(w)
		w.once.Do(func() { close(w.stopped) })
		<-w.ended
	}
}

func (s *Store) forget(w *watcher) {
	s.watching.Lock()
	defer s.watching.Unlock()
	s.watchers = slices.DeleteFunc(s.watchers, func(other *watcher) bool { return other == w })
}

// announce has the watchers told of changes. It waits for none of them.
func (s *Store) announce(changes []tokenstore.Change) {
	s.watching.Lock()
	defer s.watching.Unlock()
	for _, w := range s.watchers {
		for _, c := range changes {
			if c.Row.Kind == w.kind {
				w.add(c.Row.ID)
			}
		}
	}
}

// watchersEnd waits until all calls of watchers of a closed store have ended, and reports whether they have when it is late.
func (s *Store) watchersEnd(late <-chan time.Time) bool {
	s.watching.Lock()
	watchers := slices.Clone(s.watchers)
	s.watching.Unlock()
	for _, w := range watchers {
		select {
		case <-w.ended:
		case <-late:
			return false
		}
	}
	return true
}

func (w *watcher) add(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.untold) == maxUntold {
		w.untold = []string{""}
	}
	if len(w.untold) == 0 || w.untold[0] != "" {
		w.untold = append(w.untold, id)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := w.untold
	w.untold = nil
	return ids
}

// tell calls changed until the watcher is stopped or the store is closed.
func (w *watcher) tell(closed <-chan struct{}) {
	defer close(w.ended)
	for {
		select {
		case <-w.wake:
		case <-w.stopped:
			return
		case <-closed:
			return
		}
		for _, id := range w.take() {
			if over(w.stopped) || over(closed) {
				return
			}
			w.changed(id)
		}
	}
}

func over(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
