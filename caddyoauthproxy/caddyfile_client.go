package caddyoauthproxy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// client reads:
//
//	client <id> {
//		name          <text>
//		client_secret <placeholder>
//		jwks          <placeholder>
//		jwks_uri      <url>
//		redirect_uris <uri>…
//		grant_types   <type>…
//		proxies       <id>…
//	}
func (p *parser) client(d *caddyfile.Dispenser) error {
	id, err := blockName(d, "client")
	if err != nil {
		return err
	}
	if _, taken := p.app.Clients[id]; taken {
		return d.Errf("client %q is declared twice", id)
	}
	at := position(d)
	v := new(Client)
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := clientOption(d, v, seen); err != nil {
			return err
		}
	}
	if p.app.Clients == nil {
		p.app.Clients = make(map[string]*Client)
	}
	p.app.Clients[id] = v
	p.later = append(p.later, func() error {
		for _, proxy := range v.Proxies {
			if p.app.Proxies[proxy] == nil {
				return at(fmt.Errorf("client %q: proxies: %q is not declared; declared are: %s", id, proxy, listed(p.app.Proxies)))
			}
		}
		return nil
	})
	return at(v.check(id))
}

func clientOption(d *caddyfile.Dispenser, v *Client, seen once) error {
	name := d.Val()
	if name != "redirect_uris" {
		if err := seen.check(d); err != nil {
			return err
		}
	}
	switch name {
	case "name":
		return oneArg(d, &v.Name, nil)
	case "client_secret":
		return oneArg(d, &v.ClientSecret, checkSecret)
	case "jwks":
		return oneArg(d, &v.JWKS, nil)
	case "jwks_uri":
		return oneArg(d, &v.JWKSURI, nil)
	case "redirect_uris":
		return args(d, &v.RedirectURIs, authserver.ValidRedirectURI)
	case "grant_types":
		return args(d, &v.GrantTypes, nil)
	case "proxies":
		return args(d, &v.Proxies, nil)
	default:
		return unknown(d, "client_secret", "grant_types", "jwks", "jwks_uri", "name", "proxies", "redirect_uris")
	}
}

// registration reads:
//
//	registration [open|off|token <placeholder>…] {
//		client_ttl             <duration>
//		unused_client_ttl      <duration>
//		max_unused             <n>
//		max_unused_per_address <n>
//	}
func registration(d *caddyfile.Dispenser, v *Registration) error {
	if d.NextArg() {
		switch mode := d.Val(); mode {
		case "open":
		case "off":
			v.Off = true
		case "token":
			if v.Tokens = d.RemainingArgs(); len(v.Tokens) == 0 {
				return d.Err("registration token takes one or more placeholders, such as {env.REGISTRATION_TOKEN}")
			}
		default:
			return d.Errf("registration is open, off, or token <placeholder>…, not %q", mode)
		}
		if d.NextArg() {
			return d.ArgErr()
		}
	}
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d); err != nil {
			return err
		}
		var err error
		switch d.Val() {
		case "client_ttl":
			err = duration(d, &v.ClientTTL, false)
		case "unused_client_ttl":
			err = duration(d, &v.UnusedClientTTL, false)
		case "max_unused":
			err = number(d, &v.MaxUnused, maxMaxUnused)
		case "max_unused_per_address":
			err = number(d, &v.MaxUnusedPerAddress, maxMaxUnused)
		default:
			err = unknown(d, "client_ttl", "max_unused", "max_unused_per_address", "unused_client_ttl")
		}
		if err != nil {
			return err
		}
	}
	return position(d)(v.check())
}

// metadataDocuments reads:
//
//	metadata_documents any|off|<host>…
func metadataDocuments(d *caddyfile.Dispenser, v *MetadataDocuments) error {
	hosts := d.RemainingArgs()
	switch {
	case len(hosts) == 0:
		return d.Err("metadata_documents takes any, off, or the hosts whose documents are accepted")
	case len(hosts) == 1 && hosts[0] == "any":
	case len(hosts) == 1 && hosts[0] == "off":
		v.Off = true
	default:
		v.Hosts = hosts
	}
	return position(d)(v.check())
}

// consent reads:
//
//	consent always|remember|off|off unsafe
func consent(d *caddyfile.Dispenser, v *string) error {
	*v = strings.Join(d.RemainingArgs(), " ")
	if *v == "" {
		return d.Err("consent takes always, remember, off, or off unsafe")
	}
	return position(d)(checkConsent(*v))
}

// rateLimit reads:
//
//	rate_limit register|authorize|login|token|client <events> <window>|off
func (p *parser) rateLimit(d *caddyfile.Dispenser) error {
	const syntax = "rate_limit takes a name, a number and a window, such as rate_limit login 10 1m, or a name and off"
	words := d.RemainingArgs()
	if len(words) < 2 || len(words) > 3 {
		return d.Err(syntax)
	}
	name, v := words[0], &RateLimit{Events: -1}
	if _, taken := p.app.RateLimits[name]; taken {
		return d.Errf("rate_limit %s is set twice", name)
	}
	switch {
	case len(words) == 3:
		events, err := strconv.Atoi(words[1])
		window, durationErr := caddy.ParseDuration(words[2])
		if err != nil || durationErr != nil || events <= 0 || window <= 0 {
			return d.Err(syntax)
		}
		v.Events, v.Window = events, caddy.Duration(window)
	case words[1] != "off":
		return d.Err(syntax)
	}
	if err := v.check(name); err != nil {
		return d.WrapErr(err)
	}
	if p.app.RateLimits == nil {
		p.app.RateLimits = make(map[string]*RateLimit)
	}
	p.app.RateLimits[name] = v
	return nil
}

// number reads one number from 1 to most.
func number(d *caddyfile.Dispenser, dst *int, most int) error {
	name := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return d.Errf("%s takes one number", name)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return d.Errf("%s takes a number from 1 to %d, not %q", name, most, text)
	}
	*dst = n
	return nil
}
