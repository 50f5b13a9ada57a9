package mcpfilter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// AppName is the name of the Caddy app that offers gateways to the filter.
const AppName = "oauth_proxy"

// App is what the oauth_proxy app offers to handlers.
type App interface {
	// Gateway returns the gateway as one proxy sees it, for a handler that serves this proxy. It is called
	// while a config is provisioned, so it opens nothing; it fails when no such proxy is configured.
	Gateway(proxy string) (Gateway, error)
}

// Gateway is what the filter needs to know about one proxy and its users.
// Every method is safe for concurrent use and may be called before the app is
// started and after its config was replaced, because streams outlive reloads.
type Gateway interface {
	// Proxy returns the proxy's fixed settings.
	Proxy() Proxy

	// Enter holds the vault open for one request until leave is called. An error says
	// that the gateway is shutting down or cannot open its vault: the request is answered 503.
	Enter() (leave func(), err error)

	// Authenticate checks a gateway token for this proxy: signature, type, issuer,
	// lifetime, audience, and that its grant is alive; or an API key. The error is ErrInvalidToken
	// when the token is no good, and anything else (usually *UnavailableError) when that
	// could not be found out.
	Authenticate(ctx context.Context, token string) (*Session, error)

	// CheckGrant judges a session whose gateway token may have expired since: that its grant is
	// alive, and still lets the user in. Its errors are those of Authenticate.
	CheckGrant(ctx context.Context, s *Session) error

	// Watch calls told when the grant of a session has ended, on whichever node: within a second then, and at once where that was
	// before Watch, but after the session was authenticated. It calls it when Stopping is closed, too, and may do so without need: ask CheckGrant. While the
	// vault cannot be read it does not. told must not wait for anything. stop must be called in the end; told is not called after that.
	Watch(ctx context.Context, s *Session, told func()) (stop func())

	// SessionTag binds an Mcp-Session-Id to who opened it: it is always the same for one user, proxy and id, whatever the client, and nobody
	// else can make it. Printable ASCII without spaces and dots.
	SessionTag(s *Session, id string) (string, error)

	// UpstreamToken returns the bearer token to send upstream, refreshed if need be.
	// The error is ErrNeedsReauth when the user must log in again, and anything
	// else (usually *UnavailableError) when the token cannot be had at the moment.
	UpstreamToken(ctx context.Context, s *Session) (string, error)

	// UpstreamRejected reports that the upstream answered 401 to token, and returns another
	// token to try once. Its errors are those of UpstreamToken, and ErrStillRejected.
	UpstreamRejected(ctx context.Context, s *Session, token string) (string, error)

	// IdentityAssertion returns the gateway's signed statement of who sends the session's requests, for the
	// proxy's server. An error is answered 503.
	IdentityAssertion(ctx context.Context, s *Session) (string, error)

	// ServeMetadata answers the well-known documents of the gateway and its proxies. It
	// returns false, and has written nothing, when the request's path is none of them.
	ServeMetadata(w http.ResponseWriter, r *http.Request) bool

	// Stopping is closed when the process is on its way out: streams end then, so
	// that the server can leave within its grace period.
	Stopping() <-chan struct{}
}

