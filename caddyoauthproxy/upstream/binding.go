package upstream

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"golang.org/x/oauth2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// oauthClient is the gateway as a client of the provider.
type oauthClient struct {
	id, secret string
	method     string // empty: as the provider's metadata says
	registered bool   // by the gateway itself
}

// configuredClient is the client that the operator registered.
func (p *Provider) configuredClient() oauthClient {
	return oauthClient{id: p.config.ClientID, secret: p.config.ClientSecret}
}

// binding is what a request that is made so belongs to.
func (p *Provider) binding(m *metadata, c oauthClient) tokenstore.Binding {
	if !p.template.mcp {
		return tokenstore.Binding{}
	}
	return tokenstore.Binding{Issuer: m.Issuer, ClientID: c.id, Resource: m.resource}
}

// bound returns the metadata and the client that a login or its tokens belong to; the present ones when there is no binding. Tokens are sent to no
// other authorization server, and by no other client, wherever the MCP server is now.
func (p *Provider) bound(ctx context.Context, b tokenstore.Binding) (*metadata, oauthClient, error) {
	m, err := p.serverOf(ctx, b)
	switch {
	case err != nil:
		return nil, oauthClient{}, err
	case !p.template.mcp:
		return m, p.configuredClient(), nil
	case p.config.ClientID != "" && (b.ClientID == "" || b.ClientID == p.config.ClientID):
		return m, p.configuredClient(), p.clients.pin(ctx, m)
	case p.config.ClientID != "":
		return nil, oauthClient{}, errForgotten()
	}
	c, err := p.clients.get(ctx, m, b.ClientID)
	return m, c, err
}

// sameIssuer reports whether two issuers are one: authorization servers come to write a slash at the end, or to leave it out.
func sameIssuer(a, b string) bool { return strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/") }

// maxServers is how many authorization servers are remembered of which tokens are.
const maxServers = 32

// serverOf returns the metadata of the authorization server of a binding. It asks nobody else: an MCP server that is down, or names another
// one for a moment, ends no login.
func (p *Provider) serverOf(ctx context.Context, b tokenstore.Binding) (*metadata, error) {
	if !p.template.mcp || b.Issuer == "" {
		return p.metadata.get(ctx)
	}
	m, have := p.metadata.peek()
	if !have || !sameIssuer(m.Issuer, b.Issuer) {
		var err error
		if m, err = p.server(b.Issuer).get(ctx); err != nil {
			return nil, err
		}
	}
	bound := *m
	bound.resource = b.Resource
	if p.config.NoResource {
		bound.resource = ""
	}
	return &bound, nil
}

func (p *Provider) server(issuer string) *document[*metadata] {
	p.serversMu.Lock()
	defer p.serversMu.Unlock()
	d := p.servers[issuer]
	if d == nil {
		d = new(document[*metadata])
		d.init(p.timeout, p.now, func(ctx context.Context) (*metadata, error) { return p.authorizationServer(ctx, issuer) })
		if p.servers == nil || len(p.servers) >= maxServers {
			p.servers = make(map[string]*document[*metadata])
		}
		p.servers[issuer] = d
	}
	return d
}

// forLogin returns the metadata and the client for a login: those that it began with, or the present ones.
func (p *Provider) forLogin(ctx context.Context, b tokenstore.Binding) (*metadata, oauthClient, error) {
	if b.Issuer != "" {
		return p.bound(ctx, b)
	}
	m, err := p.metadata.newer(ctx, p.locatedAfter())
	if err != nil {
		return nil, oauthClient{}, err
	}
	if !p.template.mcp {
		return m, p.configuredClient(), nil
	}
	if p.config.ClientID != "" {
		return m, p.configuredClient(), p.clients.pin(ctx, m)
	}
	c, err := p.clients.get(ctx, m, "")
	if err != nil || !c.registered || p.clients.proved(c.id, false) {
		return m, c, err
	}
	// A server that has forgotten the client tells the user, not the gateway; so it is asked before, and when it slips, once more.
	for range 2 {
		answer, err := p.askWhetherKnown(ctx, m, c)
		if err != nil {
			return nil, oauthClient{}, err
		}
		if !unknownClient(answer) {
			if isRejected(answer) { // the code: other answers, as those of an outage, tell nothing
				p.clients.prove(c.id, false)
			}
			return m, c, nil
		}
		sleep(ctx, examineAgain)
	}
	c, err = p.clients.replace(ctx, m, c.id)
	return m, c, err
}

// askWhetherKnown asks for tokens with a code that cannot be, and returns how that was refused.
func (p *Provider) askWhetherKnown(ctx context.Context, m *metadata, c oauthClient) (answer, err error) {
	a, err := p.postForm(ctx, m, c, m.TokenEndpoint, url.Values{
		"grant_type": {"authorization_code"}, "code": {"examination-" + oauth2.GenerateVerifier()}, "redirect_uri": {p.config.RedirectURI}, "code_verifier": {oauth2.GenerateVerifier()},
	}, nil)
	if err != nil {
		return nil, err
	}
	_, answer = parseTokens(a, p.now())
	return answer, nil
}

// unknownClient reports whether an authorization server does not know the client.
func unknownClient(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == "invalid_client"
}

// isRejected reports whether an authorization server refused what it was to exchange for tokens, and not who asked.
func isRejected(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Class == Rejected
}
