package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// unstoredWorld keeps tokens in memory alone. Its account ids are its own, because the memory is the process's.
func unstoredWorld(t *testing.T) *world {
	t.Helper()
	w := realWorld(t)
	w.provider = w.idp.provider(t, func(c *Config) { c.Unstored = true })
	w.accounts = w.node()
	return w
}

func (w *world) addUnstored(id string, age, life time.Duration, changes ...func(*tokenstore.Account)) {
	w.t.Helper()
	w.t.Cleanup(func() { held.drop(id) })
	w.add(id, age, life, append(changes, w.accounts.Withhold)...)
}

// neverStored fails the test when a token of the account is in the vault.
func (w *world) neverStored(id string) {
	w.t.Helper()
	acc := w.stored(id)
	if r := acc.Revocation; acc.AccessToken+acc.RefreshToken+acc.IDToken != "" || r != nil && r.AccessToken+r.RefreshToken != "" {
		w.t.Errorf("stored %+v", acc)
	}
}

func TestTokensThatAreNotStoredAreRefreshedInMemory(t *testing.T) {
	t.Parallel()
	w := unstoredWorld(t)
	w.addUnstored("unstored-1", time.Minute, time.Hour)
	w.neverStored("unstored-1")
	if got := w.token("unstored-1"); got != "at.unstored-1.0" {
		t.Errorf("got %s", got)
	}
	w.clock.turn(2 * time.Hour)
	if got := w.token("unstored-1"); got != "at.unstored-1.1" {
		t.Errorf("got %s", got)
	}
	w.neverStored("unstored-1")
	// A reload is the same process.
	w.accounts = w.node()
	w.clock.turn(2 * time.Hour)
	if got := w.token("unstored-1"); got != "at.unstored-1.2" {
		t.Errorf("after a reload %s", got)
	}
	if n := w.idp.reused(); n != 0 {
		t.Errorf("%d refresh tokens were spent twice", n)
	}
	w.neverStored("unstored-1")
}

func TestTokensThatAreNotStoredEndWithTheProcess(t *testing.T) {
	t.Parallel()
	w := unstoredWorld(t)
	w.addUnstored("unstored-2", time.Minute, time.Hour)
	held.drop("unstored-2") // as a new process finds it
	if _, err := w.accounts.Token(t.Context(), "unstored-2"); !errors.Is(err, ErrNeedsReauth) || !strings.Contains(err.Error(), "in the memory of a gateway process that is gone") {
		t.Errorf("got %v", err)
	}
	if n := w.idp.tokenPosts(); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
}

func TestTokensThatAreNotStoredAreRevoked(t *testing.T) {
	t.Parallel()
	w := unstoredWorld(t)
	w.addUnstored("unstored-3", time.Minute, time.Hour)
	if err := w.revoke(t.Context(), "unstored-3"); err != nil {
		t.Fatal(err)
	}
	if told := w.idp.told(); !slices.Equal(told, []string{"rt.unstored-3.0", "at.unstored-3.0"}) {
		t.Errorf("told of %v", told)
	}
	w.neverStored("unstored-3")
	if got := held.get("unstored-3"); got.AccessToken != "" {
		t.Error("they stay in memory")
	}
}