// Proxy is what the filter needs to know of one protected MCP server.
type Proxy struct {
	// ID is the proxy's configured id.
	ID string

	// Resource is the resource URL (RFC 8707), byte for byte as clients are given it.
	Resource string

	// ResourcePath is the path of Resource with percent-encoding undone: "/" when it has
	// none, without a trailing slash otherwise.
	ResourcePath string

	// MetadataURL is the absolute URL of the protected resource metadata (RFC 9728
	// section 5.1), named in challenges.
	MetadataURL string

	// Scopes are what a challenge asks for. Empty leaves the parameter out.
	Scopes []string

	// CredentialHeader is the header in which the upstream token travels as it is, such as X-API-Key. Empty:
	// Authorization, as a bearer token.
	CredentialHeader string

	// SharedCredential says that the upstream token is not the user's, so that no new login would help when the upstream
	// refuses it: that is answered 503.
	SharedCredential bool

	// Policy says who may use what of the server.
	Policy Policy

	// AuditArguments are the arguments of tool calls that the audit trail may tell.
	AuditArguments []string

	// Origins are the web origins whose scripts may use the server, beside those of the resource itself and of the user's own machine: each an origin, or a
	// URL of one. One that is * stands for all.
	Origins []string

	// UpstreamScope is what stands before a scope of the upstream's authorization server among those of the gateway, where a login can
	// ask for more of them. Clients are then told which ones the upstream demands. Empty: it cannot.
	UpstreamScope string

	// IdentityHeaders are the headers that tell the server who sends a request, with what each says. [CheckIdentity] has
	// found nothing wrong with them and IdentityAssertion.
	IdentityHeaders map[string]string

	// IdentityAssertion is the header in which the gateway's signed statement of it travels, with the mcp transport alone. Empty: there is none.
	IdentityAssertion string

	// Compat helps simple clients, which know neither event streams nor sessions.
	Compat bool

	// Served, where given, is told of each request when it is over, and Streams of each event stream that begins (1) and ends (-1). They are
	// called by many at a time, and must not take long.
	Served  func(Served)
	Streams func(change int)
}

// inject puts the upstream token on a request.
func (p *Proxy) inject(h http.Header, token string) {
	if p.CredentialHeader == "" {
		h.Set("Authorization", "Bearer "+token)
		return
	}
	h.Set(p.CredentialHeader, token)
}

// withdraw takes it off again.
func (p *Proxy) withdraw(h http.Header) {
	h.Del("Authorization")
	if p.CredentialHeader != "" {
		h.Del(p.CredentialHeader)
	}
}

// Session is one authenticated request's standing: the grant behind its gateway token, or one that stands
// for an API key and has its id. It is only read.
type Session struct {
	// Grant is what the user allowed the client to do on this proxy.
	Grant *tokenstore.Grant

	// JTI is the id of the gateway token, for the audit trail.
	JTI string

	// Expires is when the gateway token ends, by this machine's clock, as Ends is.
	Expires time.Time

	// Ends is when the grant ends in any case, and with it what was begun under it. Zero: that is not known beforehand.
	Ends time.Time

	// Scopes are the gateway token's scopes.
	Scopes []string
}

// Errors of a Gateway that the filter decides on. Every other error is answered 503,
// because a good client must not throw its tokens away over somebody else's outage.
var (
	// ErrInvalidToken says that the gateway token is malformed, expired, revoked or meant
	// for another resource. It is answered 401 invalid_token (RFC 6750 section 3.1).
	ErrInvalidToken = errors.New("invalid gateway token")

	// ErrNeedsReauth says that the account's upstream tokens cannot be renewed: the
	// user must log in again. It is answered 401 invalid_token.
	ErrNeedsReauth = errors.New("the user must log in again")

	// ErrStillRejected says that the upstream refuses a token that was renewed just
	// now, so another renewal would not help. It is answered 401 invalid_token.
	ErrStillRejected = errors.New("the upstream rejects the renewed token")
)

// ReauthError is an ErrNeedsReauth that says why.
type ReauthError struct {
	// Reason is told to the client.
	Reason string

	// Err is the cause, for the log.
	Err error
}

// Error names the cause.
func (e *ReauthError) Error() string { return e.Err.Error() }

// Is makes it an ErrNeedsReauth.
func (e *ReauthError) Is(target error) bool { return target == ErrNeedsReauth }

// Unwrap returns the cause.
func (e *ReauthError) Unwrap() error { return e.Err }

// UnavailableError says that the gateway or the provider cannot answer at the moment. It
// is answered 503 with Retry-After.
type UnavailableError struct {
	// RetryAfter is when to try again; zero lets the filter choose.
	RetryAfter time.Duration

	// Advice is what to tell the client; empty lets the filter choose.
	Advice string

	// Err is the cause. It is logged, never shown to the client.
	Err error
}

// Error names the cause.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("temporarily unavailable: %v", e.Err)
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }
