package authserver_test

import (
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// flushed are the events of a type, with those that were noted; all with an empty type.
func (w *world) flushed(eventType string) []*tokenstore.Event {
	w.t.Helper()
	if err := w.vault.FlushAudit(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return w.events.of(eventType)
}

// one is the only event of a type.
func (w *world) one(eventType string) *tokenstore.Event {
	w.t.Helper()
	found := w.flushed(eventType)
	if len(found) != 1 {
		w.t.Fatalf("%d events of type %s; want one: %s", len(found), eventType, w.events.text())
	}
	if e := found[0]; e.Address != "127.0.0.1" && e.Actor.Kind != tokenstore.ActorGateway {
		w.t.Errorf("%s is of address %q", eventType, e.Address)
	}
	return found[0]
}

func TestLoginAndItsTokensAreRecordedAndLinked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, issued := w.session()
	w.postForm(endpoints+"/a/token", refreshForm(b, issued.refresh))
	registered, consent, finished := w.one(tokenstore.EventClientRegistered), w.one(tokenstore.EventConsentGiven), w.one(tokenstore.EventLoginFinished)
	client := tokenstore.Actor{Kind: tokenstore.ActorClient, ID: b.id, Label: "Bot"}
	if registered.ClientID != b.id || registered.Actor != client || registered.Details["redirect_uris"] != redirectURI || registered.Proxy != "a" {
		t.Errorf("registration %+v", registered)
	}
	if consent.ClientID != b.id || consent.Client != "Bot" || consent.Proxy != "a" || consent.Provider != "idp" || consent.Actor != (tokenstore.Actor{Kind: tokenstore.ActorUser}) ||
		consent.Details["redirect_host"] != "bot.test" || consent.Details["scopes"] != "mcp" || consent.Details["upstream_scopes"] != "read:jira" {
		t.Errorf("consent %+v", consent)
	}
	if finished.Consent != consent.ID || finished.User != "alice@example.com" || finished.Actor.ID != finished.UserID || finished.Grant == "" || finished.Account == "" {
		t.Errorf("login %+v", finished)
	}
	tokens := w.flushed(tokenstore.EventTokenIssued)
	if len(tokens) != 2 || tokens[0].Details["grant_type"] != "authorization_code" || tokens[1].Details["grant_type"] != "refresh_token" || tokens[0].JTI == tokens[1].JTI {
		t.Fatalf("tokens %+v", tokens)
	}
	for _, e := range tokens {
		if e.Grant != finished.Grant || e.Account != finished.Account || e.Consent != consent.ID || e.UserID != finished.UserID || e.Actor != client || e.JTI == "" || e.Provider != "idp" {
			t.Errorf("token %+v", e)
		}
	}
	grant, err := w.vault.Grant(t.Context(), finished.Grant)
	if err != nil || grant.Consent != consent.ID || grant.Family.JTI != tokens[1].JTI {
		t.Errorf("grant %+v, %v", grant, err)
	}
}

func TestEndOfAGrantIsRecordedWithWhoAndWhy(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		end    func(w *world, b bot, issued tokens)
		kind   string
		reason string
		why    string // an event beside it
	}{
		"revoked": {func(w *world, b bot, issued tokens) {
			w.postForm(endpoints+"/a/revoke", url.Values{"token": {issued.refresh}, "client_id": {b.id}, "client_secret": {b.secret}})
		}, tokenstore.ActorClient, "revoked by the client", ""},
		"refresh token used again": {func(w *world, b bot, issued tokens) {
			w.postForm(endpoints+"/a/token", refreshForm(b, issued.refresh))
			w.turn(time.Hour)
			w.postForm(endpoints+"/a/token", refreshForm(b, issued.refresh))
		}, tokenstore.ActorClient, "refresh token used again after it was replaced", tokenstore.EventRefreshReplayed},
		"expired": {func(w *world, _ bot, _ tokens) {
			w.turn(200 * 24 * time.Hour)
			if n, err := w.server.EndExpired(w.t.Context()); n != 1 || err != nil {
				w.t.Errorf("EndExpired = %d, %v", n, err)
			}
		}, tokenstore.ActorGateway, "expired", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b, issued := w.session()
			tt.end(w, b, issued)
			e := w.one(tokenstore.EventGrantEnded)
			if e.Actor.Kind != tt.kind || e.Reason != tt.reason || e.Grant != w.one(tokenstore.EventLoginFinished).Grant || e.Consent == "" || e.User != "alice@example.com" {
				t.Errorf("recorded as %+v", e)
			}
			if tt.why != "" && w.one(tt.why).Grant != e.Grant {
				t.Errorf("%s is of another grant", tt.why)
			}
		})
	}
}

