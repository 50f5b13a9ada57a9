package upstream

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHealthSaysHowAProviderAnswers(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	health := func() ProviderHealth {
		h, ok := w.accounts.Health("idp")
		if !ok {
			t.Fatal("no such provider")
		}
		return h
	}
	if h := health(); h.State != HealthUnknown || !h.MetadataRead.IsZero() || h.GateClosed {
		t.Errorf("before anything was asked: %+v", h)
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		w.add(id, 2*time.Hour, time.Hour)
	}
	w.token("a")
	if h := health(); h.State != HealthOK || h.LastSuccess.IsZero() || h.MetadataRead.IsZero() || !h.LastFailure.IsZero() {
		t.Errorf("after a refresh: %+v", h)
	}
	w.idp.set(func(p *fakeProvider) { p.answer = answerWith(400, jsonType, `{"error":"invalid_grant"}`) })
	_, _ = w.accounts.Token(t.Context(), "b")
	if h := health(); h.State != HealthOK {
		t.Errorf("a refused refresh token is a good answer: %+v", h)
	}
	w.idp.set(func(p *fakeProvider) { p.answer = answerWith(429, jsonType, `{}`, "Retry-After", "30") })
	_, _ = w.accounts.Token(t.Context(), "c")
	h := health()
	if h.State != HealthFailing || h.LastFailureClass != Throttled || h.FailuresInRow != 1 || !h.GateClosed || h.GateClosedUntil.Sub(w.vault.Now()) < 25*time.Second {
		t.Errorf("throttled for 30 s: %+v", h)
	}
	told, err := json.Marshal(h)
	if err != nil || !strings.Contains(string(told), `"state":"failing"`) || !strings.Contains(string(told), `"gate_closed_until":"`) || strings.Contains(string(told), `keys_read`) {
		t.Errorf("%s, %v", told, err)
	}
	w.clock.turn(time.Minute)
	w.idp.set(func(p *fakeProvider) { p.answer = nil })
	w.token("d")
	if h := health(); h.State != HealthOK || h.FailuresInRow != 0 || h.GateClosed || h.LastFailureClass != Throttled {
		t.Errorf("after it came back: %+v", h)
	}
	if _, ok := w.accounts.Health("another"); ok {
		t.Error("a provider that is not configured has a health")
	}
}

// A stranger who sends a callback that the provider never made does not make it look ill.
func TestHealthIsNoStrangersToChange(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	if _, _, err := w.provider.Exchange(t.Context(), CodeResponse{Code: "c", Verifier: "v", Issuer: "https://evil.example"}); err == nil {
		t.Fatal("a foreign issuer is accepted")
	}
	if h := w.provider.Health(); h.State != HealthOK { // its metadata was read
		t.Errorf("%+v", h)
	}
}

func TestActsAreToldOfAccounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		told := map[string]int{}
		var mu sync.Mutex
		tell := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			told[what]++
		}
		w.accounts = w.node(func(o *AccountsOptions) {
			o.Acts = Acts{
				Refreshed: func(provider string, failure Class, took time.Duration) {
					tell(provider + " refreshed " + string(failure) + " in " + took.String())
				},
				Waited:  func(provider string, took time.Duration) { tell(provider + " waited " + took.String()) },
				Broke:   func(provider string) { tell(provider + " broke") },
				Revoked: func(provider string, failure Class) { tell(provider + " revoked " + string(failure)) },
				GaveUp:  func(provider string) { tell(provider + " gave up") },
			}
		})
		for _, id := range []string{"a", "b", "c"} {
			w.add(id, 2*time.Hour, time.Hour)
		}
		w.token("a")
		w.idp.set(func(p *fakeProvider) {
			p.answer = func(rw http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Second)
				answerWith(400, jsonType, `{"error":"invalid_grant"}`)(rw, r)
			}
		})
		var callers sync.WaitGroup
		for range 5 {
			callers.Go(func() { _, _ = w.accounts.Token(t.Context(), "b") })
		}
		callers.Wait()
		if err := w.revoke(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		w.idp.set(func(p *fakeProvider) { p.revoke = answerWith(503, jsonType, `{}`) })
		if err := w.revoke(t.Context(), "c"); err == nil {
			t.Fatal("a provider that is down was told")
		}
		if told["idp revoked unreachable"] != 1 {
			t.Errorf("told %v", told)
		}
		w.everyMinute(w.accounts, revokeFor+revokeLast)
		delete(told, "idp revoked unreachable")
		if !maps.Equal(told, map[string]int{"idp refreshed  in 0s": 1, "idp refreshed rejected in 1s": 1, "idp waited 1s": 4, "idp broke": 1, "idp revoked ": 1, "idp gave up": 1}) {
			t.Errorf("told %v", told)
		}
	})
}
