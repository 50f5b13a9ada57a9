package upstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// told are the tokens that the provider was told to end.
func (p *fakeProvider) told() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var tokens []string
	for _, form := range p.revoked {
		tokens = append(tokens, form.Get("token"))
	}
	return tokens
}

// failRevocations has the revocation endpoint answer with a status; zero heals it.
func (p *fakeProvider) failRevocations(status int) {
	p.set(func(p *fakeProvider) {
		p.revoke = nil
		if status != 0 {
			p.revoke = answerWith(status, "text/plain", "no")
		}
	})
}

func (p *fakeProvider) revocations() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetches["/revoke"]
}

// everyMinute lets a node do its maintenance for some time.
func (w *world) everyMinute(a *Accounts, d time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Minute) {
		if err := a.RetryRevocations(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestRevocationIsRetriedUntilTheProviderIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", time.Minute, time.Hour, func(a *tokenstore.Account) { a.DeleteAfter = time.Now().Add(time.Hour) })
		w.idp.failRevocations(http.StatusServiceUnavailable)
		if err := w.revoke(t.Context(), "a"); err == nil {
			t.Error("the failure is not reported")
		}
		if _, err := w.accounts.Token(t.Context(), "a"); !errors.Is(err, ErrNeedsReauth) {
			t.Errorf("an ended account's token: %v", err)
		}
		w.everyMinute(w.accounts, 24*time.Hour)
		if n := w.idp.revocations(); n < 8 || n > 20 {
			t.Errorf("asked %d times in a day", n)
		}
		acc := w.stored("a")
		if acc.AccessToken+acc.RefreshToken != "" || acc.Revocation == nil || !acc.DeleteAfter.After(time.Now().Add(revokeFor-24*time.Hour)) {
			t.Errorf("meanwhile %+v", acc)
		}
		w.idp.failRevocations(0)
		// Another process, after a restart of this one.
		w.everyMinute(w.node(), revokeLast+time.Minute)
		if told := w.idp.told(); !slices.Equal(told, []string{"rt.a.0", "at.a.0"}) {
			t.Errorf("told of %v", told)
		}
		if acc := w.stored("a"); acc.Revocation != nil || acc.State != tokenstore.StateRevoked || acc.Reason != "revoked, and the provider was told" {
			t.Errorf("in the end %+v", acc)
		}
		before := w.idp.revocations()
		w.everyMinute(w.accounts, 24*time.Hour)
		if w.idp.revocations() != before {
			t.Error("told again")
		}
	})
}

func TestRevocationIsGivenUpAfterThreeDays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", time.Minute, time.Hour)
		w.idp.failRevocations(http.StatusInternalServerError)
		_ = w.revoke(t.Context(), "a")
		w.everyMinute(w.accounts, revokeFor+revokeLast)
		acc := w.stored("a")
		if acc.Revocation != nil || acc.Reason != "revoked; the provider could not be told, so its tokens may still be valid there" {
			t.Errorf("in the end %+v", acc)
		}
		if told := w.events.of(tokenstore.EventUpstreamRevokeGivenUp); len(told) != 1 || told[0].Account != "a" || told[0].Reason != "the provider could not be told that tokens have ended: revoke them there" {
			t.Error("the operator is not told")
		}
	})
}

func TestTwoNodesTellTheProviderOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		ids := []string{"a", "b", "c"}
		w.idp.failRevocations(http.StatusServiceUnavailable)
		for _, id := range ids {
			w.add(id, time.Minute, time.Hour)
			_ = w.revoke(t.Context(), id)
		}
		w.idp.failRevocations(0)
		time.Sleep(2 * revokeFirst)
		other := w.node()
		done := make(chan error, 2)
		for _, a := range []*Accounts{w.accounts, other} {
			go func() { done <- a.RetryRevocations(context.Background()) }()
		}
		if err := errors.Join(<-done, <-done); err != nil {
			t.Fatal(err)
		}
		if told := w.idp.told(); len(told) != 2*len(ids) {
			t.Errorf("told of %v", told)
		}
	})
}

