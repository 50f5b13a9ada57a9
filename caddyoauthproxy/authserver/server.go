package authserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// providers are the proxy's providers as grants name them: where users log in, and whose tokens go upstream.
func (p *Proxy) providers() []string {
	return []string{p.loginProvider().Identity(), p.Provider.Identity()}
}

// hasProvidersOf reports whether the proxy still has the providers that the grant was made with. Other ones know other people by
// the same ids, and must not be sent each other's tokens. Grants of clients that act for themselves are of none.
func (p *Proxy) hasProvidersOf(g *tokenstore.Grant) bool {
	switch {
	case g.AccountID == "":
		return true
	case g.User.Provider != p.loginProvider().Name():
		return false
	case len(g.Providers) == 0: // made before they were kept
		return p.Login == nil
	default:
		return slices.Equal(g.Providers, p.providers())
	}
}

// loggedIn reports whether the user of a login whose account is still to be connected has logged in where users of the proxy do.
func (p *Proxy) loggedIn(login *tokenstore.Login) bool {
	return p.Login != nil && login.LoginIdentity == p.Login.Identity()
}

// Server is the authorization server. It is an http.Handler for the routes in the package comment.
type Server struct {
	issuer       string
	callback     string // path of the callback that providers are told
	name         string // of the gateway as a client
	base         string // the issuer's path, "" or "/…" without trailing slash
	secure       bool   // the issuer is https
	configured   map[string]*ConfiguredClient
	documents    *documents
	registration Registration
	limits       limiters
	openLogins   openLogins
	clientIP     func(*http.Request) string
	sessions     bool
	connections  bool
	admins       *Admins
	plainPKCE    bool
	maxGrants    int
	vault        *tokenstore.Vault
	accounts     *upstream.Accounts
	proxies      map[string]*Proxy
	order        []*Proxy
	pages        *console.Pages
	life         Lifetimes
	log          *zap.Logger
	acts         Acts
	acquire      func() (func(), error)
	keys         *keyring
	assertions   *recent[assertionID, assertion]
	mux          *http.ServeMux
	csrf         *http.CrossOriginProtection
	flights      flights
	cuts         singleflight.Group // of everything that a user has, by their id
	tasks        sync.WaitGroup
	noting       sync.Map // ids of API keys whose use is being written
	uses         uses
	orders       orderBook
	clock        clockWatch
	indexed      atomic.Bool // see indexGrants
	watching     context.Context
	unwatch      context.CancelFunc
}

