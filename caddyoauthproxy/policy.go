package caddyoauthproxy

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// PolicyRule is one line of a proxy's policy. The first rule of a target's that names what is asked for, and is for the one who asks, decides.
type PolicyRule struct {
	// `allow` or `deny`. Required.
	Effect string `json:"effect,omitempty"`

	// What the rule is about: `tool`, `resource` or `prompt`. Required.
	Target string `json:"target,omitempty"`

	// Names of tools and prompts, and URIs of resources, in which `*` stands for any characters. Case does not count. Required.
	Patterns []string `json:"patterns,omitempty"`

	// The users whom the rule is for: any entry is enough. Default: all, and clients that act for no user.
	Users authserver.Policy `json:"users,omitzero"`

	// The clients whom the rule is for: client ids, in which `*` stands for any characters. Default: all.
	Clients []string `json:"clients,omitempty"`

	// The proxy's scopes that the caller needs, all of them, where the rule allows. Who lacks one is told to ask the user for it.
	Scopes []string `json:"scopes,omitempty"`
}

// check finds what is wrong with a rule of a proxy that has these scopes.
func (r *PolicyRule) check(scopes []string) error {
	switch {
	case r.Effect != "allow" && r.Effect != "deny":
		return fmt.Errorf("%q is unknown; write allow or deny", r.Effect)
	case r.Target != string(mcpfilter.TargetTool) && r.Target != string(mcpfilter.TargetResource) && r.Target != string(mcpfilter.TargetPrompt):
		return fmt.Errorf("%s %q is unknown; write tool, resource or prompt", r.Effect, r.Target)
	case len(r.Patterns) == 0 || slices.Contains(r.Patterns, ""):
		return fmt.Errorf("%s %s takes one or more names; * stands for all", r.Effect, r.Target)
	case slices.Contains(r.Clients, ""):
		return fmt.Errorf("%s %s: client is empty", r.Effect, r.Target)
	case r.Effect == "deny" && len(r.Scopes) > 0:
		return fmt.Errorf("deny %s: scope is for allow: write allow with the scope, and no deny", r.Target)
	}
	for _, pattern := range r.Patterns {
		if err := mcpfilter.CheckPattern(mcpfilter.Target(r.Target), pattern); err != nil {
			return fmt.Errorf("%s %s %q names nothing that could be asked for: %w", r.Effect, r.Target, pattern, err)
		}
	}
	for _, scope := range r.Scopes {
		if !slices.Contains(scopes, scope) {
			return fmt.Errorf("%s %s: scope %q is not one of the proxy's: %s", r.Effect, r.Target, scope, strings.Join(scopes, ", "))
		}
	}
	return nil
}

// rule is the rule as the filter knows it.
func (r *PolicyRule) rule() mcpfilter.Rule {
	out := mcpfilter.Rule{Target: mcpfilter.Target(r.Target), Deny: r.Effect == "deny", Patterns: r.Patterns, Scopes: r.Scopes}
	if r.Users.Everybody() && len(r.Clients) == 0 {
		return out
	}
	users, clients := r.Users, r.Clients
	out.For = func(s *mcpfilter.Session) bool {
		return (users.Everybody() || s.Grant.HasUser() && users.Permits(s.Grant.User)) && (len(clients) == 0 || mcpfilter.MatchAny(clients, s.Grant.ClientID))
	}
	return out
}

// policy resolves a proxy's rules.
func (p *Proxy) policy(made *authserver.Proxy) (mcpfilter.Policy, error) {
	out := mcpfilter.Policy{Includes: p.ScopeIncludes}
	for i := range p.Policy {
		if err := p.checkRule(i, made); err != nil {
			return out, fmt.Errorf("policy: %w", err)
		}
		out.Rules = append(out.Rules, p.Policy[i].rule())
	}
	return out, p.checkScopeIncludes(made.Scopes)
}

// checkRule finds what is wrong with the rule at an index.
func (p *Proxy) checkRule(index int, made *authserver.Proxy) error {
	r := &p.Policy[index]
	if err := r.check(made.Scopes); err != nil {
		return err
	}
	later := r.rule()
	for i := range index {
		if rule := p.Policy[i].rule(); rule.Covers(&later) {
			return fmt.Errorf("%s %s %s: %s %s %s in front of it decides that for everybody: put the narrower rule first",
				r.Effect, r.Target, strings.Join(r.Patterns, " "), p.Policy[i].Effect, p.Policy[i].Target, strings.Join(p.Policy[i].Patterns, " "))
		}
	}
	if r.Users.Everybody() || made.Provider == nil {
		return nil
	}
	if made.Login == nil && made.Provider.Anonymous() {
		return fmt.Errorf("%s %s: provider %q does not say who a user is: add login with a provider that does", r.Effect, r.Target, made.Provider.Name())
	}
	return checkAllow(&authserver.Proxy{Provider: made.Provider, Login: made.Login, Allow: r.Users})
}

// checkScopeIncludes finds what is wrong with the hierarchy of scopes.
func (p *Proxy) checkScopeIncludes(scopes []string) error {
	for scope, included := range p.ScopeIncludes {
		if len(included) == 0 {
			return fmt.Errorf("scope_includes %s: name the scopes that it includes", scope)
		}
		for _, s := range append([]string{scope}, included...) {
			if !slices.Contains(scopes, s) {
				return fmt.Errorf("scope_includes: %q is not one of the proxy's scopes: %s", s, strings.Join(scopes, ", "))
			}
		}
		if slices.Contains(included, scope) {
			return fmt.Errorf("scope_includes: %q includes itself", scope)
		}
	}
	return nil
}

// checkOrigin checks a web origin as browsers write it (RFC 6454 §6.2).
func checkOrigin(text string) error {
	if text == "*" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil || strings.Contains(u.Host, "*") {
		return errors.New("is no origin such as https://chat.example.com, without a path; * stands for all")
	}
	return nil
}
