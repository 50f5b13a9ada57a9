package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/wwwauth"
)

// A provider of type mcp is found as any MCP client finds it (MCP authorization, discovery): the MCP server refuses a request without a token and
// names its metadata (RFC 9728), or has it at a well-known address; that names the authorization server, whose metadata (RFC 8414) is at one of a
// few addresses again.

const (
	// maxServerScopes and maxServerScopeBytes bound the scopes that are asked for because an MCP server wants them.
	maxServerScopes     = 50
	maxServerScopeBytes = 2048

	// stateless and stateful are the versions of MCP that the first requests speak.
	stateless = "2026-07-28"
	stateful  = "2025-11-25"
)

// locatedAfter is how new the metadata must be for a login: the MCP server may have moved to another authorization server a moment ago. Logins that
// begin together share what is found.
func (p *Provider) locatedAfter() time.Time {
	if !p.template.mcp {
		return time.Time{}
	}
	return p.now()
}

// locate finds the authorization server of the MCP server.
func (p *Provider) locate(ctx context.Context) (*metadata, error) {
	challenge, err := p.knock(ctx)
	if err != nil {
		return nil, in("MCP server", err)
	}
	issuer, resource, scopes, err := p.protectedResource(ctx, challenge)
	if err != nil {
		return nil, in("metadata of the MCP server", err)
	}
	m, err := p.authorizationServer(ctx, issuer)
	if err != nil {
		return nil, in("metadata of the authorization server", err)
	}
	if p.config.Issuer != "" && !sameIssuer(m.Issuer, p.config.Issuer) {
		return nil, &Error{Class: Misconfigured, Err: fmt.Errorf("the MCP server is protected by %.200q, not by issuer %q", m.Issuer, p.config.Issuer)}
	}
	if !p.config.NoResource {
		m.resource = resource
	}
	m.scopes = scopes
	if challenge.scope != "" { // it has the last word (MCP authorization, scope selection)
		m.scopes = strings.Fields(challenge.scope)
	}
	m.scopes = slices.DeleteFunc(m.scopes, func(s string) bool { return !ValidScope(s) })
	if len(m.scopes) > maxServerScopes || len(strings.Join(m.scopes, " ")) > maxServerScopeBytes {
		m.scopes = nil // more than an address can carry: the authorization server chooses
	}
	return m, nil
}

// challenge is what an MCP server says in WWW-Authenticate.
type challenge struct {
	metadata string
	scope    string
	refused  bool // the request, for want of a token
}

// knock sends the MCP server requests without a token, until one is refused for that. Some servers let the first request of the older protocol in.
func (p *Provider) knock(ctx context.Context) (challenge, error) {
	const me = `{"name":"caddy-oauth-proxy","version":"1"}`
	a, err := p.sendBare(ctx, stateless, "tools/list", `{"_meta":{"io.modelcontextprotocol/protocolVersion":"`+stateless+
		`","io.modelcontextprotocol/clientInfo":`+me+`,"io.modelcontextprotocol/clientCapabilities":{}}}`)
	if err == nil && a.status != http.StatusUnauthorized {
		a, err = p.sendBare(ctx, stateful, "initialize", `{"protocolVersion":"`+stateful+`","capabilities":{},"clientInfo":`+me+`}`)
	}
	if err != nil {
		return challenge{}, err
	}
	found := a.bearer()
	found.refused = a.status == http.StatusUnauthorized
	return found, nil
}