// The operator may give a provider's name to another one, naturally so when the first is down.
func TestTokensAreNotSentToAnotherProviderOfTheSameName(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("revoked", time.Minute, time.Hour)
	w.add("expired", 2*time.Hour, time.Hour)
	w.idp.failRevocations(http.StatusServiceUnavailable)
	_ = w.revoke(t.Context(), "revoked")
	other := serve(t)
	w.provider = other.provider(t)
	next := w.node()
	w.clock.turn(time.Hour)
	if err := next.RetryRevocations(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := next.Token(t.Context(), "expired"); !isUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if told, posts := other.told(), other.tokenPosts(); len(told) != 0 || posts != 0 {
		t.Errorf("the other provider was told of %v and asked %d times", told, posts)
	}
	if acc := w.stored("revoked"); acc.Revocation == nil {
		t.Errorf("forgotten: %+v", acc)
	}
}

func TestProviderThatDoesNotAnswerHoldsUpNobodysRevocations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		slow := newFakeProvider("https://slow.example")
		slow.revoke = func(http.ResponseWriter, *http.Request) { time.Sleep(time.Hour) }
		p, err := New("slow", slow.config(), &http.Client{Transport: &inMemory{handler: slow}})
		if err != nil {
			t.Fatal(err)
		}
		a := w.node(func(o *AccountsOptions) { o.Providers = map[string]*Provider{"idp": w.provider, "slow": p} })
		for i := range 40 {
			id := fmt.Sprintf("a%02d", i)
			w.add(id, time.Minute, time.Hour, func(acc *tokenstore.Account) { acc.Provider, acc.Identity = "slow", p.Identity() })
			if _, err := a.End(t.Context(), id); err != nil { // and the process ends before it tells
				t.Fatal(err)
			}
		}
		w.add("z", time.Minute, time.Hour)
		if _, err := a.End(t.Context(), "z"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * revokeFirst)
		begun := time.Now()
		if err := a.RetryRevocations(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 2*DefaultTimeout || len(w.idp.told()) != 2 {
			t.Errorf("a round takes %s, and the other provider was told of %v", took, w.idp.told())
		}
		time.Sleep(2 * time.Hour)
	})
}

func TestGrantAndAccountEndTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", time.Minute, time.Hour)
	stale := w.add("other", time.Minute, time.Hour)
	if err := w.vault.Commit(t.Context(), tokenstore.Save(w.stored("other"))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.accounts.End(t.Context(), "a", tokenstore.Save(stale)); !errors.Is(err, tokenstore.ErrConflict) {
		t.Errorf("got %v", err)
	}
	if acc := w.stored("a"); acc.State != tokenstore.StateActive || acc.AccessToken == "" {
		t.Errorf("ended by half: %+v", acc)
	}
	if told := w.idp.told(); len(told) != 0 {
		t.Errorf("told of %v", told)
	}
}

// The refresh token of a GitHub App lives on when its access token has ended, and GitHub ends it only with one that is good.
func TestGitHubsRefreshTokenIsEndedWithANewAccessToken(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		ended    bool // the refresh token, too
		down     bool // when the new access token is to be ended, at first
		unstored bool
		want     []string
	}{
		"it lives":                               {false, false, false, []string{"DELETE at.app.0", "POST", "DELETE new"}},
		"it has ended":                           {true, false, false, []string{"DELETE at.app.0", "POST"}},
		"it lives, and GitHub is down":           {false, true, false, []string{"DELETE at.app.0", "POST", "DELETE new", "DELETE new"}},
		"it lives in memory":                     {false, false, true, []string{"DELETE at.app.0", "POST", "DELETE new"}},
		"it lives in memory, and GitHub is down": {false, true, true, []string{"DELETE at.app.0", "POST", "DELETE new", "DELETE new"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := rand.Text() // what is in memory is so for all tests
			var asked []string
			ended, down := tt.ended, tt.down
			github := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					asked = append(asked, "POST")
					if ended {
						answerWith(200, jsonType, `{"error":"bad_refresh_token"}`)(w, r)
						return
					}
					ended = true // each is used once
					answerWith(200, jsonType, `{"access_token":"new","refresh_token":"new-rt","token_type":"bearer","expires_in":28800}`)(w, r)
					return
				}
				var body struct {
					Token string `json:"access_token"`
				}
				_ = json.NewDecoder(r.Body).Decode(&body)
				asked = append(asked, "DELETE "+strings.Replace(body.Token, id, "app", 1))
				switch {
				case body.Token != "new":
					w.WriteHeader(http.StatusNotFound)
				case down:
					down = false
					w.WriteHeader(http.StatusBadGateway)
				default:
					w.WriteHeader(http.StatusNoContent)
				}
			})
			p, err := New("idp", Config{Type: "github", ClientID: clientID, ClientSecret: clientSecret, Unstored: tt.unstored}, &http.Client{Transport: &inMemory{handler: github}})
			if err != nil {
				t.Fatal(err)
			}
			w := realWorld(t)
			w.provider = p
			w.accounts = w.node()
			w.addUnstored(id, time.Minute, time.Hour)
			if err := w.revoke(t.Context(), id); (err != nil) != tt.down {
				t.Errorf("got %v", err)
			}
			w.clock.turn(2 * time.Minute)
			if err := w.node().RetryRevocations(t.Context()); err != nil {
				t.Fatal(err)
			}
			if acc := w.stored(id); !slices.Equal(asked, tt.want) || acc.Revocation != nil || acc.Reason != "revoked, and the provider was told" {
				t.Errorf("asked %v, %+v", asked, acc)
			}
		})
	}
}