func TestCodeThatIsReplayedIsRecordedWhetherItEndsTheGrantOrNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	code := w.login(b)
	w.postForm(endpoints+"/a/token", codeForm(b, code))
	w.postForm(endpoints+"/a/token", codeForm(b, code))
	w.turn(time.Minute)
	w.postForm(endpoints+"/a/token", codeForm(b, code))
	w.postForm(endpoints+"/a/token", codeForm(b, code))
	replays := w.flushed(tokenstore.EventCodeReplayed)
	var reasons []string
	for _, e := range replays {
		reasons = append(reasons, e.Reason)
	}
	slices.Sort(reasons) // that of the first is noted, and so recorded later
	if want := []string{"authorization code used twice", "authorization code used twice", "within the time in which clients repeat a request whose answer was lost"}; !slices.Equal(reasons, want) {
		t.Errorf("replays %q; want %q", reasons, want)
	}
	if e := w.one(tokenstore.EventGrantEnded); e.Reason != "authorization code used twice" || e.Actor.ID != b.id {
		t.Errorf("end %+v", e)
	}
	if n := len(w.flushed(tokenstore.EventTokenRefused)); n != 3 {
		t.Errorf("%d refusals; want 3", n)
	}
}

func TestRefusalsOfTokensAndLoginsAreRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		o.Proxies[0].Allow = authserver.Policy{Emails: []string{"bob@example.com"}}
	})
	b := w.register("")
	w.postForm(endpoints+"/a/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"gwr_x"}, "client_id": {b.id}, "client_secret": {b.secret}})
	if e := w.one(tokenstore.EventTokenRefused); e.Actor.ID != b.id || e.ClientID != b.id || e.Details["error"] != "invalid_grant" || e.Details["grant_type"] != "refresh_token" || e.Outcome != tokenstore.OutcomeRefused {
		t.Errorf("refused %+v", e)
	}
	w.postForm(endpoints+"/a/token", url.Values{"grant_type": {"refresh_token\nx"}, "client_id": {b.id}, "client_secret": {"wrong"}})
	if e := w.flushed(tokenstore.EventTokenRefused)[1]; e.Actor != (tokenstore.Actor{Kind: tokenstore.ActorClient}) || e.ClientID != "" || e.Details["error"] != "invalid_client" || e.Details["grant_type"] != "" {
		t.Errorf("refused %+v", e)
	}
	br := w.browser()
	page := br.authorize(authorizeParams(b))
	refusal := form(t, page)
	refusal.Set("decision", "deny")
	br.post(w.url+endpoints+"/consent", refusal)
	if e := w.one(tokenstore.EventConsentRefused); e.ClientID != b.id || e.Reason != "the user said no" {
		t.Errorf("refused %+v", e)
	}
	br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b)))))
	failed := w.one(tokenstore.EventLoginFailed)
	if failed.Consent != w.one(tokenstore.EventConsentGiven).ID || failed.User != "alice@example.com" || failed.Details["error"] != "access_denied" || !strings.Contains(failed.Reason, "allow list") {
		t.Errorf("failed %+v", failed)
	}
	toProvider := br.allow(br.authorize(authorizeParams(b)))
	w.browser().get(w.callbackURL(toProvider))
	if e := w.flushed(tokenstore.EventLoginFailed); len(e) != 2 || e[1].Reason != "callback in another browser: login ended" || e[1].Outcome != tokenstore.OutcomeRefused {
		t.Errorf("failed %+v", e)
	}
	before := len(w.flushed(""))
	for range 3 { // a limit is no refusal of what was asked
		w.get(endpoints + "/a/authorize?client_id=nobody")
	}
	if n := len(w.flushed("")) - before; n != 0 {
		t.Errorf("%d events for requests of nobody", n)
	}
}

