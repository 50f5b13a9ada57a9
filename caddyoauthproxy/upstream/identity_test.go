package upstream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func codeResponse() CodeResponse {
	return CodeResponse{Code: "code-1", Nonce: "nonce-1", Verifier: strings.Repeat("v", 43), RedirectURI: "https://gw.example/cb"}
}

func TestExchangeRedeemsTheCodeOnceAndKnowsTheUser(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	tokens, user, err := idp.provider(t).Exchange(t.Context(), codeResponse())
	if err != nil {
		t.Fatal(err)
	}
	want := tokenstore.User{Provider: "idp", Issuer: idp.base, Subject: "user-1", Email: "alice@example.com", EmailVerified: true, Login: "alice", Name: "Alice"}
	if !reflect.DeepEqual(user, want) {
		t.Errorf("user %+v", user)
	}
	if tokens.AccessToken != "access-of-code" || tokens.RefreshToken != "rt.code.0" || tokens.IDToken == "" || tokens.Lifetime != time.Hour || len(tokens.Scopes) != 4 {
		t.Errorf("tokens %+v", tokens)
	}
	if len(idp.posts) != 1 {
		t.Fatalf("%d requests", len(idp.posts))
	}
	for name, value := range map[string]string{"grant_type": "authorization_code", "code": "code-1", "redirect_uri": "https://gw.example/cb", "code_verifier": strings.Repeat("v", 43)} {
		if idp.posts[0].Get(name) != value {
			t.Errorf("%s=%q", name, idp.posts[0].Get(name))
		}
	}
}

func TestExchangeIsMadeOnceAlsoWhenItFails(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"error":   answerWith(500, jsonType, `{}`),
		"waits":   answerWith(503, jsonType, `{}`, "Retry-After", "1"),
		"refused": answerWith(400, jsonType, `{"error":"invalid_grant"}`),
	} {
		idp := serve(t)
		idp.answer = answer
		if _, _, err := idp.provider(t, func(c *Config) { c.Retries = 3 }).Exchange(t.Context(), codeResponse()); err == nil {
			t.Errorf("%s: no error", name)
		}
		if n := idp.tokenPosts(); n != 1 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

// An ID token is believed only when all of it is right.
func TestT30ForgedIDTokensAreRefused(t *testing.T) {
	t.Parallel()
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	claims := func(m map[string]any) func(*fakeProvider) string {
		return func(p *fakeProvider) string { return p.idToken(m) }
	}
	signed := func(key jose.SigningKey) func(*fakeProvider) string {
		return func(p *fakeProvider) string { return p.signedIDToken(key, nil) }
	}
	now := time.Now()
	tests := map[string]struct {
		token func(*fakeProvider) string
		ok    bool
	}{
		"sound":                  {claims(nil), true},
		"many audiences and azp": {claims(map[string]any{"aud": []string{clientID, "other"}, "azp": clientID}), true},
		"clock a little behind": {func(p *fakeProvider) string {
			return p.idToken(map[string]any{"exp": time.Now().Add(-10 * time.Second).Unix()})
		}, true},

		"none at all":              {func(*fakeProvider) string { return "" }, false},
		"for another client":       {claims(map[string]any{"aud": "other"}), false},
		"no audience":              {claims(map[string]any{"aud": nil}), false},
		"many audiences, no azp":   {claims(map[string]any{"aud": []string{clientID, "other"}}), false},
		"azp of another client":    {claims(map[string]any{"azp": "other"}), false},
		"of another issuer":        {claims(map[string]any{"iss": "https://evil.example"}), false},
		"of no issuer":             {claims(map[string]any{"iss": nil}), false},
		"of another login":         {claims(map[string]any{"nonce": "nonce-2"}), false},
		"of no login":              {claims(map[string]any{"nonce": nil}), false},
		"expired":                  {claims(map[string]any{"exp": now.Add(-time.Minute).Unix()}), false},
		"without end":              {claims(map[string]any{"exp": nil}), false},
		"not yet valid":            {claims(map[string]any{"nbf": now.Add(time.Hour).Unix()}), false},
		"without subject":          {claims(map[string]any{"sub": nil}), false},
		"subject empty":            {claims(map[string]any{"sub": ""}), false},
		"of another access token":  {claims(map[string]any{"at_hash": "MTIzNDU2Nzg5MDEyMzQ1Ng"}), false},
		"signed by a stranger":     {signed(jose.SigningKey{Algorithm: jose.ES256, Key: foreign}), false},
		"stranger with known kid":  {signed(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: foreign, KeyID: "k1"}}), false},
		"algorithm not announced":  {signed(jose.SigningKey{Algorithm: jose.PS256, Key: rsaKey}), false},
		"HS256 with client secret": {signed(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(clientSecret + clientSecret)}), false},
		"unsigned":                 {unsigned, false},
		"signature cut off":        {func(p *fakeProvider) string { s := p.idToken(nil); return s[:strings.LastIndex(s, ".")+1] }, false},
		"claims changed":           {tampered, false},
		"garbage":                  {func(*fakeProvider) string { return "a.b.c" }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := serve(t)
			idp.change = func(m map[string]any) { m["id_token"] = tt.token(idp) }
			_, user, err := idp.provider(t).Exchange(t.Context(), codeResponse())
			if tt.ok {
				if err != nil || user.Subject != "user-1" {
					t.Errorf("got %+v, %v", user, err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Class != Malformed || !reflect.DeepEqual(user, tokenstore.User{}) {
				t.Errorf("got %+v, %v", user, err)
			}
			if raw := tt.token(idp); len(raw) > 20 && strings.Contains(err.Error(), raw) {
				t.Error("the error holds the token")
			}
		})
	}
}