// New makes a Server. It reads or creates the signing keys in the vault.
func New(ctx context.Context, o Options) (*Server, error) {
	if len(o.Proxies) == 0 {
		return nil, errors.New("no proxy: declare at least one")
	}
	o.Lifetimes.setDefaults()
	s := &Server{
		issuer:   strings.TrimSuffix(o.Issuer.String(), "/"),
		callback: cmp.Or(o.Callback, callbackPath),
		name:     ClientName(o.Issuer),
		base:     strings.TrimSuffix(o.Issuer.EscapedPath(), "/"),
		secure:   o.Issuer.Scheme == "https",
		vault:    o.Vault,
		accounts: o.Accounts,
		proxies:  make(map[string]*Proxy, len(o.Proxies)),

		assertions: newRecent[assertionID, assertion](maxAssertions),

		order:   slices.SortedFunc(slices.Values(o.Proxies), func(a, b *Proxy) int { return strings.Compare(a.ID, b.ID) }),
		pages:   o.Pages,
		life:    o.Lifetimes,
		log:     o.Logger,
		acts:    o.Acts,
		acquire: o.Acquire,
		csrf:    http.NewCrossOriginProtection(),
	}
	s.clock.since(s.vault.Now())
	s.configured = make(map[string]*ConfiguredClient, len(o.Clients))
	for _, c := range o.Clients {
		own := *c
		if own.Secret != "" {
			own.SecretHash = s.vault.Hash(purposeClientSecret, own.Secret)
			own.Secret = ""
		}
		s.configured[c.ID] = &own
	}
	s.documents = newDocuments(o.Documents, IsLoopback(o.Issuer), o.Vault.Now, s.holdsGrants)
	s.registration = o.Registration
	s.registration.setDefaults()
	s.acts.setDefaults()
	s.limits = newLimiters(o.Limits, newSharedRates(o.Rates, s.vault, s.log), s.acts.Limited)
	s.sessions, s.plainPKCE = !o.NoSessions, o.PlainPKCE
	if s.connections, s.admins = !o.NoConnections, o.Admins; s.admins.check() != nil {
		return nil, s.admins.check()
	}
	if s.maxGrants = o.MaxGrants; s.maxGrants == 0 {
		s.maxGrants = 25
	}
	if s.openLogins.most = o.MaxOpenLogins; s.openLogins.most == 0 {
		s.openLogins.most = 50_000
	}
	if s.clientIP = o.ClientIP; s.clientIP == nil {
		s.clientIP = remoteIP
	}
	if s.acquire == nil {
		s.acquire = func() (func(), error) { return func() {}, nil }
	}
	for _, p := range o.Proxies {
		s.proxies[p.ID] = p
	}
	if err := s.csrf.AddTrustedOrigin(o.Issuer.Scheme + "://" + o.Issuer.Host); err != nil {
		return nil, fmt.Errorf("issuer %q: %w", s.issuer, err)
	}
	var err error
	if s.keys, err = openKeyring(ctx, s.vault, o.Signing, s.acts.Verified); err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	s.routes()
	s.watching, s.unwatch = context.WithCancel(context.Background())
	if err := s.watchKeys(ctx); err != nil {
		s.unwatch()
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	if err := s.openOrders(ctx); err != nil {
		s.unwatch()
		s.keys.stop()
		return nil, fmt.Errorf("revocation orders: %w", err)
	}
	return s, nil
}

// StopWatching ends the watching of the vault. It is to be called before the vault is closed, and not while the server is in use.
func (s *Server) StopWatching() {
	s.orders.rest()
	s.unwatch()
	s.orders.stop()
	s.keys.stop()
}

// Paths of the endpoints below the issuer's path.
const (
	endpointPath      = "/api/v1/oauth-proxy"
	callbackPath      = "/api/v1/oauth/callback"
	callbackAliasPath = "/oauth/callback"
	homePath          = "/oauth/"
	signInPath        = "/oauth/signin"
	signOutPath       = "/oauth/signout"
	ownMetadataPath   = "/oauth/client-metadata"
	connectPath       = "/oauth/authorize"
	clientPath        = "/api/v1/oauth/clients"
	sessionPath       = "/api/v1/oauth"
	jwksPath          = "/.well-known/jwks.json"
	asMetadataPath    = "/.well-known/oauth-authorization-server"
	oidcMetadataPath  = "/.well-known/openid-configuration"
	prMetadataPath    = "/.well-known/oauth-protected-resource"
)

// Reserved reports whether a proxy of this id would collide with a gateway-wide endpoint.
func Reserved(id string) bool {
	return slices.Contains([]string{"register", "authorize", "consent", "token", "revoke", "introspect"}, id)
}

// routes fills the mux. Metadata is answered by ServeMetadata before the mux is asked,
// because its paths embed those of the resources.
func (s *Server) routes() {
	s.mux = http.NewServeMux()
	both := func(name string, h http.Handler) {
		s.mux.Handle(s.base+endpointPath+"/"+name, h)
		s.mux.Handle(s.base+endpointPath+"/{proxy}/"+name, h)
	}
	both("register", public(s.steps(StepRegister, s.serveRegister), http.MethodPost))
	both("token", public(s.steps(StepToken, s.serveToken), http.MethodPost))
	both("revoke", public(s.steps(StepRevoke, s.serveRevoke), http.MethodPost))
	both("introspect", public(s.serveIntrospect, http.MethodPost))
	both("authorize", private(s.steps(StepAuthorize, s.serveAuthorize), http.MethodGet))
	s.mux.Handle(s.base+endpointPath+"/consent", private(s.steps(StepConsent, s.serveConsent), http.MethodPost))
	s.mux.Handle(s.base+callbackPath, private(s.steps(StepCallback, s.serveCallback), http.MethodGet))
	s.mux.Handle(s.base+callbackPath+"/{provider}", private(s.steps(StepCallback, s.serveCallback), http.MethodGet))
	s.mux.Handle(s.base+callbackAliasPath, private(s.steps(StepCallback, s.serveCallback), http.MethodGet))
	s.mux.Handle(s.base+clientPath+"/{client}", public(s.serveClientConfiguration, http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete))
	if s.sessions {
		s.mux.Handle(s.base+connectPath+"/{proxy}", private(s.steps(StepConnect, s.serveConnect), http.MethodGet))
		s.mux.Handle(s.base+sessionPath+"/authorize/{provider}", private(s.steps(StepSessionStart, s.serveSessionStart), http.MethodPost))
		s.mux.Handle(s.base+sessionPath+"/validate", private(s.serveSessionValidate, http.MethodPost))
		s.mux.Handle(s.base+sessionPath+"/refresh", private(s.steps(StepRefresh, s.serveSessionRefresh), http.MethodPost))
		s.mux.Handle(s.base+sessionPath+"/logout", private(s.steps(StepRevoke, s.serveSessionLogout), http.MethodPost))
	}
	s.mux.Handle(s.base+ownMetadataPath+"/{provider}", public(s.serveOwnMetadata, http.MethodGet, http.MethodHead))
	if s.connections || s.admins != nil {
		s.mux.Handle(s.base+signInPath, private(s.steps(StepSignIn, s.serveSignIn), http.MethodGet))
		s.mux.Handle(s.base+signOutPath, private(s.serveSignOut, http.MethodPost))
	}
	s.mux.Handle(s.base+homePath+"{$}", private(s.serveHome, http.MethodGet, http.MethodHead))
}

// Handles reports whether the path belongs to the server: everything else on the site is somebody else's.
func (s *Server) Handles(r *http.Request) bool {
	if s.isMetadata(r) {
		return true
	}
	_, pattern := s.mux.Handler(r)
	return pattern != ""
}

// MayHandle reports whether a path looks like one of a server's, while there is no server to ask: the rest of the site
// need not suffer for it.
func MayHandle(r *http.Request) bool {
	return slices.ContainsFunc([]string{endpointPath, sessionPath, homePath, "/.well-known/o", jwksPath}, func(part string) bool {
		return strings.Contains(r.URL.Path, part)
	})
}

// ServeHTTP answers the server's routes, and 404 for others.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.ServeMetadata(w, r) {
		return
	}
	ctx, cancel := context.WithTimeout(tokenstore.WithAddress(r.Context(), s.clientIP(r)), requestTime)
	defer cancel()
	s.mux.ServeHTTP(w, r.WithContext(context.WithValue(ctx, duesKey{}, new(dues))))
}

