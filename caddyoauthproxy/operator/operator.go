package operator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Options configures a Server.
type Options struct {
	// Issuer is the gateway's issuer: the site's routes lie below its path, and are answered at its host alone.
	Issuer *url.URL

	// Gateway is the authorization server, which does what operators ask for.
	Gateway *authserver.Server

	// Vault keeps the records.
	Vault *tokenstore.Vault

	// Accounts keep the upstream tokens, and know how the providers answer.
	Accounts *upstream.Accounts

	// Providers are those of the configuration, by name, and Proxies its protected MCP servers.
	Providers map[string]*upstream.Provider
	Proxies   []*authserver.Proxy

	// Storage says where the vault is.
	Storage Storage

	// SignedIn says who sent a request to the site's routes, as authserver.Server.SignedIn does: with ErrNotSignedIn where nobody has signed in.
	SignedIn func(*http.Request) (*authserver.SignIn, error)

	// Pages draws what people see. Without it there are no pages.
	Pages *console.Pages

	// NoConnections closes the page where users see and cut their own connections.
	NoConnections bool

	// ClientIP is the address that a request to the site came from. Default: the peer's.
	ClientIP func(*http.Request) string

	// Migrations move the vault.
	Migrations Migrations

	// Compact gives the free room in the vault's file back.
	Compact func(context.Context, func(tokenstore.Progress)) (*Compaction, error)

	// Assistant writes configuration.
	Assistant *Assistant

	// Logger gets a line for each request that is refused. Never a secret.
	Logger *zap.Logger
}

// Storage says where a vault is.
type Storage struct {
	// Module is the Caddy module that keeps it, such as bbolt, and Path its file, where it is one.
	Module string `json:"module"`
	Path   string `json:"path,omitempty"`

	// Hosts are the servers of its database, Database is that, and Schema what holds the tables, where it is in one.
	Hosts    []string `json:"hosts,omitempty"`
	Database string   `json:"database,omitempty"`
	Schema   string   `json:"schema,omitempty"`

	// Keys is how many encryption keys are configured; zero where one lies beside the vault.
	Keys int `json:"encryption_keys"`

	// KeyNames are their placeholders, or the names of their sources, in order.
	KeyNames []string `json:"-"`
}

// Server answers operators. It is safe for concurrent use.
type Server struct {
	options Options
	prefix  string // of the site's routes
	base    string // the issuer's path
	mux     *http.ServeMux
	pages   *http.ServeMux
	csrf    *http.CrossOriginProtection
	log     *zap.Logger

	verifying sync.Mutex // held while the vault is verified
}

// sitePath is where the site has the API, below the issuer's path.
const sitePath = "/admin/oauth"

// New makes a Server.
func New(o Options) (*Server, error) {
	if o.SignedIn == nil {
		return nil, errors.New("operator: SignedIn is missing: without it nobody could be told from an admin")
	}
	s := &Server{
		options: o, prefix: strings.TrimSuffix(o.Issuer.EscapedPath(), "/") + sitePath, mux: http.NewServeMux(),
		csrf: http.NewCrossOriginProtection(), log: o.Logger,
	}
	if s.options.ClientIP == nil {
		s.options.ClientIP = peer
	}
	if err := s.csrf.AddTrustedOrigin(o.Issuer.Scheme + "://" + o.Issuer.Host); err != nil {
		return nil, fmt.Errorf("operator: issuer: %w", err)
	}
	s.base = strings.TrimSuffix(o.Issuer.EscapedPath(), "/")
	s.mount()
	s.mountPages()
	return s, nil
}

// Handles reports whether the path belongs to the server: everything else on the site is somebody else's.
func (s *Server) Handles(r *http.Request) bool {
	return s.handlesAPI(r) || s.handlesPage(r)
}

// handlesAPI reports whether the path is one of the site's API.
func (s *Server) handlesAPI(r *http.Request) bool {
	return strings.HasPrefix(r.URL.EscapedPath(), s.prefix+"/")
}

// MayHandle reports whether a path looks like one of a server's, while there is no server to ask.
func MayHandle(r *http.Request) bool {
	return strings.Contains(r.URL.Path, sitePath+"/") || mayBePage(r.URL.Path)
}

// ServeHTTP answers the site's routes: the API to admins who have signed in, and pages to whom they are for.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.handlesAPI(r) {
		s.pages.ServeHTTP(w, r.WithContext(tokenstore.WithAddress(r.Context(), s.options.ClientIP(r))))
		return
	}
	signIn, err := s.admit(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	ctx := tokenstore.WithActor(r.Context(), tokenstore.Actor{Kind: tokenstore.ActorOperator, ID: signIn.UserID, Label: signIn.User.Label()})
	http.StripPrefix(s.prefix, http.HandlerFunc(s.route)).ServeHTTP(w, r.WithContext(tokenstore.WithAddress(ctx, s.options.ClientIP(r))))
}

// API is the JSON API alone, without a prefix. Whoever mounts it sees to who may use it.
func (s *Server) API() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.route(w, r.WithContext(asOperator(r))) })
}

// asOperator says who acts through Caddy's admin endpoint: whoever may reach it. Where that asks for a client certificate, it is named.
func asOperator(r *http.Request) context.Context {
	actor := tokenstore.Actor{Kind: tokenstore.ActorOperator, Label: "admin endpoint"}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		actor.ID = r.TLS.PeerCertificates[0].Subject.String()
	}
	return context.WithValue(tokenstore.WithAddress(tokenstore.WithActor(r.Context(), actor), peer(r)), endpointKey{}, true)
}

// peer is the address at the other end of the connection; as it stands where that is a Unix socket.
func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
