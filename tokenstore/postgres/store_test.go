package postgres

import (
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/storetest"
)

func openStore(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) tokenstore.Store { return openStore(t, Options{Connection: testpg.Database(t)}) })
}

func TestDurability(t *testing.T) {
	t.Parallel()
	storetest.RunDurability(t, func(t *testing.T) func(t *testing.T) tokenstore.Store {
		connection := testpg.Database(t)
		return func(t *testing.T) tokenstore.Store { return openStore(t, Options{Connection: connection}) }
	})
}
