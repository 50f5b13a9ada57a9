package upstream

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/tracing"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// notYetError says that the account is to be looked at again: when it has changed, or after a while. err is what to answer where there is no time for that.
type notYetError struct {
	after time.Duration
	err   error
}

func (l *notYetError) Error() string { return l.err.Error() }
func (l *notYetError) Unwrap() error { return l.err }

// refresh sees to it that the account has a token that is neither due nor the rejected one. What it returns
// besides is not saved yet.
//
// The order of writes makes a crash safe: lease in the vault, then the provider, then the tokens in the
// vault and the lease given up. A lease that ran out says that the refresh token may be spent. It is then tried
// once more: providers with a grace for lost answers accept it, others refuse it, and the user logs in again.
// Where the connection was cut, that try is made here, because the user's next request may come after the grace.
//
// While the vault is away nothing is decided, and nothing sent: the refresh waits for it, as it waits for another process that holds the lease.
func (a *Accounts) refresh(ctx context.Context, id, rejected string) (string, *outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	changed, stop := a.waiters.await(id)
	defer stop()
	for c := newClaim(); ; {
		token, left, err := a.look(ctx, id, rejected, c)
		if left != nil {
			return token, left, err
		}
		again, ok := errors.AsType[*notYetError](err)
		switch {
		case err == nil:
			return token, a.abandoned(id, c), nil
		case !ok:
			return "", a.abandoned(id, c), err
		case wait(ctx, changed, again.after):
		default:
			return "", a.abandoned(id, c), again.err
		}
	}
}

