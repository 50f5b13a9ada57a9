package upstream

import (
	"context"
	"errors"
	"time"
)

// flight is one refresh of one account, shared by all requests of this process that need it. It
// does not end with the request that began it.
type flight struct {
	done  chan struct{}
	token string
	err   error

	// needed says that the account has no token to go on with meanwhile.
	needed bool
}

var errClosed = errors.New("gateway is shutting down")

// joinNeeded returns the account's flight when there is one that everybody must wait for: then nobody need read the account to know.
func (a *Accounts) joinNeeded(id string) *flight {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.flights[id]; f != nil && f.needed {
		return f
	}
	return nil
}

// need begins or joins a flight that everybody must wait for.
func (a *Accounts) need(id string) *flight {
	f := a.begin(id, "")
	a.mu.Lock()
	defer a.mu.Unlock()
	f.needed = true
	return f
}

// begin joins the account's flight or begins one. rejected is a token that the upstream refuses, or empty.
func (a *Accounts) begin(id, rejected string) *flight {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.flights[id]; f != nil {
		return f
	}
	f := &flight{done: make(chan struct{})}
	switch kept := a.unsaved[id]; {
	case kept != nil: // its stored refresh token is spent
		f.token = kept.AccessToken
		close(f.done)
	case a.closed:
		f.err = unavailable(time.Second, errClosed)
		close(f.done)
	default:
		a.flights[id] = f
		a.work.Go(func() { a.fly(f, id, rejected) })
	}
	return f
}

// fly makes the flight, and then stays until what it brought is saved.
func (a *Accounts) fly(f *flight, id, rejected string) {
	release, err := a.acquire()
	if err != nil {
		f.err = unavailable(time.Second, err)
		a.land(f, id)
		return
	}
	defer release()
	var left *outcome
	f.token, left, f.err = a.refresh(id, rejected)
	a.land(f, id)
	if left != nil {
		a.saveLater(left)
	}
}

// land ends the flight for all who wait.
func (a *Accounts) land(f *flight, id string) {
	a.mu.Lock()
	delete(a.flights, id)
	a.mu.Unlock()
	close(f.done)
}

// wait waits for a flight, but not longer than waitTime and ctx.
func (a *Accounts) wait(ctx context.Context, f *flight) (string, error) {
	limit := time.NewTimer(waitTime)
	defer limit.Stop()
	select {
	case <-f.done:
		return f.token, f.err
	case <-limit.C:
		return "", unavailable(time.Second, errors.New("the refresh takes too long"))
	case <-ctx.Done():
		return "", unavailable(time.Second, context.Cause(ctx))
	}
}