// The vault knows that the provider is to be told, the memory of what.
func TestTokensThatAreNotStoredAreRevokedInTheEnd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		gone bool // the process that had the tokens
		told []string
		want string
	}{
		"by the process that has them": {false, []string{"rt.unstored-7.0", "at.unstored-7.0"}, "revoked, and the provider was told"},
		"after a restart":              {true, nil, "revoked; the provider could not be told, so its tokens may still be valid there"},
	} {
		w := unstoredWorld(t)
		w.addUnstored("unstored-7", time.Minute, time.Hour)
		w.idp.failRevocations(http.StatusServiceUnavailable)
		if err := w.revoke(t.Context(), "unstored-7"); err == nil {
			t.Errorf("%s: the failure is not reported", name)
		}
		w.neverStored("unstored-7")
		w.idp.failRevocations(0)
		if tt.gone {
			held.drop("unstored-7")
		}
		for range 2 {
			w.clock.turn(2 * time.Minute)
			if err := w.node().RetryRevocations(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if told := w.idp.told(); !slices.Equal(told, tt.told) {
			t.Errorf("%s: told of %v", name, told)
		}
		w.clock.turn(revokeFor)
		if err := w.node().RetryRevocations(t.Context()); err != nil {
			t.Fatal(err)
		}
		if acc := w.stored("unstored-7"); acc.Revocation != nil || acc.Reason != tt.want || held.get("unstored-7").AccessToken != "" {
			t.Errorf("%s: in the end %+v", name, acc)
		}
	}
}

func TestStoredTokensLeaveTheVaultWhenTheOperatorWantsIt(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("unstored-6", time.Minute, time.Hour)
	t.Cleanup(func() { held.drop("unstored-6") })
	w.provider = w.idp.provider(t, func(c *Config) { c.Unstored = true })
	w.accounts = w.node()
	if got := w.token("unstored-6"); got != "at.unstored-6.0" {
		t.Errorf("got %s", got)
	}
	w.neverStored("unstored-6")
	w.clock.turn(2 * time.Hour)
	if got := w.token("unstored-6"); got != "at.unstored-6.1" {
		t.Errorf("got %s", got)
	}
	w.neverStored("unstored-6")
}

func TestTokensInMemoryAreForgottenWithTheirAccount(t *testing.T) {
	t.Parallel()
	w := unstoredWorld(t)
	w.addUnstored("unstored-4", time.Minute, time.Hour)
	if err := w.vault.Commit(t.Context(), tokenstore.Delete(w.stored("unstored-4"))); err != nil { // by the clean-up
		t.Fatal(err)
	}
	if _, err := w.accounts.Token(t.Context(), "unstored-4"); !errors.Is(err, ErrNeedsReauth) || held.get("unstored-4").RefreshToken != "" {
		t.Errorf("got %v, in memory %+v", err, held.get("unstored-4"))
	}
}

func TestSlowWriteOfOneAccountHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	unstored := w.idp.provider(t, func(c *Config) { c.Unstored = true })
	w.accounts = w.node(func(o *AccountsOptions) { o.Providers["memory"] = unstored })
	w.add("other", time.Minute, time.Hour)
	w.addUnstored("unstored-8", 2*time.Hour, time.Hour, func(a *tokenstore.Account) { a.Provider = "memory" })
	writing, release := make(chan struct{}), make(chan struct{})
	w.store.mu.Lock()
	w.store.onApply = func(changes []tokenstore.Change) {
		if changes[0].Row.ID == "unstored-8" {
			writing <- struct{}{}
			<-release
		}
	}
	w.store.mu.Unlock()
	refreshed := make(chan error, 1)
	go func() {
		_, err := w.accounts.Token(context.Background(), "unstored-8")
		refreshed <- err
	}()
	<-writing
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if got, err := w.accounts.Token(ctx, "other"); err != nil || got != "at.other.0" {
		t.Errorf("got %s, %v", got, err)
	}
	w.store.mu.Lock()
	w.store.onApply = nil
	w.store.mu.Unlock()
	close(release)
	if err := <-refreshed; err != nil {
		t.Error(err)
	}
}