// sendBare sends a request without a token, and reads the head of the answer.
func (p *Provider) sendBare(ctx context.Context, version, method, params string) (*answer, error) {
	body := `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":` + params + `}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.config.Server, strings.NewReader(body))
	if err != nil {
		return nil, &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("MCP-Protocol-Version", version)
	req.Header.Set("Mcp-Method", method)
	a, err := p.doHead(ctx, req)
	if err != nil {
		return nil, err
	}
	if a.status >= 500 || a.status == http.StatusTooManyRequests {
		return nil, &Error{Class: statusClass(a.status), Status: a.status, RetryAfter: a.retryAfter, Err: errors.New("no answer to " + method)}
	}
	return a, nil
}

// bearer is what the answer's challenges say.
func (a *answer) bearer() challenge {
	found := challenge{}
	for _, value := range a.challenges {
		params := wwwauth.Bearer(value)
		if found.metadata == "" {
			found.metadata = params["resource_metadata"]
		}
		if found.scope == "" {
			found.scope = params["scope"]
		}
	}
	return found
}

// protectedResource reads the MCP server's metadata (RFC 9728 §3): where the challenge says, or at the well-known addresses. A server
// without is taken for one of MCP 2025-03-26, which is its own authorization server.
func (p *Provider) protectedResource(ctx context.Context, c challenge) (issuer, resource string, scopes []string, err error) {
	server, err := url.Parse(p.config.Server)
	if err != nil {
		return "", "", nil, &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	origin := server.Scheme + "://" + server.Host
	const wellKnown = "/.well-known/oauth-protected-resource"
	addresses := []string{c.metadata}
	if c.metadata == "" {
		addresses = []string{origin + wellKnown + strings.TrimSuffix(server.EscapedPath(), "/"), origin + wellKnown}
	} else if err := checkEndpoint(p.config.Server, c.metadata); err != nil {
		return "", "", nil, &Error{Class: Misconfigured, Err: err}
	}
	for _, address := range slices.Compact(addresses) {
		body, err := p.getJSON(ctx, address, "")
		if notThere(err) && c.metadata == "" {
			continue
		}
		if err != nil {
			return "", "", nil, err
		}
		var doc struct {
			Resource string   `json:"resource"`
			Servers  []string `json:"authorization_servers"`
			Scopes   []string `json:"scopes_supported"`
		}
		if err := json.Unmarshal(body, &doc); err != nil {
			return "", "", nil, &Error{Class: Malformed, Err: errors.New("document is not JSON")}
		}
		if !covers(doc.Resource, server) {
			return "", "", nil, &Error{Class: Misconfigured, Err: fmt.Errorf("document is that of resource %.200q, not of %q: correct server, to the letter", doc.Resource, p.config.Server)}
		}
		if len(doc.Servers) == 0 {
			return "", "", nil, &Error{Class: Malformed, Err: errors.New("document names no authorization server")}
		}
		if err := checkEndpoint(p.config.Server, doc.Servers[0]); err != nil {
			return "", "", nil, &Error{Class: Misconfigured, Err: fmt.Errorf("authorization server: %w", err)}
		}
		return doc.Servers[0], doc.Resource, doc.Scopes, nil
	}
	if !c.refused { // it is down, or something stands before it
		return "", "", nil, &Error{Class: Unreachable, Err: errors.New("the server does not ask for a token, and has no metadata")}
	}
	return origin, p.config.Server, nil, nil
}

// covers reports whether a resource identifier is that of the server: itself, or a path that the server's lies below, on the same origin.
func covers(resource string, server *url.URL) bool {
	r, err := url.Parse(resource)
	if err != nil || r.Scheme != server.Scheme || !strings.EqualFold(r.Host, server.Host) || r.Fragment != "" || r.RawQuery != "" || r.User != nil {
		return false
	}
	have, want := strings.TrimSuffix(server.EscapedPath(), "/"), strings.TrimSuffix(r.EscapedPath(), "/")
	return have == want || strings.HasPrefix(have, want+"/")
}

// notThere reports whether a document does not exist at an address, rather than cannot be had.
func notThere(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status >= 400 && e.Status < 500 && e.Status != http.StatusTooManyRequests
}

// authorizationServer reads the metadata of an issuer, at the addresses that RFC 8414 §3 and OpenID Connect Discovery §4 give it.
func (p *Provider) authorizationServer(ctx context.Context, issuer string) (*metadata, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	origin, path := u.Scheme+"://"+u.Host, strings.TrimSuffix(u.EscapedPath(), "/")
	addresses := []string{origin + "/.well-known/oauth-authorization-server" + path, origin + "/.well-known/openid-configuration" + path}
	if path != "" {
		addresses = append(addresses, origin+path+"/.well-known/openid-configuration")
	}
	for _, address := range addresses {
		body, err := p.getJSON(ctx, address, "")
		if notThere(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m, err := p.parseServerMetadata(body, issuer)
		if err != nil {
			return nil, err
		}
		return p.withRevocation(m), nil
	}
	if path != "" {
		return nil, &Error{Class: Misconfigured, Err: fmt.Errorf("%q has none at any of the addresses where it should be", issuer)}
	}
	// MCP 2025-03-26, §2.3.3: a server without metadata has its endpoints at these.
	return p.withRevocation(&metadata{Issuer: issuer, AuthorizationEndpoint: origin + "/authorize", TokenEndpoint: origin + "/token", RegistrationEndpoint: origin + "/register"}), nil
}

// withRevocation puts the operator's revocation endpoint into the metadata of the authorization server that it is for: the one that they have named, if they
// have.
func (p *Provider) withRevocation(m *metadata) *metadata {
	if p.config.RevocationURL != "" && (p.config.Issuer == "" || sameIssuer(p.config.Issuer, m.Issuer)) {
		m.RevocationEndpoint = p.config.RevocationURL
	}
	return m
}

// parseServerMetadata reads an authorization server's metadata and checks all that it makes the gateway do.
func (p *Provider) parseServerMetadata(body []byte, issuer string) (*metadata, error) {
	m := new(metadata)
	if err := json.Unmarshal(body, m); err != nil {
		return nil, &Error{Class: Malformed, Err: errors.New("document is not JSON")}
	}
	if !sameIssuer(m.Issuer, issuer) || m.Issuer == "" { // RFC 8414 §3.3; the slash is a common slip
		return nil, &Error{Class: Misconfigured, Err: fmt.Errorf("document is that of issuer %.200q, not %.200q", m.Issuer, issuer)}
	}
	if !slices.Contains(m.ChallengeMethods, "S256") {
		return nil, &Error{Class: Misconfigured, Err: errors.New("the authorization server does not offer PKCE with S256, which MCP demands")}
	}
	if err := p.checkMixUp(m, issuer); err != nil {
		return nil, err
	}
	for _, e := range []struct {
		name, url string
		needed    bool
	}{
		{"authorization_endpoint", m.AuthorizationEndpoint, true},
		{"token_endpoint", m.TokenEndpoint, true},
		{"registration_endpoint", m.RegistrationEndpoint, false},
		{"revocation_endpoint", m.RevocationEndpoint, false},
	} {
		if e.url == "" && !e.needed {
			continue
		}
		if err := checkEndpoint(issuer, e.url); err != nil {
			return nil, &Error{Class: Misconfigured, Err: fmt.Errorf("%s: %w", e.name, err)}
		}
	}
	return m, nil
}

// checkMixUp refuses an authorization server that would have users log in at another one's, and be sent the code from there (RFC 9700 §4.4): its
// authorization endpoint is on its own host, or it says who it is in each answer (RFC 9207), or the operator has named it.
func (p *Provider) checkMixUp(m *metadata, issuer string) error {
	i, err := url.Parse(issuer)
	if err != nil {
		return &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	e, err := url.Parse(m.AuthorizationEndpoint)
	if err != nil {
		return &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	if m.IssuerInResponse || p.config.Issuer != "" || strings.EqualFold(i.Host, e.Host) {
		return nil
	}
	return &Error{Class: Misconfigured, Err: fmt.Errorf("users would log in at %.200q, which is another host than the issuer's, and nothing would show whose answer it is: if that is right, write issuer %.200q", e.Host, m.Issuer)}
}

// examineServer says what was found out about the MCP server's authorization.
func (p *Provider) examineServer(m *metadata) []Finding {
	found := []Finding{{Fine, "MCP server: protected by " + m.Issuer, ""}}
	switch address := p.config.ClientMetadataURL; {
	case p.config.ClientID != "":
	case m.ClientDocuments && address != "":
		found = append(found, Finding{Fine, "registration: none is needed, the gateway describes itself at " + address, ""})
	case m.RegistrationEndpoint != "":
		found = append(found, Finding{Fine, "registration: the gateway registers itself when the first user logs in", ""})
	default:
		found = append(found, Finding{Problem, "registration: the authorization server offers none", "register the gateway there by hand, and write client_id and client_secret"})
	}
	if scopes := m.scopesFor(p); len(scopes) > 0 {
		found = append(found, Finding{Note, "scopes: " + strings.Join(scopes, " "), ""})
	}
	return found
}
