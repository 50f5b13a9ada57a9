package authserver_test

import (
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// An operator's reason may be about the client. It is told that somebody ended the grant, and nothing else.
func TestReasonsOfOperatorsAreNotForTheClient(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(*testing.T, *world, grantIDs)
		want string
	}{
		"one by one": {func(t *testing.T, w *world, g grantIDs) {
			if _, err := w.server.EndGrant(t.Context(), g.grant, "INC-17: this client steals"); err != nil {
				t.Fatal(err)
			}
		}, "operator"},
		"without a reason": {func(t *testing.T, w *world, g grantIDs) {
			if _, err := w.server.EndGrant(t.Context(), g.grant, ""); err != nil {
				t.Fatal(err)
			}
		}, "operator"},
		"by the user": {func(t *testing.T, w *world, g grantIDs) {
			if _, err := w.server.CutGrant(t.Context(), &authserver.SignIn{UserID: g.user}, g.grant); err != nil {
				t.Fatal(err)
			}
		}, "ended by the user"},
	} {
		w := newWorld(t)
		b, got := w.session()
		g, err := w.vault.Grant(t.Context(), w.grantOf(got.access).ID)
		if err != nil {
			t.Fatal(err)
		}
		c.end(t, w, grantIDs{g.ID, g.UserID})
		if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" || strings.Contains(a.body, "steals") || !strings.Contains(a.body, c.want) {
			t.Errorf("%s: %s", name, a.body)
		}
	}
}

type grantIDs struct{ grant, user string }
