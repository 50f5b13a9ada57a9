package authserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// signer is a client's key.
type signer struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	kid string
}

func newSigner(t *testing.T, kid string) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, key, kid}
}

func (s *signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: &s.key.PublicKey, KeyID: s.kid}
}

// keySet is a JSON Web Key Set.
func keySet(t *testing.T, keys ...jose.JSONWebKey) string {
	t.Helper()
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(set)
}

func (s *signer) sign(claims map[string]any) string {
	s.t.Helper()
	return signJWT(s.t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: s.kid}}, claims)
}

func signJWT(t *testing.T, key jose.SigningKey, claims map[string]any) string {
	t.Helper()
	js, err := jose.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := js.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// assertion is a client's good assertion, with changes; nil removes a claim.
func (w *world) assertion(id string, changes map[string]any) map[string]any {
	now := w.vault.Now()
	claims := map[string]any{"iss": id, "sub": id, "aud": w.url, "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	for name, v := range changes {
		claims[name] = v
		if v == nil {
			delete(claims, name)
		}
	}
	return claims
}

// withAssertion puts an assertion in the place of the secret.
func withAssertion(form url.Values, assertion string) url.Values {
	form.Del("client_secret")
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", assertion)
	return form
}

func (w *world) registerWithKeys(keys string) bot {
	w.t.Helper()
	a := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"],"token_endpoint_auth_method":"private_key_jwt",`+keys+`}`)
	m := a.json(w.t)
	if a.status != http.StatusCreated || m["client_secret"] != nil {
		w.t.Fatalf("register: %d %s", a.status, a.body)
	}
	return bot{id: m["client_id"].(string)}
}

func TestT50ClientAssertionIsGoodOnceAndForThisGatewayAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key, other := newSigner(t, "k1"), newSigner(t, "k1")
	b := w.registerWithKeys(`"jwks":` + keySet(t, key.public()))
	got := w.tokens(w.postForm(endpoints+"/a/token", withAssertion(codeForm(b, w.login(b)), key.sign(w.assertion(b.id, nil)))))

	refresh := func(assertion string) answer {
		return w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, got.refresh), assertion))
	}
	for name, aud := range map[string]any{
		"token endpoint": w.url + endpoints + "/token", "pinned token endpoint": w.url + endpoints + "/a/token", "a list of one": []string{w.url},
	} {
		a := refresh(key.sign(w.assertion(b.id, map[string]any{"aud": aud})))
		if a.status != http.StatusOK {
			t.Errorf("%s: %d %s", name, a.status, a.body)
			continue
		}
		got = w.tokens(a)
	}
	once := key.sign(w.assertion(b.id, nil))
	got = w.tokens(refresh(once))
	now := w.vault.Now()
	for name, assertion := range map[string]string{
		"used before":         once,
		"another key":         other.sign(w.assertion(b.id, nil)),
		"another audience":    key.sign(w.assertion(b.id, map[string]any{"aud": "https://other.test"})),
		"issuer with slash":   key.sign(w.assertion(b.id, map[string]any{"aud": w.url + "/"})),
		"two audiences":       key.sign(w.assertion(b.id, map[string]any{"aud": []string{w.url, "https://other.test"}})),
		"no audience":         key.sign(w.assertion(b.id, map[string]any{"aud": nil})),
		"another issuer":      key.sign(w.assertion(b.id, map[string]any{"iss": "x"})),
		"another subject":     key.sign(w.assertion(b.id, map[string]any{"sub": "x"})),
		"no jti":              key.sign(w.assertion(b.id, map[string]any{"jti": nil})),
		"expired":             key.sign(w.assertion(b.id, map[string]any{"exp": now.Add(-time.Minute).Unix()})),
		"no end":              key.sign(w.assertion(b.id, map[string]any{"exp": nil})),
		"too long a life":     key.sign(w.assertion(b.id, map[string]any{"exp": now.Add(time.Hour).Unix()})),
		"end beyond all time": key.sign(w.assertion(b.id, map[string]any{"exp": 1e300})),
		"not yet":             key.sign(w.assertion(b.id, map[string]any{"nbf": now.Add(time.Hour).Unix()})),
		"HS256":               signJWT(t, jose.SigningKey{Algorithm: jose.HS256, Key: []byte(keySet(t, key.public()))}, w.assertion(b.id, nil)),
		"malformed":           "x.y.z",
		"too long":            key.sign(w.assertion(b.id, map[string]any{"x": strings.Repeat("x", 5000)})),
	} {
		if a := refresh(assertion); a.status != http.StatusUnauthorized || a.oauthError(t) != "invalid_client" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_client" {
		t.Errorf("no assertion: %s", a.body)
	}
	both := withAssertion(refreshForm(b, got.refresh), key.sign(w.assertion(b.id, nil)))
	both.Set("client_secret", "x")
	if a := w.postForm(endpoints+"/a/token", both); a.oauthError(t) != "invalid_request" {
		t.Errorf("assertion and secret: %s", a.body)
	}
	if a := w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, got.refresh), key.sign(w.assertion(b.id, nil))), func(r *http.Request) { r.SetBasicAuth(b.id, "x") }); a.oauthError(t) != "invalid_request" {
		t.Errorf("assertion and Basic: %s", a.body)
	}
	oddType := withAssertion(refreshForm(b, got.refresh), key.sign(w.assertion(b.id, nil)))
	oddType.Set("client_assertion_type", "x")
	if a := w.postForm(endpoints+"/a/token", oddType); a.oauthError(t) != "invalid_request" {
		t.Errorf("another type: %s", a.body)
	}
	secret := w.register("")
	if a := w.postForm(endpoints+"/a/token", withAssertion(refreshForm(secret, got.refresh), key.sign(w.assertion(secret.id, nil)))); a.oauthError(t) != "invalid_client" {
		t.Errorf("assertion of a client without keys: %s", a.body)
	}
	alone := withAssertion(refreshForm(b, got.refresh), key.sign(w.assertion(b.id, nil)))
	alone.Del("client_id") // the assertion says it
	w.tokens(w.postForm(endpoints+"/a/token", alone))
}

