package caddyoauthproxy

import (
	"context"
	"sync"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// grantWatch tells open responses that their grant, or API key, has ended, whichever node or config ended it. What becomes of a grant is
// looked up once however many responses it has, so that a refresh concerns none of them.
type grantWatch struct {
	over    func(ctx context.Context, grant string) bool // see authserver.Server.Ended
	acquire func() (release func(), err error)
	stop    func()

	mu      sync.Mutex
	waiting map[string]map[chan struct{}]struct{} // by grant
	changed map[string]struct{}                   // grants to look up
	looking bool
}

// watchGrants watches a vault until stop is called. over reports whether a grant, or an API key, has ended, and acquire holds the vault open.
func watchGrants(v *tokenstore.Vault, over func(ctx context.Context, grant string) bool, acquire func() (release func(), err error)) *grantWatch {
	w := &grantWatch{
		over: over, acquire: acquire,
		waiting: make(map[string]map[chan struct{}]struct{}), changed: make(map[string]struct{}),
	}
	w.stop = v.WatchGrants(w.grantChanged)
	return w
}

// wait returns a channel that receives when the grant has ended, or had before. done is called when nobody waits any more.
func (w *grantWatch) wait(ctx context.Context, grant string) (ended <-chan struct{}, done func()) {
	c := make(chan struct{}, 1)
	w.add(grant, c)
	if w.over(ctx, grant) {
		signal(c)
	}
	return c, func() { w.remove(grant, c) }
}

func (w *grantWatch) add(grant string, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[grant] == nil {
		w.waiting[grant] = make(map[chan struct{}]struct{})
	}
	w.waiting[grant][c] = struct{}{}
}

func (w *grantWatch) remove(grant string, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting[grant], c)
	if len(w.waiting[grant]) == 0 {
		delete(w.waiting, grant)
	}
}

// grantChanged has a grant looked up that somebody waits for, all of them for an empty id.
func (w *grantWatch) grantChanged(grant string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if grant == "" {
		for id := range w.waiting {
			w.changed[id] = struct{}{}
		}
	} else if w.waiting[grant] != nil {
		w.changed[grant] = struct{}{}
	}
	if len(w.changed) > 0 && !w.looking {
		w.looking = true
		go w.look()
	}
}

// look looks up the grants that have changed, until there are no more.
func (w *grantWatch) look() {
	leave, err := w.acquire()
	if err != nil {
		return // the vault is being closed, so nobody waits
	}
	defer leave()
	for {
		grant, more := w.next()
		if !more {
			return
		}
		if w.over(context.Background(), grant) {
			w.tell(grant)
		}
	}
}

func (w *grantWatch) next() (grant string, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for grant := range w.changed {
		delete(w.changed, grant)
		return grant, true
	}
	w.looking = false
	return "", false
}

func (w *grantWatch) tell(grant string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.waiting[grant] {
		signal(c)
	}
}

// signal makes the channel receive, once if nobody has looked since the last time.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