// requestTime bounds how long a request waits for the vault and the provider together, however slow they are. A callback's work goes on beyond it.
const requestTime = 30 * time.Second

// RedirectURI is the callback that providers must know for the gateway of this issuer, and of this callback path as in Options.
func RedirectURI(issuer *url.URL, callback string) string {
	return strings.TrimSuffix(issuer.String(), "/") + cmp.Or(callback, callbackPath)
}

// CheckCallbackPath refuses what cannot be Options.Callback.
func CheckCallbackPath(path string) error {
	if path != "" && path != callbackPath && path != callbackAliasPath {
		return errors.New("must be " + callbackPath + " or " + callbackAliasPath)
	}
	return nil
}

// OwnRedirectURI is the callback of one provider alone: of one whose authorization server a stranger names. A code that is brought there is of no other
// (RFC 9700 §4.4.2).
func OwnRedirectURI(issuer *url.URL, provider string) string {
	return RedirectURI(issuer, callbackPath) + "/" + url.PathEscape(provider)
}

// callbackOf is where a provider sends users back to, as a path below the callback's: empty but for one with a callback of its own.
func callbackOf(p *upstream.Provider) string {
	if p.AsksForMore() {
		return p.Name()
	}
	return ""
}

// redirectURI is where a provider sends users back to.
func (s *Server) redirectURI(p *upstream.Provider) string {
	if own := callbackOf(p); own != "" {
		return s.issuer + callbackPath + "/" + url.PathEscape(own)
	}
	return s.issuer + s.callback
}

// Close writes down what is noted, and waits until work that outlived its request is done, or ctx ends.
func (s *Server) Close(ctx context.Context) error {
	noted := s.WriteUses(ctx)
	s.orders.rest()
	done := make(chan struct{})
	go func() {
		s.tasks.Wait()
		close(done)
	}()
	select {
	case <-done:
		return noted
	case <-ctx.Done():
		return errors.Join(noted, fmt.Errorf("authorization server: work still running: %w", ctx.Err()))
	}
}

// background runs f apart from the request that asks for it, with a bound in time.
func (s *Server) background(ctx context.Context, f func(context.Context)) {
	release, err := s.acquire()
	if err != nil {
		return
	}
	s.tasks.Go(func() {
		defer release()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		f(ctx)
	})
}

// proxyOf returns the proxy that a pinned path names, nil on a gateway-wide path, or an error for an unknown one.
func (s *Server) proxyOf(r *http.Request) (*Proxy, error) {
	id := r.PathValue("proxy")
	if id == "" {
		return nil, nil
	}
	if p := s.proxies[id]; p != nil {
		return p, nil
	}
	return nil, &Error{Status: http.StatusNotFound, Code: "invalid_request", Description: "no such proxy at this gateway"}
}
