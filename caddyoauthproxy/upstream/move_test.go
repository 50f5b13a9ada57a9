package upstream

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

func openFile(t *testing.T) *bbolt.Store {
	t.Helper()
	s, err := bbolt.Open(filepath.Join(t.TempDir(), "vault.db"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A provider that takes each refresh token once, and a move that begins while it is asked: what it answers is moved, nothing is asked twice, and tokens that are good are handed out
// all the time.
func TestRefreshUnderWayEndsWellWhenTheVaultIsMoved(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	from, to := openFile(t), openFile(t)
	key := tokenstore.NewRootKey()
	open := func(s tokenstore.Store) *tokenstore.Vault {
		v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: w.clock.now})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	w.vault = open(from)
	w.accounts = w.node()
	w.add("over", 2*time.Hour, time.Hour)
	w.add("waits", 2*time.Hour, time.Hour)
	w.add("good", 0, time.Hour)
	w.add("due", 58*time.Minute, time.Hour)
	asked, answer := make(chan struct{}), make(chan struct{})
	w.idp.set(func(p *fakeProvider) {
		p.answer = func(rw http.ResponseWriter, r *http.Request) {
			close(asked)
			<-answer
			p.mu.Lock()
			status, m := p.issue(r.PostForm)
			p.mu.Unlock()
			writeJSON(rw, status, m)
		}
	})
	refreshed := make(chan error, 1)
	go func() {
		got, err := w.accounts.Token(context.Background(), "over")
		if err == nil && got != "at.over.1" {
			t.Errorf("the refresh under way gave %s", got)
		}
		refreshed <- err
	}()
	<-asked

	draining, moved := make(chan int, 1000), make(chan error, 1)
	go func() {
		m := &tokenstore.Move{From: from, To: to, Source: "old", Target: "new", Vault: w.vault.Identity(), Leased: w.vault.Leased, Progress: func(p tokenstore.Progress) {
			if p.Step == tokenstore.MoveDraining {
				draining <- p.Done
			}
		}}
		_, err := m.Run(context.Background())
		moved <- err
	}()
	if n := <-draining; n != 1 {
		t.Errorf("the move waits for %d refreshes; want 1", n)
	}
	for _, id := range []string{"good", "due"} {
		if got, err := w.accounts.Token(t.Context(), id); err != nil || got != "at."+id+".0" {
			t.Errorf("%s while the vault is read-only: %s, %v", id, got, err)
		}
	}
	if _, err := w.accounts.Token(t.Context(), "waits"); !isUnavailable(err) {
		t.Errorf("a token that must be refreshed, while the vault is read-only: %v", err)
	}
	close(answer)
	if err := <-refreshed; err != nil {
		t.Errorf("the refresh under way: %v", err)
	}
	if err := <-moved; err != nil {
		t.Fatal(err)
	}

	w.idp.set(func(p *fakeProvider) { p.answer = nil })
	w.vault = open(to)
	w.accounts = w.node()
	if acc := w.stored("over"); acc.RefreshToken != "rt.over.1" || acc.State != tokenstore.StateActive {
		t.Errorf("the account in the new store is %+v", acc)
	}
	for id, want := range map[string]string{"over": "at.over.1", "waits": "at.waits.1", "good": "at.good.0"} {
		if got, err := w.accounts.Token(t.Context(), id); err != nil || got != want {
			t.Errorf("%s in the new store: %s, %v; want %s", id, got, err, want)
		}
	}
	if n := w.idp.reused(); n != 0 {
		t.Errorf("%d refresh tokens came twice", n)
	}
}
