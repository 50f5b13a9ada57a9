package provider

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// callback is where the library goes on after a login.
func (p *Provider) callback(r *http.Request, id string) string {
	return op.AuthCallbackURL(p.server)(op.ContextWithIssuer(r.Context(), p.options.Issuer), url.QueryEscape(id))
}

// storage is the provider's memory. It implements op.Storage.
type storage struct {
	options Options
	key     *rsa.PrivateKey

	mu       sync.Mutex
	requests map[string]*authRequest
	codes    map[string]string // code → request id
	sessions map[string]string // cookie → user
	access   map[string]*accessToken
	refresh  map[string]*refreshToken
	families []*family
	stats    Stats
	issued   []string
}

func newStorage(o Options, key *rsa.PrivateKey) *storage {
	return &storage{
		options: o, key: key,
		requests: make(map[string]*authRequest), codes: make(map[string]string), sessions: make(map[string]string),
		access: make(map[string]*accessToken), refresh: make(map[string]*refreshToken),
	}
}

type accessToken struct {
	subject string
	scopes  []string
	expires time.Time
}

// family is one login: all refresh tokens that descend from it.
type family struct {
	subject  string
	authTime time.Time
	ended    bool
}

type refreshToken struct {
	family *family
	scopes []string
	used   bool
}

// authRequest is one authorization request. It implements op.AuthRequest.
type authRequest struct {
	id       string
	request  *oidc.AuthRequest
	subject  string
	authTime time.Time
	done     bool
}

func (a *authRequest) GetID() string                      { return a.id }
func (a *authRequest) GetACR() string                     { return "" }
func (a *authRequest) GetAMR() []string                   { return []string{"pwd"} }
func (a *authRequest) GetAudience() []string              { return []string{a.request.ClientID} }
func (a *authRequest) GetAuthTime() time.Time             { return a.authTime }
func (a *authRequest) GetClientID() string                { return a.request.ClientID }
func (a *authRequest) GetNonce() string                   { return a.request.Nonce }
func (a *authRequest) GetRedirectURI() string             { return a.request.RedirectURI }
func (a *authRequest) GetResponseType() oidc.ResponseType { return a.request.ResponseType }
func (a *authRequest) GetResponseMode() oidc.ResponseMode { return a.request.ResponseMode }
func (a *authRequest) GetScopes() []string                { return a.request.Scopes }
func (a *authRequest) GetState() string                   { return a.request.State }
func (a *authRequest) GetSubject() string                 { return a.subject }
func (a *authRequest) Done() bool                         { return a.done }
func (a *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	if a.request.CodeChallenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: a.request.CodeChallenge, Method: a.request.CodeChallengeMethod}
}

// refreshRequest implements op.RefreshTokenRequest.
type refreshRequest struct {
	token    *refreshToken
	clientID string
	scopes   []string
}

func (r *refreshRequest) GetAMR() []string            { return []string{"pwd"} }
func (r *refreshRequest) GetAudience() []string       { return []string{r.clientID} }
func (r *refreshRequest) GetAuthTime() time.Time      { return r.token.family.authTime }
func (r *refreshRequest) GetClientID() string         { return r.clientID }
func (r *refreshRequest) GetScopes() []string         { return r.scopes }
func (r *refreshRequest) GetSubject() string          { return r.token.family.subject }
func (r *refreshRequest) SetCurrentScopes(s []string) { r.scopes = s }

// mustAsk reports whether the request demands the login form whatever the browser remembers.
func (s *storage) mustAsk(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests[id]
	return r == nil || slices.Contains(r.request.Prompt, oidc.PromptLogin)
}

// finish marks a request as logged in.
func (s *storage) finish(id, user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests[id]
	if r == nil {
		return false
	}
	r.subject, r.authTime, r.done = user, time.Now(), true
	s.stats.Logins++
	return true
}

func (s *storage) openSession(cookie, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[cookie] = user
}

func (s *storage) session(cookie string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, ok := s.sessions[cookie]
	return user, ok
}

func (s *storage) CreateAuthRequest(_ context.Context, r *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &authRequest{id: rand.Text(), request: r}
	s.requests[a.id] = a
	return a, nil
}

func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.requests[id]; a != nil {
		return a, nil
	}
	return nil, errors.New("no such request")
}

func (s *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.requests[s.codes[code]]; a != nil {
		return a, nil
	}
	return nil, errors.New("no such code")
}

func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = id
	s.issued = append(s.issued, code)
	return nil
}

func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, id)
	return nil
}

func (s *storage) CreateAccessToken(_ context.Context, r op.TokenRequest) (string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, t := s.newAccessToken(r)
	return id, t.expires, nil
}

