package upstream

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	clientID     = "gateway"
	clientSecret = "gateway-secret-0123456789"
)

// fakeProvider is an OpenID provider that rotates refresh tokens and is strict about it: a
// token that comes a second time ends its whole family.
type fakeProvider struct {
	base string // its issuer

	mu       sync.Mutex
	families map[string]*family
	posts    []url.Values           // at the token endpoint
	auth     []string               // Authorization headers of those
	revoked  []url.Values           // at the revocation endpoint
	fetches  map[string]int         // by path
	reuses   int                    // refresh tokens that came a second time
	grace    time.Duration          // how long after a rotation the token before it is still answered, with the same successor
	forgiven int                    // refresh tokens that came a second time within the grace
	keeps    bool                   // refresh tokens are not rotated
	lives    any                    // expires_in
	change   func(m map[string]any) // of a token answer
	answer   http.HandlerFunc       // instead of the token endpoint, after the request is recorded
	revoke   http.HandlerFunc       // instead of the revocation endpoint
	late     http.HandlerFunc       // instead of the token endpoint's answer, after it has rotated
	metadata map[string]any         // to change the discovery document
	userinfo map[string]any
	claims   map[string]any // of the ID token
	key      *ecdsa.PrivateKey
	keyID    string
}

// family is the refresh tokens of one login.
type family struct {
	newest  int
	issued  int // access tokens
	rotated time.Time
	access  string
	dead    bool
}

func newFakeProvider(base string) *fakeProvider {
	p := &fakeProvider{base: base, families: map[string]*family{}, fetches: map[string]int{}, lives: 3600,
		userinfo: map[string]any{"sub": "user-1"}, claims: map[string]any{}}
	p.rotateKey("k1")
	return p
}

// serve runs the provider on a real port.
func serve(t *testing.T) *fakeProvider {
	t.Helper()
	p := newFakeProvider("")
	srv := httptest.NewServer(p)
	t.Cleanup(srv.Close)
	p.base = srv.URL
	return p
}

func (p *fakeProvider) rotateKey(id string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key, p.keyID = key, id
}

// login begins a family and returns its first refresh token.
func (p *fakeProvider) login(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.families[name] = &family{}
	return "rt." + name + ".0"
}

// set changes the provider while it runs.
func (p *fakeProvider) set(change func(p *fakeProvider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *fakeProvider) tokenPosts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.posts)
}

func (p *fakeProvider) reused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reuses
}

