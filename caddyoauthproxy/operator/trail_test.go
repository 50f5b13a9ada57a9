package operator_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Whatever write is added to the API: the trail says who did it, and from where.
func TestEveryWriteOfAnOperatorIsInTheTrailWithWhoAndWhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(5)
	keys, err := w.gateway.APIKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	writes := map[string]struct{ path, body, event string }{
		"DELETE /tokens/{id}":       {"/tokens/grant-0000", "", tokenstore.EventGrantEnded},
		"DELETE /grants/{id}":       {"/grants/grant-0001", "", tokenstore.EventGrantEnded},
		"POST /revocations":         {"/revocations", `{"filter":{"user_id":"user-0002"}}`, tokenstore.EventRevocationOrdered},
		"DELETE /clients/{id}":      {"/clients/gateway_0003", "", tokenstore.EventClientDeleted},
		"DELETE /sessions/{id}":     {"/sessions/signin-0001", "", tokenstore.EventSignInEnded},
		"POST /api_keys":            {"/api_keys", `{"name":"n","proxies":["wiki"]}`, tokenstore.EventAPIKeyCreated},
		"DELETE /api_keys/{id}":     {"/api_keys/" + keys[0].ID, "", tokenstore.EventAPIKeyRevoked},
		"POST /signing_keys/rotate": {"/signing_keys/rotate", "", tokenstore.EventSigningKeyRotated},
		"POST /assistant":           {}, // changes nothing
		"POST /migration":           {}, // at Caddy's admin endpoint alone
		"DELETE /migration":         {},
		"POST /rekey":               {},
		"POST /compact":             {},
	}
	for _, r := range operator.Routes() {
		if r.Method == http.MethodGet {
			continue
		}
		c, known := writes[r.Method+" "+r.Path]
		if !known {
			t.Errorf("%s %s: which event is it in the trail?", r.Method, r.Path)
		}
		if c.event == "" {
			continue
		}
		a := w.send(r.Method, w.site.URL+"/gw/admin/oauth"+c.path, c.body, header("X-Test-Cookie", "admin"), header("Content-Type", "application/json"))
		if a.status >= 300 {
			t.Errorf("%s %s: %d %s", r.Method, c.path, a.status, a.body)
			continue
		}
		events, _, err := w.vault.Events(t.Context(), tokenstore.EventFilter{Types: []string{c.event}, Limit: 1})
		if err != nil || len(events) != 1 {
			t.Errorf("%s %s: %v, %v", r.Method, c.path, events, err)
			continue
		}
		e := events[0]
		if e.Actor.Kind != tokenstore.ActorOperator || e.Actor.ID != "user-of-admin" || !strings.Contains(e.Actor.Label, "admin") || e.Address != "127.0.0.1" {
			t.Errorf("%s %s: %s by %+v from %q", r.Method, c.path, e.Type, e.Actor, e.Address)
		}
	}
}

func TestPathsThatAreNotWrittenAsTheyShouldBeAreNoPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{"/admin//grants", "/admin/./grants", "/admin/../admin/grants", "/admin/grants/../../x", "/admin/..//evil.test/"} {
		if a := w.visit(path, nil); a.status != http.StatusNotFound || a.header.Get("Location") != "" || a.header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %d %v", path, a.status, a.header)
		}
	}
}
