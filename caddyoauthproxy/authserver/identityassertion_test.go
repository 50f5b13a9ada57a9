package authserver_test

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// identity is the assertion that a proxy's server gets with a request that carries the token; the grant may be changed first.
func (w *world) identity(access, proxy string, change ...func(*tokenstore.Grant)) string {
	w.t.Helper()
	g, c, err := w.server.Authenticate(w.t.Context(), access, proxy)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range change {
		f(g)
	}
	text, err := w.server.IdentityAssertion(g, proxy, c.JTI, strings.Fields(c.Scope))
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// believe is what a server does with an assertion: it believes what the published keys verify.
func (w *world) believe(text, resource string) (map[string]any, error) {
	w.t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(w.get("/.well-known/jwks.json").body), &set); err != nil {
		w.t.Fatal(err)
	}
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
	if err != nil {
		return nil, err
	}
	if token.Headers[0].ExtraHeaders["typ"] != "gateway-identity+jwt" {
		return nil, errors.New("another type")
	}
	var standard jwt.Claims
	var all map[string]any
	if err := token.Claims(set, &standard, &all); err != nil {
		return nil, err
	}
	return all, standard.ValidateWithLeeway(jwt.Expected{Issuer: w.url, AnyAudience: jwt.Audience{resource}, Time: w.vault.Now()}, 0)
}

func TestIdentityAssertionSaysWhoSendsARequest(t *testing.T) {
	t.Parallel()
	for _, algorithm := range authserver.SigningAlgorithms() {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, signing(authserver.Signing{Algorithm: algorithm}))
			b, got := w.session()
			_, c, err := w.server.Authenticate(t.Context(), got.access, "a")
			if err != nil {
				t.Fatal(err)
			}
			text := w.identity(got.access, "a", func(g *tokenstore.Grant) {
				g.User.Name, g.User.Login, g.User.Org, g.User.Groups = "Ålice 李 ?>~", "alice", "acme", []string{"staff", "Sales, EMEA"}
			})
			claims, err := w.believe(text, w.url+"/mcp/a")
			if err != nil {
				t.Fatal(err)
			}
			issued, expires := claims["iat"].(float64), claims["exp"].(float64)
			if expires-issued != 300 {
				t.Errorf("it lives for %v s", expires-issued)
			}
			maps.DeleteFunc(claims, func(name string, _ any) bool { return name == "iat" || name == "exp" })
			want := map[string]any{
				"iss": w.url, "aud": w.url + "/mcp/a", "sub": c.Subject, "email": "alice@example.com", "email_verified": true, "name": "Ålice 李 ?>~", "login": "alice",
				"groups": []any{"staff", "Sales, EMEA"}, "org": "acme", "provider": "idp", "client_id": b.id, "client_name": "Bot", "scope": "mcp", "sid": c.GrantID, "jti": c.JTI,
			}
			if !reflect.DeepEqual(claims, want) {
				t.Errorf("claims\n got %v\nwant %v", claims, want)
			}
			if h := header(t, text); h.Algorithm != algorithm || !w.published()[h.KeyID] {
				t.Errorf("header: %+v", h)
			}
			for _, resource := range []string{w.url + "/mcp/b", w.url} {
				if _, err := w.believe(text, resource); err == nil {
					t.Errorf("%s believes it, too", resource)
				}
			}
			if _, err := w.believe(got.access, w.url+"/mcp/a"); err == nil {
				t.Error("an access token passes for an assertion")
			}
		})
	}
}

func TestT29AssertionLeavesUnverifiedAddressesOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.provider.user["email_verified"] = false
	_, got := w.session()
	claims, err := w.believe(w.identity(got.access, "a"), w.url+"/mcp/a")
	if err != nil || claims["email"] != nil || claims["email_verified"] != nil || claims["sub"] == nil {
		t.Errorf("claims: %v, %v", claims, err)
	}
}