func (p *fakeProvider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	p.fetches[r.URL.Path]++
	p.mu.Unlock()
	switch {
	case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
		p.serveMetadata(w)
	case strings.HasSuffix(r.URL.Path, "/jwks"):
		p.mu.Lock()
		defer p.mu.Unlock()
		writeJSON(w, http.StatusOK, map[string]any{"keys": []any{
			jose.JSONWebKey{Key: &p.key.PublicKey, KeyID: p.keyID, Algorithm: "ES256", Use: "sig"},
			map[string]any{"kty": "unheard-of", "kid": "strange"},
		}})
	case strings.HasSuffix(r.URL.Path, "/token"):
		p.serveToken(w, r)
	case strings.HasSuffix(r.URL.Path, "/userinfo"):
		p.mu.Lock()
		defer p.mu.Unlock()
		writeJSON(w, http.StatusOK, p.userinfo)
	case strings.HasSuffix(r.URL.Path, "/revoke"):
		p.serveRevocation(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (p *fakeProvider) serveMetadata(w http.ResponseWriter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := map[string]any{
		"issuer":                                p.base,
		"authorization_endpoint":                p.base + "/authorize",
		"token_endpoint":                        p.base + "/token",
		"userinfo_endpoint":                     p.base + "/userinfo",
		"revocation_endpoint":                   p.base + "/revoke",
		"jwks_uri":                              p.base + "/jwks",
		"id_token_signing_alg_values_supported": []string{"none", "HS256", "ES256", "RS256"},
	}
	maps.Copy(m, p.metadata)
	writeJSON(w, http.StatusOK, m)
}

func (p *fakeProvider) serveRevocation(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.revoke != nil {
		p.revoke(w, r)
		return
	}
	p.revoked = append(p.revoked, r.PostForm)
}

func (p *fakeProvider) serveToken(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.posts = append(p.posts, r.PostForm)
	p.auth = append(p.auth, r.Header.Get("Authorization"))
	if answer := p.answer; answer != nil {
		p.mu.Unlock()
		answer(w, r)
		return
	}
	status, m := p.issue(r.PostForm)
	late := p.late
	p.mu.Unlock()
	if late != nil {
		late(w, r)
		return
	}
	writeJSON(w, status, m)
}

// issue rotates, or makes an ID token for a code.
func (p *fakeProvider) issue(form url.Values) (int, map[string]any) {
	m := map[string]any{"token_type": "Bearer", "expires_in": p.lives}
	defer func() {
		if p.change != nil {
			p.change(m)
		}
	}()
	if form.Get("grant_type") == "authorization_code" {
		m["access_token"] = "access-of-code"
		m["refresh_token"] = "rt.code.0"
		m["id_token"] = p.idToken(p.claims)
		return http.StatusOK, m
	}
	var name string
	var n int
	if _, err := fmt.Sscanf(strings.ReplaceAll(form.Get("refresh_token"), ".", " "), "rt %s %d", &name, &n); err != nil {
		return http.StatusBadRequest, map[string]any{"error": "invalid_grant"}
	}
	f := p.families[name]
	again := f != nil && n == f.newest-1 && time.Since(f.rotated) < p.grace
	if f != nil && n != f.newest && !again {
		p.reuses++
		f.dead = true
	}
	if f == nil || f.dead {
		return http.StatusBadRequest, map[string]any{"error": "invalid_grant"}
	}
	switch {
	case again:
		p.forgiven++
	case !p.keeps:
		f.newest++
		f.rotated = time.Now()
	}
	f.issued = max(f.issued+1, f.newest)
	f.access = fmt.Sprintf("at.%s.%d", name, f.issued)
	m["access_token"] = f.access
	m["refresh_token"] = fmt.Sprintf("rt.%s.%d", name, f.newest)
	return http.StatusOK, m
}

// idToken signs an ID token; claims replace the sound ones, and nil removes one.
func (p *fakeProvider) idToken(claims map[string]any) string {
	return p.signedIDToken(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: p.keyID}}, claims)
}

func (p *fakeProvider) signedIDToken(key jose.SigningKey, claims map[string]any) string {
	now := time.Now()
	all := map[string]any{
		"iss": p.base, "sub": "user-1", "aud": clientID, "nonce": "nonce-1", "email": "alice@example.com", "email_verified": true,
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "name": "Alice", "preferred_username": "alice",
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	signer, err := jose.NewSigner(key, nil)
	if err != nil {
		panic(err)
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		panic(err)
	}
	return token
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// answerWith answers every request the same.
func answerWith(status int, contentType, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// config configures the provider as one of OpenID Connect.
func (p *fakeProvider) config() Config {
	return Config{Type: "oidc", Issuer: p.base, ClientID: clientID, ClientSecret: clientSecret, Retries: -1}
}

func (p *fakeProvider) provider(t *testing.T, changes ...func(*Config)) *Provider {
	t.Helper()
	return p.providerOver(t, nil, changes...)
}

func (p *fakeProvider) providerOver(t *testing.T, client *http.Client, changes ...func(*Config)) *Provider {
	t.Helper()
	c := p.config()
	for _, change := range changes {
		change(&c)
	}
	provider, err := New("idp", c, client)
	if err != nil {
		t.Fatal(err)
	}
	return provider
}

var errRefused = errors.New("connection refused")

// inMemory is a transport straight to a handler, for tests in which time is not real.
type inMemory struct {
	handler http.Handler

	dialling func() // what happens while a connection comes about

	mu      sync.Mutex
	refuse  bool
	dialled int
}

func (m *inMemory) setRefuse(refuse bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = refuse
}

func (m *inMemory) dials() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dialled
}

func (m *inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	m.dialled++
	refuse := m.refuse
	m.mu.Unlock()
	if m.dialling != nil {
		dialled := make(chan struct{})
		go func() {
			defer close(dialled)
			m.dialling()
		}()
		select {
		case <-dialled:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if refuse {
		return nil, errRefused
	}
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	r = r.Clone(r.Context())
	if r.Body != nil { // it is written before anybody reads it
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	w := httptest.NewRecorder()
	done := make(chan struct{})
	cut := false
	go func() {
		defer close(done)
		defer func() { // as a server does: the connection ends where the handler gives up
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler:
				cut = true
			default:
				panic(v)
			}
		}()
		m.handler.ServeHTTP(w, r.Clone(context.WithoutCancel(r.Context())))
	}()
	select {
	case <-done:
		resp := w.Result()
		switch {
		case cut && w.Body.Len() == 0:
			return nil, io.EOF
		case cut:
			resp.Body = io.NopCloser(io.MultiReader(resp.Body, iotest.ErrReader(io.ErrUnexpectedEOF)))
		}
		return resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}
