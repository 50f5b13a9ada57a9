package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// patience is the longest Retry-After that a refresh waits for by itself; longer ones are left to the caller.
const patience = 3 * time.Second

// Refresh spends a refresh token (RFC 6749 §6). scopes are those that were granted, and are asked for again
// explicitly, because some providers narrow them otherwise.
//
// A request that certainly was not processed is repeated, up to Config.Retries times within ctx: no connection
// came about, or the provider said so with 429 or 503 and a short Retry-After. Any other is made once, because
// the refresh token may be spent by then; the error says so (Error.Unknown).
func (p *Provider) Refresh(ctx context.Context, refreshToken string, scopes []string) (Tokens, error) {
	for attempt := 0; ; attempt++ {
		t, err := p.refreshOnce(ctx, refreshToken, scopes)
		if err == nil {
			return t, nil
		}
		wait, again := retryIn(err, attempt)
		if !again || attempt >= p.retries || !sleep(ctx, wait) {
			return Tokens{}, p.fail("refresh", err)
		}
	}
}

func (p *Provider) refreshOnce(ctx context.Context, refreshToken string, scopes []string) (Tokens, error) {
	m, err := p.metadata.get(ctx)
	if err != nil {
		e := in("not sent", err)
		e.Unknown = false // however the question for the documents ended: the refresh token is not spent
		return Tokens{}, e
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}
	if len(scopes) > 0 {
		// What was granted always includes offline_access, though not every provider says so.
		if slices.Contains(p.scopes, "offline_access") && !slices.Contains(scopes, "offline_access") {
			scopes = append(slices.Clone(scopes), "offline_access")
		}
		form.Set("scope", p.joinScopes(scopes))
	}
	return p.requestToken(ctx, m, form)
}

// retryIn says whether the same refresh may be sent again, and when.
func retryIn(err error, attempt int) (time.Duration, bool) {
	var e *Error
	switch {
	case !errors.As(err, &e) || e.Unknown:
		return 0, false
	case e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable:
		return e.RetryAfter, e.RetryAfter > 0 && e.RetryAfter <= patience
	case e.Class == Unreachable && e.Status == 0:
		base := 200 * time.Millisecond << min(attempt, 4)
		return base + rand.N(base), true //nolint:gosec // jitter is no secret
	default:
		return 0, false
	}
}

// sleep waits, and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
