package upstream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// registerAt makes the registration request.
func (p *Provider) registerAt(ctx context.Context, m *metadata) (tokenstore.RegisteredClient, error) {
	var none tokenstore.RegisteredClient
	if m.RegistrationEndpoint == "" {
		return none, &Error{Class: Misconfigured, Err: fmt.Errorf("the authorization server %s offers none: register the gateway there by hand, with the redirect URI %s, and write client_id and client_secret",
			m.Issuer, p.config.RedirectURI)}
	}
	request := struct {
		ClientName      string   `json:"client_name"`
		RedirectURIs    []string `json:"redirect_uris"`
		GrantTypes      []string `json:"grant_types"`
		ResponseTypes   []string `json:"response_types"`
		AuthMethod      string   `json:"token_endpoint_auth_method"`
		ApplicationType string   `json:"application_type"`
	}{p.config.ClientName, []string{p.config.RedirectURI}, []string{"authorization_code", "refresh_token"}, []string{"code"}, p.preferredAuth(m), "web"}
	if u, err := url.Parse(p.config.RedirectURI); err == nil && isLoopback(u.Hostname()) {
		request.ApplicationType = "native"
	}
	body, err := json.Marshal(request)
	if err != nil {
		return none, &Error{Class: Misconfigured, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.RegistrationEndpoint, bytes.NewReader(body))
	if err != nil {
		return none, &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	a, err := p.do(ctx, req)
	if err != nil {
		return none, err
	}
	if err := a.refusal(); err != nil {
		return none, err
	}
	return p.parseRegistration(a, m)
}

// parseRegistration judges the answer to a registration (RFC 7591 §3.2.1).
func (p *Provider) parseRegistration(a *answer, m *metadata) (tokenstore.RegisteredClient, error) {
	malformed := func(text string) (tokenstore.RegisteredClient, error) {
		return tokenstore.RegisteredClient{}, &Error{Class: Malformed, Status: a.status, Err: errors.New(text)}
	}
	f, err := parseObject(a.body)
	if err != nil {
		return malformed(err.Error())
	}
	c := tokenstore.RegisteredClient{ID: f.text("client_id"), Secret: f.text("client_secret"), AuthMethod: f.text("token_endpoint_auth_method"), Created: p.now()}
	if ends, err := strconv.ParseInt(f.id("client_secret_expires_at"), 10, 64); err == nil && ends > 0 && c.Secret != "" {
		c.Expires = time.Unix(ends, 0)
	}
	switch {
	case c.ID == "" || len(c.ID)+len(c.Secret) > 4096 || !isCredential(c.ID) || !isCredential(c.Secret):
		return malformed("client_id is missing, or holds what it cannot")
	case c.Secret == "":
		c.AuthMethod = AuthNone
	case c.AuthMethod == AuthNone || c.AuthMethod == "":
		c.AuthMethod = p.clientAuth(m)
	case c.AuthMethod != AuthBasic && c.AuthMethod != AuthPost:
		return malformed("the client was registered for a method of authentication that nobody asked for")
	}
	return c, nil
}

// preferredAuth is how the gateway asks to authenticate: with a secret where the server takes one.
func (p *Provider) preferredAuth(m *metadata) string {
	for _, method := range []string{p.authMethod, AuthBasic, AuthPost, AuthNone} {
		if method != "" && (len(m.AuthMethods) == 0 || slices.Contains(m.AuthMethods, method)) {
			return method
		}
	}
	return cmp.Or(p.authMethod, AuthBasic)
}
