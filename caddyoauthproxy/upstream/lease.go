package upstream

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// leaseTime is for how long an account's refresh token is one process's. It is renewed every third of that while the provider has not answered, so
	// that it says how soon others go on after a process has died, and not how long a provider may take.
	leaseTime = 10 * time.Second

	// cutLeaseTime is how long after the connection was cut the last try is made: the answer is lost for certain, and
	// providers forgive a refresh token that comes again for as little as ten seconds.
	cutLeaseTime = 2 * time.Second

	// lostTime is how long after a last try that was not answered the next one is made. It has no haste: what a provider that is silent twice
	// forgives is not worth asking it often.
	lostTime = 45 * time.Second

	// askTime is how long the provider is asked for, however often, and askMore how much longer than for one request.
	askTime = 35 * time.Second
	askMore = 5 * time.Second

	// slowLook is how often at least an account is looked at that is waited for, and the vault while it is away.
	slowLook = time.Second
)

// errTakenOver says that another process took the account's lease while the provider was asked.
var errTakenOver = errors.New("lease was taken over")

// leased reports whether the account's refresh token is another's to spend. A lease that has run out is taken over only when the vault has been there for
// a lease's time: after an outage its holder, who may have tokens that it could not save, goes first. One that was given up has no holder.
func (a *Accounts) leased(acc *tokenstore.Account, now time.Time) bool {
	return acc.State == tokenstore.StateRefreshing && now.Before(a.leaseEnd(acc))
}

// leaseEnd is when the account's lease may be taken over.
func (a *Accounts) leaseEnd(acc *tokenstore.Account) time.Time {
	end := acc.Lease.Until
	if steady := a.vault.Steady(); acc.Lease.Owner != "" && !steady.IsZero() && end.Before(steady.Add(a.lease)) {
		end = steady.Add(a.lease)
	}
	return end
}

// lasting is the lease with as much time as a new one has.
func (a *Accounts) lasting(l tokenstore.Lease) tokenstore.Lease {
	l.Until = a.vault.Now().Add(a.lease)
	return l
}

// sendUntil is until when a refresh token may be sent under a lease: clocks may disagree by the time of a round trip.
func (a *Accounts) sendUntil(l tokenstore.Lease) time.Time { return l.Until.Add(-a.lease / 10) }

// release gives the lease back and leaves the account as it was. It is for a refresh token that is no more spent than before: one that may have been
// already, which the lease was to try for the last time, may be tried again.
func (a *Accounts) release(acc *tokenstore.Account) {
	if acc.Lease.Replayed {
		acc.Lease = tokenstore.Lease{Until: a.vault.Now()}
		return
	}
	acc.State, acc.Lease = tokenstore.StateActive, tokenstore.Lease{}
}

// hold is a lease that is renewed while the provider is asked.
type hold struct {
	accounts *Accounts
	account  *tokenstore.Account // as it is stored now
	fence    *fence
	unsent   func() // called when the lease is lost and nothing was sent

	ending chan struct{}
	ended  chan struct{}
	cancel context.CancelFunc // of what is being written
}

// hold begins to renew the account's lease.
func (a *Accounts) hold(acc *tokenstore.Account, unsent func()) *hold {
	held := *acc
	h := &hold{
		accounts: a, account: &held, unsent: unsent,
		fence:  &fence{now: a.vault.Now, until: a.sendUntil(acc.Lease)},
		ending: make(chan struct{}), ended: make(chan struct{}),
	}
	var ctx context.Context
	ctx, h.cancel = context.WithCancel(context.WithoutCancel(a.ctx)) // Close waits for the answer, too
	go h.renew(ctx)
	return h
}

// end stops renewing before the outcome is saved, so that the two do not conflict, and returns the account as it is stored then.
func (h *hold) end() *tokenstore.Account {
	close(h.ending)
	patience := time.AfterFunc(time.Second, h.cancel)
	<-h.ended
	patience.Stop()
	h.cancel()
	return h.account
}

func (h *hold) renew(ctx context.Context) {
	defer close(h.ended)
	for wait := h.accounts.lease / 3; ; {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-h.ending:
			t.Stop()
			return
		}
		switch err := h.extend(ctx); {
		case err == nil:
			h.fence.extend(h.accounts.sendUntil(h.account.Lease))
			wait = h.accounts.lease / 3
		case errors.Is(err, errTakenOver), errors.Is(err, ErrNeedsReauth):
			if h.fence.bar() {
				h.unsent()
			}
			return
		default: // the vault is away; the fence knows until when the lease is good
			wait = min(slowLook, h.accounts.lease/10)
		}
	}
}

// extend writes that the lease lasts longer. It returns errTakenOver or ErrNeedsReauth when it is another's, or why the vault could not write.
func (h *hold) extend(ctx context.Context) error {
	a := h.accounts
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	owner := h.account.Lease.Owner
	for {
		next := *h.account
		next.Lease = a.lasting(next.Lease)
		err := a.commit(ctx, &next)
		if err == nil {
			h.account = &next
		}
		if !errors.Is(err, tokenstore.ErrConflict) {
			return err
		}
		stored, err := a.load(ctx, next.ID)
		if errors.Is(err, tokenstore.ErrNotFound) {
			return errTakenOver
		}
		if err != nil {
			return err
		}
		if err := mayWrite(stored, owner); err != nil {
			return err
		}
		h.account = stored
	}
}

// mayWrite says why whoever holds, or held, a lease must not write to the account as it is stored now, nil when he may.
func mayWrite(stored *tokenstore.Account, owner string) error {
	switch {
	case over(stored):
		return needsReauth(stored)
	case stored.State != tokenstore.StateRefreshing || stored.Lease.Owner != owner:
		return errTakenOver
	default:
		return nil
	}
}
