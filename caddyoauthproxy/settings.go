package caddyoauthproxy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// maxGrantsPerClient bounds max_grants_per_client.
const maxGrantsPerClient = 1000

// resolved is the configuration, checked and with its placeholders replaced. It stays in memory: the exported fields
// keep the placeholders, so that no dump of the config shows a secret.
type resolved struct {
	issuer    *url.URL
	providers map[string]*upstream.Provider
	proxies   []*authserver.Proxy
	clients   []*authserver.ConfiguredClient
	sources   map[string]*tokenSource     // by proxy
	policies  map[string]mcpfilter.Policy // by proxy

	registration authserver.Registration
	limits       authserver.Limits
	admins       *authserver.Admins
	pages        *console.Pages
}

func (r *resolved) proxy(id string) *authserver.Proxy {
	for _, p := range r.proxies {
		if p.ID == id {
			return p
		}
	}
	return nil
}

// resolve checks the whole configuration and reports everything that is wrong with it.
func (a *App) resolve() (*resolved, error) {
	r := &resolved{providers: make(map[string]*upstream.Provider, len(a.Providers)), sources: make(map[string]*tokenSource, len(a.Proxies)),
		policies: make(map[string]mcpfilter.Policy, len(a.Proxies))}
	var errs []error
	fail := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	r.issuer, err = parseIssuer(a.Issuer)
	fail(err)
	if err := authserver.CheckCallbackPath(a.CallbackPath); err != nil {
		fail(fmt.Errorf("callback_path %q %w", a.CallbackPath, err))
	}
	_, unload, err := loadKeys(a.ctx, a.EncryptionKeys)
	if err == nil {
		unload()
	}
	fail(err)
	fail(a.checkShared(a.vault))
	if len(a.Providers) == 0 {
		fail(errors.New("no provider: declare one, for example provider github { client_id …; client_secret {env.…} }"))
	}
	for _, name := range slices.Sorted(maps.Keys(a.Providers)) {
		p, err := a.Providers[name].resolve(name, r.issuer)
		fail(err)
		r.providers[name] = p
	}
	if len(a.Proxies) == 0 {
		fail(errors.New("no proxy: declare one, for example proxy jira { resource https://gateway.example.com/jira/mcp }"))
	}
	resources := make(map[string]string)
	for _, id := range slices.Sorted(maps.Keys(a.Proxies)) {
		p, err := a.Proxies[id].resolve(id, r.providers)
		if err == nil {
			p.Consent, err = a.consentMode(a.Proxies[id])
		}
		if err == nil {
			r.sources[id], err = a.Proxies[id].UpstreamToken.resolve(p.Provider, r.providers, a.log.Named("upstream"))
		}
		if err == nil {
			r.sources[id].machine, err = a.Proxies[id].machineToken()
		}
		if err == nil {
			r.policies[id], err = a.Proxies[id].policy(p)
		}
		if err != nil {
			fail(fmt.Errorf("proxy %q: %w", id, err))
			continue
		}
		canonical, _ := authserver.ValidResource(p.Resource)
		if other, taken := resources[canonical]; taken {
			fail(fmt.Errorf("proxy %q: resource %s is proxy %q's already; every proxy needs its own", id, p.Resource, other))
		}
		resources[canonical] = id
		if err := a.Proxies[id].checkUsers(p, r.providers); err != nil {
			fail(fmt.Errorf("proxy %q: %w", id, err))
		}
		p.Machines = r.sources[id].forMachines()
		p.AsksForMore = p.Provider != nil && p.Provider.AsksForMore() && r.sources[id].kind == sourceUser
		r.proxies = append(r.proxies, p)
	}
	for _, id := range slices.Sorted(maps.Keys(a.Clients)) {
		c, err := a.Clients[id].resolve(id, a.Proxies, time.Now())
		if err == nil && len(r.proxies) == len(a.Proxies) { // else it might be for one that could not be made
			err = a.Clients[id].checkLogin(id, r.proxies)
		}
		fail(err)
		r.clients = append(r.clients, c)
	}
	r.registration, err = a.Registration.resolve()
	fail(err)
	fail(a.MetadataDocuments.check())
	r.limits, err = resolveLimits(a.RateLimits)
	fail(err)
	r.admins, err = a.Admin.resolve(r.providers)
	fail(err)
	r.pages, err = a.Console.resolve()
	fail(err)
	fail(checkAlgorithm(a.SigningAlgorithm))
	for _, method := range a.CodeChallengeMethods {
		fail(checkChallengeMethod(method))
	}
	if n := a.MaxGrantsPerClient; n < 0 || n > maxGrantsPerClient {
		fail(fmt.Errorf("max_grants_per_client %d is out of range: 1 to %d", n, maxGrantsPerClient))
	}
	fail(a.Audit.check())
	fail(a.checkDurations())
	if len(errs) > 0 {
		return nil, fmt.Errorf("oauth_proxy: %w", errors.Join(errs...))
	}
	return r, nil
}

