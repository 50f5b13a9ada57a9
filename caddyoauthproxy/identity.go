package caddyoauthproxy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// defaultIdentityAssertion is the header of `identity_assertion` without one.
const defaultIdentityAssertion = "X-Gateway-Assertion"

// identityHeader reads a header and what it says.
func identityHeader(d *caddyfile.Dispenser, headers *map[string]string) error {
	var header, field string
	if !d.AllArgs(&header, &field) {
		return d.Err("identity_header takes a header and what it says, such as identity_header X-User-Email email")
	}
	for other := range *headers {
		if strings.EqualFold(other, header) {
			return d.Errf("identity_header: %s is set twice: give each field a header of its own", header)
		}
	}
	if err := mcpfilter.CheckIdentity(map[string]string{header: field}, "", ""); err != nil {
		return d.WrapErr(err)
	}
	if *headers == nil {
		*headers = make(map[string]string)
	}
	(*headers)[header] = field
	return nil
}

// identityAssertion reads a header, or none for the default.
func identityAssertion(d *caddyfile.Dispenser, header *string) error {
	*header = defaultIdentityAssertion
	if d.CountRemainingArgs() > 0 {
		if err := oneArg(d, header, nil); err != nil {
			return err
		}
	}
	if err := mcpfilter.CheckIdentity(nil, *header, ""); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// checkTold refuses to tell a server of its users what nobody says.
func (p *Proxy) checkTold(made *authserver.Proxy) error {
	if made.Login != nil || !made.Provider.Anonymous() {
		return nil
	}
	for _, header := range slices.Sorted(maps.Keys(p.IdentityHeaders)) {
		switch field := p.IdentityHeaders[header]; field {
		case "email", "login", "name", "groups", "org":
			return fmt.Errorf("identity_header %s: provider %q does not say the %s of a user: add login with a provider that does", header, made.Provider.Name(), field)
		}
	}
	return nil
}

// IdentityAssertion implements mcpfilter.Gateway.
func (p *proxyGateway) IdentityAssertion(_ context.Context, s *mcpfilter.Session) (string, error) {
	g, err := p.app.open()
	if err != nil {
		return "", &mcpfilter.UnavailableError{Err: err}
	}
	assertion, err := g.server.IdentityAssertion(s.Grant, p.proxy.ID, s.JTI, s.Scopes)
	if err != nil {
		return "", &mcpfilter.UnavailableError{Err: err}
	}
	return assertion, nil
}
