package caddyoauthproxy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// assistant returns the configuration assistant for this configuration, which need not be provisioned.
func (a *App) assistant() *operator.Assistant {
	providers := make(map[string]string, len(a.Providers))
	for name, p := range a.Providers {
		if kind, err := p.kind(name); err == nil {
			providers[name] = kind
		}
	}
	return operator.NewAssistant(operator.AssistantOptions{
		Issuer: strings.TrimSuffix(a.Issuer, "/"), Callback: a.CallbackPath, Providers: providers, Check: a.checkAddition, Adapt: adaptCaddyfile,
	})
}

// adaptCaddyfile has the real adapter look at a Caddyfile.
func adaptCaddyfile(text string) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return adapted, err
}

// checkAddition says everything that is wrong with what the assistant is to add, and with what is there already once that is added. It has the code
// look that judges configurations, but for the values behind placeholders: these may be set later.
func (a *App) checkAddition(add *operator.Addition) []operator.Problem {
	c := &additionCheck{app: a, providers: make(map[string]*upstream.Provider, len(a.Providers)+1)}
	if _, err := parseIssuer(a.Issuer); err != nil {
		c.problem("", err)
	}
	for name, p := range a.Providers {
		if made, err := p.check(name); err == nil {
			c.providers[name] = made
		}
	}
	if add.ProviderJSON != nil {
		c.provider(add)
		c.bystanders()
	}
	c.proxy(add)
	return c.problems
}

type additionCheck struct {
	app       *App
	providers map[string]*upstream.Provider
	problems  []operator.Problem
}

func (c *additionCheck) problem(field string, err error) {
	c.problems = append(c.problems, operator.Problem{Field: field, Text: err.Error()})
}

// maxRepairs bounds how often a check is asked again: more often than there are options.
const maxRepairs = 60

// each asks a check again and again, which says one thing at a time, and takes each time out what was wrong.
func (c *additionCheck) each(check func() error, field func(string) string, repair func(field string, times int) bool) {
	seen := make(map[string]int)
	for range maxRepairs {
		err := check()
		if err == nil {
			return
		}
		name := field(err.Error())
		if seen[name] == 0 {
			c.problem(name, err)
		}
		if !repair(name, seen[name]) {
			return
		}
		seen[name]++
	}
}

// leadingWord is the option's name that messages begin with.
var leadingWord = regexp.MustCompile(`^([a-z_]+)[: ]`)

func (c *additionCheck) provider(add *operator.Addition) {
	name, p := add.Provider, new(Provider)
	if err := caddy.StrictUnmarshalJSON(add.ProviderJSON, p); err != nil {
		c.problem("", fmt.Errorf("provider %q: %w", name, err))
		return
	}
	if _, taken := c.app.Providers[name]; taken {
		c.problem("provider", fmt.Errorf("provider %q is there already: choose another name; nothing that exists is changed", name))
	}
	kind, err := p.kind(name)
	switch {
	case name == "" || name == "." || name == "..":
		c.problem("provider", err)
		name, kind = "name", p.Type
	case err != nil:
		c.problem("template", err)
		return
	}
	if p.ClientSecret != "" {
		if err := checkSecret(p.ClientSecret); err != nil {
			c.problem("client_secret", fmt.Errorf("client_secret %w", err))
			p.ClientSecret = "{env.SECRET}"
		}
	}
	if strings.ContainsAny(p.ClientID, "{}") && !secretPlaceholder.MatchString(p.ClientID) {
		c.problem("client_id", errors.New("client_id: write the id itself, or all of it as one placeholder, {env.NAME} or {file./absolute/path}"))
		p.ClientID = "id"
	}
	template, _ := upstream.TemplateNamed(kind)
	c.each(func() error {
		made, err := p.check(name)
		if err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), fmt.Sprintf("provider %q: ", name)))
		}
		c.providers[add.Provider] = made
		return nil
	}, func(text string) string {
		m := leadingWord.FindStringSubmatch(text)
		switch {
		case m != nil && m[1] == "type":
			return "template"
		case m != nil && p.option(m[1]) != nil:
			return m[1]
		}
		return ""
	}, func(field string, times int) bool {
		switch value := p.option(field); {
		case field == "scopes":
			p.Scopes = nil
		case value == nil || times > 1:
			return false
		case times == 0 && *value != "" && !slices.Contains(template.Needs, field):
			*value = ""
		default:
			*value = additionStandIns[field]
		}
		return true
	})
}