func TestAssertionOfAClientThatActsForItselfHasNoUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, configured(configuredClient("machine", "a-secret-of-the-operator", "client_credentials")), func(o *authserver.Options) {
		o.Proxies[0].Machines = true
	})
	credentials := url.Values{"grant_type": {"client_credentials"}, "client_id": {"machine"}, "client_secret": {"a-secret-of-the-operator"}}
	access, _ := w.postForm(endpoints+"/a/token", credentials).json(t)["access_token"].(string)
	claims, err := w.believe(w.identity(access, "a"), w.url+"/mcp/a")
	if err != nil || claims["sub"] != "machine" || claims["client_id"] != "machine" || claims["scope"] != "mcp" {
		t.Errorf("claims: %v, %v", claims, err)
	}
	for _, name := range []string{"email", "email_verified", "name", "login", "groups", "org", "provider"} {
		if claims[name] != nil {
			t.Errorf("%s: %v", name, claims[name])
		}
	}
}

func TestAssertionIsSignedAgainBeforeItIsOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.Lifetimes.AccessToken = time.Hour })
	_, got := w.session()
	resource := w.url + "/mcp/a"
	first := w.identity(got.access, "a")
	w.turn(2 * time.Minute)
	if w.identity(got.access, "a") != first {
		t.Error("it is signed again while most of its life is left")
	}
	w.turn(40 * time.Second)
	second := w.identity(got.access, "a")
	for name, text := range map[string]string{"first": first, "second": second} {
		if _, err := w.believe(text, resource); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if second == first {
		t.Error("it is not signed again in the second half of its life")
	}
	w.turn(150 * time.Second)
	if _, err := w.believe(first, resource); err == nil {
		t.Error("it is believed after its end")
	}
	if claims, err := w.believe(w.identity(got.access, "a"), resource); err != nil || claims["jti"] == nil {
		t.Errorf("the next: %v, %v", claims, err)
	}
	// A clock that is set back must not leave assertions from the future.
	w.turn(-24 * time.Hour)
	g, c := &tokenstore.Grant{Meta: tokenstore.Meta{ID: "g"}, UserID: "u", ClientID: "c"}, "jti"
	ahead, _ := w.server.IdentityAssertion(g, "a", c, nil)
	w.turn(-time.Hour)
	if behind, err := w.server.IdentityAssertion(g, "a", c, nil); err != nil || behind == ahead {
		t.Errorf("from the future: %v, %v", behind == ahead, err)
	}
}

func TestAssertionsRotateWithTheSigningKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.Lifetimes.AccessToken = time.Hour })
	_, got := w.session()
	resource := w.url + "/mcp/a"
	first := w.identity(got.access, "a")
	if err := w.server.RotateSigningKey(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if header(t, w.identity(got.access, "a")).KeyID != header(t, first).KeyID {
		t.Error("the new key signs before others could know it")
	}
	w.turn(9*time.Minute + 30*time.Second)
	last := w.identity(got.access, "a")
	w.turn(time.Minute) // within its first half
	next := w.identity(got.access, "a")
	if header(t, next).KeyID == header(t, last).KeyID {
		t.Error("the new key does not sign")
	}
	for name, text := range map[string]string{"of the old key": last, "of the new key": next} {
		if _, err := w.believe(text, resource); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// When a key is compromised, what it signed is believed by nobody, so that keeping it would be an outage.
func TestAssertionOfACompromisedKeyIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := &tokenstore.Grant{Meta: tokenstore.Meta{ID: "grant", Version: 1}, UserID: "u", ClientID: "c"}
	before, err := w.server.IdentityAssertion(g, "a", "jti", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.server.RotateSigningKey(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	after, err := w.server.IdentityAssertion(g, "a", "jti", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.believe(before, w.url+"/mcp/a"); err == nil {
		t.Error("the compromised key's is believed")
	}
	if _, err := w.believe(after, w.url+"/mcp/a"); err != nil {
		t.Errorf("the new key's: %v", err)
	}
}

func TestT68AssertionsOfUsersTokensAndProxiesAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	grant := func(id, user string, version uint64) *tokenstore.Grant {
		return &tokenstore.Grant{Meta: tokenstore.Meta{ID: id, Version: version}, UserID: user, ClientID: "c", User: tokenstore.User{Provider: "idp", Name: user}}
	}
	for range 2 { // made, and kept
		for _, c := range []struct {
			g          *tokenstore.Grant
			proxy, jti string
			scopes     []string
		}{
			{grant("g1", "alice", 1), "a", "j1", []string{"mcp"}},
			{grant("g1", "alice", 1), "b", "j1", []string{"mcp"}}, // a session token
			{grant("g1", "alice", 1), "a", "j2", nil},             // another token, with less scope
			{grant("g1", "alicia", 2), "a", "j1", []string{"mcp"}},
			{grant("g2", "bob", 1), "a", "j1", []string{"mcp"}},
		} {
			text, err := w.server.IdentityAssertion(c.g, c.proxy, c.jti, c.scopes)
			if err != nil {
				t.Fatal(err)
			}
			claims, err := w.believe(text, w.url+"/mcp/"+c.proxy)
			scope, _ := claims["scope"].(string)
			if err != nil || claims["sub"] != c.g.UserID || claims["name"] != c.g.UserID || claims["sid"] != c.g.ID || claims["jti"] != c.jti || scope != strings.Join(c.scopes, " ") {
				t.Errorf("%+v: %v, %v", c, claims, err)
			}
		}
	}
	if _, err := w.server.IdentityAssertion(grant("g1", "alice", 1), "nowhere", "j1", nil); err == nil {
		t.Error("a proxy that does not exist gets one")
	}
}

// Whoever has an assertion can do nothing at the gateway with it, neither as a token nor as a client's proof.
func TestT45T53IdentityAssertionOpensNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	script := w.scriptSession()["session_token"].(string)
	registered := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"]}`).json(t)
	for name, c := range map[string]struct{ access, text string }{
		"client's":  {got.access, w.identity(got.access, "a")},
		"session's": {script, w.identity(script, "a")},
	} {
		t.Run(name, func(t *testing.T) {
			for _, proxy := range []string{"a", "b"} {
				if _, _, err := w.server.Authenticate(t.Context(), c.text, proxy); !errors.Is(err, authserver.ErrInvalidToken) {
					t.Errorf("at proxy %s: %v", proxy, err)
				}
			}
			about := url.Values{"token": {c.text}, "client_id": {b.id}, "client_secret": {b.secret}}
			if a := w.postForm(endpoints+"/a/introspect", about); a.json(t)["active"] != false {
				t.Errorf("introspection: %s", a.body)
			}
			if a := w.postForm(endpoints+"/a/revoke", about); a.status != http.StatusOK {
				t.Errorf("revocation: %d %s", a.status, a.body)
			}
			for what, form := range map[string]url.Values{"refresh token": refreshForm(b, c.text), "code": codeForm(b, c.text)} {
				if a := w.postForm(endpoints+"/a/token", form); a.oauthError(t) != "invalid_grant" {
					t.Errorf("as %s: %s", what, a.body)
				}
			}
			if a := w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, got.refresh), c.text)); a.oauthError(t) != "invalid_client" {
				t.Errorf("as the client's assertion: %s", a.body)
			}
			if a := w.post("/refresh", c.text); a.status != http.StatusUnauthorized {
				t.Errorf("refresh: %d %s", a.status, a.body)
			}
			w.post("/logout", c.text) // which says the same to everybody, see below
			if a := w.post("/validate", c.text); !strings.Contains(a.body, `"valid":false`) {
				t.Errorf("validation: %d %s", a.status, a.body)
			}
			if a := w.manage(http.MethodGet, registered["registration_client_uri"].(string), c.text, ""); a.status != http.StatusUnauthorized {
				t.Errorf("as a registration access token: %d %s", a.status, a.body)
			}
			if _, _, err := w.server.Authenticate(t.Context(), c.access, "a"); err != nil {
				t.Errorf("after all this the access token itself: %v", err)
			}
		})
	}
}

func TestT45AssertionIsNoInitialAccessToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, got := w.session()
	text := w.identity(got.access, "a")
	w.reload(func(o *authserver.Options) { o.Registration.Tokens = []string{"initial-access-token"} })
	a := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"]}`, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+text) })
	if a.status != http.StatusUnauthorized {
		t.Errorf("%d %s", a.status, a.body)
	}
}
