package caddyoauthproxy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(mcpfilter.AppName, parseGlobal)
	httpcaddyfile.RegisterHandlerDirective("oauth_proxy", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("oauth_proxy", httpcaddyfile.After, "encode")
}

// parseDirective sets up the handler:
//
//	oauth_proxy [<matcher>]
func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // the directive's name
	if h.NextArg() {
		return nil, h.Errf("oauth_proxy takes no arguments, such as %q, in a site: its settings belong into the global option oauth_proxy { … } at the top of the file", h.Val())
	}
	if h.NextBlock(0) {
		return nil, h.Errf("oauth_proxy has no options, such as %q, in a site: they belong into the global option oauth_proxy { … } at the top of the file", h.Val())
	}
	if h.Option(mcpfilter.AppName) == nil {
		return nil, h.Err("oauth_proxy needs the global option oauth_proxy { … } at the top of the file, with issuer, provider and proxy")
	}
	return new(Handler), nil
}

// parseGlobal sets up the app from the global option:
//
//	oauth_proxy {
//		issuer               <url>
//		vault                <module> …
//		encryption_key       <placeholder> [<older placeholder>…]
//		access_token_ttl     <duration>
//		refresh_token_idle   <duration>
//		refresh_token_ttl    <duration>
//		refresh_grace        <duration>|off
//		code_ttl             <duration>
//		login_ttl            <duration>
//		refresh_before       <duration>
//		cleanup_interval     <duration>|off
//		retention            <duration>
//		provider <name> { … }
//		proxy <id> { … }
//	}
func parseGlobal(d *caddyfile.Dispenser, prev any) (any, error) {
	d.Next() // the option's name
	if prev != nil {
		return nil, d.Err("oauth_proxy is declared twice; put everything into one block")
	}
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	p := &parser{app: new(App)}
	p.once = newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := p.option(d); err != nil {
			return nil, err
		}
		if err := p.app.checkDurations(); err != nil {
			return nil, d.WrapErr(err)
		}
	}
	if err := p.finish(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: mcpfilter.AppName, Value: caddyconfig.JSON(p.app, nil)}, nil
}

// parser reads the global option. What depends on several lines is checked at the
// end, and still reported at its own line.
type parser struct {
	app   *App
	once  once
	later []func() error
}

func (p *parser) option(d *caddyfile.Dispenser) error {
	name := d.Val()
	if name != "provider" && name != "proxy" {
		if err := p.once.check(d); err != nil {
			return err
		}
	}
	a := p.app
	switch name {
	case "issuer":
		return oneArg(d, &a.Issuer, func(v string) error { _, err := parseIssuer(v); return err })
	case "vault":
		return p.vault(d)
	case "encryption_key":
		a.EncryptionKeys = d.RemainingArgs()
		if len(a.EncryptionKeys) == 0 {
			return d.ArgErr()
		}
		for _, key := range a.EncryptionKeys {
			if err := checkSecret(key); err != nil {
				return d.Errf("encryption_key %w", err)
			}
		}
		return nil
	case "access_token_ttl":
		return duration(d, &a.AccessTokenTTL, false)
	case "refresh_token_idle":
		return duration(d, &a.RefreshTokenIdle, false)
	case "refresh_token_ttl":
		return duration(d, &a.RefreshTokenTTL, false)
	case "refresh_grace":
		return duration(d, &a.RefreshGrace, true)
	case "code_ttl":
		return duration(d, &a.CodeTTL, false)
	case "login_ttl":
		return duration(d, &a.LoginTTL, false)
	case "refresh_before":
		return duration(d, &a.RefreshBefore, false)
	case "cleanup_interval":
		return duration(d, &a.CleanupInterval, true)
	case "retention":
		return duration(d, &a.Retention, false)
	case "provider":
		return p.provider(d)
	case "proxy":
		return p.proxy(d)
	default:
		return unknown(d, "access_token_ttl", "cleanup_interval", "code_ttl", "encryption_key", "issuer", "login_ttl",
			"provider", "proxy", "refresh_before", "refresh_grace", "refresh_token_idle", "refresh_token_ttl", "retention", "vault")
	}
}

