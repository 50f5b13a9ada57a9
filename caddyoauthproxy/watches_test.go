package caddyoauthproxy

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// sharedStore counts who watches it.
type sharedStore struct {
	tokenstore.Store
	watches atomic.Int64
	keyless bool // signing keys cannot be read
}

func (s *sharedStore) Watch(kind tokenstore.Kind, changed func(id string)) func() {
	s.watches.Add(1)
	stop := s.Store.Watch(kind, changed)
	return sync.OnceFunc(func() {
		stop()
		s.watches.Add(-1)
	})
}

func (s *sharedStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	if s.keyless && kind == tokenstore.KindSigningKeys {
		return tokenstore.Row{}, tokenstore.ErrUnavailable
	}
	return s.Store.Get(ctx, kind, id)
}

// sharedVault opens such a store.
type sharedVault struct {
	Vault
	store *sharedStore
}

func (v *sharedVault) OpenVault(ctx context.Context) (tokenstore.Store, func(), error) {
	store, release, err := v.Vault.OpenVault(ctx)
	v.store.Store = store
	return v.store, release, err
}

// The store goes on when a config that shares it with the next one ends, or does not begin.
func TestConfigThatEndsWatchesTheStoreNoMore(t *testing.T) {
	t.Parallel()
	for _, keyless := range []bool{false, true} {
		app := provisioned(t, filepath.Join(t.TempDir(), "vault.db"))
		store := &sharedStore{keyless: keyless}
		app.vault = &sharedVault{app.vault, store}
		g, err := app.open()
		if keyless != errors.Is(err, tokenstore.ErrUnavailable) {
			t.Fatal(err)
		}
		if !keyless {
			if store.watches.Load() == 0 {
				t.Error("nobody watches an open store")
			}
			g.hold.leave()
		}
		if n := store.watches.Load(); n != 0 {
			t.Errorf("keyless %t: %d watch the store of a config that is gone", keyless, n)
		}
	}
}
