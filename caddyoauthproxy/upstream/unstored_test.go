package upstream

import (
	"errors"
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

func (w *world) addUnstored(id string, age, life time.Duration) {
	w.t.Helper()
	w.t.Cleanup(func() { held.drop(id) })
	w.add(id, age, life, w.accounts.Withhold)
}

// neverStored fails the test when a token of the account is in the vault.
func (w *world) neverStored(id string) {
	w.t.Helper()
	if acc := w.stored(id); acc.AccessToken+acc.RefreshToken+acc.IDToken != "" || acc.Revocation != nil {
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

func TestMemoryOfTokensIsBounded(t *testing.T) {
	t.Parallel()
	m := memory{tokens: make(map[string]Tokens)}
	for i := range maxHeld + 10 {
		m.put(strings.Repeat("x", i%7)+time.Duration(i).String(), Tokens{})
	}
	if len(m.tokens) > maxHeld {
		t.Errorf("%d accounts", len(m.tokens))
	}
}

func TestWithoutRefreshNoRefreshTokenIsAskedForOrKept(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	p := idp.provider(t, func(c *Config) { c.NoRefresh = true })
	begun, err := p.Begin(t.Context(), authRequest())
	if err != nil || strings.Contains(begun.URL, "offline_access") {
		t.Errorf("%s, %v", begun.URL, err)
	}
	tokens, _, err := p.Exchange(t.Context(), codeResponse())
	if err != nil || tokens.RefreshToken != "" || tokens.AccessToken == "" {
		t.Errorf("%+v, %v", tokens, err)
	}
}

// GitHub can end the user's whole authorization. That is for their last account, and where the operator wants it.
func TestGitHubsAuthorizationEndsWithTheLastAccount(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		whole bool
		want  []string
	}{
		"one token each": {false, []string{"/applications/gateway/token", "/applications/gateway/token"}},
		"whole":          {true, []string{"/applications/gateway/token", "/applications/gateway/grant"}},
	} {
		w := realWorld(t)
		var asked []string
		github := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Path)
			rw.WriteHeader(http.StatusNoContent)
		})
		p, err := New("idp", Config{Type: "github", ClientID: clientID, ClientSecret: clientSecret, RevokeGrant: tt.whole}, &http.Client{Transport: &inMemory{handler: github}})
		if err != nil {
			t.Fatal(err)
		}
		w.provider = p
		w.accounts = w.node()
		w.add("a", time.Minute, time.Hour)
		w.add("b", time.Minute, time.Hour)
		w.add("another user's", time.Minute, time.Hour, func(a *tokenstore.Account) { a.ID, a.UserID = "other", "other" })
		for _, id := range []string{"a", "b"} {
			if err := w.revoke(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(asked, tt.want) {
			t.Errorf("%s: asked for %v", name, asked)
		}
	}
}
