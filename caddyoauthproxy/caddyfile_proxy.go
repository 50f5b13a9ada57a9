package caddyoauthproxy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// proxy reads:
//
//	proxy <id> {
//		name              <text>
//		resource          <url>
//		provider          <name>
//		login             <name>
//		scopes            <scope>…
//		scope_text        <scope> <text>
//		allowed_redirects <uri>|<pattern>|<preset>…
//		consent           always|remember|off|off unsafe
//		machine_token     <placeholder>
//		upstream_token    user|client_credentials [<provider>]|exchange|static <placeholder> [<header>] { … }
//		identity_header   <header> <field>
//		identity_assertion [<header>]
//		max_grants        <n>
//		compat
//		allow             email_domain|email|user|login|group|org <value>…
//		policy            { … }
//		scope_includes    <scope> <scope>…
//		audit_arguments   <name>…
//		origins           <origin>…|*
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
	p.later = append(p.later, func() error { return at(p.checkProxy(id, v)) })
	if p.app.Proxies == nil {
		p.app.Proxies = make(map[string]*Proxy)
	}
	p.app.Proxies[id] = v
	return nil
}

// checkProxy finds what only shows when all providers are known. It has the code that judges JSON look, so that a mistake has its line here, too.
func (p *parser) checkProxy(id string, v *Proxy) error {
	if len(p.providers) == 0 {
		return nil // which is reported by itself
	}
	made, err := v.resolve(id, p.providers)
	if err == nil {
		if made.Consent, err = p.app.consentMode(v); err != nil {
			return nil //nolint:nilerr // reported where consent is written
		}
		err = v.checkUsers(made, p.providers)
	}
	if err != nil {
		return fmt.Errorf("proxy %q: %w", id, err)
	}
	return nil
}

func (p *parser) proxyOption(d *caddyfile.Dispenser, id string, v *Proxy, seen once) error {
	name := d.Val()
	switch name {
	case "scopes", "scope_text", "scope_includes", "allowed_redirects", "allow", "policy", "origins", "audit_arguments", "identity_header":
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
		return p.providerName(d, id, &v.Provider)
	case "login":
		return p.providerName(d, id, &v.Login)
	case "scopes":
		return args(d, &v.Scopes, nil)
	case "scope_text":
		if err := param(d, &v.ScopeTexts); err != nil {
			return err
		}
		at := position(d)
		p.later = append(p.later, func() error {
			for scope := range v.ScopeTexts {
				if !slices.Contains(v.Scopes, scope) {
					return at(fmt.Errorf("proxy %q: scope_text: %q is not one of the proxy's scopes", id, scope))
				}
			}
			return nil
		})
		return nil
	case "consent":
		if err := consent(d, &v.Consent); err != nil {
			return err
		}
		at := position(d)
		p.later = append(p.later, func() error { _, err := p.app.consentMode(v); return at(err) })
		return nil
	case "upstream_token":
		return p.upstreamToken(d, id, &v.UpstreamToken)
	case "identity_header":
		return identityHeader(d, &v.IdentityHeaders)
	case "identity_assertion":
		return identityAssertion(d, &v.IdentityAssertion)
	case "max_grants":
		return number(d, &v.MaxGrants, maxMaxGrants)
	case "compat":
		if d.NextArg() {
			return d.Err("compat takes no value")
		}
		v.Compat = true
		return nil
	case "machine_token":
		return oneArg(d, &v.MachineToken, checkSecret)
	case "allowed_redirects":
		return args(d, &v.AllowedRedirects, authserver.ValidAllowedRedirect)
	case "allow":
		return allow(d, &v.Allow)
	case "policy":
		return p.policy(d, id, v)
	case "scope_includes":
		return p.scopeIncludes(d, id, v)
	case "audit_arguments":
		return args(d, &v.AuditArguments, nil)
	case "origins":
		return args(d, &v.Origins, checkOrigin)
	default:
		return unknown(d, "allow", "allowed_redirects", "audit_arguments", "compat", "consent", "identity_assertion", "identity_header", "login", "machine_token", "max_grants", "name", "origins", "policy", "provider", "resource",
			"scope_includes", "scope_text", "scopes", "upstream_token")
	}
}

