package caddyoauthproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App is an OAuth gateway for MCP servers. It is an OAuth 2.1 authorization server for chatbots, logs
// their users in at a provider, and keeps the upstream tokens it gets there in an encrypted vault. The
// `oauth_proxy` handler serves its endpoints, and the `mcp_filter` handler swaps its
// access tokens for upstream tokens in front of `reverse_proxy`.
type App struct {
	// The gateway's issuer identifier (RFC 8414): its public URL, without query and fragment. Every URL that
	// the gateway tells anybody begins with it. Required. Must be https, except on localhost, 127.0.0.1 and [::1].
	Issuer string `json:"issuer,omitempty"`

	// The path below the issuer's that providers send users back to, `/api/v1/oauth/callback` or `/oauth/callback`. Both answer; this one is told to providers. The second
	// is for a provider that knows it from another gateway. One of the type `mcp` has a path of its own. Default: `/api/v1/oauth/callback`.
	CallbackPath string `json:"callback_path,omitempty"`

	// Where tokens are kept. Default: `bbolt`, one file in Caddy's data directory.
	VaultRaw json.RawMessage `json:"vault,omitempty" caddy:"namespace=oauth_proxy.vaults inline_key=module"`

	// Keys that the vault is encrypted with: 32 random bytes each, base64 or hex, as placeholders
	// (`{file./run/secrets/vault.key}` or `{env.VAULT_KEY}`), or as objects whose `source` is a module that
	// tells the key, such as `command` or `systemd`. The first encrypts, all decrypt. Default: a
	// key file beside the vault file, made at the first start; required where several nodes share the vault.
	EncryptionKeys []json.RawMessage `json:"encryption_keys,omitempty" caddy:"namespace=oauth_proxy.keys inline_key=source"`

	// The providers that users log in at, by name. At least one.
	Providers map[string]*Provider `json:"providers,omitempty"`

	// The protected MCP servers, by id. At least one. An id is letters, digits, `-` and `_`; it stands in endpoint paths.
	Proxies map[string]*Proxy `json:"proxies,omitempty"`

	// The OAuth clients that the operator registers, by client_id.
	Clients map[string]*Client `json:"clients,omitempty"`

	// Which clients may register themselves. Default: any.
	Registration Registration `json:"registration,omitzero"`

	// Whose client ID metadata documents are accepted. Default: those of every public host.
	MetadataDocuments MetadataDocuments `json:"metadata_documents,omitzero"`

	// When users are asked whether a client may act for them: `always`, `remember` (the user may have the answer remembered), `off` (only
	// where strangers can make no clients), or `off unsafe`. Proxies can set their own. Default: `always`.
	Consent string `json:"consent,omitempty"`

	// The PKCE methods (RFC 7636) that clients may use: `S256`, and `plain` for clients that know nothing better. Default: `S256`.
	CodeChallengeMethods []string `json:"code_challenge_methods,omitempty"`

	// How many living grants one user can have for one client and redirect URI; the one that was quiet for longest ends when
	// there is one more. Default: 25.
	MaxGrantsPerClient int `json:"max_grants_per_client,omitempty"`

	// How often the endpoints may be used: `register`, `authorize`, `login` and `token` by network address, `client` by client. Default:
	// 60, 60, 10, 60 and 600 in a minute.
	RateLimits map[string]*RateLimit `json:"rate_limits,omitempty"`

	// What access tokens are signed with: `ES256`, `RS256` or `EdDSA`. Default: `ES256`.
	SigningAlgorithm string `json:"signing_algorithm,omitempty"`

	// How long a signing key signs before the next one takes over. Default: 90d; negative for never.
	SigningKeyRotation caddy.Duration `json:"signing_key_rotation,omitempty"`

	// How long a session token lives. Default: 1h; negative for no session tokens.
	SessionTokenTTL caddy.Duration `json:"session_token_ttl,omitempty"`

	// How long an access token lives, no longer than its grant. Default: 1h.
	AccessTokenTTL caddy.Duration `json:"access_token_ttl,omitempty"`

	// How long a grant lives without being refreshed. Default: 30d.
	RefreshTokenIdle caddy.Duration `json:"refresh_token_idle,omitempty"`

	// How long a grant lives in any case; then the user logs in again. Default: 90d.
	RefreshTokenTTL caddy.Duration `json:"refresh_token_ttl,omitempty"`

	// How long a refresh token that was just replaced is answered again with the same successor, for clients that
	// lost the answer. Using it later ends the grant. Default: 60s, at most 1h; negative for none.
	RefreshGrace caddy.Duration `json:"refresh_grace,omitempty"`

	// How long an authorization code lives. Default: 60s, at most 10m.
	CodeTTL caddy.Duration `json:"code_ttl,omitempty"`

	// How long a user may take for the consent page, and again for the provider's login. Default: 5m, at most 1h.
	LoginTTL caddy.Duration `json:"login_ttl,omitempty"`

	// How long before its end an upstream token is refreshed in the background; never more than half of the
	// token's life. Default: 5m.
	RefreshBefore caddy.Duration `json:"refresh_before,omitempty"`

	// How often grants that have expired are ended, with their tokens at the provider, and records past their time are deleted. Default: 1h; negative for never.
	CleanupInterval caddy.Duration `json:"cleanup_interval,omitempty"`

	// How long ended grants, API keys and orders to revoke are kept, at least 2h. Default: 90d.
	Retention caddy.Duration `json:"retention,omitempty"`

	// Who may operate the gateway in a browser. Default: nobody.
	Admin *Admin `json:"admin,omitempty"`

	// The page on which users see and cut their own connections. Default: on.
	Connections Connections `json:"connections,omitzero"`

	// How the gateway's pages look.
	Console Console `json:"console,omitzero"`

	// What is kept of the audit trail. Default: all of it, for 90d.
	Audit Audit `json:"audit,omitzero"`

	ctx    caddy.Context
	log    *zap.Logger
	vault  Vault
	config *resolved

	metrics *metrics
	auditor *auditor
	alone   bool // without a configuration of Caddy around it, and so without an events app

	// What the handlers of this configuration serve, which they tell while they are provisioned: before any app is started.
	endpoints bool            // whether there is an oauth_proxy
	guarded   map[string]bool // the proxies that have an mcp_filter

	gateway  atomic.Pointer[gateway]
	opening  sync.Mutex
	openErr  error
	stopping chan struct{}
	stopOnce sync.Once
	done     chan struct{}
	jobs     sync.WaitGroup
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth_proxy", New: func() caddy.Module { return new(App) }}
}

