package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
)

// Level says how much a finding matters.
type Level string

// The levels of findings.
const (
	// Fine: it works.
	Fine Level = "ok"

	// Note: worth knowing.
	Note Level = "note"

	// Warning: logins will work, but something is missing or odd.
	Warning Level = "warning"

	// Problem: logins will fail.
	Problem Level = "problem"
)

// Finding is the outcome of one check. It holds no secret.
type Finding struct {
	Level Level  `json:"level"`
	What  string `json:"what"`
	Fix   string `json:"fix,omitempty"` // what to do; empty where there is nothing to
}

// Bounds of how far clocks may differ: beyond the first ID tokens are refused now and then, beyond the second always.
const (
	skewWarning = 15 * time.Second
	skewProblem = 2 * time.Minute
)

// Examine checks a provider before anybody logs in there: that it can be reached, is who it should be, accepts the gateway as a
// client, and offers what the gateway needs. It uses no login and changes nothing.
func (p *Provider) Examine(ctx context.Context, redirectURI string) []Finding {
	var found []Finding
	add := func(level Level, what, fix string) { found = append(found, Finding{level, what, fix}) }
	m, err := p.metadata.get(ctx)
	if err != nil {
		add(Problem, err.Error(), adviceFor(err))
		return found
	}
	if p.template.mcp {
		found = append(found, p.examineServer(m)...)
		if p.config.ClientID == "" {
			return found
		}
		if p.config.Issuer == "" { // the secret is not for whichever server is named today
			add(Note, "token endpoint: not asked whether it knows the client", "write issuer "+m.Issuer+" if that is where the client is registered")
			return found
		}
	}
	if p.template.oidc {
		add(Fine, "discovery: issuer "+m.Issuer, "")
		found = append(found, p.examineMetadata(m)...)
		if _, err := p.keys.get(ctx); err != nil {
			add(Problem, "signing keys: "+err.Error(), adviceFor(err))
		}
	}
	found = append(found, p.examineClient(ctx, m, p.configuredClient(), redirectURI)...)
	if p.template.note != "" {
		add(Note, p.template.note, "")
	}
	if p.template.tokens != "" {
		add(Note, "access tokens there, unless set otherwise: "+p.template.tokens, "")
	}
	if len(p.template.recommended) > 0 && len(p.config.Scopes) == 0 {
		add(Note, "scopes: none are set, so the token may open little", "write those that the MCP server needs, for example: scopes "+strings.Join(p.template.recommended, " "))
	}
	return found
}

// adviceFor says what to do about a failure.
func adviceFor(err error) string {
	switch e := in("", err); e.Class {
	case Misconfigured:
		return "correct the configuration, as the message says"
	case Throttled:
		return "wait, and try again"
	case Unreachable:
		if outbound.IsClosed(err) {
			return "this address lies in a private network: if it should, write private_network"
		}
		if e.Status != 0 {
			return "the address answers, but not as a provider does: check issuer, domain or tenant"
		}
		return "check name resolution, firewall, proxy and certificates between this machine and the provider"
	default:
		return "check that the address is that of the provider"
	}
}

// examineMetadata judges what the provider says it offers.
func (p *Provider) examineMetadata(m *metadata) []Finding {
	var found []Finding
	if method := p.clientAuth(m); len(m.AuthMethods) > 0 && !slices.Contains(m.AuthMethods, method) {
		found = append(found, Finding{Problem, fmt.Sprintf("the provider does not offer %s at its token endpoint, but %s", method, strings.Join(m.AuthMethods, ", ")),
			"set token_endpoint_auth_method to one of these"})
	}
	var unknown []string
	for _, s := range p.scopes {
		if len(m.Scopes) > 0 && !slices.Contains(m.Scopes, s) {
			unknown = append(unknown, s)
		}
	}
	if len(unknown) > 0 {
		found = append(found, Finding{Warning, "the provider does not list these scopes: " + strings.Join(unknown, ", "),
			"not every provider lists all; if logins fail with invalid_scope, remove them or allow them there"})
	}
	if len(m.ChallengeMethods) > 0 && !slices.Contains(m.ChallengeMethods, "S256") {
		found = append(found, Finding{Warning, "the provider does not list PKCE S256", "the gateway sends it all the same; a strict provider may refuse it"})
	}
	if m.RevocationEndpoint == "" {
		found = append(found, Finding{Note, "the provider has no revocation endpoint: revoking a grant here leaves its tokens valid there until they expire", ""})
	}
	return found
}

// examineClient asks for tokens with a code that cannot be: a provider that knows the client refuses the code, and one
// that does not refuses the client. Some look at the code first, and say nothing about the client. It also looks at the provider's clock.
func (p *Provider) examineClient(ctx context.Context, m *metadata, c oauthClient, redirectURI string) []Finding {
	a, err := p.postForm(ctx, m, c, m.TokenEndpoint, url.Values{
		"grant_type": {"authorization_code"}, "code": {"examination-" + oauth2.GenerateVerifier()}, "redirect_uri": {redirectURI}, "code_verifier": {oauth2.GenerateVerifier()},
	}, nil)
	if err != nil {
		return []Finding{{Problem, "token endpoint: " + err.Error(), adviceFor(err)}}
	}
	var found []Finding
	_, err = parseTokens(a, p.now())
	var e *Error
	errors.As(err, &e)
	switch {
	case e == nil:
		found = append(found, Finding{Problem, "token endpoint: gives tokens for a made-up code", "this is no provider to trust"})
	case e.Class == Rejected:
		what := "token endpoint: answers, and does not refuse the gateway as a client"
		if c.secret != "" {
			what += "; where it looks at the made-up code first, a wrong client_secret shows at the first login alone"
		}
		found = append(found, Finding{Fine, what, ""})
	case strings.Contains(e.Code, "redirect"):
		found = append(found, Finding{Problem, "token endpoint: does not know the redirect URI", "register " + redirectURI + " at the provider"})
	case e.Code == "invalid_request":
		found = append(found, Finding{Note, "token endpoint: answers, but does not tell whether it knows the client", ""})
	case e.Class == Misconfigured:
		found = append(found, Finding{Problem, "token endpoint: refuses the gateway as a client: " + e.Code, "check client_id, client_secret and token_endpoint_auth_method"})
	default:
		found = append(found, Finding{Warning, "token endpoint: " + e.Error(), adviceFor(e)})
	}
	if a.date.IsZero() {
		return found
	}
	switch skew := a.date.Sub(p.now()).Abs().Round(time.Second); {
	case skew > skewProblem:
		found = append(found, Finding{Problem, fmt.Sprintf("clock: %s apart from the provider's", skew), "set this machine's clock, for example with NTP"})
	case skew > skewWarning:
		found = append(found, Finding{Warning, fmt.Sprintf("clock: %s apart from the provider's", skew), "set this machine's clock, for example with NTP"})
	}
	return found
}
