package upstream

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestFreshTokenIsHandedOutWithoutTheProvider(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", time.Minute, time.Hour)
	for range 10 {
		if got := w.token("a"); got != "at.a.0" {
			t.Errorf("got %s", got)
		}
	}
	if w.idp.tokenPosts() != 0 {
		t.Error("the provider was asked")
	}
}

func TestTokenThatEndsSoonIsHandedOutAndRefreshedBehind(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", 56*time.Minute, time.Hour)
	if got := w.token("a"); got != "at.a.0" {
		t.Errorf("got %s", got)
	}
	eventually(t, "refreshed", func() bool { return w.stored("a").AccessToken == "at.a.1" })
	if got := w.token("a"); got != "at.a.1" || w.idp.tokenPosts() != 1 {
		t.Errorf("got %s after %d refreshes", got, w.idp.tokenPosts())
	}
	acc := w.stored("a")
	if acc.State != tokenstore.StateActive || acc.Lease != (tokenstore.Lease{}) || acc.RefreshToken != "rt.a.1" || acc.Expires.Sub(acc.Obtained) != time.Hour {
		t.Errorf("stored %+v", acc)
	}
}

// What is remembered of an account is shared by all requests.
func TestRefreshLeavesTheAccountThatWasRecalledAsItWas(t *testing.T) {
	t.Parallel()
	for name, age := range map[string]time.Duration{"fresh": time.Minute, "ends soon": 56 * time.Minute, "has ended": 2 * time.Hour} {
		w := realWorld(t)
		w.add("a", age, time.Hour)
		recalled, err := w.vault.RecallAccount(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		before := *recalled
		w.token("a")
		eventually(t, "refreshed", func() bool { return name == "fresh" || w.stored("a").AccessToken == "at.a.1" })
		if !reflect.DeepEqual(*recalled, before) {
			t.Errorf("%s: the account was %+v, and is %+v", name, before, *recalled)
		}
	}
}

// A token is refreshed in the second half of its life at the earliest, so that short-lived ones are
// not refreshed with every call.
func TestShortLivedTokensAreRefreshedInTheirSecondHalf(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		age, life time.Duration
		due       bool
	}{
		"an hour, begun":       {time.Minute, time.Hour, false},
		"an hour, 6 min left":  {54 * time.Minute, time.Hour, false},
		"an hour, 4 min left":  {56 * time.Minute, time.Hour, true},
		"5 seconds, 3 s left":  {2 * time.Second, 5 * time.Second, false},
		"5 seconds, 2 s left":  {3 * time.Second, 5 * time.Second, true},
		"6 minutes, just over": {216 * time.Second, 6 * time.Minute, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := bubbleWorld(t)
			w.add("a", tt.age, tt.life)
			if got := w.token("a"); got != "at.a.0" {
				t.Errorf("%s: got %s", name, got)
			}
			synctest.Wait()
			if got := w.idp.tokenPosts() == 1; got != tt.due {
				t.Errorf("%s: %d refreshes", name, w.idp.tokenPosts())
			}
		})
	}
}

// Accounts that were filled in one night need not be refreshed in one second.
func TestR18RefreshesOfManyAccountsAreSpread(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	now := w.vault.Now()
	dueAt := func(left time.Duration) int {
		n := 0
		for i := range 1000 {
			acc := &tokenstore.Account{Meta: tokenstore.Meta{ID: fmt.Sprint("account-", i)}, RefreshToken: "rt", Obtained: now.Add(left - time.Hour), Expires: now.Add(left)}
			if w.accounts.due(acc, now) {
				n++
			}
		}
		return n
	}
	if n := dueAt(DefaultRefreshBefore + time.Second); n != 0 {
		t.Errorf("%d are due too early", n)
	}
	for left, want := range map[time.Duration]int{285 * time.Second: 250, 270 * time.Second: 500, 255 * time.Second: 750, 240 * time.Second: 1000} {
		if n := dueAt(left); n < want-60 || n > want+60 {
			t.Errorf("%s before the end %d of 1000 are due, not about %d", left, n, want)
		}
	}
}

func TestFailuresSayToStrangersWhatToDoAndNothingElse(t *testing.T) {
	t.Parallel()
	for class, want := range map[Class]string{Throttled: "patience", Unreachable: "cannot be reached", Malformed: "cannot be used", Misconfigured: "tell the people who run"} {
		err := unavailable(0, in("provider \"okta\"", &Error{Class: class, Err: errors.New("secret detail")}))
		if got := err.Advice(); !strings.Contains(got, want) || !strings.Contains(got, "the connection is kept") || strings.Contains(got, "okta") || strings.Contains(got, "detail") {
			t.Errorf("%s: %q", class, got)
		}
	}
	if got := unavailable(0, errClosed).Advice(); got != "" {
		t.Errorf("not a provider's failure: %q", got)
	}
}

