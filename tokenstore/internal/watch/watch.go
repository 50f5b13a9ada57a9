// Package watch tells those who watch a Store of what has changed: the part that all Stores have in common.
package watch

import (
	"slices"
	"sync"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// MaxUntold bounds how many changes wait for a watcher that is slow. When there are more it is told that it has missed some.
const MaxUntold = 1024

// Watchers are those of a Store. Use New.
type Watchers struct {
	closed <-chan struct{}

	mu  sync.Mutex
	all []*watcher
}

// New makes the watchers of a Store, who are told nothing more after the channel is closed.
func New(closed <-chan struct{}) *Watchers { return &Watchers{closed: closed} }

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

// Watch is that of tokenstore.Store.
func (ws *Watchers) Watch(kind tokenstore.Kind, changed func(id string)) (stop func()) {
	w := &watcher{
		kind: kind, changed: changed,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), ended: make(chan struct{}),
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.all = append(ws.all, w)
	go w.tell(ws.closed)
	return func() {
		ws.forget(w)
		w.once.Do(func() { close(w.stopped) })
		<-w.ended
	}
}

func (ws *Watchers) forget(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.all = slices.DeleteFunc(ws.all, func(other *watcher) bool { return other == w })
}

// Tell has those who watch the kind told of a row; of all of them when the id is empty. It waits for nobody.
func (ws *Watchers) Tell(kind tokenstore.Kind, id string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.all {
		if w.kind == kind {
			w.add(id)
		}
	}
}

// TellAll has everybody told that changes may have been missed.
func (ws *Watchers) TellAll() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.all {
		w.add("")
	}
}

// Len is how many watch.
func (ws *Watchers) Len() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.all)
}

// End waits until all calls of watchers of a closed store have ended, and reports whether they have when it is late.
func (ws *Watchers) End(late <-chan time.Time) bool {
	ws.mu.Lock()
	watchers := slices.Clone(ws.all)
	ws.mu.Unlock()
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
	if id == "" || len(w.untold) == MaxUntold {
		w.untold = append(w.untold[:0], "")
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
