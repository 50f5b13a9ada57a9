package upstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// revokeFirst and revokeLast space the attempts to tell a provider that tokens have ended.
	revokeFirst = time.Minute
	revokeLast  = 6 * time.Hour

	// revokeEnd is how long before the next attempt one gives up, so that no two are under way.
	revokeEnd = 5 * time.Second

	// revokeFor is how long a provider is asked. By then whoever revoked should look there.
	revokeFor = 72 * time.Hour

	// revokeBatch bounds how many accounts one round looks at.
	revokeBatch = 100
)

// End revokes the account, at once and for all processes, in one commit with further writes; an account that is gone or ended is left
// as it is. tell then asks the provider to end the tokens. Where that fails they stay in the vault, apart from the account's own, and
// RetryRevocations goes on; so it does when the process ends before. When any of the records was changed by somebody else, the error is
// tokenstore.ErrConflict, and nothing is done.
func (a *Accounts) End(ctx context.Context, accountID string, with ...tokenstore.Write) (tell func(context.Context) error, err error) {
	acc, err := a.loadToEnd(ctx, accountID)
	if err != nil {
		return nil, err
	}
	if acc == nil {
		err = a.vault.Commit(ctx, with...)
	} else {
		err = a.commit(ctx, acc, with...)
	}
	if err != nil {
		return nil, fmt.Errorf("revoke account: %w", err)
	}
	if acc == nil {
		return func(context.Context) error { return nil }, nil
	}
	a.forget(accountID)
	return func(ctx context.Context) error { return a.tellProvider(ctx, acc) }, nil
}

// loadToEnd reads an account and marks it as revoked. One that is gone or ended, or that does not open, is nil.
func (a *Accounts) loadToEnd(ctx context.Context, id string) (*tokenstore.Account, error) {
	acc, err := a.load(ctx, id)
	switch {
	case err == nil && acc.State != tokenstore.StateRevoked:
		a.revoke(acc)
		return acc, nil
	case err == nil, errors.Is(err, tokenstore.ErrNotFound), errors.Is(err, tokenstore.ErrTampered):
		return nil, nil
	default:
		return nil, fmt.Errorf("revoke account: %w", err)
	}
}

// forget drops what is remembered of an account that was ended.
func (a *Accounts) forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unsaved.Delete(id) // whoever is saving it finds the account ended, and revokes the renewed tokens
	delete(a.pauses, id)
	delete(a.inconclusive, id)
}

// revoke marks an account as revoked, and its tokens as to be ended at the provider.
func (a *Accounts) revoke(acc *tokenstore.Account) {
	now := a.vault.Now()
	if acc.AccessToken != "" || acc.RefreshToken != "" {
		acc.Revocation = &tokenstore.Revocation{AccessToken: acc.AccessToken, RefreshToken: acc.RefreshToken, Begun: now, Next: now.Add(revokeFirst), Attempts: 1}
	}
	if end := now.Add(revokeFor + revokeLast); !acc.DeleteAfter.IsZero() && acc.DeleteAfter.Before(end) {
		acc.DeleteAfter = end
	}
	end(acc, tokenstore.StateRevoked, "revoked")
}

// RetryRevocations asks providers again to end the tokens of revoked accounts. It is to be called every minute or so; several processes
// on one vault take turns. A provider that does not answer is asked once in each call, so that it holds up the others for one timeout at most.
func (a *Accounts) RetryRevocations(ctx context.Context) error {
	down := make(map[string]bool)
	for after := ""; ; {
		accounts, next, err := a.vault.Revoking(ctx, after, revokeBatch)
		if err != nil {
			return fmt.Errorf("list revocations: %w", err)
		}
		for _, acc := range accounts {
			if down[acc.Provider] {
				continue // it is tried with another account in the next round
			}
			answered, err := a.retryRevocation(ctx, acc)
			if err != nil {
				return err
			}
			down[acc.Provider] = !answered
		}
		if after = next; after == "" {
			return nil
		}
	}
}