// vault reads the vault's module name and leaves the rest of the line, and the block, to the module.
func (p *parser) vault(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	id := "oauth_proxy.vaults." + name
	if _, err := caddy.GetModule(id); err != nil {
		return d.Errf("vault %q is unknown: no module %s is built in", name, id)
	}
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return err
	}
	p.app.VaultRaw = caddyconfig.JSONModuleObject(module, "module", name, nil)
	return nil
}

// provider reads:
//
//	provider <name> {
//		type                       <type>
//		client_id                  <id>
//		client_secret              <placeholder>
//		issuer                     <url>
//		domain                     <domain>
//		authorization_server       <id>
//		tenant                     <id>
//		authorization_url          <url>
//		token_url                  <url>
//		userinfo_url               <url>
//		subject_field              <name>
//		revocation_url             <url>
//		scopes                     <scope>…
//		token_endpoint_auth_method <method>
//		authorize_param            <name> <value>
//		timeout                    <duration>
//		retries                    <n>|off
//	}
func (p *parser) provider(d *caddyfile.Dispenser) error {
	name, err := blockName(d, "provider")
	if err != nil {
		return err
	}
	if _, taken := p.app.Providers[name]; taken {
		return d.Errf("provider %q is declared twice", name)
	}
	// The provider itself is judged after its block, by the code that judges JSON, but reported where it begins.
	at := position(d)
	v := new(Provider)
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := providerOption(d, v, seen); err != nil {
			return err
		}
	}
	if p.app.Providers == nil {
		p.app.Providers = make(map[string]*Provider)
	}
	p.app.Providers[name] = v
	return at(v.check(name))
}

func providerOption(d *caddyfile.Dispenser, v *Provider, seen once) error {
	name := d.Val()
	if name != "authorize_param" && name != "scopes" {
		if err := seen.check(d); err != nil {
			return err
		}
	}
	switch name {
	case "type":
		return oneArg(d, &v.Type, nil)
	case "client_id":
		return oneArg(d, &v.ClientID, nil)
	case "client_secret":
		return oneArg(d, &v.ClientSecret, checkSecret)
	case "issuer":
		return oneArg(d, &v.Issuer, nil)
	case "domain":
		return oneArg(d, &v.Domain, nil)
	case "authorization_server":
		return oneArg(d, &v.AuthorizationServer, nil)
	case "tenant":
		return oneArg(d, &v.Tenant, nil)
	case "authorization_url":
		return oneArg(d, &v.AuthorizationURL, nil)
	case "token_url":
		return oneArg(d, &v.TokenURL, nil)
	case "userinfo_url":
		return oneArg(d, &v.UserinfoURL, nil)
	case "subject_field":
		return oneArg(d, &v.SubjectField, nil)
	case "revocation_url":
		return oneArg(d, &v.RevocationURL, nil)
	case "scopes":
		return args(d, &v.Scopes, nil)
	case "token_endpoint_auth_method":
		return oneArg(d, &v.TokenEndpointAuthMethod, nil)
	case "authorize_param":
		var key, value string
		if !d.AllArgs(&key, &value) {
			return d.Err("authorize_param takes a name and a value")
		}
		if v.AuthorizeParams == nil {
			v.AuthorizeParams = make(map[string]string)
		}
		v.AuthorizeParams[key] = value
		return nil
	case "timeout":
		return duration(d, &v.Timeout, false)
	case "retries":
		return retries(d, &v.Retries)
	default:
		return unknown(d, "authorization_server", "authorization_url", "authorize_param", "client_id", "client_secret", "domain", "issuer",
			"retries", "revocation_url", "scopes", "subject_field", "tenant", "timeout", "token_endpoint_auth_method", "token_url", "type", "userinfo_url")
	}
}