func TestRememberedConsentIsRecordedWithTheOneThatWasGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t, consentMode(authserver.ConsentRemember))
	b := w.register("")
	br := w.browser()
	br.agree(br.authorizeFrom(authorizeParams(b), "none"), url.Values{"remember": {"1"}})
	given := w.one(tokenstore.EventConsentGiven)
	br.get(w.callbackURL(br.authorizeFrom(authorizeParams(b), "none")))
	again := w.one(tokenstore.EventConsentRemembered)
	if again.Consent != given.ID || again.Reason != "remembered" || again.UserID == "" || given.Details["remember"] != "true" {
		t.Errorf("remembered %+v after %+v", again, given)
	}
	logins := w.flushed(tokenstore.EventLoginFinished)
	if len(logins) != 2 || logins[0].Consent != given.ID || logins[1].Consent != again.ID || logins[1].UserID != again.UserID {
		t.Errorf("logins %+v", logins)
	}
}

func TestSessionsAndClientsAreRecordedToTheirEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	data := w.scriptSession()
	token := data["session_token"].(string)
	token = w.post("/refresh", token).json(t)["session_token"].(string)
	w.post("/logout", token)
	var types []string
	for _, e := range w.flushed("") {
		if e.Grant != "" && e.Type != tokenstore.EventUpstreamRevoked {
			types = append(types, e.Type)
			if e.Actor.Kind != tokenstore.ActorUser || e.Actor.Label != "alice@example.com" || e.ClientID != "(session)" {
				t.Errorf("%s by %+v", e.Type, e.Actor)
			}
		}
	}
	if want := []string{tokenstore.EventLoginFinished, tokenstore.EventSessionIssued, tokenstore.EventSessionRefreshed, tokenstore.EventSessionEnded}; !slices.Equal(types, want) {
		t.Errorf("events %v; want %v", types, want)
	}
	if e := w.one(tokenstore.EventSessionEnded); e.Reason != "logged out" {
		t.Errorf("ended %+v", e)
	}
	if e := w.one(tokenstore.EventSigningKeyRotated); e.Reason != "the first one" || e.Actor.Kind != tokenstore.ActorGateway || e.Details["algorithm"] != "ES256" {
		t.Errorf("first key %+v", e)
	}
	operator := tokenstore.Actor{Kind: tokenstore.ActorOperator, ID: "o1", Label: "ops"}
	if err := w.server.RotateSigningKey(tokenstore.WithActor(t.Context(), operator), true); err != nil {
		t.Fatal(err)
	}
	if e := w.flushed(tokenstore.EventSigningKeyRotated); len(e) != 2 || e[1].Actor != operator || !strings.Contains(e[1].Reason, "compromised") {
		t.Errorf("rotated %+v", e)
	}
}

// BenchmarkRefresh has sixteen chatbots refresh their tokens at once, in turns at a gateway with an audit trail and at one without, and
// gives the median of the ratios.
func BenchmarkRefresh(b *testing.B) {
	const bots, each = 16, 4
	round := func(off bool) func() time.Duration {
		w := newAuditedWorld(b, tokenstore.AuditOptions{Off: off}, func(o *authserver.Options) {
			most := authserver.Rate{Events: 1_000_000, Window: time.Second}
			o.Limits = authserver.Limits{Register: most, Authorize: most, Login: most, Token: most, Client: most}
		})
		b.Cleanup(w.vault.KeepAudit())
		clients, held := make([]bot, bots), make([]tokens, bots)
		for i := range bots {
			clients[i], held[i] = w.session()
		}
		return func() time.Duration {
			start := time.Now()
			var wg sync.WaitGroup
			for i := range bots {
				wg.Go(func() {
					for range each {
						held[i] = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(clients[i], held[i].refresh)))
					}
				})
			}
			wg.Wait()
			return time.Since(start)
		}
	}
	with, without := round(false), round(true)
	var ratios []float64
	for b.Loop() {
		ratios = append(ratios, float64(with())/float64(without()))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "times")
}