// retryRevocation makes the next attempt when it is due. The attempt is written down first, so that no two processes make it.
func (a *Accounts) retryRevocation(ctx context.Context, acc *tokenstore.Account) (answered bool, err error) {
	now, r := a.vault.Now(), acc.Revocation
	switch {
	case now.After(r.Begun.Add(revokeFor)):
		acc.Revocation = nil
		acc.Reason = "revoked; the provider could not be told, so its tokens may still be valid there"
		event := a.event(tokenstore.EventUpstreamRevokeGivenUp, acc).Refused("the provider could not be told that tokens have ended: revoke them there")
		event.Details = map[string]string{"attempts": strconv.Itoa(r.Attempts)}
		saved, err := a.saveRevocation(ctx, acc, event)
		if saved {
			a.acts.GaveUp(acc.Provider)
		}
		return true, err
	case now.Before(r.Next) || !giveBack(acc):
		return true, nil
	}
	r.Next = now.Add(min(revokeFirst<<min(r.Attempts, 16), revokeLast))
	r.Attempts++
	err = a.commit(ctx, acc)
	if errors.Is(err, tokenstore.ErrConflict) {
		return true, nil // another process was faster
	}
	if err != nil {
		return true, fmt.Errorf("revocation: %w", err)
	}
	if err := a.tellProvider(ctx, acc); err != nil {
		a.log.Warn("provider could not be told that tokens have ended; trying again later", append(accountFields(acc),
			zap.Int("attempts", r.Attempts), zap.Time("next", r.Next), zap.Error(err))...)
		var e *Error
		return !errors.As(err, &e) || e.Class != Unreachable && e.Class != Throttled, nil
	}
	return true, nil
}

// tellProvider ends the tokens at the provider, and forgets them when that is done. It is over before the next attempt, on whichever node that is made.
func (a *Accounts) tellProvider(ctx context.Context, acc *tokenstore.Account) error {
	if acc.Revocation == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, acc.Revocation.Next.Sub(a.vault.Now())-revokeEnd)
	defer cancel()
	t := Tokens{AccessToken: acc.Revocation.AccessToken, RefreshToken: acc.Revocation.RefreshToken, Binding: acc.Binding}
	err := a.endThere(ctx, acc, t)
	if errors.Is(err, errAccessTokenGone) {
		if t, err = a.renewToRevoke(ctx, acc, t); err == nil && t.AccessToken != "" {
			err = a.endThere(ctx, acc, t)
		}
	}
	if err != nil {
		return err
	}
	acc.Revocation = nil
	acc.Reason = "revoked, and the provider was told"
	_, err = a.saveRevocation(ctx, acc, a.event(tokenstore.EventUpstreamRevoked, acc))
	return err
}

// saveRevocation saves how a revocation ended, unless somebody else has changed the account: they go on with it.
func (a *Accounts) saveRevocation(ctx context.Context, acc *tokenstore.Account, event *tokenstore.Event) (saved bool, err error) {
	err = a.commit(ctx, acc, tokenstore.RecordEvent(event))
	if err != nil && !errors.Is(err, tokenstore.ErrConflict) {
		return false, fmt.Errorf("revocation: %w", err)
	}
	return err == nil, nil
}

// renewToRevoke spends the refresh token of an ended account for an access token to revoke, and writes down what came: the refresh token is
// spent. Nothing comes when it has ended, too.
func (a *Accounts) renewToRevoke(ctx context.Context, acc *tokenstore.Account, t Tokens) (Tokens, error) {
	f := &fence{now: a.vault.Now, until: acc.Revocation.Next.Add(-revokeEnd)} // of then on it is the next attempt's
	renewed, err := a.provider(acc).refresh(ctx, t, f)
	var e *Error
	if errors.As(err, &e) && e.Class == Rejected {
		return Tokens{}, nil
	}
	if err != nil {
		return Tokens{}, err
	}
	acc.Revocation.AccessToken, acc.Revocation.RefreshToken = renewed.AccessToken, renewed.RefreshToken
	if err := a.commit(ctx, acc); err != nil {
		a.log.Error("renewed token that is to be revoked cannot be saved", append(accountFields(acc), zap.Error(err))...)
	}
	renewed.Binding = t.Binding
	return renewed, nil
}

// endThere ends an ended account's tokens at the provider, and with the owner's last account all of their authorization, where the operator wants
// that. Accounts that do not know their owner are never the last.
func (a *Accounts) endThere(ctx context.Context, acc *tokenstore.Account, t Tokens) error {
	if p := a.provider(acc); p != nil && p.config.RevokeGrant && acc.OwnerID != "" {
		another, err := a.vault.OwnerHasAccount(ctx, acc)
		if err != nil {
			return fmt.Errorf("other accounts of the owner: %w", err)
		}
		t.last = !another
	}
	return a.revokeTokens(ctx, acc, t)
}

// revokeTokens ends tokens at the provider.
func (a *Accounts) revokeTokens(ctx context.Context, acc *tokenstore.Account, t Tokens) error {
	p := a.provider(acc)
	switch {
	case t.AccessToken == "" && t.RefreshToken == "":
		return nil
	case p == nil:
		return notConfigured(acc.Provider)
	default:
		err := p.Revoke(ctx, t)
		if errors.Is(err, errAccessTokenGone) {
			return err // that is not how it ends
		}
		var class Class
		if failure, ok := errors.AsType[*Error](err); ok {
			class = failure.Class
		}
		a.acts.Revoked(acc.Provider, class)
		return err
	}
}
