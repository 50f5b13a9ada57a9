package caddyoauthproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Client is an OAuth client that the operator registers, beside those that register themselves.
type Client struct {
	// What people read on the consent page. Default: the client's id.
	Name string `json:"name,omitempty"`

	// The client secret, as a placeholder: `{env.NAME}` or `{file./absolute/path}`. Without secret and keys the client is a public one.
	ClientSecret string `json:"client_secret,omitempty"`

	// The client's public keys as a JSON Web Key Set, or a placeholder for it, for `private_key_jwt`.
	JWKS string `json:"jwks,omitempty"`

	// Where the client's public keys are, for `private_key_jwt`.
	JWKSURI string `json:"jwks_uri,omitempty"`

	// The client's redirect URIs, exact but for the port of http loopback ones. The proxy's allowed_redirects hold for them too.
	RedirectURIs []string `json:"redirect_uris,omitempty"`

	// What the client may do: `authorization_code`, `refresh_token` and `client_credentials`. Default: the first two.
	GrantTypes []string `json:"grant_types,omitempty"`

	// The proxies that the client may use. Default: all.
	Proxies []string `json:"proxies,omitempty"`
}

// check finds what is wrong apart from the values behind placeholders.
func (c *Client) check(id string) error {
	fail := func(err error) error { return fmt.Errorf("client %q: %w", id, err) }
	if c == nil {
		return fail(errors.New("is empty: set redirect_uris"))
	}
	if err := authserver.ValidClientID(id); err != nil {
		return fail(fmt.Errorf("the id %w", err))
	}
	ways := 0
	for _, v := range []string{c.ClientSecret, c.JWKS, c.JWKSURI} {
		if v != "" {
			ways++
		}
	}
	switch {
	case ways > 1:
		return fail(errors.New("has more than one of client_secret, jwks and jwks_uri; a client authenticates in one way"))
	case c.ClientSecret != "":
		if err := checkSecret(c.ClientSecret); err != nil {
			return fail(fmt.Errorf("client_secret %w", err))
		}
	case c.JWKSURI != "":
		if u, err := url.Parse(c.JWKSURI); err != nil || u.Scheme != "https" || u.Host == "" {
			return fail(errors.New("jwks_uri must be an https URL"))
		}
	}
	for _, uri := range c.RedirectURIs {
		if err := authserver.ValidRedirectURI(uri); err != nil {
			return fail(fmt.Errorf("redirect_uris: %q %w", uri, err))
		}
	}
	known := []string{"authorization_code", "refresh_token", "client_credentials"}
	for _, g := range c.GrantTypes {
		if !slices.Contains(known, g) {
			return fail(fmt.Errorf("grant_types: %q is unknown; known are authorization_code, refresh_token and client_credentials", g))
		}
	}
	switch {
	case slices.Contains(c.GrantTypes, "client_credentials") && ways == 0:
		return fail(errors.New("client_credentials needs a client_secret, jwks or jwks_uri"))
	case (len(c.GrantTypes) == 0 || slices.Contains(c.GrantTypes, "authorization_code")) && len(c.RedirectURIs) == 0:
		return fail(errors.New("redirect_uris is missing"))
	}
	return nil
}

// resolve makes the client.
func (c *Client) resolve(id string, proxies map[string]*Proxy, now time.Time) (*authserver.ConfiguredClient, error) {
	if err := c.check(id); err != nil {
		return nil, err
	}
	fail := func(err error) (*authserver.ConfiguredClient, error) {
		return nil, fmt.Errorf("client %q: %w", id, err)
	}
	out := &authserver.ConfiguredClient{
		Client: tokenstore.Client{
			Meta: tokenstore.Meta{ID: id}, Name: c.Name, RedirectURIs: c.RedirectURIs, GrantTypes: c.GrantTypes,
			ResponseTypes: []string{"code"}, AuthMethod: "none", JWKSURI: c.JWKSURI, Created: now,
		},
		Proxies: c.Proxies,
	}
	if out.Name == "" {
		out.Name = id
	}
	if len(out.GrantTypes) == 0 {
		out.GrantTypes = []string{"authorization_code", "refresh_token"}
	}
	for _, p := range c.Proxies {
		if proxies[p] == nil {
			return fail(fmt.Errorf("proxies: %q is not declared; declared are: %s", p, listed(proxies)))
		}
	}
	switch {
	case c.ClientSecret != "":
		secret, err := resolveSecret(c.ClientSecret)
		if err != nil {
			return fail(fmt.Errorf("client_secret: %w", err))
		}
		if len(secret) < 16 {
			return fail(fmt.Errorf("client_secret: %s has less than 16 characters; make one with openssl rand -hex 32", c.ClientSecret))
		}
		out.Secret, out.AuthMethod = secret, "client_secret_basic"
	case c.JWKS != "":
		text, err := caddy.NewReplacer().ReplaceOrErr(placeholderOnly(c.JWKS), true, true)
		if err != nil {
			return fail(fmt.Errorf("jwks: %s is not set or cannot be read", c.JWKS))
		}
		if text == "" {
			text = c.JWKS
		}
		if err := authserver.ValidKeySet([]byte(text)); err != nil {
			return fail(err) // which names the option
		}
		out.JWKS, out.AuthMethod = json.RawMessage(text), "private_key_jwt"
	case c.JWKSURI != "":
		out.AuthMethod = "private_key_jwt"
	}
	return out, nil
}

// checkLogin refuses a client that wants users to log in, and whose redirect URIs none of the proxies that it may use allows.
func (c *Client) checkLogin(id string, proxies []*authserver.Proxy) error {
	if len(c.GrantTypes) > 0 && !slices.Contains(c.GrantTypes, "authorization_code") {
		return nil
	}
	var refused []string
	for _, p := range proxies {
		if len(c.Proxies) > 0 && !slices.Contains(c.Proxies, p.ID) {
			continue
		}
		allowed := "no allowed_redirects"
		if len(p.AllowedRedirects) > 0 {
			allowed = "allowed_redirects " + strings.Join(p.AllowedRedirects, " ")
		}
		for _, uri := range c.RedirectURIs {
			err := p.CheckRedirect(uri)
			if err == nil {
				return nil
			}
			refused = append(refused, fmt.Sprintf("%s %s (proxy %q has %s)", uri, err, p.ID, allowed))
		}
	}
	return fmt.Errorf("client %q: nobody could log in with it: none of its redirect_uris is allowed by a proxy that it may use: %s", id, strings.Join(refused, "; "))
}

// placeholderOnly returns text when it is a placeholder, and nothing when it is a key set itself, whose braces are no placeholders.
func placeholderOnly(text string) string {
	if secretPlaceholder.MatchString(text) {
		return text
	}
	return ""
}