// wait waits for a change, but not longer than that, and reports whether ctx let it.
func wait(ctx context.Context, changed <-chan struct{}, atMost time.Duration) bool {
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// look is one look at the account, and does what is to be done then. Its errors are those of Token and *notYetError.
func (a *Accounts) look(ctx context.Context, id, rejected string, c *claim) (string, *outcome, error) {
	acc, err := a.load(ctx, id)
	if err != nil {
		return "", nil, a.waitForVault(id, err)
	}
	if c.made(acc) {
		return a.renew(ctx, acc, rejected, c)
	}
	now := a.vault.Now()
	if token, done, err := a.settled(ctx, acc, rejected, now); done {
		return token, nil, err
	}
	if a.leased(acc, now) {
		left := max(a.leaseEnd(acc).Sub(now), 0)
		return "", nil, &notYetError{min(left, slowLook), unavailable(left, errors.New("another process is refreshing the token"))}
	}
	return a.renew(ctx, acc, rejected, c)
}

// waitForVault says in this package's words why the vault could not be asked, and where waiting helps, that. A vault that is being moved is read-only for longer than
// anybody waits.
func (a *Accounts) waitForVault(id string, err error) error {
	away := errors.Is(err, tokenstore.ErrUnavailable) && !errors.Is(err, tokenstore.ErrReadOnly) || errors.Is(err, context.DeadlineExceeded)
	if err = a.vaultError(id, err); away {
		return &notYetError{slowLook / 4, err}
	}
	return err
}

func wasCut(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Cut
}

// settled reports whether the account as it is needs or allows no refresh, and what to answer then.
func (a *Accounts) settled(ctx context.Context, acc *tokenstore.Account, rejected string, now time.Time) (string, bool, error) {
	usable := valid(acc, now) && acc.AccessToken != rejected
	switch {
	case over(acc):
		return "", true, needsReauth(acc)
	case usable && (rejected != "" || a.leased(acc, now) || !a.due(acc, now)):
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
func (a *Accounts) renew(ctx context.Context, acc *tokenstore.Account, rejected string, c *claim) (string, *outcome, error) {
	p, g := a.provider(acc), a.gate(acc)
	if p == nil {
		return "", nil, unavailable(pauseLimit, notConfigured(acc.Provider))
	}
	if !c.unknown && acc.State == tokenstore.StateRefreshing && acc.Lease.Replayed && !a.remembers(acc.ID, acc.Lease.Owner) {
		return "", nil, a.giveUp(ctx, acc, "refresh lost: the answer to a refresh never arrived, twice")
	}
	if err := g.enter(ctx, a.vault.Now); err != nil {
		return "", nil, err
	}
	if err := a.claim(ctx, acc, rejected, c); err != nil {
		g.giveBack()
		if errors.Is(err, tokenstore.ErrConflict) || errors.Is(err, errSlow) { // somebody else was faster: look again
			return "", nil, &notYetError{0, unavailable(time.Second, err)}
		}
		return "", nil, a.waitForVault(acc.ID, err)
	}
	last := acc.Lease.Replayed
	token, left, err := a.ask(ctx, p, g, acc)
	if errors.Is(err, errLeaseOver) { // it is like one that may not have been written
		c.unknown, c.version = true, acc.Version
		return "", nil, &notYetError{0, unavailable(time.Second, err)}
	}
	*c = *newClaim() // that one is settled
	switch {
	case left != nil:
	case errors.Is(err, errTakenOver):
		err = &notYetError{0, unavailable(time.Second, err)}
	case !last && wasCut(err) && sleep(ctx, cutLeaseTime):
		err = &notYetError{0, err}
	}
	return token, left, err
}

// ask asks the provider, under a lease that is renewed meanwhile, and saves what came of it. It returns errLeaseOver when nothing was sent.
func (a *Accounts) ask(ctx context.Context, p *Provider, g *gate, acc *tokenstore.Account) (string, *outcome, error) {
	asked, cancel := context.WithTimeout(tracing.Within(a.ctx, ctx), max(askTime, p.timeout+askMore))
	defer cancel()
	asked, span := tracing.Start(asked, "oauth_proxy refresh")
	defer span.End()
	span.Set("provider", acc.Provider)
	span.Set("account", acc.ID)
	began, since := time.Now(), a.vault.Now()
	h := a.hold(acc, cancel)
	t, err := p.refresh(asked, Tokens{RefreshToken: acc.RefreshToken, Scopes: acc.Scopes, Binding: acc.Binding}, h.fence)
	acc = h.end()
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
	switch {
	case err == nil:
		return a.renewed(acc, t, since)
	case errors.Is(err, errLeaseOver):
		return "", nil, err
	default:
		left, err := a.refused(acc, failure)
		return "", left, err
	}
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

// renewed is what happens after the provider gave new tokens. Their life counts from when it was asked: it has begun at some moment since, and the
// answer may have taken long, or this process been stopped meanwhile.
func (a *Accounts) renewed(acc *tokenstore.Account, t Tokens, asked time.Time) (string, *outcome, error) {
	a.succeeded(acc.ID)
	o := &outcome{id: acc.ID, owner: acc.Lease.Owner, renewed: &t, obtained: asked, event: a.event(tokenstore.EventUpstreamRefreshed, acc), write: func(acc *tokenstore.Account) {
		acc.State, acc.Lease, acc.Reason = tokenstore.StateActive, tokenstore.Lease{}, ""
		acc.AccessToken, acc.TokenType, acc.Obtained = t.AccessToken, t.TokenType, asked
		acc.Expires = time.Time{}
		if t.Lifetime > 0 {
			acc.Expires = asked.Add(t.Lifetime)
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

// refused is what happens after the provider gave no tokens. What it returns besides could not be saved.
func (a *Accounts) refused(acc *tokenstore.Account, e *Error) (*outcome, error) {
	now := a.vault.Now()
	fields := append(accountFields(acc), zap.String("class", string(e.Class)), zap.String("code", e.Code), zap.Int("status", e.Status), zap.Error(e))
	o := &outcome{id: acc.ID, owner: acc.Lease.Owner, write: a.release}
	atLeast := e.RetryAfter
	reason := "the provider refused the refresh token"
	switch {
	case e.Class == Rejected:
		if acc.Lease.Replayed {
			reason = "refresh lost: the answer to a refresh never arrived, and the provider refuses its refresh token since"
		}
		o.write = func(acc *tokenstore.Account) { end(acc, tokenstore.StateNeedsReauth, reason) }
		o.saved = func() { a.acts.Broke(acc.Provider) }
		o.event = a.event(tokenstore.EventUpstreamRefused, acc).Refused(reason)
		o.event.Details = map[string]string{"class": string(e.Class), "error": e.Code}
	case e.Unknown:
		// The refresh token may be spent, so the lease is given up without an end: who finds it run out knows that he makes the last try.
		// If this was the last try, it was not answered, and the next is one again.
		left := a.lease
		switch {
		case acc.Lease.Replayed:
			left = lostTime
		case e.Cut:
			left = cutLeaseTime
		}
		atLeast = max(atLeast, left)
		o.write = func(acc *tokenstore.Account) { acc.Lease = tokenstore.Lease{Until: now.Add(left)} }
		a.log.Warn("refresh was not answered", fields...)
	case e.Class == Misconfigured:
		a.log.Error("provider refuses the gateway: check client id, client secret and scopes", fields...)
	default:
		a.log.Warn("refresh failed", fields...)
	}
	err := a.save(acc, o)
	switch {
	case errors.Is(err, errTakenOver), errors.Is(err, ErrNeedsReauth):
		return nil, err // what is stored counts
	case err == nil:
		o = nil
	default:
		a.log.Error("outcome of a refresh cannot be saved: saving is tried again", append(accountFields(acc), zap.Error(err))...)
	}
	switch {
	case e.Class == Rejected && err != nil: // whether the lease was still ours when the provider said so is not known
		return o, unavailable(time.Second, err)
	case e.Class == Rejected:
		a.succeeded(acc.ID)
		return nil, &ReauthError{Reason: reason, Err: e}
	case err != nil:
		a.remember(acc.ID, acc.Lease.Owner)
	}
	a.failed(acc.ID, now, atLeast)
	return o, unavailable(a.pause(acc, now), e)
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
			return a.waitForVault(acc.ID, err)
		}
		stored, err := a.vault.Account(ctx, acc.ID)
		if err != nil {
			return a.waitForVault(acc.ID, err)
		}
		if stored.Version != acc.Version {
			return &notYetError{0, unavailable(time.Second, tokenstore.ErrConflict)} // changed meanwhile: the next look sees how
		}
	}
	a.acts.Broke(acc.Provider)
	return needsReauth(acc)
}

// discard revokes tokens that came for an account which had ended meanwhile. Where that was revoked, whoever did so knows nothing of them: they are put in
// place of those that they came for, so that RetryRevocations goes on where the provider does not answer.
func (a *Accounts) discard(acc *tokenstore.Account, t Tokens) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), settleTime)
	defer cancel()
	err := tokenstore.ErrConflict
	for errors.Is(err, tokenstore.ErrConflict) {
		var ended *tokenstore.Account
		if ended, err = a.load(ctx, acc.ID); err != nil || ended.State != tokenstore.StateRevoked || ended.Unstored {
			err = a.revokeTokens(ctx, acc, t)
			break
		}
		now := a.vault.Now()
		r := tokenstore.Revocation{AccessToken: t.AccessToken, RefreshToken: t.RefreshToken, Begun: now, Next: now.Add(revokeFirst), Attempts: 1}
		if r.RefreshToken == "" && ended.Revocation != nil {
			r.RefreshToken = ended.Revocation.RefreshToken
		}
		ended.Revocation = &r
		if err = a.commit(ctx, ended); err == nil {
			err = a.tellProvider(ctx, ended)
		}
	}
	if err != nil {
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
