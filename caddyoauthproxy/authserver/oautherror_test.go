package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What is taken back for a vault that does not answer must not be for a provider that does not: logins that hang there are what their limit bounds.
func TestRequestIsTakenBackForTheVaultAndNotForAProvider(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		back bool
	}{
		"the vault is gone":                {fmt.Errorf("login: %w", tokenstore.ErrUnavailable), true},
		"the vault is slow":                {fmt.Errorf("login: %w", context.DeadlineExceeded), true},
		"the provider is slow":             {&Error{Status: http.StatusServiceUnavailable, Cause: &upstream.Error{Class: upstream.Unreachable, Err: context.DeadlineExceeded}}, false},
		"the provider is gone":             {&Error{Status: http.StatusServiceUnavailable, Cause: &upstream.Error{Class: upstream.Unreachable, Err: errors.New("refused")}}, false},
		"the vault, for a client there":    {&Error{Status: http.StatusServiceUnavailable, Cause: &upstream.Error{Class: upstream.Unreachable, Local: true, Err: tokenstore.ErrUnavailable}}, true},
		"the request is one to be refused": {refuse("invalid_request", "no"), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limits := newLimiters(Limits{Login: Rate{1, time.Hour}}, nil, func(string) {})
			s := &Server{limits: limits, log: zap.NewNop(), clientIP: func(*http.Request) string { return "192.0.2.7" }}
			r := httptest.NewRequest(http.MethodGet, "/login", nil)
			r = r.WithContext(context.WithValue(r.Context(), duesKey{}, &dues{limits.login}))
			limits.login.take(s.address(r), time.Now())
			s.logRefusal(r, asError(c.err), asError(c.err).Status)
			if back := limits.login.take(s.address(r), time.Now()) == 0; back != c.back {
				t.Errorf("taken back: %t, want %t", back, c.back)
			}
		})
	}
}