func TestRefreshesAreCountedByProviderAndClass(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	var mu sync.Mutex
	counted := map[string]int{}
	w.accounts = w.node(func(o *AccountsOptions) {
		o.Acts.Refreshed = func(provider string, failure Class, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			counted[provider+" "+string(failure)]++
		}
	})
	w.add("a", 2*time.Hour, time.Hour)
	w.add("b", 2*time.Hour, time.Hour)
	w.token("a")
	w.idp.set(func(p *fakeProvider) { p.answer = answerWith(400, jsonType, `{"error":"invalid_grant"}`) })
	_, _ = w.accounts.Token(t.Context(), "b")
	mu.Lock()
	defer mu.Unlock()
	if !maps.Equal(counted, map[string]int{"idp ": 1, "idp rejected": 1}) {
		t.Errorf("counted %v", counted)
	}
}

func TestT32TokenOfUnknownEndIsUsedUntilTheUpstreamRefusesIt(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.idp.lives = nil
	w.add("a", 0, 0)
	w.clock.turn(90 * 24 * time.Hour)
	if got := w.token("a"); got != "at.a.0" || w.idp.tokenPosts() != 0 {
		t.Errorf("got %s after %d refreshes", got, w.idp.tokenPosts())
	}
	got, err := w.accounts.Rejected(t.Context(), "a", "at.a.0")
	if err != nil || got != "at.a.1" || !w.stored("a").Expires.IsZero() {
		t.Errorf("got %s, %v", got, err)
	}
}

// A token's life begins at the provider, at some moment since it was asked. Whoever was slow to read the answer must not send it when it has ended there.
func TestTokenLivesFromWhenItWasAskedFor(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.idp.lives = 60
	w.idp.change = func(map[string]any) { w.clock.turn(20 * time.Second) } // before it is read
	w.add("a", 2*time.Hour, time.Hour)
	asked := w.clock.now()
	if got := w.token("a"); got != "at.a.1" {
		t.Fatalf("got %s", got)
	}
	if ends := w.stored("a").Expires; ends.Before(asked.Add(59*time.Second)) || ends.After(asked.Add(61*time.Second)) {
		t.Errorf("a token that lives for a minute ends %s after it was asked for", ends.Sub(asked))
	}
}

func TestExpiredTokenWithoutRefreshTokenNeedsALogin(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", 2*time.Hour, time.Hour, func(a *tokenstore.Account) { a.RefreshToken = "" })
	w.add("b", 59*time.Minute, time.Hour, func(a *tokenstore.Account) { a.RefreshToken = "" })
	if _, err := w.accounts.Token(t.Context(), "a"); !errors.Is(err, ErrNeedsReauth) {
		t.Errorf("got %v", err)
	}
	if acc := w.stored("a"); acc.State != tokenstore.StateNeedsReauth || acc.AccessToken != "" || acc.Reason == "" {
		t.Errorf("stored %+v", acc)
	}
	if got := w.token("b"); got != "at.b.0" {
		t.Errorf("got %s", got)
	}
}