// providerName reads the name of a provider, which may be declared further down.
func (p *parser) providerName(d *caddyfile.Dispenser, id string, name *string) error {
	if err := oneArg(d, name, nil); err != nil {
		return err
	}
	at, given := position(d), *name
	p.later = append(p.later, func() error {
		if p.app.Providers[given] != nil {
			return nil
		}
		return at(fmt.Errorf("proxy %q: provider %q is not declared; declared are: %s", id, given, listed(p.app.Providers)))
	})
	return nil
}

func allow(d *caddyfile.Dispenser, policy *authserver.Policy) error {
	if !d.NextArg() {
		return d.Err("allow takes email_domain, email, user, login, group or org, and one or more values")
	}
	switch kind := d.Val(); kind {
	case "email_domain", "email", "user", "login", "group", "org":
	default:
		return d.Errf("allow knows email, email_domain, group, login, org and user, not %q", kind)
	}
	if err := people(d, policy); err != nil {
		return fmt.Errorf("allow %w", err)
	}
	return nil
}

// people reads the values of one kind of entry that names users.
func people(d *caddyfile.Dispenser, policy *authserver.Policy) (err error) {
	switch d.Val() {
	case "email_domain":
		err = args(d, &policy.EmailDomains, checkEmailDomain)
	case "email":
		err = args(d, &policy.Emails, checkEmail)
	case "user":
		err = args(d, &policy.Users, nil)
	case "login":
		err = args(d, &policy.Logins, nil)
	case "group":
		err = args(d, &policy.Groups, nil)
	case "org":
		err = args(d, &policy.Orgs, nil)
	}
	return err
}

func checkEmailDomain(v string) error {
	if strings.ContainsAny(v, "@*") || !strings.Contains(v, ".") {
		return errors.New("is not a domain such as example.com")
	}
	return nil
}

func checkEmail(v string) error {
	if strings.Count(v, "@") != 1 {
		return errors.New("is not an e-mail address")
	}
	return nil
}

// upstreamToken reads:
//
//	upstream_token user|client_credentials [<provider>]|exchange|static <placeholder> [<header>] {
//		scopes <scope>…
//		param  <name> <value>
//		fresh
//	}
func (p *parser) upstreamToken(d *caddyfile.Dispenser, id string, v *UpstreamToken) error {
	at := position(d)
	words := d.RemainingArgs()
	if len(words) == 0 {
		return d.Err("upstream_token takes user, client_credentials, exchange or static")
	}
	v.Source = words[0]
	switch rest := words[1:]; {
	case v.Source == sourceStatic && len(rest) == 1:
		v.Token = rest[0]
	case v.Source == sourceStatic && len(rest) == 2:
		v.Token, v.Header = rest[0], rest[1]
	case v.Source == sourceMachine && len(rest) == 1:
		v.Provider = rest[0]
		p.later = append(p.later, func() error {
			if p.app.Providers[v.Provider] != nil {
				return nil
			}
			return at(fmt.Errorf("proxy %q: upstream_token: provider %q is not declared; declared are: %s", id, v.Provider, listed(p.app.Providers)))
		})
	case len(rest) > 0:
		return d.Errf("upstream_token %s: %q is too much", v.Source, rest[len(rest)-1])
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch d.Val() {
		case "scopes":
			if err := args(d, &v.Scopes, nil); err != nil {
				return err
			}
		case "param":
			if err := param(d, &v.Params); err != nil {
				return err
			}
		case "fresh":
			v.Fresh = true
		default:
			return unknown(d, "fresh", "param", "scopes")
		}
	}
	return at(v.check())
}
