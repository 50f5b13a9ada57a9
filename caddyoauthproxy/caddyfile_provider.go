package caddyoauthproxy

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// provider reads:
//
//	provider <name> {
//		type                       <type>
//		client_id                  <id>
//		client_secret              <placeholder>
//		server                     <url>
//		resource                   off
//		private_network
//		issuer                     <url>
//		domain                     <domain>
//		authorization_server       <id>
//		tenant                     <id>
//		authorization_url          <url>
//		token_url                  <url>
//		userinfo_url               <url>
//		subject_field              <name>
//		revocation_url             <url>
//		scopes                     <scope>…
//		token_endpoint_auth_method <method>
//		audience                   <id>
//		authorize_param            <name> <value>
//		token_param                <name> <value>
//		token_storage              on|off
//		auto_refresh               on|off
//		revoke                     token|grant
//		timeout                    <duration>
//		retries                    <n>|off
//	}
func (p *parser) provider(d *caddyfile.Dispenser) error {
	name, err := blockName(d, "provider")
	if err != nil {
		return err
	}
	if _, taken := p.app.Providers[name]; taken {
		return d.Errf("provider %q is declared twice", name)
	}
	// The provider itself is judged after its block, by the code that judges JSON, but reported where it begins.
	at := position(d)
	v := new(Provider)
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := providerOption(d, v, seen); err != nil {
			return err
		}
	}
	if p.app.Providers == nil {
		p.app.Providers = make(map[string]*Provider)
	}
	p.app.Providers[name] = v
	made, err := v.check(name)
	if err != nil {
		return at(err)
	}
	p.providers[name] = made
	return nil
}

func providerOption(d *caddyfile.Dispenser, v *Provider, seen once) error {
	name := d.Val()
	if name != "authorize_param" && name != "token_param" && name != "scopes" {
		if err := seen.check(d); err != nil {
			return err
		}
	}
	switch name {
	case "type":
		return oneArg(d, &v.Type, nil)
	case "client_id":
		return oneArg(d, &v.ClientID, nil)
	case "client_secret":
		return oneArg(d, &v.ClientSecret, checkSecret)
	case "server":
		return oneArg(d, &v.Server, nil)
	case "resource":
		var word string
		if !d.AllArgs(&word) || word != "off" {
			return d.Err("resource takes off; that a provider of type mcp is told the resource is the default")
		}
		v.NoResource = true
		return nil
	case "private_network":
		if d.NextArg() {
			return d.ArgErr()
		}
		v.PrivateNetwork = true
		return nil
	case "issuer":
		return oneArg(d, &v.Issuer, nil)
	case "domain":
		return oneArg(d, &v.Domain, nil)
	case "authorization_server":
		return oneArg(d, &v.AuthorizationServer, nil)
	case "tenant":
		return oneArg(d, &v.Tenant, nil)
	case "authorization_url":
		return oneArg(d, &v.AuthorizationURL, nil)
	case "token_url":
		return oneArg(d, &v.TokenURL, nil)
	case "userinfo_url":
		return oneArg(d, &v.UserinfoURL, nil)
	case "subject_field":
		return oneArg(d, &v.SubjectField, nil)
	case "revocation_url":
		return oneArg(d, &v.RevocationURL, nil)
	case "scopes":
		return args(d, &v.Scopes, nil)
	case "token_endpoint_auth_method":
		return oneArg(d, &v.TokenEndpointAuthMethod, nil)
	case "audience":
		return oneArg(d, &v.Audience, nil)
	case "authorize_param":
		return param(d, &v.AuthorizeParams)
	case "token_param":
		return param(d, &v.TokenParams)
	case "token_storage":
		return oneArg(d, &v.TokenStorage, nil)
	case "auto_refresh":
		return oneArg(d, &v.AutoRefresh, nil)
	case "revoke":
		return oneArg(d, &v.Revoke, nil)
	case "timeout":
		return duration(d, &v.Timeout, false)
	case "retries":
		return retries(d, &v.Retries)
	default:
		return unknown(d, "audience", "authorization_server", "authorization_url", "authorize_param", "auto_refresh", "client_id", "client_secret", "domain", "issuer", "private_network",
			"resource", "retries", "revocation_url", "revoke", "scopes", "server", "subject_field", "tenant", "timeout", "token_endpoint_auth_method", "token_param", "token_storage", "token_url", "type", "userinfo_url")
	}
}

func retries(d *caddyfile.Dispenser, n *int) error {
	var text string
	if !d.AllArgs(&text) {
		return d.ArgErr()
	}
	if text == "off" {
		*n = -1
		return nil
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < 1 || v > 10 {
		return d.Errf("retries takes a number from 1 to 10, or off, not %q", text)
	}
	*n = v
	return nil
}
