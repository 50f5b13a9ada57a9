package upstream

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/tracing"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// leaseTime is how long a process may take to spend a refresh token and to save what it got.
	leaseTime = 45 * time.Second

	// cutLeaseTime is what is left of the lease when the connection was cut: the answer is lost for certain, and
	// providers forgive a refresh token that comes again for as little as ten seconds.
	cutLeaseTime = 2 * time.Second

	// saveTime is the part of the lease that is kept for saving.
	saveTime = 10 * time.Second

	// firstPoll and lastPoll space the looks at an account whose lease another process holds.
	firstPoll = 50 * time.Millisecond
	lastPoll  = 500 * time.Millisecond
)

// errTakenOver says that another process took the account's lease while the provider was asked.
var errTakenOver = errors.New("lease was taken over")

// refresh sees to it that the account has a token that is neither due nor the rejected one. What it returns
// besides is renewed but not saved.
//
// The order of writes makes a crash safe: lease in the vault, then the provider, then the tokens in the
// vault and the lease given up. A lease that ran out says that the refresh token may be spent. It is then tried
// once more: providers with a grace for lost answers accept it, others refuse it, and the user logs in again.
// Where the connection was cut, that try is made here, because the user's next request may come after the grace.
func (a *Accounts) refresh(ctx context.Context, id, rejected string) (string, *outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	for poll := firstPoll; ; poll = min(2*poll, lastPoll) {
		acc, err := a.load(ctx, id)
		if err != nil {
			return "", nil, a.vaultError(id, err)
		}
		now := a.vault.Now()
		if token, done, err := a.settled(ctx, acc, rejected, now); done {
			return token, nil, err
		}
		if acc.State == tokenstore.StateRefreshing && now.Before(acc.Lease.Until) {
			if !sleep(ctx, poll) {
				return "", nil, unavailable(acc.Lease.Until.Sub(now), errors.New("another process is refreshing the token"))
			}
			continue
		}
		again := acc.State == tokenstore.StateRefreshing
		token, left, err := a.renew(ctx, acc, rejected)
		switch {
		case errors.Is(err, tokenstore.ErrConflict), errors.Is(err, errTakenOver): // somebody else was faster: look again
		case !again && wasCut(err) && sleep(ctx, cutLeaseTime):
		default:
			return token, left, err
		}
	}
}

func wasCut(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Cut
}

// settled reports whether the account as it is needs or allows no refresh, and what to answer then.
func (a *Accounts) settled(ctx context.Context, acc *tokenstore.Account, rejected string, now time.Time) (string, bool, error) {
	usable := valid(acc, now) && acc.AccessToken != rejected
	leased := acc.State == tokenstore.StateRefreshing && now.Before(acc.Lease.Until)
	switch {
	case over(acc):
		return "", true, needsReauth(acc)
	case usable && (rejected != "" || leased || !a.due(acc, now)):
		return acc.AccessToken, true, nil
	case !a.refreshable(acc) && rejected != "":
		return "", true, &ReauthError{Reason: reasonNoRefresh}
	case !a.refreshable(acc):
		reason := "the token has ended, and there is none to renew it with"
		if acc.Unstored && acc.AccessToken == "" {
			reason = "the token was in the memory of a gateway process that is gone"
		}
		return "", true, a.giveUp(ctx, acc, reason)
	case acc.State != tokenstore.StateRefreshing && valid(acc, now) && acc.AccessToken == rejected && forcedLately(acc, now):
		return "", true, ErrStillRejected
	}
	if wait := a.pause(acc, now); wait > 0 {
		return "", true, unavailable(wait, errors.New("the last refresh failed a moment ago"))
	}
	return "", false, nil
}