func unsigned(p *fakeProvider) string {
	parts := strings.Split(p.idToken(nil), ".")
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
}

func tampered(p *fakeProvider) string {
	ours, theirs := strings.Split(p.idToken(nil), "."), strings.Split(p.idToken(map[string]any{"sub": "admin"}), ".")
	return ours[0] + "." + theirs[1] + "." + ours[2]
}

// An ID token that is refused for its times is the operator's business when the clocks disagree.
func TestR37ClocksThatDisagreeAreNamed(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{"10 min slow": -10 * time.Minute, "10 min fast": 10 * time.Minute} {
		idp := serve(t)
		there := time.Now().Add(off)
		idp.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", there.UTC().Format(http.TimeFormat))
			writeJSON(w, 200, map[string]any{"access_token": "at", "token_type": "Bearer", "id_token": idp.idToken(map[string]any{
				"iat": there.Unix(), "nbf": there.Unix(), "exp": there.Add(5 * time.Minute).Unix()})})
		}
		_, _, err := idp.provider(t).Exchange(t.Context(), CodeResponse{Code: "c", Verifier: "v", Nonce: "nonce-1"})
		var e *Error
		if !errors.As(err, &e) || e.Class != Clock || !strings.Contains(err.Error(), " apart, so that") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExchangeWithoutNonceIsRefused(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	idp.claims = map[string]any{"nonce": ""}
	r := codeResponse()
	r.Nonce = ""
	if _, _, err := idp.provider(t).Exchange(t.Context(), r); err == nil {
		t.Error("an empty nonce fits an empty nonce")
	}
}

// A code that another provider issued does not go to this one.
func TestT28CodeOfAnotherProviderIsNotRedeemed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		announced bool
		iss       func(base string) string
		ok        bool
	}{
		"not announced, absent":      {false, func(string) string { return "" }, true},
		"not announced, right":       {false, func(base string) string { return base }, true},
		"not announced, other":       {false, func(string) string { return "https://honest.example" }, false},
		"announced, right":           {true, func(base string) string { return base }, true},
		"announced, absent":          {true, func(string) string { return "" }, false},
		"announced, other":           {true, func(string) string { return "https://honest.example" }, false},
		"announced, with a slash":    {true, func(base string) string { return base + "/" }, false},
		"announced, in capitals":     {true, strings.ToUpper, false},
		"not announced, with suffix": {false, func(base string) string { return base + ".evil.example" }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := serve(t)
			idp.metadata = map[string]any{"authorization_response_iss_parameter_supported": tt.announced}
			r := codeResponse()
			r.Issuer = tt.iss(idp.base)
			_, _, err := idp.provider(t).Exchange(t.Context(), r)
			if (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
			if want := map[bool]int{true: 1}[tt.ok]; idp.tokenPosts() != want {
				t.Errorf("%d requests, want %d", idp.tokenPosts(), want)
			}
		})
	}
}

