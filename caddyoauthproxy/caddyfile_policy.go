package caddyoauthproxy

import (
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// policy reads:
//
//	policy {
//		allow|deny tool|resource|prompt <pattern>… {
//			email_domain|email|user|login|group|org <value>…
//			client <pattern>…
//			scope  <scope>…
//		}
//	}
func (p *parser) policy(d *caddyfile.Dispenser, id string, v *Proxy) error {
	if d.NextArg() {
		return d.Errf("policy takes a block, not %q", d.Val())
	}
	rules := 0
	for nesting := d.Nesting(); d.NextBlock(nesting); rules++ {
		rule := PolicyRule{Effect: d.Val()}
		if rule.Effect != "allow" && rule.Effect != "deny" {
			return unknown(d, "allow", "deny")
		}
		if !d.NextArg() {
			return d.Errf("%s takes tool, resource or prompt, and one or more names", rule.Effect)
		}
		rule.Target = d.Val()
		rule.Patterns = d.RemainingArgs()
		at := position(d)
		if err := p.policyRule(d, &rule); err != nil {
			return err
		}
		v.Policy = append(v.Policy, rule)
		index := len(v.Policy) - 1
		p.later = append(p.later, func() error {
			if len(p.providers) == 0 {
				return nil // which is reported by itself
			}
			made, err := v.resolve(id, p.providers)
			if err != nil {
				return nil //nolint:nilerr // reported where the proxy is declared
			}
			if err := v.checkRule(index, made); err != nil {
				return at(fmt.Errorf("proxy %q: policy: %w", id, err))
			}
			return nil
		})
	}
	if rules == 0 {
		return d.Err("policy is empty: write allow or deny, tool, resource or prompt, and names")
	}
	return nil
}

// policyRule reads the block of a rule.
func (p *parser) policyRule(d *caddyfile.Dispenser, rule *PolicyRule) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch d.Val() {
		case "email_domain", "email", "user", "login", "group", "org":
			if err := people(d, &rule.Users); err != nil {
				return err
			}
		case "client":
			if err := args(d, &rule.Clients, nil); err != nil {
				return err
			}
		case "scope":
			if err := args(d, &rule.Scopes, nil); err != nil {
				return err
			}
		default:
			return unknown(d, "client", "email", "email_domain", "group", "login", "org", "scope", "user")
		}
	}
	return nil
}

// scopeIncludes reads:
//
//	scope_includes <scope> <scope>…
func (p *parser) scopeIncludes(d *caddyfile.Dispenser, id string, v *Proxy) error {
	words := d.RemainingArgs()
	if len(words) < 2 {
		return d.Err("scope_includes takes a scope, and those that it includes")
	}
	if v.ScopeIncludes == nil {
		v.ScopeIncludes = make(map[string][]string)
	}
	v.ScopeIncludes[words[0]] = append(v.ScopeIncludes[words[0]], words[1:]...)
	at := position(d)
	p.later = append(p.later, func() error {
		if err := v.checkScopeIncludes(v.scopes()); err != nil {
			return at(fmt.Errorf("proxy %q: %w", id, err))
		}
		return nil
	})
	return nil
}
