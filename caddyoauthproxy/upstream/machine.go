package upstream

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// TokenRequest is what a token request that no user is part of asks for, beside what the protocol demands.
type TokenRequest struct {
	// Scopes are asked for, if there are any.
	Scopes []string

	// Params are further parameters, such as audience or resource.
	Params map[string]string
}

// requestParams are the token request's own parameters, which Params may not set.
var requestParams = []string{
	"client_id", "client_secret", "client_assertion", "client_assertion_type", "grant_type", "scope", "code", "refresh_token", "subject_token", "subject_token_type",
}

// Check finds what is wrong with the request.
func (r TokenRequest) Check() error {
	for _, s := range r.Scopes {
		if !ValidScope(s) {
			return fmt.Errorf("scopes: %q is not a scope: write them apart, without quotes or backslashes", s)
		}
	}
	for name := range r.Params {
		if name == "" || slices.Contains(requestParams, name) {
			return fmt.Errorf("param %q belongs to the protocol and is set by the gateway: remove it", name)
		}
	}
	return nil
}

func (p *Provider) form(grantType string, r TokenRequest) url.Values {
	form := url.Values{"grant_type": {grantType}}
	for name, value := range r.Params {
		form.Set(name, value)
	}
	if len(r.Scopes) > 0 {
		form.Set("scope", p.joinScopes(r.Scopes))
	}
	return form
}

// ClientCredentials gets a token for the gateway itself (RFC 6749 §4.4). Its errors are of type *Error.
func (p *Provider) ClientCredentials(ctx context.Context, r TokenRequest) (Tokens, error) {
	return p.requestAlone(ctx, "client credentials", p.form("client_credentials", r))
}

// ExchangeToken gets a token for another service in exchange for a user's access token (RFC 8693). Its errors are of type *Error.
func (p *Provider) ExchangeToken(ctx context.Context, accessToken string, r TokenRequest) (Tokens, error) {
	form := p.form("urn:ietf:params:oauth:grant-type:token-exchange", r)
	form.Set("subject_token", accessToken)
	form.Set("subject_token_type", "urn:ietf:params:oauth:token-type:access_token")
	return p.requestAlone(ctx, "token exchange", form)
}

// requestAlone makes a token request that uses nothing up, and so may be repeated.
func (p *Provider) requestAlone(ctx context.Context, what string, form url.Values) (Tokens, error) {
	for attempt := 0; ; attempt++ {
		m, c, err := p.bound(ctx, tokenstore.Binding{})
		var t Tokens
		if err == nil {
			t, err = p.requestToken(ctx, m, c, maps.Clone(form), nil)
		}
		if err == nil {
			return t, nil
		}
		wait, again := retryIn(err, attempt)
		if !again || attempt >= p.retries || !sleep(ctx, wait) {
			return Tokens{}, p.fail(what, err)
		}
	}
}

// Made hands out tokens that the gateway can make again at any time, because no user's login is spent for one, and keeps each
// until shortly before its end. It is safe for concurrent use.
type Made struct {
	get     func(ctx context.Context, subject string) (Tokens, error)
	keep    bool
	timeout time.Duration
	now     func() time.Time
	log     *zap.Logger
	flights singleflight.Group

	mu      sync.Mutex
	entries map[string]*list.Element
	order   *list.List // of *made, the latest used in front
}

type made struct {
	key      string
	tokens   Tokens
	obtained time.Time
	forced   time.Time // when it was made because the upstream refused the one before
}

const (
	// maxMade bounds how many tokens are kept.
	maxMade = 10_000

	// madeForUnknown is how long a token is kept whose life the provider does not tell.
	madeForUnknown = time.Minute
)

// MachineTokens are tokens of the gateway's own account at the provider. Without keep one is fetched for each call.
func (p *Provider) MachineTokens(r TokenRequest, keep bool, log *zap.Logger) *Made {
	return p.made(keep, log, func(ctx context.Context, _ string) (Tokens, error) { return p.ClientCredentials(ctx, r) })
}

// ExchangedTokens are tokens that users' access tokens are exchanged for.
func (p *Provider) ExchangedTokens(r TokenRequest, keep bool, log *zap.Logger) *Made {
	return p.made(keep, log, func(ctx context.Context, subject string) (Tokens, error) { return p.ExchangeToken(ctx, subject, r) })
}

func (p *Provider) made(keep bool, log *zap.Logger, get func(context.Context, string) (Tokens, error)) *Made {
	return &Made{get: get, keep: keep, timeout: p.timeout, now: p.now, log: log, entries: make(map[string]*list.Element), order: list.New()}
}

// Token returns the token for a key: the subject is what it is made from, if anything. Its errors are ErrStillRejected, when the provider
// refuses the subject, and *UnavailableError.
func (m *Made) Token(ctx context.Context, key, subject string) (string, error) {
	if e := m.kept(key); m.keep && e.tokens.AccessToken != "" && m.fresh(e) {
		return e.tokens.AccessToken, nil
	}
	return m.renew(ctx, key, subject, "")
}

// Rejected returns another token than the one that the upstream refused, once a minute. Its errors are those of Token.
func (m *Made) Rejected(ctx context.Context, key, subject, token string) (string, error) {
	e := m.kept(key)
	switch {
	case m.keep && e.tokens.AccessToken != "" && e.tokens.AccessToken != token:
		return e.tokens.AccessToken, nil // somebody has made another meanwhile
	case m.now().Before(e.forced.Add(forcedEvery)):
		return "", ErrStillRejected
	}
	return m.renew(ctx, key, subject, token)
}

func (m *Made) kept(key string) made {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[key]; e != nil {
		m.order.MoveToFront(e)
		return *e.Value.(*made)
	}
	return made{key: key}
}

// fresh reports whether a token is good for a while: a minute, or a tenth of its life if that is less.
func (m *Made) fresh(e made) bool {
	life := e.tokens.Lifetime
	if life == 0 {
		life = madeForUnknown
	}
	return m.now().Before(e.obtained.Add(life - min(time.Minute, life/10)))
}

func (m *Made) renew(ctx context.Context, key, subject, rejected string) (string, error) {
	work := context.WithoutCancel(ctx) // others wait for it too
	get := func() (any, error) {
		ctx, cancel := context.WithTimeout(work, m.timeout)
		defer cancel()
		t, err := m.get(ctx, subject)
		if err != nil {
			return made{}, err
		}
		e := made{key: key, tokens: t, obtained: m.now()}
		if rejected != "" {
			e.forced = e.obtained
		}
		if m.keep || rejected != "" {
			m.put(e)
		}
		return e, nil
	}
	var v any
	var err error
	if m.keep {
		v, err, _ = m.flights.Do(key+" "+rejected, get)
	} else {
		v, err = get()
	}
	if err == nil {
		return v.(made).tokens.AccessToken, nil
	}
	m.log.Error("upstream token could not be had", zap.Error(err))
	var e *Error
	if errors.As(err, &e) && e.Class == Rejected && subject != "" {
		return "", fmt.Errorf("%w: %w", ErrStillRejected, err)
	}
	wait := time.Second
	if e != nil {
		wait = max(wait, e.RetryAfter)
	}
	return "", unavailable(wait, err)
}

func (m *Made) put(e made) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.entries[e.key]; old != nil {
		m.order.Remove(old)
	}
	m.entries[e.key] = m.order.PushFront(&e)
	for m.order.Len() > maxMade {
		delete(m.entries, m.order.Remove(m.order.Back()).(*made).key)
	}
}