// checkAllow refuses an allow list of login names where these are no identity: there, anybody could take the name of somebody on it. It also refuses one of groups
// or organisations that the provider never tells, which would let nobody in.
func checkAllow(p *authserver.Proxy) error {
	provider := cmp.Or(p.Login, p.Provider)
	switch {
	case provider == nil:
		return nil
	case len(p.Allow.Logins) > 0 && !provider.HasUniqueLogins():
		return fmt.Errorf("allow login: login names at provider %q may repeat or be chosen freely; write allow user with the provider's subject identifiers instead", provider.Name())
	case len(p.Allow.Groups) > 0 && !provider.TellsGroups():
		return fmt.Errorf("allow group: provider %q does not tell its users' groups; write allow email, email_domain or user instead", provider.Name())
	case len(p.Allow.Orgs) > 0 && !provider.TellsOrg():
		return fmt.Errorf("allow org: provider %q does not tell its users' organisation; write allow email, email_domain or user instead", provider.Name())
	}
	return nil
}

func checkAlgorithm(name string) error {
	if name == "" || slices.Contains(authserver.SigningAlgorithms(), name) {
		return nil
	}
	return fmt.Errorf("signing_algorithm %q is unknown; known are %s", name, strings.Join(authserver.SigningAlgorithms(), ", "))
}

func checkChallengeMethod(name string) error {
	if name != "S256" && name != "plain" {
		return fmt.Errorf("code_challenge_methods: %q is unknown; known are S256 and plain", name)
	}
	return nil
}

// parseIssuer checks the issuer identifier (RFC 8414 §2).
func parseIssuer(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New("issuer is missing: set it to the gateway's public URL, for example issuer https://gateway.example.com")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		return nil, fmt.Errorf("issuer %q is not a URL; write it like https://gateway.example.com", text)
	case u.RawQuery != "" || strings.Contains(text, "#") || u.User != nil:
		return nil, fmt.Errorf("issuer %q must have no query, fragment or user information (RFC 8414 §2)", text)
	case u.Scheme == "http" && !authserver.IsLoopback(u):
		return nil, fmt.Errorf("issuer %q must be https: tokens and codes would cross the network in clear; http is for localhost only", text)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("issuer %q must be https", text)
	case strings.ContainsAny(u.Path, "{}*") || strings.Contains(u.EscapedPath(), "%"):
		return nil, fmt.Errorf("issuer %q has a path that needs escaping; use a plain one", text)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// checkDurations refuses lifetimes that make no sense or that weaken what they are for.
func (a *App) checkDurations() error {
	var errs []error
	check := func(name string, d caddy.Duration, least, most time.Duration) {
		errs = append(errs, inRange(name, d, least, most))
	}
	const day = 24 * time.Hour
	check("access_token_ttl", a.AccessTokenTTL, 10*time.Second, day)
	check("refresh_token_idle", a.RefreshTokenIdle, time.Minute, 400*day)
	check("refresh_token_ttl", a.RefreshTokenTTL, time.Minute, 400*day)
	check("code_ttl", a.CodeTTL, 5*time.Second, 10*time.Minute)
	check("login_ttl", a.LoginTTL, 30*time.Second, time.Hour)
	check("refresh_before", a.RefreshBefore, time.Second, day)
	check("retention", a.Retention, 2*time.Hour, 4000*day)
	if a.RefreshGrace > 0 {
		check("refresh_grace", a.RefreshGrace, time.Second, time.Hour)
	}
	if a.SigningKeyRotation > 0 {
		check("signing_key_rotation", a.SigningKeyRotation, time.Hour, 4000*day)
	}
	if a.SessionTokenTTL > 0 {
		check("session_token_ttl", a.SessionTokenTTL, 10*time.Second, day)
	}
	if a.CleanupInterval > 0 {
		check("cleanup_interval", a.CleanupInterval, time.Second, 7*day)
	}
	return errors.Join(errs...)
}

// inRange refuses a duration that is set and out of range.
func inRange(name string, d caddy.Duration, least, most time.Duration) error {
	if v := time.Duration(d); d != 0 && (v < least || v > most) {
		return fmt.Errorf("%s %s is out of range: %s to %s", name, v, least, most)
	}
	return nil
}

func (a *App) lifetimes() authserver.Lifetimes {
	return authserver.Lifetimes{
		AccessToken:  time.Duration(a.AccessTokenTTL),
		RefreshIdle:  time.Duration(a.RefreshTokenIdle),
		RefreshTotal: time.Duration(a.RefreshTokenTTL),
		RefreshGrace: time.Duration(a.RefreshGrace),
		Code:         time.Duration(a.CodeTTL),
		Login:        time.Duration(a.LoginTTL),
		Retention:    time.Duration(a.Retention),
		Session:      max(time.Duration(a.SessionTokenTTL), 0),
		SignIn:       a.signInTTL(),
	}
}

func (a *App) cleanupInterval() time.Duration {
	if a.CleanupInterval == 0 {
		return time.Hour
	}
	return time.Duration(a.CleanupInterval)
}

// listed names what is declared, for error messages.
func listed[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
