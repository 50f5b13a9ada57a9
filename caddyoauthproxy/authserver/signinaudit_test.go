package authserver_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestSignInsAreInTheAuditTrail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, admins("alice@example.com"))
	b := w.browser()
	b.signIn("")
	who, cookie := csrfOf(t, b), b.cookieValue(signInCookie)
	b.post(w.url+"/oauth/signout", url.Values{"csrf": {who}}, sameOrigin)
	b.signIn("")
	all, err := w.server.SignIns(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("sign-ins: %v, %v", all, err)
	}
	operator := tokenstore.Actor{Kind: tokenstore.ActorOperator, ID: "ops"}
	if err := w.server.EndSignIn(tokenstore.WithActor(t.Context(), operator), all[0].ID); err != nil {
		t.Fatal(err)
	}
	events, _, err := w.vault.Events(t.Context(), tokenstore.EventFilter{Types: []string{tokenstore.EventSignInFinished, tokenstore.EventSignInEnded}, Limit: 10})
	if err != nil || len(events) != 4 {
		t.Fatalf("events: %v, %v", events, err)
	}
	var told []string
	for _, e := range events { // the newest first
		told = append(told, e.Type+" by "+e.Actor.Kind)
		if e.User != "alice@example.com" || e.UserID != all[0].UserID || e.Provider != "idp" || e.Address != "127.0.0.1" || e.Details["admin"] != "true" || e.Details["sign_in"] == "" {
			t.Errorf("%+v", e)
		}
		if raw, _ := json.Marshal(e); strings.Contains(string(raw), cookie) || strings.Contains(string(raw), who) {
			t.Errorf("an event holds a secret: %s", raw)
		}
	}
	if got, want := strings.Join(told, ", "), "sign_in.ended by operator, sign_in.finished by user, sign_in.ended by user, sign_in.finished by user"; got != want {
		t.Errorf("%s", got)
	}
}

func TestSignInThatAnotherTakesThePlaceOfIsEndedByWhoSignedIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, admins("alice@example.com"))
	b := w.browser()
	b.signIn("")
	first, err := b.signedIn()
	if err != nil {
		t.Fatal(err)
	}
	b.signIn("")
	events, _, err := w.vault.Events(t.Context(), tokenstore.EventFilter{Types: []string{tokenstore.EventSignInEnded}, Limit: 10})
	if err != nil || len(events) != 1 || events[0].Details["sign_in"] != first.ID || events[0].Actor.Kind != tokenstore.ActorUser || events[0].Actor.ID != first.UserID {
		t.Errorf("%+v, %v", events, err)
	}
	if all, err := w.server.SignIns(t.Context()); err != nil || len(all) != 1 || all[0].ID == first.ID {
		t.Errorf("%+v, %v", all, err)
	}
}
