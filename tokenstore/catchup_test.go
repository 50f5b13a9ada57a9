package tokenstore_test

import (
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestEndAllEndsWhatAClockThatWasAheadHasGiven(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	v := openVault(t, s, key)
	later := now.Add(time.Hour)
	g, a := newGrant("grant-of-later"), newAccount("account-1")
	g.Created, g.Agreed, g.AccountID = later, later, a.ID
	commit(t, v, tokenstore.Save(newGrant("grant-of-before")), tokenstore.Save(g), tokenstore.Save(a),
		tokenstore.Save(&tokenstore.Consent{Meta: tokenstore.Meta{ID: "consent-of-later"}, UserID: "user-2", ClientID: "client-2", Given: later}))
	done, err := v.CatchUp(t.Context(), tokenstore.CatchUp{EndAll: true}, "a copy")
	if err != nil || done.Grants != 1 || done.Orders != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	orders, err := v.RevocationOrders(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"grant-of-before", "grant-of-later"} {
		g, err := v.Grant(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if g.State == tokenstore.StateActive && !orders[0].MeansGrant(g) {
			t.Errorf("%s lives", id)
		}
	}
	if a, err := v.Account(t.Context(), a.ID); err != nil || a.RefreshToken != "" {
		t.Errorf("account: %+v, %v", a, err)
	}
	if consents, err := v.Consents(t.Context(), "user-2"); err != nil || len(consents) != 0 {
		t.Errorf("%d consents live, %v", len(consents), err)
	}
}