// additionStandIns are values that are right, in place of those that are missing or wrong, so that the check can go on.
var additionStandIns = map[string]string{ //nolint:gosec // placeholders, no credentials
	"client_id": "id", "client_secret": "{env.SECRET}", "issuer": "https://example.com", "server": "https://example.com/mcp", "domain": "example.com",
	"tenant": "organizations", "authorization_url": "https://example.com/authorize", "token_url": "https://example.com/token", "userinfo_url": "https://example.com/userinfo",
}

// option is the place of an option that has a value of its own. That of scopes has many, and only says that there is such an option.
func (p *Provider) option(name string) *string {
	switch name {
	case "client_id":
		return &p.ClientID
	case "client_secret":
		return &p.ClientSecret
	case "server":
		return &p.Server
	case "issuer":
		return &p.Issuer
	case "domain":
		return &p.Domain
	case "authorization_server":
		return &p.AuthorizationServer
	case "audience":
		return &p.Audience
	case "tenant":
		return &p.Tenant
	case "authorization_url":
		return &p.AuthorizationURL
	case "token_url":
		return &p.TokenURL
	case "userinfo_url":
		return &p.UserinfoURL
	case "subject_field":
		return &p.SubjectField
	case "revocation_url":
		return &p.RevocationURL
	case "token_endpoint_auth_method":
		return &p.TokenEndpointAuthMethod
	case "scopes":
		return new(string)
	}
	return nil
}

// bystanders finds what was right only as long as there was one provider.
func (c *additionCheck) bystanders() {
	if admin := c.app.Admin; admin != nil {
		if _, err := admin.provider(c.providers); err != nil {
			c.problem("", fmt.Errorf("admin: %w: write it there first, and reload", err))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.app.Proxies)) {
		if p := c.app.Proxies[id]; p != nil && p.Provider == "" && len(c.app.Providers) == 1 {
			for only := range c.app.Providers {
				c.problem("", fmt.Errorf("proxy %q names no provider, which is not clear any more with a second one: write provider %s into it first, and reload", id, only))
			}
		}
	}
}

func (c *additionCheck) proxy(add *operator.Addition) {
	id, p := add.Proxy, new(Proxy)
	if err := caddy.StrictUnmarshalJSON(add.ProxyJSON, p); err != nil {
		c.problem("", fmt.Errorf("proxy %q: %w", id, err))
		return
	}
	if _, taken := c.app.Proxies[id]; taken {
		c.problem("proxy", fmt.Errorf("proxy %q is there already: choose another id; nothing that exists is changed", id))
	} else if err := checkProxyID(id); err != nil {
		c.problem("proxy", err)
	}
	if c.providers[p.Provider] == nil {
		return // which was said of the provider
	}
	c.people(&p.Allow)
	c.each(func() error { return c.checkProxy(p) }, func(text string) string {
		m := leadingWord.FindStringSubmatch(text)
		if m == nil || !slices.Contains([]string{"resource", "allowed_redirects", "allow", "consent"}, m[1]) {
			return ""
		}
		return m[1]
	}, func(field string, _ int) bool {
		switch field {
		case "resource":
			p.Resource = "https://example.com/mcp"
		case "allowed_redirects":
			p.AllowedRedirects = nil
		case "allow":
			p.Allow = authserver.Policy{}
		case "consent":
			p.Consent = string(authserver.ConsentAlways)
		default:
			return false
		}
		return true
	})
}

// checkProxy judges a proxy but for its id.
func (c *additionCheck) checkProxy(p *Proxy) error {
	made, err := p.resolve("proxy", c.providers)
	if err != nil {
		return err
	}
	canonical, _ := authserver.ValidResource(p.Resource)
	for _, other := range slices.Sorted(maps.Keys(c.app.Proxies)) {
		if have, _ := authserver.ValidResource(c.app.Proxies[other].Resource); have == canonical {
			return fmt.Errorf("resource %s is proxy %q's already; every proxy needs its own", p.Resource, other)
		}
	}
	if made.Consent, err = c.app.consentMode(p); err != nil {
		return err
	}
	return p.checkUsers(made, c.providers)
}

// people judges the entries of an allow list by their looks.
func (c *additionCheck) people(policy *authserver.Policy) {
	for _, v := range policy.EmailDomains {
		if err := checkEmailDomain(v); err != nil {
			c.problem("allow", fmt.Errorf("allow email_domain: %q %w", v, err))
			return
		}
	}
	for _, v := range policy.Emails {
		if err := checkEmail(v); err != nil {
			c.problem("allow", fmt.Errorf("allow email: %q %w", v, err))
			return
		}
	}
}
