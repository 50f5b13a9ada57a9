package authserver

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"slices"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// issueToMachine is the client credentials grant (RFC 6749 §4.4): a client of the configuration that acts for itself. What goes upstream
// then is the proxy's own token, so only proxies that have one take part. There is no refresh token: the client asks again.
func (s *Server) issueToMachine(ctx context.Context, client *tokenstore.Client, pinned *Proxy, form url.Values) (*tokenResponse, error) {
	if client.AuthMethod == authNone || s.configured[client.ID] == nil {
		return nil, refuse("unauthorized_client", "client_credentials is for confidential clients of the gateway's configuration")
	}
	p, refusal := s.selectProxy(pinned, form.Get("resource"), client)
	if refusal != nil {
		return nil, refusal
	}
	progressOf(ctx).proxy = p.ID
	if !s.mayUse(client.ID, p) || !p.Machines {
		return nil, refuse("invalid_target", "this MCP server is not open to this client without a user")
	}
	scopes, refusal := narrow(p.Scopes, form.Get("scope"))
	if refusal != nil {
		return nil, refusal
	}
	s.documents.keep(client)
	now := s.vault.Now()
	ends := now.Add(s.life.AccessToken)
	grant := &tokenstore.Grant{
		Meta: tokenstore.Meta{ID: tokenstore.NewID(now), DeleteAfter: ends.Add(tidyAfter)}, State: tokenstore.StateActive,
		ClientID: client.ID, Client: client.Name, Proxy: p.ID, Resource: p.Resource, Scopes: scopes,
		UserID: client.ID, User: tokenstore.User{Subject: client.ID, Login: client.ID, Name: client.Name}, // RFC 9068 §2.2: sub is the client
		Created: now, Expires: ends, Ends: ends,
		Family: tokenstore.RefreshFamily{Rotated: now, JTI: rand.Text()},
	}
	if err := s.chargeClient(ctx, client, grant); err != nil {
		return nil, err
	}
	if err := s.vault.Commit(ctx, tokenstore.Save(grant), tokenstore.RecordEvent(s.issued(ctx, grant, grantMachine))); err != nil {
		return nil, fmt.Errorf("store grant: %w", err)
	}
	s.tellIssued(ctx, grantMachine, grant, s.tokenEnd(grant))
	return s.answer(grant, scopes, "")
}

// hasMachineClients reports whether client_credentials is of use to anybody.
func (s *Server) hasMachineClients() bool {
	for _, c := range s.configured {
		if slices.Contains(c.GrantTypes, grantMachine) {
			return true
		}
	}
	return false
}
