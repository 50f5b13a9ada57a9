package upstream

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func (w *world) addGrant(id, account string, changes ...func(*tokenstore.Grant)) {
	w.t.Helper()
	now := w.vault.Now()
	g := &tokenstore.Grant{Meta: tokenstore.Meta{ID: id}, State: tokenstore.StateActive, AccountID: account, Created: now, Expires: now.Add(time.Hour), Ends: now.Add(time.Hour)}
	for _, change := range changes {
		change(g)
	}
	if err := w.vault.Commit(w.t.Context(), tokenstore.Save(g)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) grant(id string) *tokenstore.Grant {
	w.t.Helper()
	g, err := w.vault.Grant(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// An account that must be connected again breaks its grants with it, whether the provider refused it or nothing was left to try, and whoever changes a grant
// meanwhile.
func TestAccountThatBreaksBreaksItsGrants(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(w *world) func(*tokenstore.Account){
		"refused by the provider": func(w *world) func(*tokenstore.Account) {
			w.idp.answer = answerWith(400, jsonType, `{"error":"invalid_grant"}`)
			return func(*tokenstore.Account) {}
		},
		"nothing left to try": func(*world) func(*tokenstore.Account) {
			return func(a *tokenstore.Account) { a.RefreshToken = "" }
		},
		"in memory alone": func(w *world) func(*tokenstore.Account) {
			w.idp.answer = answerWith(400, jsonType, `{"error":"invalid_grant"}`)
			return func(a *tokenstore.Account) {
				a.Unstored = true
				held.put(a.ID, takeTokens(a))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := realWorld(t)
			id := fmt.Sprintf("broken-%x", name) // what is in memory is so for all tests
			w.add(id, 2*time.Hour, time.Hour, setup(w))
			w.addGrant("one", id)
			w.addGrant("two", id)
			w.addGrant("ended", id, func(g *tokenstore.Grant) { g.State = tokenstore.StateRevoked })
			w.addGrant("another", "another-account")
			var meanwhile atomic.Int32
			w.store.mu.Lock()
			w.store.onApply = func(changes []tokenstore.Change) {
				if changes[0].Row.State == string(tokenstore.StateNeedsReauth) && meanwhile.Add(1) == 1 { // somebody is faster
					g := w.grant("two")
					g.Used = g.Created
					w.store.mu.Lock()
					before := w.store.onApply
					w.store.onApply = nil
					w.store.mu.Unlock()
					if err := w.vault.Commit(t.Context(), tokenstore.Save(g)); err != nil {
						t.Error(err)
					}
					w.store.mu.Lock()
					w.store.onApply = before
					w.store.mu.Unlock()
				}
			}
			w.store.mu.Unlock()
			if _, err := w.accounts.Token(t.Context(), id); !errors.Is(err, ErrNeedsReauth) {
				t.Errorf("got %v", err)
			}
			if meanwhile.Load() != 2 {
				t.Errorf("the account was ended in %d attempts", meanwhile.Load())
			}
			acc := w.stored(id)
			if acc.State != tokenstore.StateNeedsReauth || acc.Reason == "" {
				t.Fatalf("account %+v", acc)
			}
			for _, g := range []string{"one", "two"} {
				if health, reason := w.grant(g).Health(w.vault.Now()); health != tokenstore.HealthBroken || reason != acc.Reason {
					t.Errorf("grant %s is %s: %q; want broken for %q", g, health, reason, acc.Reason)
				}
			}
			for _, g := range []string{"ended", "another"} {
				if w.grant(g).Broken != "" {
					t.Errorf("grant %s is broken", g)
				}
			}
			if n := len(mustFind(t, w, tokenstore.HealthBroken)); n != 2 {
				t.Errorf("%d grants are found as broken", n)
			}
		})
	}
}

func mustFind(t *testing.T, w *world, h tokenstore.Health) []*tokenstore.Grant {
	t.Helper()
	grants, err := w.vault.Grants(t.Context(), tokenstore.GrantQuery{Health: h})
	if err != nil {
		t.Fatal(err)
	}
	return grants
}

func TestRefreshThatFailsOtherwiseBreaksNoGrant(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.idp.answer = answerWith(503, jsonType, `{}`)
	w.add("a", 2*time.Hour, time.Hour)
	w.addGrant("one", "a")
	if _, err := w.accounts.Token(t.Context(), "a"); err == nil || errors.Is(err, ErrNeedsReauth) {
		t.Errorf("got %v", err)
	}
	if g := w.grant("one"); g.Broken != "" || g.Version != 1 {
		t.Errorf("grant %+v", g)
	}
}