func TestT50AssertionIsUsedOnceByParallelRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := newSigner(t, "")
	b := w.registerWithKeys(`"jwks":` + keySet(t, key.public()))
	got := w.tokens(w.postForm(endpoints+"/a/token", withAssertion(codeForm(b, w.login(b)), key.sign(w.assertion(b.id, nil)))))
	assertion := key.sign(w.assertion(b.id, nil))
	answers := make([]answer, 20)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			answers[i] = w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, got.refresh), assertion))
		})
	}
	wg.Wait()
	ok := 0
	for _, a := range answers {
		if a.status == http.StatusOK {
			ok++
		}
	}
	if ok != 1 {
		t.Errorf("%d of 20 requests with one assertion succeeded, want 1", ok)
	}
	w.serving.Store(w.node())
	if a := w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, got.refresh), assertion)); a.oauthError(t) != "invalid_client" {
		t.Errorf("the same at another node: %s", a.body)
	}
}

func TestClientKeysMayBeAtAnAddress(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	first, second := newSigner(t, "1"), newSigner(t, "2")
	p.serveBody([]byte(keySet(t, first.public())))
	w := newWorld(t, p.accepted)
	b := w.registerWithKeys(`"jwks_uri":"` + p.URL + `/keys.json"`)
	got := w.tokens(w.postForm(endpoints+"/a/token", withAssertion(codeForm(b, w.login(b)), first.sign(w.assertion(b.id, nil)))))
	p.serveBody([]byte(keySet(t, second.public(), first.public()))) // the client rotates
	w.turn(2 * time.Hour)
	got = w.tokens(w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, got.refresh), second.sign(w.assertion(b.id, nil)))))
	p.serve(http.NotFound)
	w.turn(2 * time.Hour)
	got = w.tokens(w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, got.refresh), second.sign(w.assertion(b.id, nil)))))
	w.turn(48 * time.Hour)
	if a := w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, got.refresh), second.sign(w.assertion(b.id, nil)))); a.status != http.StatusServiceUnavailable {
		t.Errorf("keys unreachable for days: %d %s", a.status, a.body)
	}
	for name, keys := range map[string]string{
		"neither":        `"x":1`,
		"both":           `"jwks_uri":"https://c.test/keys","jwks":` + keySet(t, first.public()),
		"http":           `"jwks_uri":"http://c.test/keys"`,
		"private key":    `"jwks":` + keySet(t, jose.JSONWebKey{Key: first.key}),
		"symmetric key":  `"jwks":` + keySet(t, jose.JSONWebKey{Key: []byte("0123456789abcdef")}),
		"empty set":      `"jwks":{"keys":[]}`,
		"not a set":      `"jwks":[]`,
		"set of nothing": `"jwks":{"keys":[{"kty":"OKP2"}]}`,
	} {
		a := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"],"token_endpoint_auth_method":"private_key_jwt",`+keys+`}`)
		if a.oauthError(t) != "invalid_client_metadata" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

func TestPublishedAndConfiguredClientsMayHaveKeys(t *testing.T) {
	t.Parallel()
	key := newSigner(t, "k")
	p := newPublisher(t)
	p.publish(p.document(map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": json.RawMessage(keySet(t, key.public()))}))
	known := configuredClient("intranet", "", "authorization_code", "refresh_token")
	known.AuthMethod, known.JWKS = "private_key_jwt", json.RawMessage(keySet(t, key.public()))
	w := newWorld(t, p.accepted, configured(known))
	for _, id := range []string{p.id(), "intranet"} {
		b := bot{id: id}
		form := codeForm(b, w.login(b))
		if a := w.postForm(endpoints+"/a/token", form); a.oauthError(t) != "invalid_client" {
			t.Errorf("%s without an assertion: %s", id, a.body)
		}
		got := w.tokens(w.postForm(endpoints+"/a/token", withAssertion(form, key.sign(w.assertion(id, nil)))))
		introspect := withAssertion(url.Values{"token": {got.access}, "client_id": {id}}, key.sign(w.assertion(id, nil)))
		if m := w.postForm(endpoints+"/introspect", introspect).json(t); m["active"] != true {
			t.Errorf("%s: introspection: %v", id, m)
		}
	}
	if err := authserver.ValidKeySet([]byte(keySet(t, jose.JSONWebKey{Key: key.key}))); err == nil {
		t.Error("a private key passes for a client's key set")
	}
}