func (s *storage) newAccessToken(r op.TokenRequest) (string, *accessToken) {
	id := rand.Text()
	t := &accessToken{subject: r.GetSubject(), scopes: r.GetScopes(), expires: time.Now().Add(s.options.AccessTokenLife)}
	s.access[id] = t
	s.issued = append(s.issued, id)
	return id, t
}

func (s *storage) CreateAccessAndRefreshTokens(_ context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &family{subject: r.GetSubject(), authTime: time.Now()}
	if current == "" {
		s.families = append(s.families, f)
	} else {
		old := s.refresh[current]
		if old == nil || old.used || old.family.ended {
			return "", "", time.Time{}, op.ErrInvalidRefreshToken
		}
		old.used = true
		f = old.family
		s.stats.Refreshes++
	}
	id, t := s.newAccessToken(r)
	next := "rt-" + rand.Text()
	s.refresh[next] = &refreshToken{family: f, scopes: r.GetScopes()}
	s.issued = append(s.issued, next)
	return id, next, t.expires, nil
}

// TokenRequestByRefreshToken judges a refresh token: one that was used before ends the whole login.
func (s *storage) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.refresh[token]
	if t != nil && t.used {
		t.family.ended = true
		s.stats.Replays++
	}
	if t == nil || t.used || t.family.ended {
		s.stats.Refused++
		return nil, op.ErrInvalidRefreshToken
	}
	return &refreshRequest{token: t, clientID: s.options.ClientID, scopes: t.scopes}, nil
}

func (s *storage) TerminateSession(context.Context, string, string) error { return nil }

func (s *storage) RevokeToken(_ context.Context, token, _, _ string) *oidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.refresh[token]; t != nil {
		t.family.ended = true
	}
	delete(s.access, token)
	return nil
}

func (s *storage) GetRefreshTokenInfo(_ context.Context, _, token string) (string, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.refresh[token]; t != nil {
		return t.family.subject, token, nil
	}
	return "", "", op.ErrInvalidRefreshToken
}

// signingKey implements op.SigningKey and op.Key.
type signingKey struct{ key *rsa.PrivateKey }

const keyID = "demo"

func (signingKey) ID() string                                  { return keyID }
func (signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (signingKey) Algorithm() jose.SignatureAlgorithm          { return jose.RS256 }
func (signingKey) Use() string                                 { return "sig" }
func (k signingKey) Key() any                                  { return k.key }

type publicKey struct{ signingKey }

func (k publicKey) Key() any { return &k.key.PublicKey }

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return signingKey{s.key}, nil }
func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{signingKey{s.key}}}, nil
}
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != s.options.ClientID {
		return nil, errors.New("no such client")
	}
	return client{s.options}, nil
}

func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if id != s.options.ClientID || subtle.ConstantTimeCompare([]byte(secret), []byte(s.options.ClientSecret)) != 1 {
		return errors.New("wrong client secret")
	}
	return nil
}

func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills the ID token.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, _ []string) error {
	s.describe(info, r.GetSubject())
	return nil
}

// SetUserinfoFromToken fills the answer of the userinfo endpoint.
func (s *storage) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, tokenID, _, _ string) error {
	s.mu.Lock()
	t := s.access[tokenID]
	s.mu.Unlock()
	if t == nil || !time.Now().Before(t.expires) {
		return errors.New("token is unknown or has expired")
	}
	s.describe(info, t.subject)
	return nil
}

func (s *storage) describe(info *oidc.UserInfo, subject string) {
	info.Subject = subject
	for _, u := range s.options.Users {
		if u.Name == subject {
			info.Name, info.PreferredUsername, info.Email, info.EmailVerified = u.FullName, u.Name, u.Email(), true
		}
	}
}

func (s *storage) SetIntrospectionFromToken(_ context.Context, r *oidc.IntrospectionResponse, tokenID, subject, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.access[tokenID]
	r.Active, r.Subject = t != nil && time.Now().Before(t.expires), subject
	return nil
}

func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errors.New("clients have no keys")
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errors.New("not offered")
}

func (s *storage) Health(context.Context) error { return nil }

// client implements op.Client for the one client.
type client struct{ o Options }

func (c client) GetID() string                       { return c.o.ClientID }
func (c client) RedirectURIs() []string              { return c.o.RedirectURIs }
func (c client) PostLogoutRedirectURIs() []string    { return nil }
func (c client) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }
func (c client) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodBasic }
func (c client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}
func (c client) LoginURL(id string) string           { return "/login?id=" + url.QueryEscape(id) }
func (c client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeBearer }
func (c client) IDTokenLifetime() time.Duration      { return time.Hour }
func (c client) DevMode() bool                       { return true } // http redirect URIs on loopback
func (c client) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return func(s []string) []string { return s }
}
func (c client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(s []string) []string { return s }
}
func (c client) IsScopeAllowed(string) bool           { return true }
func (c client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c client) ClockSkew() time.Duration             { return 0 }