// A write that was made though it seemed to fail must not cost the tokens that came with it.
func TestTokensInMemorySurviveAWriteOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	w := unstoredWorld(t)
	w.addUnstored("unstored-5", 2*time.Hour, time.Hour)
	failed := false
	w.store.mu.Lock()
	w.store.failAfter = func(changes []tokenstore.Change) error {
		if failed || outcomeError(changes, errRefused) == nil {
			return nil
		}
		failed = true
		return errRefused
	}
	w.store.mu.Unlock()
	if got := w.token("unstored-5"); got != "at.unstored-5.1" || !failed {
		t.Errorf("got %s", got)
	}
	eventually(t, "saving to end", func() bool { return w.accounts.unsavedAccounts() == 0 })
	if got := w.token("unstored-5"); got != "at.unstored-5.1" {
		t.Errorf("then %s", got)
	}
	w.clock.turn(2 * time.Hour)
	if got := w.token("unstored-5"); got != "at.unstored-5.2" || w.idp.reused() != 0 {
		t.Errorf("then %s, %d refresh tokens were spent twice", got, w.idp.reused())
	}
}

func TestWithoutRefreshNothingIsRefreshed(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", 2*time.Hour, time.Hour) // from when it was on
	w.provider = w.idp.provider(t, func(c *Config) { c.NoRefresh = true })
	if got, err := w.node().Token(t.Context(), "a"); !errors.Is(err, ErrNeedsReauth) || w.idp.tokenPosts() != 0 {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestMemoryForgetsWhatWasNotUsedForLongest(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.put("used", Tokens{AccessToken: "at"})
	m.put("unused", Tokens{AccessToken: "at"})
	for i := range maxHeld - 1 {
		m.put(fmt.Sprint(i), Tokens{})
		if i == 0 {
			m.get("used")
		}
	}
	if m.get("used").AccessToken == "" || m.get("unused").AccessToken != "" || m.order.Len() != maxHeld || len(m.entries) != maxHeld {
		t.Errorf("%d accounts, used %+v, unused %+v", m.order.Len(), m.get("used"), m.get("unused"))
	}
}

func TestWithoutRefreshNoRefreshTokenIsAskedFor(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	p := idp.provider(t, func(c *Config) { c.NoRefresh = true })
	begun, err := p.Begin(t.Context(), authRequest())
	if err != nil || strings.Contains(begun.URL, "offline_access") {
		t.Errorf("%s, %v", begun.URL, err)
	}
}

// GitHub can end the user's whole authorization. That is for their last account, and where the operator wants it.
func TestGitHubsAuthorizationEndsWithTheLastAccount(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		whole, unstored, older bool
		want                   []string
	}{
		"whole, but for one of the same user that may be of the same owner": {true, false, true, []string{"/applications/gateway/token", "/applications/gateway/token"}},
		"one token each":   {false, false, false, []string{"/applications/gateway/token", "/applications/gateway/token"}},
		"whole":            {true, false, false, []string{"/applications/gateway/token", "/applications/gateway/grant"}},
		"whole, in memory": {true, true, false, []string{"/applications/gateway/token", "/applications/gateway/grant"}},
	} {
		w := realWorld(t)
		var asked []string
		github := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Path)
			rw.WriteHeader(http.StatusNoContent)
		})
		p, err := New("idp", Config{Type: "github", ClientID: clientID, ClientSecret: clientSecret, RevokeGrant: tt.whole, Unstored: tt.unstored}, &http.Client{Transport: &inMemory{handler: github}})
		if err != nil {
			t.Fatal(err)
		}
		w.provider = p
		w.accounts = w.node()
		for _, id := range []string{"a", "b", "other"} {
			w.add(id, time.Minute, time.Hour, func(a *tokenstore.Account) { // users of the gateway of their own, and one owner
				a.ID, a.UserID, a.OwnerID = "github-"+id, id, strings.Trim(id, "ab")+"owner"
			}, w.accounts.Withhold)
		}
		if tt.older { // than owners are kept
			w.add("older", time.Minute, time.Hour, func(a *tokenstore.Account) { a.UserID = "b" })
		}
		for _, id := range []string{"github-a", "github-b"} {
			if err := w.revoke(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(asked, tt.want) {
			t.Errorf("%s: asked for %v", name, asked)
		}
	}
}
