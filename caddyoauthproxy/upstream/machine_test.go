package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// counting makes the provider answer every token request with a new token of the given life.
func counting(p *fakeProvider, life string) {
	n := 0
	p.answer = func(w http.ResponseWriter, _ *http.Request) {
		n++
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":"made-%d","token_type":"Bearer"%s}`, n, life)
	}
}

func TestMachineTokenIsKeptUntilShortlyBeforeItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.idp.set(func(p *fakeProvider) { counting(p, `,"expires_in":600`) })
		m := w.provider.MachineTokens(TokenRequest{Scopes: []string{"read"}, Params: map[string]string{"audience": "https://api.test"}}, true, zap.NewNop())
		get := func(want string) {
			t.Helper()
			if got, err := m.Token(t.Context(), "", ""); got != want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		}
		get("made-1")
		get("made-1")
		time.Sleep(8*time.Minute + 50*time.Second)
		get("made-1")
		time.Sleep(20 * time.Second)
		get("made-2")
		if form := w.idp.posts[0]; form.Get("grant_type") != "client_credentials" || form.Get("scope") != "read" || form.Get("audience") != "https://api.test" {
			t.Errorf("request: %v", form)
		}
	})
}

func TestMachineTokenOfUnknownLifeIsKeptForAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.idp.set(func(p *fakeProvider) { counting(p, "") })
		m := w.provider.MachineTokens(TokenRequest{}, true, zap.NewNop())
		first, _ := m.Token(t.Context(), "", "")
		time.Sleep(50 * time.Second)
		second, _ := m.Token(t.Context(), "", "")
		time.Sleep(10 * time.Second)
		third, _ := m.Token(t.Context(), "", "")
		if first != second || second == third {
			t.Errorf("got %s, %s, %s", first, second, third)
		}
	})
}

func TestFreshTokenIsAskedForWithEachCall(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.idp.set(func(p *fakeProvider) { counting(p, `,"expires_in":600`) })
	m := w.provider.MachineTokens(TokenRequest{}, false, zap.NewNop())
	for i := range 3 {
		if got, err := m.Token(t.Context(), "", ""); got != fmt.Sprint("made-", i+1) || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestManyCallersMakeOneRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.idp.set(func(p *fakeProvider) {
			counting(p, `,"expires_in":600`)
			answer := p.answer
			p.answer = func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Second); answer(w, r) }
		})
		m := w.provider.MachineTokens(TokenRequest{}, true, zap.NewNop())
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if got, err := m.Token(t.Context(), "", ""); got != "made-1" || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		wg.Wait()
		if n := w.idp.tokenPosts(); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestRejectedMachineTokenIsMadeAgainOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.idp.set(func(p *fakeProvider) { counting(p, `,"expires_in":600`) })
		for _, keep := range []bool{true, false} {
			m := w.provider.MachineTokens(TokenRequest{}, keep, zap.NewNop())
			first, err := m.Token(t.Context(), "k", "")
			if err != nil {
				t.Fatal(err)
			}
			second, err := m.Rejected(t.Context(), "k", "", first)
			if err != nil || second == first {
				t.Fatalf("keep %v: %q, %v", keep, second, err)
			}
			if keep {
				if late, err := m.Rejected(t.Context(), "k", "", first); late != second || err != nil {
					t.Errorf("a late report: %q, %v", late, err)
				}
			}
			if _, err := m.Rejected(t.Context(), "k", "", second); !errors.Is(err, ErrStillRejected) {
				t.Errorf("keep %v, again at once: %v", keep, err)
			}
			time.Sleep(time.Minute)
			if third, err := m.Rejected(t.Context(), "k", "", second); err != nil || third == second {
				t.Errorf("keep %v, a minute later: %q, %v", keep, third, err)
			}
		}
	})
}

func TestExchangeSendsTheUsersToken(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.idp.set(func(p *fakeProvider) {
		counting(p, `,"expires_in":600,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"`)
	})
	m := w.provider.ExchangedTokens(TokenRequest{Params: map[string]string{"audience": "jira"}}, true, zap.NewNop())
	alice, errA := m.Token(t.Context(), "alice", "token-of-alice")
	bob, errB := m.Token(t.Context(), "bob", "token-of-bob")
	again, _ := m.Token(t.Context(), "alice", "token-of-alice")
	if errA != nil || errB != nil || alice == bob || again != alice {
		t.Errorf("alice %q then %q, bob %q; %v, %v", alice, again, bob, errA, errB)
	}
	form := w.idp.posts[0]
	if form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" || form.Get("subject_token") != "token-of-alice" ||
		form.Get("subject_token_type") != "urn:ietf:params:oauth:token-type:access_token" || form.Get("audience") != "jira" {
		t.Errorf("request: %v", form)
	}
}

func TestFailuresOfMadeTokensAreClassified(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status      int
		body        string
		unavailable bool // for an exchange; a machine's own token always is
	}{
		"subject refused": {400, `{"error":"invalid_grant"}`, false},
		"gateway refused": {401, `{"error":"invalid_client"}`, true},
		"throttled":       {429, `{}`, true},
		"down":            {500, ``, true},
		"nonsense":        {200, `{}`, true},
	} {
		w := realWorld(t)
		w.idp.set(func(p *fakeProvider) {
			p.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}
		})
		var u *UnavailableError
		_, err := w.provider.MachineTokens(TokenRequest{}, true, zap.NewNop()).Token(t.Context(), "", "")
		if !errors.As(err, &u) {
			t.Errorf("%s, machine: %v", name, err)
		}
		_, err = w.provider.ExchangedTokens(TokenRequest{}, true, zap.NewNop()).Token(t.Context(), "k", "subject")
		if errors.As(err, &u) != c.unavailable || errors.Is(err, ErrStillRejected) == c.unavailable {
			t.Errorf("%s, exchange: %v", name, err)
		}
	}
}

func TestTokenRequestsKeepTheProtocolsOwnParameters(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"grant_type", "scope", "client_secret", "subject_token", ""} {
		if (TokenRequest{Params: map[string]string{name: "x"}}).Check() == nil {
			t.Errorf("param %q is accepted", name)
		}
	}
	if (TokenRequest{Scopes: []string{"two words"}}).Check() == nil {
		t.Error("a scope with a space is accepted")
	}
}
