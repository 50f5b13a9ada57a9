package authserver_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// No upstream token outlives what it was given for, here or at the provider.
func TestExpiredGrantsEndWithTheirTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, quiet := w.session()
	w.login(b) // a code that nobody redeems
	w.turn(20 * 24 * time.Hour)
	busy, living := w.session()
	w.turn(11 * 24 * time.Hour)
	if n, err := w.server.EndExpired(t.Context()); err != nil || n != 2 {
		t.Fatalf("%d ended, %v", n, err)
	}
	if n, err := w.server.EndExpired(t.Context()); err != nil || n != 0 {
		t.Errorf("again %d ended, %v", n, err)
	}
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(busy, living.refresh)))
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, quiet.refresh)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("refresh of the expired one: %s", a.body)
	}
	grants, err := w.vault.Grants(t.Context(), tokenstore.GrantQuery{ClientID: b.id})
	if err != nil || len(grants) != 2 {
		t.Fatalf("%d grants, %v", len(grants), err)
	}
	for _, g := range grants {
		account, err := w.vault.Account(t.Context(), g.AccountID)
		if err != nil || account.State != tokenstore.StateRevoked || account.AccessToken+account.RefreshToken != "" || g.Reason != "expired" {
			t.Errorf("grant %+v, account %+v, %v", g, account, err)
		}
	}
	w.turn(2 * time.Minute)
	if err := w.options.Accounts.RetryRevocations(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.provider.mu.Lock()
	defer w.provider.mu.Unlock()
	if told := slices.Sorted(slices.Values(w.provider.revoked)); !slices.Equal(told, []string{"up-access-1", "up-access-2", "up-refresh-1", "up-refresh-2"}) {
		t.Errorf("the provider was told of %v", told)
	}
}

func TestRefreshedGrantDoesNotExpire(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	w.turn(29 * 24 * time.Hour)
	got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	w.turn(2 * 24 * time.Hour)
	if n, err := w.server.EndExpired(t.Context()); err != nil || n != 0 {
		t.Errorf("%d ended, %v", n, err)
	}
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
}

func TestExpiredGrantsEndTheTokensThatAreInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Unstored = true
	provider, err := upstream.New("idp", w.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.reload(func(o *authserver.Options) {
		o.Accounts = upstream.NewAccounts(upstream.AccountsOptions{Vault: w.vault, Providers: map[string]*upstream.Provider{"idp": provider}, Logger: zap.NewNop()})
		o.Proxies = []*authserver.Proxy{proxy(t, "a", w.url+"/mcp/a", provider)}
	})
	w.session()
	w.turn(31 * 24 * time.Hour)
	if n, err := w.server.EndExpired(t.Context()); err != nil || n != 1 {
		t.Fatalf("%d ended, %v", n, err)
	}
	w.turn(2 * time.Minute)
	if err := w.options.Accounts.RetryRevocations(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.provider.mu.Lock()
	defer w.provider.mu.Unlock()
	if told := slices.Sorted(slices.Values(w.provider.revoked)); !slices.Equal(told, []string{"up-access-1", "up-refresh-1"}) {
		t.Errorf("the provider was told of %v", told)
	}
}

// Clean-up goes on while grants are being ended, and takes none that nobody has ended.
func TestCleanUpTakesNoGrantThatWasNotEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	w.login(b) // a code that nobody redeems
	w.turn(time.Hour + 30*time.Minute)
	if _, err := w.vault.Sweep(t.Context(), w.vault.Now(), 1000); err != nil {
		t.Fatal(err)
	}
	if n, err := w.server.EndExpired(t.Context()); err != nil || n != 1 {
		t.Fatalf("%d ended, %v", n, err)
	}
	w.turn(2 * time.Minute)
	if err := w.options.Accounts.RetryRevocations(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.provider.mu.Lock()
	defer w.provider.mu.Unlock()
	if len(w.provider.revoked) != 2 {
		t.Errorf("the provider was told of %v", w.provider.revoked)
	}
}

// Who gives access tokens a longer life than grants without refresh gets them as long as the grants.
func TestAccessTokensEndWithTheirGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		o.Lifetimes.AccessToken, o.Lifetimes.RefreshIdle = 24*time.Hour, time.Hour
	})
	_, got := w.session()
	w.turn(59 * time.Minute)
	if _, _, err := w.server.Authenticate(t.Context(), got.access, "a"); err != nil {
		t.Error(err)
	}
	w.turn(2 * time.Minute)
	if _, _, err := w.server.Authenticate(t.Context(), got.access, "a"); !errors.Is(err, authserver.ErrInvalidToken) {
		t.Errorf("got %v", err)
	}
}