const (
	// openTimeout bounds how long a config load waits for the vault.
	openTimeout = 10 * time.Second

	// drainTimeout bounds how long the process waits for refreshes to be saved when it ends, and all its requests have been answered.
	drainTimeout = 15 * time.Second

	// lateRequests is how long after a reload the old config still answers: its servers stop listening
	// first, and may yet read requests from connections that they had accepted.
	lateRequests = 10 * time.Second
)

// Provision checks and resolves the configuration. It opens nothing and touches no file but those
// that placeholders name, so that `caddy validate` is free of side effects.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.log = ctx, ctx.Logger()
	a.stopping, a.done, a.guarded = make(chan struct{}), make(chan struct{}), make(map[string]bool)
	if a.VaultRaw == nil {
		a.VaultRaw = json.RawMessage(`{"module":"bbolt"}`)
	}
	mod, err := ctx.LoadModule(a, "VaultRaw")
	if err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	vault, ok := mod.(Vault)
	if !ok {
		return fmt.Errorf("vault: module %T is not a vault", mod)
	}
	a.vault = vault
	if a.config, err = a.resolve(); err != nil {
		return err
	}
	a.metrics = measured
	if err := a.metrics.register(ctx.GetMetricsRegistry(), providerMetrics{a}, databaseGauges{a}, databaseCounters{a}, recallRows{a}, recallCounts{a}); err != nil {
		return err
	}
	a.auditor = &auditor{log: a.log.Named("audit"), metrics: measured}
	if !a.alone {
		if a.auditor.hooks, err = newHooks(ctx, a.log, a.done, a.begun); err != nil {
			return err
		}
	}
	for _, p := range a.config.proxies {
		if p.Consent == authserver.ConsentOff && a.anybodyCanBeAClient() {
			a.log.Warn("consent is off although strangers can make clients: any of them can have a user logged in unseen", zap.String("proxy", p.ID))
		}
	}
	return nil
}

// Start opens the vault, within a time limit. An error keeps the previous config running.
func (a *App) Start() error {
	g, err := a.open()
	if err != nil {
		return err
	}
	a.warnOfUnserved()
	go a.watchExit(g.gone)
	a.metrics.expect(a.config.proxies, a.config.providers)
	a.jobs.Go(func() { a.everyMinute(g, g.server.Maintain) })
	a.jobs.Go(func() { a.everyMinute(g, g.server.CarryOutOrders) })
	a.jobs.Go(func() { a.countRecords(g) })
	a.jobs.Go(func() { a.everyMinute(g, g.accounts.RetryRevocations) })
	interval := a.cleanupInterval()
	a.metrics.cleansUp(interval)
	if interval > 0 {
		a.jobs.Go(func() { a.cleanup(g, interval) })
	}
	return nil
}

