package mcpfilter_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func init() {
	caddy.RegisterModule(new(testApp))
	httpcaddyfile.RegisterGlobalOption(mcpfilter.AppName, parseTestApp)
}

// gateways finds a test's gateway by its proxy id, from within a Caddy config.
var (
	gateways     sync.Map
	gatewayCount atomic.Int64
)

// testApp stands for the oauth_proxy app.
type testApp struct {
	Proxies map[string]testProxy `json:"proxies,omitempty"`
}

type testProxy struct {
	Resource string `json:"resource,omitempty"`
}

func (*testApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: mcpfilter.AppName, New: func() caddy.Module { return new(testApp) }}
}

func (*testApp) Start() error { return nil }
func (*testApp) Stop() error  { return nil }

// Gateway implements mcpfilter.App.
func (a *testApp) Gateway(id string) (mcpfilter.Gateway, error) {
	proxy, ok := a.Proxies[id]
	if !ok {
		return nil, fmt.Errorf("no proxy %q is configured", id)
	}
	g, ok := gateways.Load(id)
	if !ok {
		return nil, fmt.Errorf("the test has no gateway %q", id)
	}
	gw := g.(*testGateway)
	gw.resource = proxy.Resource
	return gw, nil
}

// parseTestApp parses `oauth_proxy { proxy <id> <resource> ... }`.
func parseTestApp(d *caddyfile.Dispenser, _ any) (any, error) {
	app := testApp{Proxies: make(map[string]testProxy)}
	d.Next()
	for d.NextBlock(0) {
		var id, resource string
		if !d.AllArgs(&id, &resource) {
			return nil, d.ArgErr()
		}
		app.Proxies[id] = testProxy{Resource: resource}
	}
	return httpcaddyfile.App{Name: mcpfilter.AppName, Value: caddyconfig.JSON(app, nil)}, nil
}

// testGateway is a gateway with one user, ada, whose gateway token is "good-token", whose API key is "gwk_good" and whose
// upstream token is "upstream-1" until it is rejected; then "upstream-2", and so on. Another user has "token-of-bob", and
// another client of ada's "token-of-another-client".
type testGateway struct {
	id       string
	resource string
	stopping chan struct{}

	// credentialHeader is where the upstream token travels; empty for Authorization.
	credentialHeader string

	// policy, origins and auditArguments are the proxy's.
	policy         mcpfilter.Policy
	origins        []string
	auditArguments []string

	// sessions are further users, by their gateway tokens.
	sessions map[string]*mcpfilter.Session

	// upstreamScope stands before scopes of the upstream's.
	upstreamScope string

	// identityHeaders and identityAssertion are what the server is told.
	identityHeaders   map[string]string
	identityAssertion string

	// compat helps simple clients.
	compat bool

	mu       sync.Mutex
	scopes   []string
	enterErr error
	authErr  error
	tokenErr error
	// rejectErr is what a rejection answers; nil renews.
	rejectErr error
	expires   time.Time
	ends      time.Time
	// unverified says that nobody vouches for the user's e-mail address.
	unverified bool
	renewals   int
	rejected   []string
	// change changes the grant of the session.
	change func(*tokenstore.Grant)
	// assertErr is what an assertion fails with.
	assertErr error
	watchers  map[*func()]bool

	entered, asked atomic.Int64
}

// newGateway makes a gateway that a Caddy config reaches under the returned proxy id.
func newGateway(t *testing.T) *testGateway {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "#", "-").Replace(t.Name()))
	id := fmt.Sprintf("%s-%d", name, gatewayCount.Add(1)) // names of tests may differ in case alone
	g := &testGateway{id: id, stopping: make(chan struct{}), watchers: make(map[*func()]bool), scopes: []string{"read:jira", "write:jira"}, expires: time.Now().Add(time.Hour)}
	gateways.Store(id, g)
	t.Cleanup(func() { gateways.Delete(id) })
	return g
}

// set changes the gateway while it may be in use.
func (g *testGateway) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func (g *testGateway) rejections() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.rejected...)
}

func (g *testGateway) Proxy() mcpfilter.Proxy {
	u, _ := url.Parse(g.resource)
	return mcpfilter.Proxy{
		ID: g.id, Resource: g.resource, ResourcePath: "/" + strings.Trim(u.Path, "/"),
		MetadataURL: "https://gw.test/.well-known/oauth-protected-resource" + u.Path,
		Scopes:      g.scopes, CredentialHeader: g.credentialHeader, UpstreamScope: g.upstreamScope,
		Policy: g.policy, Origins: g.origins, AuditArguments: g.auditArguments, Compat: g.compat,
		IdentityHeaders: g.identityHeaders, IdentityAssertion: g.identityAssertion,
	}
}

