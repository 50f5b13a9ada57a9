package caddyoauthproxy

import "sync/atomic"

// hold counts who needs something to stay open: the config that opened it, and every request and background
// task that began under it. The last one to leave releases it. There is no lock, because every
// request passes here.
type hold struct {
	users   atomic.Int64
	release func()
}

// newHold returns a hold with one user.
func newHold(release func()) *hold {
	h := &hold{release: release}
	h.users.Store(1)
	return h
}

// enter adds a user, unless the last one has left already.
func (h *hold) enter() bool {
	for {
		n := h.users.Load()
		if n == 0 {
			return false
		}
		if h.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave ends one user's need. Each enter is followed by exactly one.
func (h *hold) leave() {
	if h.users.Add(-1) == 0 {
		h.release()
	}
}