// renew takes the account's lease, spends its refresh token and saves the outcome.
func (a *Accounts) renew(ctx context.Context, acc *tokenstore.Account, rejected string) (string, *outcome, error) {
	p, g := a.provider(acc), a.gate(acc)
	if p == nil {
		return "", nil, unavailable(pauseLimit, notConfigured(acc.Provider))
	}
	if acc.State == tokenstore.StateRefreshing && acc.Lease.Replayed && !a.remembers(acc.ID, acc.Lease.Owner) {
		return "", nil, a.giveUp(ctx, acc, "refresh lost: the answer to a refresh never arrived, twice")
	}
	if err := g.enter(ctx, a.vault.Now); err != nil {
		return "", nil, err
	}
	lease := max(leaseTime, p.timeout+saveTime+5*time.Second)
	if err := a.claim(acc, rejected, lease); err != nil {
		g.giveBack()
		return "", nil, err
	}
	asked, cancel := context.WithTimeout(tracing.Within(a.ctx, ctx), lease-saveTime)
	defer cancel()
	asked, span := tracing.Start(asked, "oauth_proxy refresh")
	defer span.End()
	span.Set("provider", acc.Provider)
	span.Set("account", acc.ID)
	began := time.Now()
	t, err := p.Refresh(asked, Tokens{RefreshToken: acc.RefreshToken, Scopes: acc.Scopes, Binding: acc.Binding})
	var failure *Error
	errors.As(err, &failure)
	if failure != nil && failure.Local {
		g.giveBack()
	} else {
		g.leave(a.vault.Now(), acc.ID, failure)
	}
	if failure == nil {
		a.acts.Refreshed(acc.Provider, "", time.Since(began))
	} else {
		a.acts.Refreshed(acc.Provider, failure.Class, time.Since(began))
		span.Fail(string(failure.Class))
	}
	if err != nil {
		return "", nil, a.refused(acc, failure)
	}
	return a.renewed(acc, t)
}

// claim writes the lease. It returns ErrConflict when somebody else changed the account.
func (a *Accounts) claim(acc *tokenstore.Account, rejected string, lease time.Duration) error {
	ctx, cancel := context.WithTimeout(a.ctx, settleTime)
	defer cancel()
	now := a.vault.Now()
	open := acc.State == tokenstore.StateRefreshing
	if open {
		a.log.Warn("a refresh was never finished: trying its refresh token a last time", accountFields(acc)...)
	}
	acc.State = tokenstore.StateRefreshing
	acc.Lease = tokenstore.Lease{Owner: rand.Text(), Until: now.Add(lease), Replayed: open}
	if rejected != "" {
		acc.Forced = now
	}
	err := a.commit(ctx, acc)
	if err != nil && !errors.Is(err, tokenstore.ErrConflict) {
		a.remember(acc.ID, acc.Lease.Owner) // it may be written all the same, and nothing is sent under it
		return a.vaultError(acc.ID, err)
	}
	return err
}

// remember notes a lease that did not end its account, though the vault may say nothing of that. Otherwise a vault that
// fails in an account's last try would have its user log in again.
func (a *Accounts) remember(id, owner string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inconclusive[id] = owner
}

func (a *Accounts) remembers(id, owner string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	lease, ok := a.inconclusive[id]
	return ok && lease == owner
}

// renewed is what happens after the provider gave new tokens.
func (a *Accounts) renewed(acc *tokenstore.Account, t Tokens) (string, *outcome, error) {
	a.succeeded(acc.ID)
	now := a.vault.Now()
	o := &outcome{id: acc.ID, owner: acc.Lease.Owner, renewed: &t, obtained: now, event: a.event(tokenstore.EventUpstreamRefreshed, acc), write: func(acc *tokenstore.Account) {
		acc.State, acc.Lease, acc.Reason = tokenstore.StateActive, tokenstore.Lease{}, ""
		acc.AccessToken, acc.TokenType, acc.Obtained = t.AccessToken, t.TokenType, now
		acc.Expires = time.Time{}
		if t.Lifetime > 0 {
			acc.Expires = now.Add(t.Lifetime)
		}
		if t.RefreshToken != "" { // RFC 6749 §6: absent means the old one stays good
			acc.RefreshToken = t.RefreshToken
		}
		if t.IDToken != "" {
			acc.IDToken = t.IDToken
		}
		if len(t.Scopes) > 0 {
			acc.Scopes = t.Scopes
		}
	}}
	err := a.save(acc, o)
	switch {
	case err == nil:
		return t.AccessToken, nil, nil
	case errors.Is(err, errTakenOver):
		a.log.Warn("renewed token dropped: another process took over", accountFields(acc)...)
		return "", nil, err
	case errors.Is(err, ErrNeedsReauth):
		a.discard(acc, t)
		return "", nil, err
	}
	a.log.Error("renewed token cannot be saved: it is kept in memory and used, and saving is tried again",
		append(accountFields(acc), zap.Error(err))...)
	a.keep(acc, o)
	return t.AccessToken, o, nil
}