func retries(d *caddyfile.Dispenser, n *int) error {
	var text string
	if !d.AllArgs(&text) {
		return d.ArgErr()
	}
	if text == "off" {
		*n = -1
		return nil
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < 1 || v > 10 {
		return d.Errf("retries takes a number from 1 to 10, or off, not %q", text)
	}
	*n = v
	return nil
}

// proxy reads:
//
//	proxy <id> {
//		name              <text>
//		resource          <url>
//		provider          <name>
//		scopes            <scope>…
//		allowed_redirects <uri>…
//		allow             email_domain|email|user <value>…
//	}
func (p *parser) proxy(d *caddyfile.Dispenser) error {
	id, err := blockName(d, "proxy")
	if err != nil {
		return err
	}
	if err := checkProxyID(id); err != nil {
		return d.Errf("proxy %q: %w", id, err)
	}
	if _, taken := p.app.Proxies[id]; taken {
		return d.Errf("proxy %q is declared twice", id)
	}
	at := position(d)
	v := new(Proxy)
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := p.proxyOption(d, id, v, seen); err != nil {
			return err
		}
	}
	if v.Resource == "" {
		return at(fmt.Errorf("proxy %q: %w", id, checkResource("")))
	}
	if v.Provider == "" {
		p.later = append(p.later, func() error {
			if len(p.app.Providers) > 1 {
				return at(fmt.Errorf("proxy %q: provider is missing, and there are several: %s", id, listed(p.app.Providers)))
			}
			return nil
		})
	}
	if p.app.Proxies == nil {
		p.app.Proxies = make(map[string]*Proxy)
	}
	p.app.Proxies[id] = v
	return nil
}

func (p *parser) proxyOption(d *caddyfile.Dispenser, id string, v *Proxy, seen once) error {
	name := d.Val()
	switch name {
	case "scopes", "allowed_redirects", "allow":
	default:
		if err := seen.check(d); err != nil {
			return err
		}
	}
	switch name {
	case "name":
		return oneArg(d, &v.Name, nil)
	case "resource":
		if err := oneArg(d, &v.Resource, checkResource); err != nil {
			return err
		}
		canonical, _ := authserver.ValidResource(v.Resource)
		for other, have := range p.app.Proxies {
			if c, _ := authserver.ValidResource(have.Resource); c == canonical {
				return d.Errf("proxy %q: resource %s is proxy %q's already; every proxy needs its own", id, v.Resource, other)
			}
		}
		return nil
	case "provider":
		if err := oneArg(d, &v.Provider, nil); err != nil {
			return err
		}
		at := position(d)
		p.later = append(p.later, func() error {
			if p.app.Providers[v.Provider] != nil {
				return nil
			}
			return at(fmt.Errorf("proxy %q: provider %q is not declared; declared are: %s", id, v.Provider, listed(p.app.Providers)))
		})
		return nil
	case "scopes":
		return args(d, &v.Scopes, nil)
	case "allowed_redirects":
		return args(d, &v.AllowedRedirects, authserver.ValidAllowedRedirect)
	case "allow":
		return allow(d, &v.Allow)
	default:
		return unknown(d, "allow", "allowed_redirects", "name", "provider", "resource", "scopes")
	}
}

func allow(d *caddyfile.Dispenser, policy *authserver.Policy) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	switch kind := d.Val(); kind {
	case "email_domain":
		return args(d, &policy.EmailDomains, func(v string) error {
			if strings.ContainsAny(v, "@*") || !strings.Contains(v, ".") {
				return errors.New("is not a domain such as example.com")
			}
			return nil
		})
	case "email":
		return args(d, &policy.Emails, func(v string) error {
			if strings.Count(v, "@") != 1 {
				return errors.New("is not an e-mail address")
			}
			return nil
		})
	case "user":
		return args(d, &policy.Users, nil)
	default:
		return d.Errf("allow knows email_domain, email and user, not %q", kind)
	}
}

// finish checks what can only be known at the end of the block.
func (p *parser) finish(d *caddyfile.Dispenser) error {
	for _, check := range p.later {
		if err := check(); err != nil {
			return err
		}
	}
	switch {
	case p.app.Issuer == "":
		_, err := parseIssuer("")
		return d.WrapErr(fmt.Errorf("oauth_proxy: %w", err))
	case len(p.app.Providers) == 0:
		return d.Err("oauth_proxy: no provider: declare one, for example provider github { client_id …; client_secret {env.…} }")
	case len(p.app.Proxies) == 0:
		return d.Err("oauth_proxy: no proxy: declare one, for example proxy jira { resource https://gateway.example.com/jira/mcp }")
	}
	return nil
}
