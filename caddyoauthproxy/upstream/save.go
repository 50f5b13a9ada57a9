package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// settleTime bounds one attempt to write, also after Close's deadline.
	settleTime = 5 * time.Second

	// firstRetry and lastRetry space the attempts to save.
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Second
)

// outcome is what a refresh brought, to be written to the account while the lease is the owner's.
type outcome struct {
	id    string
	owner string
	write func(*tokenstore.Account)

	// event is recorded with it; nil where it is none for the audit trail.
	event *tokenstore.Event

	// saved, where set, is called when it is.
	saved func()

	// renewed are the new tokens, nil where there are none, and obtained is when they were asked for.
	renewed  *Tokens
	obtained time.Time
}

// save writes an outcome. When the account was changed meanwhile, it is written to the changed one
// as long as the lease is still the same; otherwise newer tokens would be overwritten. It
// returns errTakenOver, ErrNeedsReauth when the account has ended, or why the vault could not write.
func (a *Accounts) save(acc *tokenstore.Account, o *outcome) error {
	// Also when Close has given up: what the provider sent must not be lost for want of a moment.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), settleTime)
	defer cancel()
	var with []tokenstore.Write
	if o.event != nil {
		with = append(with, tokenstore.RecordEvent(o.event))
	}
	for {
		o.write(acc)
		broken, err := a.breakGrants(ctx, acc)
		if err != nil {
			return err
		}
		err = a.commit(ctx, acc, append(broken, with...)...)
		if err == nil && o.saved != nil {
			o.saved()
		}
		if !errors.Is(err, tokenstore.ErrConflict) {
			return err
		}
		stored, err := a.load(ctx, o.id)
		if errors.Is(err, tokenstore.ErrNotFound) {
			return fmt.Errorf("account is gone: %w", ErrNeedsReauth)
		}
		if err != nil {
			return err
		}
		if err := mayWrite(stored, o.owner); err != nil {
			return err
		}
		acc = stored
	}
}

// keep holds renewed tokens in memory until they are saved. No other refresh of the account
// begins here before, because the stored refresh token is spent.
func (a *Accounts) keep(acc *tokenstore.Account, o *outcome) {
	renewed := *acc
	o.write(&renewed)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unsaved.Store(o.id, &renewed)
}

// saveLater tries to save an outcome, until it is saved or nobody wants it any more, or Close gives up. A vault that comes back gets it at once: others may
// take the lease over soon.
func (a *Accounts) saveLater(o *outcome) {
	closing := a.closing
	changed, stop := a.waiters.await(o.id)
	defer stop()
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		select {
		case <-changed:
		case <-time.After(delay):
		case <-closing: // no time to lose
			closing, delay = nil, firstRetry
		case <-a.ctx.Done():
			a.trySave(o) // the last chance
			return
		}
		if a.trySave(o) {
			return
		}
	}
}

// trySave makes one attempt, and reports whether no other is needed.
func (a *Accounts) trySave(o *outcome) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), settleTime)
	defer cancel()
	acc, err := a.load(ctx, o.id)
	switch {
	case err != nil:
		err = a.vaultError(o.id, err)
	case o.renewed != nil && acc.AccessToken == o.renewed.AccessToken:
		// An attempt that seemed to fail had been made.
	case o.renewed != nil && acc.Unstored && acc.State == tokenstore.StateActive && acc.Obtained.Equal(o.obtained):
		// So it had here, where the vault has no tokens to tell by.
		o.write(acc)
		held.put(acc.ID, takeTokens(acc))
	default:
		if err = mayWrite(acc, o.owner); err == nil {
			err = a.save(acc, o)
		}
	}
	lost := errors.Is(err, errTakenOver) || errors.Is(err, ErrNeedsReauth)
	switch {
	case err != nil && !lost:
		return false
	case o.renewed == nil:
		return true
	case err == nil:
		a.log.Info("renewed token is saved now", zap.String("account", o.id))
	case errors.Is(err, errTakenOver):
		a.log.Warn("renewed token dropped: another process took over", accountFields(acc)...)
	default:
		a.log.Warn("renewed token dropped: the account has ended", zap.String("account", o.id))
		if acc != nil {
			a.discard(acc, *o.renewed)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unsaved.Delete(o.id)
	return true
}
