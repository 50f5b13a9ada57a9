package postgres_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// TestNodesGoOnWhileOneRekeysTheVault has two nodes that hear of changes and one that hears of none change grants, whose rows all come to be sealed by new keys.
func TestNodesGoOnWhileOneRekeysTheVault(t *testing.T) {
	t.Parallel()
	connection, key := testpg.Database(t), tokenstore.NewRootKey()
	var vaults []*tokenstore.Vault
	var store *postgres.Store
	for node := range 3 {
		store = open(t, postgres.Options{Connection: connection, Wait: 20 * time.Second, ListenOff: node == 2})
		v, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Messages: time.Nanosecond, KeysFailed: func(err error) { t.Errorf("node %d: %v", node, err) }})
		if err != nil {
			t.Fatal(err)
		}
		vaults = append(vaults, v)
	}
	const grants = 150
	ends := time.Now().Add(time.Hour)
	for i := range grants {
		g := &tokenstore.Grant{Meta: tokenstore.Meta{ID: fmt.Sprintf("grant-%03d", i)}, State: tokenstore.StateActive, ClientID: "client-1", Proxy: "demo", UserID: "user-1", Ends: ends}
		if err := vaults[0].Commit(t.Context(), tokenstore.Save(g)); err != nil {
			t.Fatal(err)
		}
	}
	defer vaults[0].KeepKeys()()
	defer vaults[1].KeepKeys()()
	before, err := vaults[0].State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var made [grants]atomic.Uint64
	var working sync.WaitGroup
	for worker := range 6 {
		working.Go(func() {
			v := vaults[worker%3]
			for n := worker; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				i := (n * 7) % grants
				if _, err := v.RecallGrant(t.Context(), fmt.Sprintf("grant-%03d", (i+1)%grants)); err != nil {
					t.Errorf("RecallGrant: %v", err)
				}
				g, err := v.Grant(t.Context(), fmt.Sprintf("grant-%03d", i))
				if err == nil {
					err = v.Commit(t.Context(), tokenstore.Save(g), tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventTokenIssued)))
				}
				if err == nil {
					made[i].Add(1)
				} else if !errors.Is(err, tokenstore.ErrConflict) {
					t.Errorf("node %d: %v", worker%3, err)
					return
				}
			}
		})
	}
	if _, err := vaults[1].BeginRekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		r, err := vaults[2].Rekey(t.Context())
		if err == nil && r.State == tokenstore.RekeyDone {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("rekey is %+v, %v", r, err)
		}
	}
	close(stop)
	working.Wait()
	total := uint64(0)
	for i := range grants {
		total += made[i].Load()
		for node, v := range vaults {
			if g, err := v.Grant(t.Context(), fmt.Sprintf("grant-%03d", i)); err != nil || g.Version != 1+made[i].Load() {
				t.Errorf("node %d: grant-%03d is %+v after %d changes, %v", node, i, g, made[i].Load(), err)
			}
		}
	}
	t.Logf("%d changes were made meanwhile", total)
	after, err := vaults[2].State(t.Context())
	if err != nil || len(after.VaultKeys) != len(before.VaultKeys) {
		t.Fatalf("%+v, %v", after, err)
	}
	for i, k := range after.VaultKeys {
		if same := k.ID == before.VaultKeys[i].ID; same != (k.Use == "index" || k.Use == "derive") {
			t.Errorf("the key for %s is the same: %t", k.Use, same)
		}
	}
}
