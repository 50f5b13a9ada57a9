// Package provider is an OpenID Connect provider for the quickstart and the tests: a real one, on the
// server side of github.com/zitadel/oidc, with a login form, users in memory, short-lived access tokens, and
// refresh tokens that rotate with every use and end the login when one is used again.
package provider

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// User is somebody who can log in.
type User struct {
	Name     string // the login name, and the part before the @ of the e-mail address
	Password string
	FullName string
}

// Email is the user's verified e-mail address.
func (u User) Email() string { return u.Name + "@example.com" }

// Options configures a Provider.
type Options struct {
	// Issuer is the provider's URL, without a slash at the end.
	Issuer string

	// ClientID, ClientSecret and RedirectURIs are the one client's.
	ClientID     string
	ClientSecret string
	RedirectURIs []string

	// Users can log in.
	Users []User

	// AccessTokenLife is how long an access token lives. Default: 1 minute.
	AccessTokenLife time.Duration
}

// Stats counts what the provider did.
type Stats struct {
	Logins    int // finished logins
	Refreshes int // refresh tokens accepted
	Replays   int // refresh tokens presented again after they were replaced
	Refused   int // refresh tokens refused, replays included
}

// Provider is the running provider. It is an http.Handler.
type Provider struct {
	options Options
	handler http.Handler
	store   *storage
	server  op.OpenIDProvider

	mu       sync.Mutex
	fault    func(*http.Request) *Fault
	observer func(path string, form url.Values)
	headers  func(path string, h http.Header)
}

// Fault replaces the answer of the token endpoint.
type Fault struct {
	Delay  time.Duration // before the answer
	Status int           // zero: the real answer, after the delay
	Header http.Header
	Body   string

	// AfterWork lets the real answer be made and then thrown away, as when a connection breaks.
	AfterWork bool
}

// New makes a provider.
func New(o Options) (*Provider, error) {
	if o.AccessTokenLife == 0 {
		o.AccessTokenLife = time.Minute
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	p := &Provider{options: o, store: newStorage(o, key)}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	p.server, err = op.NewProvider(&op.Config{
		CryptoKey:             sha256.Sum256(secret[:]),
		CodeMethodS256:        true,
		AuthMethodPost:        true,
		GrantTypeRefreshToken: true,
		SupportedScopes:       []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess},
	}, p.store, op.StaticIssuer(o.Issuer), op.WithAllowInsecure(), op.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	if err != nil {
		return nil, fmt.Errorf("demo provider: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", p.showLogin)
	mux.HandleFunc("POST /login", p.answerLogin)
	mux.Handle("/", p.server)
	p.handler = mux
	return p, nil
}

// ServeHTTP answers a request, or does what the fault says.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	fault, observer, headers := p.fault, p.observer, p.headers
	p.mu.Unlock()
	if headers != nil {
		headers(r.URL.Path, r.Header)
	}
	if r.Method == http.MethodPost || strings.HasSuffix(r.URL.Path, "authorize") {
		_ = r.ParseForm()
		if observer != nil {
			observer(r.URL.Path, r.Form)
		}
	}
	if !strings.HasSuffix(r.URL.Path, "/token") || fault == nil {
		p.handler.ServeHTTP(w, r)
		return
	}
	f := fault(r)
	if f == nil {
		p.handler.ServeHTTP(w, r)
		return
	}
	select {
	case <-time.After(f.Delay):
	case <-r.Context().Done():
	}
	switch {
	case f.AfterWork:
		p.handler.ServeHTTP(discard{make(http.Header)}, r)
		panic(http.ErrAbortHandler)
	case f.Status == 0:
		p.handler.ServeHTTP(w, r)
	default:
		maps.Copy(w.Header(), f.Header)
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// SetFault makes the token endpoint misbehave; nil makes it behave again.
func (p *Provider) SetFault(f func(*http.Request) *Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// Observe has f see the parameters of each authorization, token and revocation request.
func (p *Provider) Observe(f func(path string, form url.Values)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observer = f
}

// ObserveHeaders has f see the headers of each request.
func (p *Provider) ObserveHeaders(f func(path string, h http.Header)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.headers = f
}

// Stats returns the counts so far.
func (p *Provider) Stats() Stats {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	return p.store.stats
}

// Issued returns every token and code that the provider ever gave out.
func (p *Provider) Issued() []string {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	return slices.Clone(p.store.issued)
}

// EndLogin ends all logins of a user, as when somebody changes a password: refresh tokens are refused from now on.
func (p *Provider) EndLogin(user string) {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	for _, f := range p.store.families {
		if f.subject == user {
			f.ended = true
		}
	}
}

// ExpireTokens ends every access token now.
func (p *Provider) ExpireTokens() {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	for _, t := range p.store.access {
		t.expires = time.Time{}
	}
}

// UserOf says whose access token this is, by the token alone, and whether it is alive.
func (p *Provider) UserOf(ctx context.Context, accessToken string) (user string, live bool) {
	id, err := p.server.Crypto().Decrypt(accessToken)
	if err != nil {
		return "", false
	}
	tokenID, subject, ok := strings.Cut(id, ":")
	if !ok || ctx.Err() != nil {
		return "", false
	}
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	t := p.store.access[tokenID]
	return subject, t != nil && time.Now().Before(t.expires)
}
