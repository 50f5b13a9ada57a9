package upstream

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What the vault could not take is tried again, and counted when it is done.
func TestActsAreToldOnceThoughTheVaultFailsAtFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		var broke, gaveUp, failed atomic.Int32
		w.accounts = w.node(func(o *AccountsOptions) {
			o.Acts = Acts{Broke: func(string) { broke.Add(1) }, GaveUp: func(string) { gaveUp.Add(1) }}
		})
		w.add("a", 2*time.Hour, time.Hour)
		w.add("b", 2*time.Hour, time.Hour)
		w.idp.set(func(p *fakeProvider) {
			p.answer = answerWith(400, jsonType, `{"error":"invalid_grant"}`)
			p.revoke = answerWith(503, jsonType, `{}`)
		})
		w.store.mu.Lock()
		w.store.failApply = func(changes []tokenstore.Change) error {
			ends := slices.ContainsFunc(changes, func(c tokenstore.Change) bool {
				return c.Row.Kind == tokenstore.KindAccount && (c.Row.State == string(tokenstore.StateNeedsReauth) || !slices.Contains(c.Row.Refs, refRevoking) && c.Row.State == string(tokenstore.StateRevoked))
			})
			if ends && failed.Load() < 2 {
				failed.Add(1)
				return tokenstore.ErrUnavailable
			}
			return nil
		}
		w.store.mu.Unlock()
		for range 5 {
			_, _ = w.accounts.Token(t.Context(), "a")
			time.Sleep(time.Minute)
		}
		if failed.Load() != 2 || broke.Load() != 1 {
			t.Errorf("failed %d times, broke %d times", failed.Load(), broke.Load())
		}
		failed.Store(0)
		_ = w.revoke(t.Context(), "b")
		for range (revokeFor + revokeLast) / time.Minute {
			_ = w.accounts.RetryRevocations(t.Context())
			time.Sleep(time.Minute)
		}
		if failed.Load() != 2 || broke.Load() != 1 || gaveUp.Load() != 1 {
			t.Errorf("failed %d times, broke %d times, gave up %d times", failed.Load(), broke.Load(), gaveUp.Load())
		}
	})
}

// refRevoking is the reference of accounts whose tokens are still to be ended.
const refRevoking = "revoking"