func (g *testGateway) Enter() (func(), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.enterErr != nil {
		return nil, g.enterErr
	}
	g.entered.Add(1)
	return func() { g.entered.Add(-1) }, nil
}

func (g *testGateway) Authenticate(_ context.Context, token string) (*mcpfilter.Session, error) {
	g.asked.Add(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.authErr != nil {
		return nil, g.authErr
	}
	if s := g.sessions[token]; s != nil {
		return s, nil
	}
	grant := &tokenstore.Grant{
		Meta: tokenstore.Meta{ID: "grant-1"}, State: tokenstore.StateActive,
		ClientID: "gateway_0f", Client: "Chatbot", UserID: "user-1", AccountID: "account-1",
		User: tokenstore.User{Provider: "okta", Subject: "00u1", Email: "ada@example.com", EmailVerified: !g.unverified, Login: "ada", Name: "Ada L"},
	}
	switch token {
	case "good-token", "gwk_good":
	case "token-of-bob":
		grant.ID, grant.UserID, grant.AccountID = "grant-2", "user-2", "account-2"
	case "token-of-another-client":
		grant.ID, grant.ClientID, grant.AccountID = "grant-3", "gateway_1f", "account-3"
	default:
		return nil, fmt.Errorf("%w: unknown", mcpfilter.ErrInvalidToken)
	}
	if g.change != nil {
		g.change(grant)
	}
	return &mcpfilter.Session{Grant: grant, JTI: "jti-1", Expires: g.expires, Ends: g.ends, Scopes: g.scopes}, nil
}

func (g *testGateway) IdentityAssertion(_ context.Context, s *mcpfilter.Session) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return "assertion-of-" + s.Grant.UserID + "-" + s.JTI, g.assertErr
}

// CheckGrant fails as Authenticate does: by the grant, never by the token's age.
func (g *testGateway) CheckGrant(_ context.Context, s *mcpfilter.Session) error {
	g.asked.Add(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.Grant.ID != "grant-1" {
		return mcpfilter.ErrInvalidToken
	}
	return g.authErr
}

// Watch tells when the test says so with tell, and at once when the grant has ended already.
func (g *testGateway) Watch(_ context.Context, _ *mcpfilter.Session, told func()) func() {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := &told
	g.watchers[w] = true
	if errors.Is(g.authErr, mcpfilter.ErrInvalidToken) {
		told()
	}
	return func() { g.set(func() { delete(g.watchers, w) }) }
}

// tell tells all who watch that the grant may have ended.
func (g *testGateway) tell() {
	g.set(func() {
		for told := range g.watchers {
			(*told)()
		}
	})
}

// stop says that the process is on its way out.
func (g *testGateway) stop() {
	close(g.stopping)
	g.tell()
}

// watched is how many watch.
func (g *testGateway) watched() (n int) {
	g.set(func() { n = len(g.watchers) })
	return n
}

func (g *testGateway) UpstreamToken(_ context.Context, s *mcpfilter.Session) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.Grant.UserID != "user-1" {
		return "upstream-of-" + s.Grant.UserID, g.tokenErr
	}
	return fmt.Sprintf("upstream-%d", g.renewals+1), g.tokenErr
}

func (g *testGateway) UpstreamRejected(_ context.Context, _ *mcpfilter.Session, token string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rejected = append(g.rejected, token)
	if g.rejectErr != nil {
		return "", g.rejectErr
	}
	g.renewals++
	return fmt.Sprintf("upstream-%d", g.renewals+1), nil
}

func (g *testGateway) ServeMetadata(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, "/.well-known/oauth-protected-resource") {
		return false
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"resource": g.resource})
	return true
}

// SessionTag implements mcpfilter.Gateway.
func (g *testGateway) SessionTag(s *mcpfilter.Session, id string) (string, error) {
	sum := sha256.Sum256([]byte(s.Grant.UserID + "|" + g.id + "|" + id))
	return hex.EncodeToString(sum[:]), nil
}

// tagged is a session id of the MCP server's as the gateway tells it ada's chatbot.
func (g *testGateway) tagged(id string) string {
	tag, _ := g.SessionTag(&mcpfilter.Session{Grant: &tokenstore.Grant{UserID: "user-1"}}, id)
	return id + "." + tag
}

func (g *testGateway) Stopping() <-chan struct{} { return g.stopping }
