package tokenstore_test

import (
	"slices"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Two configs of one process have a vault each, on one store.
func TestGrantsAreWatchedAcrossVaults(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	watching, writing := openVault(t, s, key), openVault(t, s, key)
	calls := make(chan string, 100)
	stop := watching.WatchGrants(func(id string) { calls <- id })
	grant := newGrant("grant-1")
	commit(t, writing, tokenstore.Save(grant), tokenstore.Save(newAccount("account-1")))
	grant.State = tokenstore.StateRevoked
	commit(t, writing, tokenstore.Save(grant))
	commit(t, writing, tokenstore.Delete(grant))
	var got []string
	for range 3 {
		select {
		case id := <-calls:
			got = append(got, id)
		case <-time.After(10 * time.Second):
			t.Fatalf("told of %q and no more", got)
		}
	}
	if slices.ContainsFunc(got, func(id string) bool { return id != "grant-1" }) {
		t.Errorf("told of %q", got)
	}
	stop()
	commit(t, writing, tokenstore.Save(newGrant("grant-2")))
	if len(calls) != 0 {
		t.Errorf("told of %q after it was stopped", <-calls)
	}
}