// refused is what happens after the provider gave no tokens.
func (a *Accounts) refused(acc *tokenstore.Account, e *Error) error {
	now := a.vault.Now()
	fields := append(accountFields(acc), zap.String("class", string(e.Class)), zap.String("code", e.Code), zap.Int("status", e.Status), zap.Error(e))
	o := &outcome{id: acc.ID, owner: acc.Lease.Owner}
	atLeast := e.RetryAfter
	reason := "the provider refused the refresh token"
	switch {
	case e.Class == Rejected:
		if acc.Lease.Replayed {
			reason = "refresh lost: the answer to a refresh never arrived, and the provider refuses its refresh token since"
		}
		o.write = func(acc *tokenstore.Account) { end(acc, tokenstore.StateNeedsReauth, reason) }
		o.event = a.event(tokenstore.EventUpstreamRefused, acc).Refused(reason)
		o.event.Details = map[string]string{"class": string(e.Class), "error": e.Code}
	case e.Unknown:
		// The refresh token may be spent, so the lease stays: who finds it run out knows that he makes the last try.
		// If this was the last try, it was not answered, and the next is one again. That one has no haste: what a
		// provider that cuts twice forgives is not worth asking it often.
		until := acc.Lease.Until
		if e.Cut && !acc.Lease.Replayed {
			until = now.Add(cutLeaseTime)
		}
		atLeast = max(atLeast, until.Sub(now))
		o.write = func(acc *tokenstore.Account) { acc.Lease.Until, acc.Lease.Replayed = until, false }
		a.log.Warn("refresh was not answered", fields...)
	case acc.Lease.Replayed:
		// Not the answer that the last try is for: the next is one again.
		o.write = func(acc *tokenstore.Account) { acc.Lease.Until, acc.Lease.Replayed = now, false }
		a.log.Warn("refresh failed", fields...)
	case e.Class == Misconfigured:
		o.write = release
		a.log.Error("provider refuses the gateway: check client id, client secret and scopes", fields...)
	default:
		o.write = release
		a.log.Warn("refresh failed", fields...)
	}
	// Without this write the lease runs out by itself.
	err := a.save(acc, o)
	if err != nil && !errors.Is(err, errTakenOver) && !errors.Is(err, ErrNeedsReauth) {
		a.log.Error("outcome of a refresh cannot be saved", append(accountFields(acc), zap.Error(err))...)
		if e.Class != Rejected {
			a.remember(acc.ID, o.owner)
		}
	}
	if e.Class == Rejected {
		a.succeeded(acc.ID)
		if err == nil {
			a.acts.Broke(acc.Provider)
		}
		return &ReauthError{Reason: reason, Err: e}
	}
	a.failed(acc.ID, now, atLeast)
	return unavailable(a.pause(acc, now), e)
}

// release gives the lease back, and leaves the account as it was.
func release(acc *tokenstore.Account) {
	acc.State, acc.Lease = tokenstore.StateActive, tokenstore.Lease{}
}

// giveUp marks an account for which there is nothing left to try.
func (a *Accounts) giveUp(ctx context.Context, acc *tokenstore.Account, reason string) error {
	end(acc, tokenstore.StateNeedsReauth, reason)
	event := a.event(tokenstore.EventUpstreamLost, acc).Refused(reason)
	for {
		broken, err := a.breakGrants(ctx, acc)
		if err == nil {
			err = a.commit(ctx, acc, append(broken, tokenstore.RecordEvent(event))...)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, tokenstore.ErrConflict) {
			return a.vaultError(acc.ID, err)
		}
		stored, err := a.vault.Account(ctx, acc.ID)
		if err != nil {
			return a.vaultError(acc.ID, err)
		}
		if stored.Version != acc.Version {
			return unavailable(time.Second, tokenstore.ErrConflict) // changed meanwhile: the next call sees how
		}
	}
	a.acts.Broke(acc.Provider)
	return needsReauth(acc)
}

// discard revokes tokens that came for an account which had ended meanwhile.
func (a *Accounts) discard(acc *tokenstore.Account, t Tokens) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), settleTime)
	defer cancel()
	if err := a.revokeTokens(ctx, acc, t); err != nil {
		a.log.Warn("tokens of an ended account cannot be revoked", append(accountFields(acc), zap.Error(err))...)
	}
}

// event begins an event about an account. What happens to its tokens at the provider is the gateway's own doing, whoever waits for it.
func (a *Accounts) event(eventType string, acc *tokenstore.Account) *tokenstore.Event {
	e := a.vault.NewEvent(context.Background(), eventType)
	e.Account, e.Provider, e.UserID, e.User = acc.ID, acc.Provider, acc.UserID, acc.Owner
	return e
}

func accountFields(acc *tokenstore.Account) []zap.Field {
	return []zap.Field{zap.String("provider", acc.Provider), zap.String("account", acc.ID)}
}
