package caddyoauthproxy

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Open responses end with an order before their grants end in their own rows, under the config that is given it and under the one before.
func TestRevocationOrdersEndOpenResponses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	var waits, other []<-chan struct{}
	var gateways []*gateway
	var meant, living *tokenstore.Grant
	for range 2 {
		app := provisioned(t, path)
		g, err := app.open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(g.hold.leave)
		if err := g.server.Close(t.Context()); err != nil { // so that it changes no row, and the order alone ends the responses
			t.Fatal(err)
		}
		if gateways = append(gateways, g); meant == nil {
			meant, living = newGrant(), newGrant()
			living.ClientID = "other"
			save(t, g.vault, meant, tokenstore.StateActive)
			save(t, g.vault, living, tokenstore.StateActive)
		}
		for range 2 {
			ended, done := waitFor(t, g.grants, meant.ID)
			defer done()
			waits = append(waits, ended)
		}
		ended, done := waitFor(t, g.grants, living.ID)
		defer done()
		other = append(other, ended)
	}
	begun := time.Now()
	if _, err := gateways[0].server.RevokeGrants(t.Context(), authserver.RevocationFilter{ClientID: "client"}, "", ""); err != nil {
		t.Fatal(err)
	}
	for _, ended := range waits {
		wantTold(t, "the order", ended)
	}
	t.Logf("told %s after the order was asked for", time.Since(begun).Round(time.Millisecond))
	if g, err := gateways[0].vault.Grant(t.Context(), meant.ID); err != nil || g.State != tokenstore.StateActive {
		t.Errorf("the row has changed: %+v, %v", g, err)
	}
	for _, ended := range other {
		select {
		case <-ended:
			t.Error("a response of another client is told that its grant has ended")
		default:
		}
	}
}