// warnOfUnserved says what no site serves. It is no error, as routes may be added through Caddy's admin endpoint. Validate would come too early for it: Caddy validates an app
// before it provisions the handlers that may ask for it.
func (a *App) warnOfUnserved() {
	if !a.endpoints {
		a.log.Warn("nobody can log in: no site has the handler oauth_proxy")
	}
	for _, p := range a.config.proxies {
		if !a.guarded[p.ID] {
			a.log.Warn("no site has an mcp_proxy or mcp_filter for this proxy", zap.String("proxy", p.ID), zap.String("resource", p.Resource))
		}
	}
}

// begun is called once all apps of the configuration run.
func (a *App) begun() {
	if g := a.gateway.Load(); g != nil {
		g.vault.Note(a.configLoaded(g.vault))
	}
}

// Stop leaves everything as it is: requests of this config may go on for as long as their streams do, and need the vault and upstream tokens. On the way out of
// the process, too: apps stop in no particular order, and the HTTP app answers new requests for as long as its shutdown delay.
func (*App) Stop() error { return nil }

// Cleanup gives up this config's hold on the vault, a little later when the process goes on. The vault itself
// closes when nobody holds it any more: not a later config, not a request, not a refresh. On the way out of the process, when all
// apps have stopped, it waits for refreshes in flight to be saved.
func (a *App) Cleanup() error {
	if a.done != nil {
		close(a.done)
	}
	a.jobs.Wait()
	a.opening.Lock()
	defer a.opening.Unlock()
	a.openErr = errClosed
	g := a.gateway.Load()
	switch {
	case g == nil:
	case caddy.Exiting():
		defer g.hold.leave()
		a.endStreams()
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		return drainAll(ctx)
	default:
		g.leaveBehind(a)
		g.vault.LeaveRekeys()
		time.AfterFunc(lateRequests, g.retire)
	}
	return nil
}

var errClosed = errors.New("this configuration is no longer in use")

// open returns the gateway, opening it the first time. Caddy starts apps in no particular
// order, so a request may come before Start and then opens it.
func (a *App) open() (*gateway, error) {
	if g := a.gateway.Load(); g != nil {
		return g, nil
	}
	a.opening.Lock()
	defer a.opening.Unlock()
	if g := a.gateway.Load(); g != nil {
		return g, nil
	}
	if a.openErr != nil {
		return nil, a.openErr
	}
	g, err := openGateway(context.WithoutCancel(a.ctx), a)
	if err != nil {
		a.openErr = err
		return nil, err
	}
	a.gateway.Store(g)
	return g, nil
}

// endStreams tells open event streams to end.
func (a *App) endStreams() {
	a.stopOnce.Do(func() {
		close(a.stopping)
		if g := a.gateway.Load(); g != nil {
			g.grants.tellAll()
		}
	})
}

// watchExit ends the streams when the process is on its way out, as soon as the HTTP app takes no more requests. Neither Stop nor Cleanup can do it: the HTTP app's own
// Stop may come first, and it waits for the streams, those of earlier configs among them.
func (a *App) watchExit(gone <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-gone:
			return
		case <-tick.C:
			if !caddy.Exiting() {
				continue
			}
			select {
			case <-gone:
			case <-time.After(a.shutdownDelay()):
				a.endStreams()
			}
			return
		}
	}
}

// shutdownDelay is how long the HTTP app announces its end before it stops to listen. It is to be asked once all apps are provisioned.
func (a *App) shutdownDelay() time.Duration {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return 0
	}
	return time.Duration(app.(*caddyhttp.App).ShutdownDelay)
}

// Gateway returns the gateway as one proxy sees it, for the MCP filter, which serves that proxy then.
func (a *App) Gateway(proxy string) (mcpfilter.Gateway, error) {
	p := a.config.proxy(proxy)
	if p == nil {
		return nil, fmt.Errorf("oauth_proxy: no proxy %q; declared are: %s", proxy, listed(a.Proxies))
	}
	a.guarded[proxy] = true
	return &proxyGateway{app: a, proxy: p, source: a.config.sources[proxy], policy: a.config.policies[proxy]}, nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
	_ mcpfilter.App      = (*App)(nil)
)
