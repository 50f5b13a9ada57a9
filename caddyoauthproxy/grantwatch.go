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
	waiting map[string]map[*waiter]struct{} // by grant
	changed map[string]struct{}             // grants to look up
	looking bool
}

// waiter is somebody who wants to be told.
type waiter struct{ told func() }

// watchGrants watches a vault until stop is called. over reports whether a grant, or an API key, has ended, and acquire holds the vault open.
func watchGrants(v *tokenstore.Vault, over func(ctx context.Context, grant string) bool, acquire func() (release func(), err error)) *grantWatch {
	w := &grantWatch{
		over: over, acquire: acquire,
		waiting: make(map[string]map[*waiter]struct{}), changed: make(map[string]struct{}),
	}
	w.stop = v.WatchGrants(w.grantChanged)
	return w
}

// wait has told called when the grant has ended, or had before, until done is called. Nothing runs and nobody sleeps for it meanwhile.
func (w *grantWatch) wait(ctx context.Context, grant string, told func()) (done func()) {
	one := &waiter{told}
	w.add(grant, one)
	if w.over(ctx, grant) {
		told()
	}
	return func() { w.remove(grant, one) }
}

func (w *grantWatch) add(grant string, one *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[grant] == nil {
		w.waiting[grant] = make(map[*waiter]struct{})
	}
	w.waiting[grant][one] = struct{}{}
}

func (w *grantWatch) remove(grant string, one *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting[grant], one)
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
	for one := range w.waiting[grant] {
		one.told()
	}
}

// tellAll tells everybody, whatever their grants.
func (w *grantWatch) tellAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ones := range w.waiting {
		for one := range ones {
			one.told()
		}
	}
}
