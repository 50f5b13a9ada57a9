package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/tracing"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// gateway is an opened App: the vault, and what works on it.
type gateway struct {
	hold     *hold
	leave    func() // hold.leave, which would be made anew for each request
	store    tokenstore.Store
	vault    *tokenstore.Vault
	accounts *upstream.Accounts
	server   *authserver.Server
	operator *operator.Server
	admin    *operator.AdminPages
	grants   *grantWatch
	contact  *contact
	endAudit func()
	endKeys  func()
	gone     chan struct{} // closed once nobody needs it any more
}

// gateways are those of this process that somebody needs: of the config that runs, and of those before.
var gateways sync.Map

// openGateway opens the vault and puts the rooms together.
func openGateway(ctx context.Context, a *App) (g *gateway, err error) {
	keys, err := askKeys(ctx, a.ctx, a.EncryptionKeys) // which have a time limit of their own
	if err != nil {
		return nil, fmt.Errorf("oauth_proxy: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	store, release, err := a.vault.OpenVault(ctx)
	if err != nil {
		return nil, fmt.Errorf("oauth_proxy: open vault: %w", err)
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	frozen, err := tokenstore.MayServe(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("oauth_proxy: the vault is not to be served: %w", err)
	}
	if frozen.Frozen() {
		a.log.Error("the vault is read-only: go on with caddy oauth-proxy migrate, or end it with --abort", zap.String("why", frozen.String()))
	}
	if len(keys) == 0 {
		if keys, err = a.keyBesideVault(ctx, store); err != nil {
			return nil, fmt.Errorf("oauth_proxy: encryption key: %w", err)
		}
	}
	for before := range gateways.Range { // which are in use as long as a response of theirs is: they follow a change of keys, or could not tell when a grant is ended
		before.(*gateway).vault.LearnKeys(keys...)
	}
	end := &anchor{log: a.log.Named("vault")}
	vault, err := tokenstore.Open(ctx, a.metrics.timeStore(store), tokenstore.Options{Keys: keys, Messages: a.messageTime(), KeysFailed: a.keysFailed,
		Audit: a.auditor.options(a.Audit, end), Recorded: a.auditor.recorded})
	if err != nil {
		return nil, fmt.Errorf("oauth_proxy: open vault: %w", err)
	}
	if !a.Audit.Off {
		if err := end.begin(ctx, vault); err != nil {
			return nil, fmt.Errorf("oauth_proxy: the vault is not to be served: %w", err)
		}
	}
	g = &gateway{vault: vault, store: store, contact: new(contact), gone: make(chan struct{})}
	g.hold = newHold(func() {
		g.grants.stop()
		g.server.StopWatching()
		g.accounts.StopWatching()
		g.endKeys()
		g.endAudit()
		release()
		gateways.Delete(g)
		close(g.gone)
	})
	g.leave = g.hold.leave
	g.accounts = upstream.NewAccounts(upstream.AccountsOptions{
		Vault:         vault,
		Providers:     a.config.providers,
		RefreshBefore: time.Duration(a.RefreshBefore),
		Logger:        a.log.Named("upstream"),
		Acquire:       g.acquire,
		Acts:          a.metrics.ofAccounts(),
	})
	defer func(accounts *upstream.Accounts) {
		if err != nil { // the storage may stay open for another config
			accounts.StopWatching()
		}
	}(g.accounts)
	rates, _ := store.(tokenstore.Rates) // of the store itself, as nothing around it hands them on
	g.server, err = authserver.New(ctx, authserver.Options{
		Issuer:    a.config.issuer,
		Callback:  a.CallbackPath,
		Vault:     vault,
		Accounts:  g.accounts,
		Proxies:   a.config.proxies,
		Pages:     a.config.pages,
		Lifetimes: a.lifetimes(),
		Clients:   a.config.clients,

		Registration: a.config.registration,
		Documents:    authserver.Documents{Off: a.MetadataDocuments.Off, Hosts: a.MetadataDocuments.Hosts},
		Limits:       a.config.limits,
		Rates:        rates,
		Signing:      authserver.Signing{Algorithm: a.SigningAlgorithm, RotateAfter: time.Duration(a.SigningKeyRotation)},
		NoSessions:   a.SessionTokenTTL < 0,
		PlainPKCE:    slices.Contains(a.CodeChallengeMethods, "plain"),
		MaxGrants:    a.MaxGrantsPerClient,
		Admins:       a.config.admins,
		ClientIP:     clientIP,

		NoConnections: a.Connections.Off,

		Logger:  a.log.Named("authserver"),
		Acts:    a.metrics.ofServer(),
		Acquire: g.acquire,
	})
	if err != nil {
		return nil, fmt.Errorf("oauth_proxy: %w", err)
	}
	if g.operator, err = newOperator(a, g); err != nil {
		g.server.StopWatching()
		return nil, fmt.Errorf("oauth_proxy: %w", err)
	}
	g.admin = newAdminPages(a, g)
	g.grants = watchGrants(vault, g.server.Ended, g.acquire)
	g.server.WatchOrders(func() { g.grants.grantChanged("") })
	g.keepAudit(a)
	g.endKeys = vault.KeepKeys()
	gateways.Store(g, nil)
	return g, nil
}

// acquire holds the vault open until release is called.
func (g *gateway) acquire() (release func(), err error) {
	if !g.hold.enter() {
		return nil, errClosed
	}
	return g.leave, nil
}

// drain waits until what was begun is saved.
func (g *gateway) drain(ctx context.Context) error {
	return errors.Join(g.server.Close(ctx), g.accounts.Close(ctx), g.vault.FlushAudit(ctx))
}

// drainAll drains every gateway of the process: what was begun under earlier configs, too.
func drainAll(ctx context.Context) error {
	var mu sync.Mutex
	var errs []error
	var work sync.WaitGroup
	for g := range gateways.Range {
		work.Go(func() {
			if err := g.(*gateway).drain(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// retire writes down what a gateway knows that no config uses any more, and gives up its hold on the vault.
func (g *gateway) retire() {
	defer g.hold.leave()
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	_ = g.server.WriteUses(ctx) // a grant whose use is not written down is noted again with its next
}

// clientIP is the address that a request came from, as far as the operator's trusted_proxies say who may tell.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// everyMinute has somebody do what is due, while the vault can be written.
func (a *App) everyMinute(g *gateway, task func(context.Context) error) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-a.done:
			return
		case <-tick.C:
			if f, err := g.frozen(a.ctx); err == nil && f.Frozen() {
				continue
			}
			if err := task(a.ctx); err != nil && !errors.Is(err, tokenstore.ErrReadOnly) {
				a.log.Error("maintenance failed", zap.Error(err))
			}
		}
	}
}

// proxyGateway is the gateway as one proxy's filter sees it.
type proxyGateway struct {
	app    *App
	proxy  *authserver.Proxy
	source *tokenSource
	policy mcpfilter.Policy
}

// Proxy implements mcpfilter.Gateway.
func (p *proxyGateway) Proxy() mcpfilter.Proxy {
	path := strings.TrimSuffix(p.proxy.ResourceURL.Path, "/")
	if path == "" {
		path = "/"
	}
	upstreamScope := ""
	if p.proxy.AsksForMore {
		upstreamScope = authserver.UpstreamScope
	}
	counted := p.app.metrics.ofRequests(p.proxy.ID)
	return mcpfilter.Proxy{
		ID:           p.proxy.ID,
		Resource:     p.proxy.Resource,
		ResourcePath: path,
		MetadataURL:  authserver.ResourceMetadataURL(p.proxy),
		Scopes:       p.proxy.Scopes,

		CredentialHeader: p.source.header,
		SharedCredential: p.source.shared(),
		UpstreamScope:    upstreamScope,
		Compat:           p.app.Proxies[p.proxy.ID].Compat,

		Policy:         p.policy,
		AuditArguments: p.app.Proxies[p.proxy.ID].AuditArguments,
		Origins:        append([]string{p.app.config.issuer.String()}, p.app.Proxies[p.proxy.ID].Origins...),

		IdentityHeaders:   p.app.Proxies[p.proxy.ID].IdentityHeaders,
		IdentityAssertion: p.app.Proxies[p.proxy.ID].IdentityAssertion,

		Served:  counted.served,
		Streams: counted.streams,
	}
}

// purposeSession is that of tags that bind session ids of MCP servers.
const purposeSession tokenstore.Purpose = "mcp_session"

// SessionTag implements mcpfilter.Gateway. The client's id is not in it: some clients, as those of the official Go SDK, register anew whenever they ask the user for
// more, and keep their session.
func (p *proxyGateway) SessionTag(s *mcpfilter.Session, id string) (string, error) {
	g, err := p.app.open()
	if err != nil {
		return "", &mcpfilter.UnavailableError{Err: err}
	}
	return g.vault.Derive(purposeSession, s.Grant.UserID, p.proxy.ID, id), nil
}

// Enter implements mcpfilter.Gateway.
func (p *proxyGateway) Enter() (func(), error) {
	g, err := p.app.open()
	if err != nil {
		return nil, err
	}
	return g.acquire()
}

// Authenticate implements mcpfilter.Gateway.
func (p *proxyGateway) Authenticate(ctx context.Context, token string) (*mcpfilter.Session, error) {
	g, err := p.app.open()
	if err != nil {
		return nil, &mcpfilter.UnavailableError{Err: err}
	}
	ctx, span := tracing.Start(ctx, "oauth_proxy authenticate")
	defer span.End()
	span.Set("proxy", p.proxy.ID)
	grant, claims, err := g.server.Authenticate(ctx, token, p.proxy.ID)
	if err != nil {
		span.Fail("not authenticated")
		return nil, authenticationError(err)
	}
	span.Set("grant", grant.ID)
	scopes := strings.Fields(claims.Scope)
	if grant.Proxy == "" { // a session, which is good for all of the proxy
		scopes = p.proxy.Scopes
	}
	now, vaultNow := time.Now(), g.vault.Now()
	here := func(at time.Time) time.Time { return now.Add(at.Sub(vaultNow)) } // the vault's clock is not this machine's
	session := &mcpfilter.Session{Grant: grant, JTI: claims.JTI, Expires: here(time.Unix(claims.Expires, 0)), Scopes: scopes}
	if grant.AccountID != "" { // a client's own grant ends with its token, which a response may outlive
		session.Ends = here(grant.Ends)
	}
	return session, nil
}

// CheckGrant implements mcpfilter.Gateway.
func (p *proxyGateway) CheckGrant(ctx context.Context, s *mcpfilter.Session) error {
	g, err := p.app.open()
	if err != nil {
		return &mcpfilter.UnavailableError{Err: err}
	}
	return authenticationError(g.server.CheckGrant(ctx, s.Grant.ID, p.proxy.ID))
}

// Watch implements mcpfilter.Gateway.
func (p *proxyGateway) Watch(ctx context.Context, s *mcpfilter.Session, told func()) (stop func()) {
	g, err := p.app.open()
	if err != nil {
		return func() {}
	}
	return g.grants.wait(ctx, s.Grant.ID, told)
}

// authenticationError says in the filter's words what authserver says in its own.
func authenticationError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, authserver.ErrInvalidToken):
		return fmt.Errorf("%w: %w", mcpfilter.ErrInvalidToken, err)
	default:
		return &mcpfilter.UnavailableError{Err: err}
	}
}

// traceToken begins the span of a token that goes upstream.
func (p *proxyGateway) traceToken(ctx context.Context, s *mcpfilter.Session, name string) (context.Context, tracing.Span) {
	ctx, span := tracing.Start(ctx, name)
	span.Set("proxy", p.proxy.ID)
	span.Set("grant", s.Grant.ID)
	if p.proxy.Provider != nil {
		span.Set("provider", p.proxy.Provider.Name())
	}
	return ctx, span
}

// UpstreamToken implements mcpfilter.Gateway.
func (p *proxyGateway) UpstreamToken(ctx context.Context, s *mcpfilter.Session) (string, error) {
	g, err := p.app.open()
	if err != nil {
		return "", &mcpfilter.UnavailableError{Err: err}
	}
	ctx, span := p.traceToken(ctx, s, "oauth_proxy upstream token")
	defer span.End()
	token, err := p.source.token(ctx, g, s)
	if err != nil {
		span.Fail("no token")
	}
	return token, filterError(err)
}

// UpstreamRejected implements mcpfilter.Gateway.
func (p *proxyGateway) UpstreamRejected(ctx context.Context, s *mcpfilter.Session, token string) (string, error) {
	g, err := p.app.open()
	if err != nil {
		return "", &mcpfilter.UnavailableError{Err: err}
	}
	ctx, span := p.traceToken(ctx, s, "oauth_proxy upstream token rejected")
	defer span.End()
	token, err = p.source.rejected(ctx, g, s, token)
	if err != nil {
		span.Fail("no other token")
	}
	return token, filterError(err)
}

// filterError says in the filter's words what upstream says in its own.
func filterError(err error) error {
	if err == nil {
		return nil // before what follows is made room for
	}
	var unavailable *upstream.UnavailableError
	var reauth *upstream.ReauthError
	switch {
	case errors.As(err, &reauth):
		return &mcpfilter.ReauthError{Reason: reauth.Reason, Err: err}
	case errors.Is(err, upstream.ErrNeedsReauth):
		return fmt.Errorf("%w: %w", mcpfilter.ErrNeedsReauth, err)
	case errors.Is(err, upstream.ErrStillRejected):
		return fmt.Errorf("%w: %w", mcpfilter.ErrStillRejected, err)
	case errors.As(err, &unavailable):
		return &mcpfilter.UnavailableError{RetryAfter: unavailable.RetryAfter, Advice: unavailable.Advice(), Err: err}
	default:
		return &mcpfilter.UnavailableError{Err: err}
	}
}

// ServeMetadata implements mcpfilter.Gateway.
func (p *proxyGateway) ServeMetadata(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, "/.well-known/") {
		return false
	}
	g, err := p.app.open()
	if err != nil {
		p.app.log.Error("metadata unavailable", zap.Error(err))
		return false
	}
	return g.server.ServeMetadata(w, r)
}

// Stopping implements mcpfilter.Gateway.
func (p *proxyGateway) Stopping() <-chan struct{} { return p.app.stopping }
