//go:build slow

package postgres

import (
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/storetest"
)

func TestSlowNothingOpensInAnotherPlaceOrForm(t *testing.T) {
	t.Parallel()
	storetest.RunAttacks(t, func(t *testing.T) tokenstore.Store { return openStore(t, Options{Connection: testpg.Database(t)}) })
}