// E-mail is what the provider vouches for and looks like one address, or it is not there to be believed.
func TestT29EmailIsBelievedOnlyWhenVerified(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		claims   map[string]any
		email    string
		verified bool
	}{
		"verified":           {map[string]any{"email": "a@corp.test", "email_verified": true}, "a@corp.test", true},
		"verified as string": {map[string]any{"email": "a@corp.test", "email_verified": "true"}, "a@corp.test", true},
		"unverified":         {map[string]any{"email": "a@corp.test", "email_verified": false}, "a@corp.test", false},
		"not said":           {map[string]any{"email": "a@corp.test", "email_verified": nil}, "a@corp.test", false},
		"said in words":      {map[string]any{"email": "a@corp.test", "email_verified": "yes"}, "a@corp.test", false},
		"Entra's, elsewhere": {map[string]any{"email": "a@corp.test", "email_verified": nil, "xms_edov": true}, "a@corp.test", false},
		"two at signs":       {map[string]any{"email": "a@evil.test@corp.test", "email_verified": true}, "", false},
		"line break":         {map[string]any{"email": "a@corp.test\nx", "email_verified": true}, "", false},
		"no local part":      {map[string]any{"email": "@corp.test", "email_verified": true}, "", false},
		"list":               {map[string]any{"email": []string{"a@corp.test"}, "email_verified": true}, "", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := serve(t)
			idp.claims = tt.claims
			_, user, err := idp.provider(t).Exchange(t.Context(), codeResponse())
			if err != nil || user.Email != tt.email || user.EmailVerified != tt.verified {
				t.Errorf("got %+v, %v", user, err)
			}
		})
	}
}

func TestEmailThatTheIDTokenLeavesOutComesFromUserinfo(t *testing.T) {
	t.Parallel()
	verified := map[string]any{"sub": "user-1", "email": "a@corp.test", "email_verified": true}
	tests := map[string]struct {
		userinfo map[string]any
		endpoint string
		email    string
		fails    bool
	}{
		"told":               {userinfo: verified, endpoint: "/userinfo", email: "a@corp.test"},
		"of another subject": {userinfo: map[string]any{"sub": "user-2", "email": "b@corp.test", "email_verified": true}, endpoint: "/userinfo"},
		"not told":           {userinfo: verified, endpoint: "/nowhere"},
		"down":               {userinfo: verified, endpoint: "/down", fails: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := newFakeProvider("")
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/down" {
					w.WriteHeader(http.StatusBadGateway)
					return
				}
				idp.ServeHTTP(w, r)
			}))
			t.Cleanup(srv.Close)
			idp.base, idp.userinfo = srv.URL, tt.userinfo
			idp.claims = map[string]any{"email": nil, "email_verified": nil}
			idp.metadata = map[string]any{"userinfo_endpoint": srv.URL + tt.endpoint}
			_, user, err := idp.provider(t).Exchange(t.Context(), codeResponse())
			if (err != nil) != tt.fails || user.Email != tt.email {
				t.Errorf("got %+v, %v", user, err)
			}
		})
	}
}

// Providers that keep to OpenID Connect Core §5.4 tell all of it at userinfo and nothing in the ID token. What the ID token does tell
// is signed, and stays.
func TestNamesAndGroupsThatTheIDTokenLeavesOutComeFromUserinfo(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	idp.userinfo = map[string]any{
		"sub": "user-1", "email": "a@corp.test", "email_verified": true, "preferred_username": "alice", "name": "Another", "groups": []string{"staff"},
	}
	idp.claims = map[string]any{"email": nil, "email_verified": nil, "preferred_username": nil, "groups": nil, "name": "Alice"}
	_, user, err := idp.provider(t).Exchange(t.Context(), codeResponse())
	if err != nil || user.Login != "alice" || user.Name != "Alice" || !slices.Equal(user.Groups, []string{"staff"}) || !user.EmailVerified {
		t.Errorf("got %+v, %v", user, err)
	}
}

// New signing keys are found at once, but a stream of tokens with unknown keys does not
// become a stream of requests.
func TestR14KeysAreFetchedAgainAtMostOnceAMinute(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	var c clock
	p := idp.provider(t, func(config *Config) { config.Now = c.now })
	login := func() error {
		_, _, err := p.Exchange(t.Context(), codeResponse())
		return err
	}
	fetches := func() int {
		idp.mu.Lock()
		defer idp.mu.Unlock()
		return idp.fetches["/jwks"]
	}
	if err := login(); err != nil {
		t.Fatal(err)
	}
	idp.rotateKey("k2")
	c.turn(2 * time.Minute)
	if err := login(); err != nil {
		t.Errorf("after the provider's key rotation: %v", err)
	}
	if fetches() != 2 {
		t.Errorf("%d fetches", fetches())
	}
	published := idp.key
	idp.set(func(p *fakeProvider) {
		p.change = func(m map[string]any) { m["id_token"] = p.signedIDToken(strangeKey(t), p.claims) }
	})
	for range 10 {
		if login() == nil {
			t.Fatal("a stranger's signature is accepted")
		}
	}
	if fetches() != 2 || idp.key != published {
		t.Errorf("%d fetches", fetches())
	}
}

