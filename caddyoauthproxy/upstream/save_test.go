package upstream

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// The provider has rotated and the vault cannot write: the new tokens live in memory until it can.
func TestR03RenewedTokensAreKeptUntilTheyAreSaved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", 2*time.Hour, time.Hour)
		w.store.failOutcomes(tokenstore.ErrUnavailable)
		for range 20 {
			if got := w.token("a"); got != "at.a.1" {
				t.Fatalf("got %s", got)
			}
			time.Sleep(time.Second)
		}
		if got, err := w.accounts.Rejected(t.Context(), "a", "at.a.0"); err != nil || got != "at.a.1" {
			t.Errorf("got %s, %v", got, err)
		}
		if _, err := w.accounts.Rejected(t.Context(), "a", "at.a.1"); !isUnavailable(err) {
			t.Errorf("got %v", err)
		}
		if n := w.idp.tokenPosts(); n != 1 {
			t.Errorf("%d refreshes", n)
		}
		w.store.failOutcomes(nil)
		time.Sleep(lastRetry)
		synctest.Wait()
		if acc := w.stored("a"); acc.AccessToken != "at.a.1" || acc.RefreshToken != "rt.a.1" || acc.State != tokenstore.StateActive {
			t.Errorf("stored %+v", acc)
		}
		time.Sleep(2 * time.Hour)
		if got := w.token("a"); got != "at.a.2" || w.idp.reused() != 0 {
			t.Errorf("got %s, %d refresh tokens came twice", got, w.idp.reused())
		}
	})
}

func TestR03UnsavedTokenThatEndsIsNotRenewedFromTheVault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", 2*time.Hour, time.Hour)
		w.store.failOutcomes(tokenstore.ErrUnavailable)
		w.token("a")
		time.Sleep(61 * time.Minute)
		if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) {
			t.Errorf("got %v", err)
		}
		if n := w.idp.tokenPosts(); n != 1 {
			t.Errorf("%d refreshes", n)
		}
	})
}

// Shutting down waits for what is not saved yet, and says when it had to give up.
func TestR03CloseSavesOrSaysWhatIsLost(t *testing.T) {
	t.Parallel()
	for name, heals := range map[string]bool{"vault comes back": true, "vault stays away": false} {
		synctest.Test(t, func(t *testing.T) {
			w := bubbleWorld(t)
			w.add("a", 2*time.Hour, time.Hour)
			w.store.failOutcomes(tokenstore.ErrUnavailable)
			w.token("a")
			if heals {
				time.AfterFunc(8*time.Second, func() { w.store.failOutcomes(nil) })
			}
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			begin := time.Now()
			err := w.accounts.Close(ctx)
			if (err == nil) != heals || time.Since(begin) > 21*time.Second {
				t.Errorf("%s: %v after %v", name, err, time.Since(begin))
			}
			if got := w.stored("a").RefreshToken; (got == "rt.a.1") != heals {
				t.Errorf("%s: stored %s", name, got)
			}
			w.store.failOutcomes(nil)
			w.add("b", 2*time.Hour, time.Hour)
			if _, err := w.accounts.Token(t.Context(), "b"); !isUnavailable(err) {
				t.Errorf("%s: refreshes after Close: %v", name, err)
			}
		})
	}
}

// Shutting down lets a refresh in flight finish.
func TestR06CloseWaitsForARefreshInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		slowly(w.idp, 10*time.Second)
		w.add("a", 58*time.Minute, time.Hour)
		w.token("a")
		synctest.Wait()
		if err := w.accounts.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if acc := w.stored("a"); acc.RefreshToken != "rt.a.1" || acc.State != tokenstore.StateActive {
			t.Errorf("stored %+v", acc)
		}
	})
}

// The vault made the write and could not say so: it is not made a second time, and nothing is lost.
func TestR03WriteThatWasMadeAfterAllIsRecognised(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("a", 2*time.Hour, time.Hour)
		w.store.failAfter = func(changes []tokenstore.Change) error { return outcomeError(changes, tokenstore.ErrUnavailable) }
		if got := w.token("a"); got != "at.a.1" {
			t.Errorf("got %s", got)
		}
		version := w.stored("a").Version
		time.Sleep(time.Minute)
		w.store.mu.Lock()
		w.store.failAfter = nil
		w.store.mu.Unlock()
		if acc := w.stored("a"); acc.Version != version || acc.RefreshToken != "rt.a.1" {
			t.Errorf("stored %+v", acc)
		}
		if n := w.logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 0 { // the vault itself finds out
			t.Errorf("logged %v", w.logs.All())
		}
		time.Sleep(2 * time.Hour)
		if got := w.token("a"); got != "at.a.2" {
			t.Errorf("got %s", got)
		}
	})
}

// A process that slept through its lease does not overwrite what another one saved meanwhile.
func TestR21LateSaveDoesNotOverwriteNewerTokens(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	late := w.add("a", 2*time.Hour, time.Hour, crashed(w, false))
	w.clock.turn(leaseTime)
	if got := w.token("a"); got != "at.a.1" {
		t.Fatalf("got %s", got)
	}
	_, left, err := w.accounts.renewed(late, Tokens{AccessToken: "stale", RefreshToken: "stale"}, w.clock.now())
	if !errors.Is(err, errTakenOver) || left != nil {
		t.Errorf("got %v", err)
	}
	if acc := w.stored("a"); acc.AccessToken != "at.a.1" || acc.RefreshToken != "rt.a.1" {
		t.Errorf("stored %+v", acc)
	}
}

// Somebody changes something else of the account while its lease is held: both changes stay.
func TestT44SaveKeepsWhatOthersChangedDuringTheLease(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", 2*time.Hour, time.Hour)
	later := w.vault.Now().Add(time.Hour).Truncate(time.Second)
	w.idp.late = func(rw http.ResponseWriter, _ *http.Request) {
		acc := w.stored("a")
		acc.DeleteAfter = later
		if err := w.vault.Commit(context.Background(), tokenstore.Save(acc)); err != nil {
			t.Error(err)
		}
		writeJSON(rw, 200, map[string]any{"access_token": "at.a.1", "refresh_token": "rt.a.1", "expires_in": 60})
	}
	w.token("a")
	if acc := w.stored("a"); !acc.DeleteAfter.Equal(later) || acc.RefreshToken != "rt.a.1" || acc.State != tokenstore.StateActive {
		t.Errorf("stored %+v", acc)
	}
}

// An account that is revoked while it is refreshed stays revoked, and the new tokens go too.
func TestRevocationDuringARefreshWins(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	w.add("a", 2*time.Hour, time.Hour)
	w.idp.late = func(rw http.ResponseWriter, _ *http.Request) {
		if err := w.revoke(context.Background(), "a"); err != nil {
			t.Error(err)
		}
		writeJSON(rw, 200, map[string]any{"access_token": "at.a.1", "refresh_token": "rt.a.1", "expires_in": 60})
	}
	if _, err := w.accounts.Token(t.Context(), "a"); !errors.Is(err, ErrNeedsReauth) {
		t.Errorf("got %v", err)
	}
	if acc := w.stored("a"); acc.State != tokenstore.StateRevoked || acc.AccessToken+acc.RefreshToken != "" {
		t.Errorf("stored %+v", acc)
	}
	gone := map[string]bool{}
	for _, form := range w.idp.revoked {
		gone[form.Get("token")] = true
	}
	for _, token := range []string{"rt.a.0", "rt.a.1", "at.a.0", "at.a.1"} {
		if !gone[token] {
			t.Errorf("%s lives on at the provider", token)
		}
	}
}
