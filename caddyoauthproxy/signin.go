package caddyoauthproxy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// Admin says who may operate the gateway in a browser: the pages under `/admin/`, and the API under `/admin/oauth/`.
type Admin struct {
	// The provider where operators sign in. It must be one that says who a user is, so not of type `mcp`. Default: the only such one.
	Provider string `json:"provider,omitempty"`

	// Who the operators are: any entry is enough. Judged on every request, with what the provider said when they signed in. Required.
	Allow authserver.Policy `json:"allow,omitzero"`

	// How long a sign-in to the gateway's own pages lasts, of operators and users alike: 5m to 24h. Default: 8h.
	SessionTTL caddy.Duration `json:"session_ttl,omitempty"`

	// Lets operators apply what the configuration assistant makes to the running configuration, through Caddy's admin endpoint. Default: they can
	// only copy it.
	ApplyConfig bool `json:"apply_config,omitempty"`

	// Where Caddy's admin endpoint listens, for `apply_config`: what the global option `admin` says, also as a placeholder. Default: `localhost:2019`, or
	// what the environment variable `CADDY_ADMIN` says.
	AdminAddress string `json:"admin_address,omitempty"`

	// One of the origins that Caddy's admin endpoint takes, for `apply_config`. Required where it has `origins` or `enforce_origin`; default: none is sent.
	AdminOrigin string `json:"admin_origin,omitempty"`
}

// Connections is the page `/connections`, on which users see and cut their own connections.
type Connections struct {
	// Whether the page is switched off. Then nobody but operators can sign in. Default: on.
	Off bool `json:"off,omitempty"`
}

// checkSessionTTL bounds how long people are signed in.
func (v *Admin) checkSessionTTL() error {
	return inRange("session_ttl", v.SessionTTL, 5*time.Minute, 24*time.Hour)
}

// resolve makes the list of operators, of providers that are made already. Without the option there are none.
func (v *Admin) resolve(providers map[string]*upstream.Provider) (*authserver.Admins, error) {
	if v == nil {
		return nil, nil
	}
	if v.Allow.Everybody() {
		return nil, errors.New("admin: an admin page that anybody may open is no admin page: name who may, for example allow email alice@example.com")
	}
	if err := v.checkSessionTTL(); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if err := v.checkApply(); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	name, err := v.provider(providers)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	provider := providers[name]
	if provider == nil {
		return nil, nil // which could not be made, and is reported by itself
	}
	if provider.Anonymous() {
		return nil, fmt.Errorf("admin: provider %q does not say who a user is: name one that does", name)
	}
	if err := checkAllow(&authserver.Proxy{Provider: provider, Allow: v.Allow}); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	return &authserver.Admins{Provider: provider, Allow: v.Allow}, nil
}

// provider names the provider where operators sign in.
func (v *Admin) provider(providers map[string]*upstream.Provider) (string, error) {
	if _, declared := providers[v.Provider]; v.Provider != "" && !declared {
		return "", fmt.Errorf("provider %q is not declared; declared are: %s", v.Provider, listed(providers))
	}
	var able []string
	for _, name := range slices.Sorted(maps.Keys(providers)) {
		if p := providers[name]; p == nil || !p.Anonymous() {
			able = append(able, name)
		}
	}
	switch {
	case v.Provider != "":
		return v.Provider, nil
	case len(able) == 0:
		return "", fmt.Errorf("no provider says who a user is; declared are: %s", listed(providers))
	case len(able) > 1:
		return "", fmt.Errorf("provider is missing, and there are several: %s", strings.Join(able, ", "))
	}
	return able[0], nil
}

// signInTTL is how long people are signed in; zero for the default.
func (a *App) signInTTL() time.Duration {
	if a.Admin == nil {
		return 0
	}
	return time.Duration(a.Admin.SessionTTL)
}