func strangeKey(t *testing.T) jose.SigningKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "strange"}}
}

// A login that cannot be verified for want of the provider's keys is the provider's outage, not a forgery.
func TestR14UnreachableKeysAreAnOutage(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	idp.metadata = map[string]any{"jwks_uri": idp.base + "/nowhere"}
	_, _, err := idp.provider(t).Exchange(t.Context(), codeResponse())
	var e *Error
	if !errors.As(err, &e) || e.Class != Unreachable {
		t.Errorf("got %v", err)
	}
}

// Entra users are directory and object id; in an issuer for many directories each token names its own.
func TestT29EntraUsersAreDirectoryAndObject(t *testing.T) {
	t.Parallel()
	const (
		host    = "https://login.microsoftonline.com/"
		tenant  = "11111111-2222-3333-4444-555555555555"
		another = "99999999-2222-3333-4444-555555555555"
	)
	tests := map[string]struct {
		tenant, issuer string // configured, and in the discovery document
		claims         map[string]any
		ok, verified   bool
	}{
		"one directory":             {tenant, host + tenant + "/v2.0", map[string]any{"iss": host + tenant + "/v2.0", "tid": tenant}, true, false},
		"vouched for":               {tenant, host + tenant + "/v2.0", map[string]any{"iss": host + tenant + "/v2.0", "tid": tenant, "xms_edov": "1"}, true, true},
		"many directories":          {"organizations", host + "{tenantid}/v2.0", map[string]any{"iss": host + tenant + "/v2.0", "tid": tenant}, true, false},
		"another directory":         {tenant, host + tenant + "/v2.0", map[string]any{"iss": host + another + "/v2.0", "tid": another}, false, false},
		"tid of another directory":  {"common", host + "{tenantid}/v2.0", map[string]any{"iss": host + tenant + "/v2.0", "tid": another}, false, false},
		"no tid":                    {"common", host + "{tenantid}/v2.0", map[string]any{"iss": host + tenant + "/v2.0"}, false, false},
		"issuer elsewhere":          {"common", host + "{tenantid}/v2.0", map[string]any{"iss": "https://evil.example/" + tenant + "/v2.0", "tid": tenant}, false, false},
		"issuer is no directory":    {"common", host + "{tenantid}/v2.0", map[string]any{"iss": host + "x/v2.0", "tid": "x"}, false, false},
		"pattern for one directory": {tenant, host + "{tenantid}/v2.0", map[string]any{"iss": host + tenant + "/v2.0", "tid": tenant}, false, false},
		"pattern itself as issuer":  {"common", host + "{tenantid}/v2.0", map[string]any{"iss": host + "{tenantid}/v2.0", "tid": "{tenantid}"}, false, false},
		"without object id":         {tenant, host + tenant + "/v2.0", map[string]any{"iss": host + tenant + "/v2.0", "tid": tenant, "oid": nil}, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := newFakeProvider(host + tt.tenant + "/v2.0")
			idp.metadata = map[string]any{"issuer": tt.issuer}
			idp.claims = map[string]any{"oid": "object-1", "email_verified": nil}
			maps.Copy(idp.claims, tt.claims)
			p, err := New("entra", Config{Type: "microsoft", Tenant: tt.tenant, ClientID: clientID, ClientSecret: clientSecret}, &http.Client{Transport: &inMemory{handler: idp}})
			if err != nil {
				t.Fatal(err)
			}
			_, user, err := p.Exchange(t.Context(), codeResponse())
			if (err == nil) != tt.ok {
				t.Fatalf("got %+v, %v", user, err)
			}
			if tt.ok && (user.Subject != "object-1" || user.Issuer != host+tenant+"/v2.0" || user.EmailVerified != tt.verified) {
				t.Errorf("user %+v", user)
			}
		})
	}
}