// The provider's final no ends the account, its tokens are wiped, and it is not asked again.
func TestR09InvalidGrantEndsTheAccount(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"invalid_grant":    answerWith(400, jsonType, `{"error":"invalid_grant","error_description":"Token has been revoked"}`),
		"GitHub, with 200": answerWith(200, jsonType, `{"error":"bad_refresh_token"}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := realWorld(t)
			w.idp.answer = answer
			w.add("a", 2*time.Hour, time.Hour)
			for range 5 {
				_, err := w.accounts.Token(t.Context(), "a")
				var reauth *ReauthError
				if !errors.Is(err, ErrNeedsReauth) || !errors.As(err, &reauth) || reauth.Reason != "the provider refused the refresh token" {
					t.Errorf("got %v", err)
				}
				if _, err := w.accounts.Rejected(t.Context(), "a", "at.a.0"); !errors.Is(err, ErrNeedsReauth) {
					t.Errorf("got %v", err)
				}
			}
			acc := w.stored("a")
			if acc.State != tokenstore.StateNeedsReauth || acc.AccessToken+acc.RefreshToken+acc.IDToken != "" || acc.Reason == "" || acc.Lease.Owner != "" {
				t.Errorf("stored %+v", acc)
			}
			if n := w.idp.tokenPosts(); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestR11RefreshTokenIsTheNewTheSameOrTheOldOne(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer map[string]any
		want   string
	}{
		"rotated": {map[string]any{"refresh_token": "new"}, "new"},
		"same":    {map[string]any{"refresh_token": "rt.a.0"}, "rt.a.0"},
		"absent":  {map[string]any{"refresh_token": nil}, "rt.a.0"},
		"empty":   {map[string]any{"refresh_token": ""}, "rt.a.0"},
	} {
		w := realWorld(t)
		w.idp.change = func(m map[string]any) { maps.Copy(m, tt.answer) }
		w.add("a", 2*time.Hour, time.Hour, func(a *tokenstore.Account) { a.IDToken = "idt" })
		w.token("a")
		if acc := w.stored("a"); acc.RefreshToken != tt.want || acc.IDToken != "idt" || !slices.Equal(acc.Scopes, []string{"openid"}) {
			t.Errorf("%s: stored %+v", name, acc)
		}
	}
}

// A mistake in the operator's configuration costs nobody the login.
func TestR10RefusedGatewayKeepsTheAccount(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.idp.answer = answerWith(401, jsonType, `{"error":"invalid_client"}`)
	w.add("a", 2*time.Hour, time.Hour)
	w.add("b", 58*time.Minute, time.Hour)
	if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if got := w.token("b"); got != "at.b.0" {
		t.Errorf("got %s", got)
	}
	if acc := w.stored("a"); acc.State != tokenstore.StateActive || acc.RefreshToken != "rt.a.0" || acc.Lease != (tokenstore.Lease{}) {
		t.Errorf("stored %+v", acc)
	}
	if w.logs.FilterMessageSnippet("check client id").Len() == 0 {
		t.Error("the operator is not told")
	}
	w.idp.set(func(p *fakeProvider) { p.answer = nil })
	w.accounts = w.node() // a reload with the right secret
	if got := w.token("a"); got != "at.a.1" {
		t.Errorf("got %s", got)
	}
}

// An upstream that refuses a token has it renewed once a minute, however many requests it refuses.
func TestR15RejectedTokenIsRenewedOnceAMinute(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", time.Minute, time.Hour)
	results := make(chan string, 500)
	for range cap(results) {
		go func() {
			token, err := w.accounts.Rejected(t.Context(), "a", "at.a.0")
			if err != nil {
				token = err.Error()
			}
			results <- token
		}()
	}
	for range cap(results) {
		if got := <-results; got != "at.a.1" {
			t.Fatalf("got %s", got)
		}
	}
	if n := w.idp.tokenPosts(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
	if _, err := w.accounts.Rejected(t.Context(), "a", "at.a.1"); !errors.Is(err, ErrStillRejected) {
		t.Errorf("got %v", err)
	}
	if got := w.token("a"); got != "at.a.1" {
		t.Errorf("got %s", got)
	}
	w.clock.turn(61 * time.Second)
	if got, err := w.accounts.Rejected(t.Context(), "a", "at.a.1"); err != nil || got != "at.a.2" {
		t.Errorf("got %s, %v", got, err)
	}
}

// An upstream's 401 does not end an account that cannot be renewed: only this request needs a login.
func TestT33RejectedTokenWithoutRefreshTokenNeedsALogin(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", time.Minute, 0, func(a *tokenstore.Account) { a.RefreshToken = "" })
	if _, err := w.accounts.Rejected(t.Context(), "a", "at.a.0"); !errors.Is(err, ErrNeedsReauth) {
		t.Errorf("got %v", err)
	}
	if w.stored("a").State != tokenstore.StateActive {
		t.Error("the account has ended")
	}
}

func TestRejectedTokenIsRenewedOnlyWhenTheProviderCan(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.idp.answer = answerWith(503, jsonType, `{}`)
	w.add("a", time.Minute, time.Hour)
	if _, err := w.accounts.Rejected(t.Context(), "a", "at.a.0"); !isUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if got := w.token("a"); got != "at.a.0" {
		t.Errorf("got %s", got)
	}
}

func TestGoneOrRevokedAccountNeedsALogin(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", time.Minute, time.Hour)
	if err := w.revoke(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "nobody"} {
		if _, err := w.accounts.Token(t.Context(), id); !errors.Is(err, ErrNeedsReauth) {
			t.Errorf("%s: %v", id, err)
		}
		if _, err := w.accounts.Rejected(t.Context(), id, "at.a.0"); !errors.Is(err, ErrNeedsReauth) {
			t.Errorf("%s: %v", id, err)
		}
		if err := w.revoke(t.Context(), id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	if acc := w.stored("a"); acc.State != tokenstore.StateRevoked || acc.AccessToken+acc.RefreshToken != "" {
		t.Errorf("stored %+v", acc)
	}
	if len(w.idp.revoked) != 2 || w.idp.revoked[0].Get("token") != "rt.a.0" || w.idp.revoked[1].Get("token") != "at.a.0" {
		t.Errorf("revoked at the provider: %v", w.idp.revoked)
	}
}

// A vault that cannot be written is an outage of ours, never the user's fault: who needs a refresh waits for it for as long as for a provider.
func TestVaultOutageIsNoReasonToLogInAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", 2*time.Hour, time.Hour)
		w.add("b", 58*time.Minute, time.Hour)
		w.store.failWrites(tokenstore.ErrUnavailable)
		began := time.Now()
		if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) || time.Since(began) > waitTime {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		if got := w.token("b"); got != "at.b.0" {
			t.Errorf("got %s", got)
		}
		if w.idp.tokenPosts() != 0 {
			t.Error("a refresh token was spent without a lease")
		}
		time.Sleep(time.Second)
		w.store.failWrites(nil)
		if got := w.token("a"); got != "at.a.1" {
			t.Errorf("got %s", got)
		}
	})
}

// Accounts keep the vault open while they need it, and refuse when it is closing.
func TestR30RefreshHoldsTheVaultOpen(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	held, most := make(chan int, 1), 0
	held <- 0
	a := w.node(func(o *AccountsOptions) {
		o.Acquire = func() (func(), error) {
			n := <-held
			most = max(most, n+1)
			held <- n + 1
			return func() { held <- <-held - 1 }, nil
		}
	})
	w.add("a", 2*time.Hour, time.Hour)
	if _, err := a.Token(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := <-held; n != 0 || most != 1 {
		t.Errorf("held %d, at most %d", n, most)
	}
	closing := w.node(func(o *AccountsOptions) {
		o.Acquire = func() (func(), error) { return nil, errors.New("vault is closing") }
	})
	w.add("b", 2*time.Hour, time.Hour)
	if _, err := closing.Token(t.Context(), "b"); !isUnavailable(err) || !strings.Contains(err.Error(), "closing") {
		t.Errorf("got %v", err)
	}
	if n := w.idp.tokenPosts(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

func TestAccountOfAProviderThatIsNoLongerConfigured(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", 2*time.Hour, time.Hour, func(a *tokenstore.Account) { a.Provider = "former" })
	w.add("b", time.Minute, time.Hour, func(a *tokenstore.Account) { a.Provider = "former" })
	if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) || !strings.Contains(err.Error(), "former") {
		t.Errorf("got %v", err)
	}
	if got := w.token("b"); got != "at.b.0" {
		t.Errorf("got %s", got)
	}
	if err := w.revoke(t.Context(), "b"); err == nil || w.stored("b").State != tokenstore.StateRevoked {
		t.Errorf("got %v", err)
	}
}

// Nothing that is written about refreshes, well or badly ended, holds a token or the client secret.
func TestT78LogsAndErrorsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	var texts []string
	for _, answer := range []http.HandlerFunc{
		nil,
		answerWith(400, jsonType, `{"error":"invalid_grant","error_description":"rt.c.0"}`),
		answerWith(500, "text/html", `rt.c.0 at.c.0`),
		answerWith(200, jsonType, `{"access_token":"at.c.1 x"}`),
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		w.idp.set(func(p *fakeProvider) { p.answer = answer })
		id := "c" + string(rune('a'+len(texts)))
		w.add(id, 2*time.Hour, time.Hour)
		w.accounts = w.node()
		_, err := w.accounts.Token(t.Context(), id)
		if err != nil {
			texts = append(texts, err.Error())
		} else {
			texts = append(texts, "")
		}
		texts[len(texts)-1] += w.events.text()
		for _, entry := range w.logs.All() {
			texts[len(texts)-1] += " " + entry.Message
			for _, f := range entry.Context {
				enc := zapcore.NewMapObjectEncoder()
				f.AddTo(enc)
				for _, v := range enc.Fields {
					if s, ok := v.(string); ok {
						texts[len(texts)-1] += " " + s
					}
				}
			}
		}
	}
	for _, text := range texts {
		if len(text) < 10 || strings.Contains(text, "rt.c") || strings.Contains(text, "at.c") || strings.Contains(text, clientSecret) {
			t.Errorf("written: %s", text)
		}
	}
}
