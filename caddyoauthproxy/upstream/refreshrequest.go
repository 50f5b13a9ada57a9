package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// patience is the longest Retry-After that a refresh waits for by itself; longer ones are left to the caller.
const patience = 3 * time.Second

// Refresh spends a refresh token (RFC 6749 §6), with the client that it was given to. The scopes that were granted are asked for again
// explicitly, because some providers narrow them otherwise.
//
// A request that certainly was not processed is repeated, up to Config.Retries times within ctx: no connection
// came about, or the provider said so with 429 or 503 and a short Retry-After. Any other is made once, because
// the refresh token may be spent by then; the error says so (Error.Unknown).
func (p *Provider) Refresh(ctx context.Context, held Tokens) (Tokens, error) {
	return p.refresh(ctx, held, nil)
}

// refresh is Refresh behind a fence.
func (p *Provider) refresh(ctx context.Context, held Tokens, f *fence) (Tokens, error) {
	for attempt := 0; ; attempt++ {
		t, err := p.refreshOnce(ctx, held, f)
		if err == nil {
			return t, nil
		}
		wait, again := retryIn(err, attempt)
		if !again || attempt >= p.retries || !sleep(ctx, wait) {
			return Tokens{}, p.fail("refresh", err)
		}
	}
}

func (p *Provider) refreshOnce(ctx context.Context, held Tokens, f *fence) (Tokens, error) {
	m, c, err := p.bound(ctx, held.Binding)
	if err != nil {
		e := in("not sent", err)
		e.Unknown, e.Cut, e.Unsent = false, false, true // however the question for the documents ended: the refresh token is not spent
		return Tokens{}, e
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {held.RefreshToken}}
	if len(held.Scopes) > 0 {
		form.Set("scope", p.joinScopes(p.refreshScopes(held.Scopes)))
	}
	return p.requestToken(ctx, m, c, form, f)
}

// refreshScopes are those that a refresh asks for: what was granted, and no more (RFC 6749 §6). A provider may leave out
// offline_access and give a refresh token all the same (OpenID Connect Core §11), and then refuses a refresh that asks for it.
// Microsoft's is the one that grants it, never says so, and wants it to be asked for:
// https://learn.microsoft.com/en-us/answers/questions/806413/scope-offline-access-isnt-being-returned-in-the-to
func (p *Provider) refreshScopes(granted []string) []string {
	if !isMicrosofts(p.issuer) || !slices.Contains(p.scopes, "offline_access") || slices.Contains(granted, "offline_access") {
		return granted
	}
	return append(slices.Clone(granted), "offline_access")
}

// isMicrosofts reports whether an issuer is one of Microsoft's, of any cloud. Those of type oidc count, too.
func isMicrosofts(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil {
		return false
	}
	return slices.ContainsFunc([]string{".microsoftonline.com", ".microsoftonline.us", ".microsoftonline.cn", ".ciamlogin.com"},
		func(domain string) bool { return strings.HasSuffix(u.Hostname(), domain) })
}

// retryIn says whether the same refresh may be sent again, and when.
func retryIn(err error, attempt int) (time.Duration, bool) {
	var e *Error
	switch {
	case !errors.As(err, &e) || e.Unknown || errors.Is(err, errLeaseOver):
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
