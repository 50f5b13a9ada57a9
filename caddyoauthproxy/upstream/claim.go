package upstream

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// claim is a flight's wish for an account's lease, from the first attempt to write it until the provider is asked.
type claim struct {
	owner string

	// unknown says that an attempt may have been made although the vault did not say so, or may be yet: on the account as it was in version.
	unknown bool
	version uint64
}

func newClaim() *claim { return &claim{owner: rand.Text()} }

// made reports whether an attempt whose outcome was not known has been made, by the account as it is stored.
func (c *claim) made(acc *tokenstore.Account) bool {
	if !c.unknown {
		return false
	}
	if mayWrite(acc, c.owner) == nil {
		return true
	}
	c.unknown = acc.Version == c.version // else it lost, and can be made no more
	return false
}

// claim writes the lease. It returns ErrConflict when somebody else changed the account, and errSlow when so much time went by that
// the lease is to be written again. When the vault did not say whether it was written, nothing may be sent under it yet.
func (a *Accounts) claim(ctx context.Context, acc *tokenstore.Account, rejected string, c *claim) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	before := acc.Version
	switch {
	case mayWrite(acc, c.owner) == nil: // it has been written, but a while ago
		acc.Lease = a.lasting(acc.Lease)
	default:
		open := acc.State == tokenstore.StateRefreshing
		if open {
			a.log.Warn("a refresh was never finished: trying its refresh token a last time", accountFields(acc)...)
		}
		acc.State = tokenstore.StateRefreshing
		acc.Lease = a.lasting(tokenstore.Lease{Owner: c.owner, Replayed: open})
		if rejected != "" {
			acc.Forced = a.vault.Now()
		}
	}
	err := a.commit(ctx, acc)
	switch {
	case err == nil && a.sendUntil(acc.Lease).Sub(a.vault.Now()) < a.lease/2:
		c.unknown, c.version = true, acc.Version
		return errSlow
	case err == nil:
		c.unknown = false
	case !errors.Is(err, tokenstore.ErrConflict):
		a.remember(acc.ID, c.owner) // it may be written all the same, and nothing is sent under it
		c.unknown, c.version = true, before
	}
	return err
}

// errSlow says that the vault took so long to write a lease that little is left of it.
var errSlow = errors.New("the vault is slow")

// abandoned is what is to be written for a claim that nothing came of; nil where there is nothing to write.
func (a *Accounts) abandoned(id string, c *claim) *outcome {
	if !c.unknown {
		return nil
	}
	return &outcome{id: id, owner: c.owner, write: a.release}
}
