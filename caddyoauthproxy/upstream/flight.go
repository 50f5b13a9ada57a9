package upstream

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/tracing"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// flight is one refresh of one account, shared by all requests of this process that need it. It
// does not end with the request that began it.
type flight struct {
	provider string // of the account

	done  chan struct{}
	token string
	err   error
}

var errClosed = errors.New("gateway is shutting down")

// joinNeeded returns the account's flight when there is one that everybody must wait for: then nobody need read the account to know.
func (a *Accounts) joinNeeded(id string) *flight {
	if f, ok := a.needed.Load(id); ok {
		return f.(*flight)
	}
	return nil
}

// need waits for the account's flight, or for one that it begins, as everybody must.
func (a *Accounts) need(ctx context.Context, acc *tokenstore.Account) (string, error) {
	f, begun := a.begin(ctx, acc, "")
	a.mu.Lock()
	if a.flights[acc.ID] == f { // it has not landed yet
		a.needed.Store(acc.ID, f)
	}
	a.mu.Unlock()
	if !begun {
		return a.waitForOthers(ctx, f)
	}
	tracing.Of(ctx).Mark("refreshed")
	return a.wait(ctx, f)
}

// join waits for the account's flight, or for one that it begins because the upstream refuses a token.
func (a *Accounts) join(ctx context.Context, acc *tokenstore.Account, rejected string) (string, error) {
	f, begun := a.begin(ctx, acc, rejected)
	if !begun {
		return a.waitForOthers(ctx, f)
	}
	tracing.Of(ctx).Mark("refreshed")
	return a.wait(ctx, f)
}

// begin joins the account's flight or begins one. rejected is a token that the upstream refuses, or empty.
func (a *Accounts) begin(ctx context.Context, acc *tokenstore.Account, rejected string) (f *flight, begun bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := acc.ID
	if f := a.flights[id]; f != nil {
		return f, false
	}
	f = &flight{provider: acc.Provider, done: make(chan struct{})}
	switch kept, unsaved := a.unsavedAccount(id); {
	case unsaved: // its stored refresh token is spent
		f.token = kept.AccessToken
		close(f.done)
	case a.closed:
		f.err = unavailable(time.Second, errClosed)
		close(f.done)
	default:
		a.flights[id] = f
		within := tracing.Within(a.ctx, ctx)
		a.work.Go(func() { a.fly(within, f, id, rejected) })
	}
	return f, true
}

// fly makes the flight, and then stays until what it brought is saved.
func (a *Accounts) fly(ctx context.Context, f *flight, id, rejected string) {
	release, err := a.acquire()
	if err != nil {
		f.err = unavailable(time.Second, err)
		a.land(f, id)
		return
	}
	defer release()
	var left *outcome
	f.token, left, f.err = a.refresh(ctx, id, rejected)
	a.land(f, id)
	if left != nil {
		a.saveLater(left)
	}
}

// land ends the flight for all who wait.
func (a *Accounts) land(f *flight, id string) {
	a.mu.Lock()
	delete(a.flights, id)
	a.needed.Delete(id)
	a.mu.Unlock()
	close(f.done)
}

// waitForOthers is wait for a flight that another call began.
func (a *Accounts) waitForOthers(ctx context.Context, f *flight) (string, error) {
	began := time.Now()
	defer func() { a.acts.Waited(f.provider, time.Since(began)) }()
	tracing.Of(ctx).Mark("waited")
	return a.wait(ctx, f)
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
