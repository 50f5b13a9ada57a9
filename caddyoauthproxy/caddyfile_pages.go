package caddyoauthproxy

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// admin reads:
//
//	admin {
//		provider     <name>
//		allow        email_domain|email|user|login|group|org <value>…
//		session_ttl  <duration>
//		apply_config [<address of Caddy's admin endpoint> [<origin>]]
//	}
func (p *parser) admin(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("admin takes a block, not %q", d.Val())
	}
	at := position(d)
	v := new(Admin)
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := adminOption(d, v, seen); err != nil {
			return err
		}
	}
	p.app.Admin = v
	p.later = append(p.later, func() error {
		if len(p.providers) == 0 {
			return nil // which is reported by itself
		}
		_, err := v.resolve(p.providers)
		return at(err)
	})
	return nil
}

func adminOption(d *caddyfile.Dispenser, v *Admin, seen once) error {
	name := d.Val()
	if name != "allow" {
		if err := seen.check(d); err != nil {
			return err
		}
	}
	switch name {
	case "provider":
		return oneArg(d, &v.Provider, nil)
	case "allow":
		return allow(d, &v.Allow)
	case "session_ttl":
		if err := duration(d, &v.SessionTTL, false); err != nil {
			return err
		}
		if err := v.checkSessionTTL(); err != nil {
			return d.WrapErr(err)
		}
		return nil
	case "apply_config":
		words := d.RemainingArgs()
		if len(words) > 2 {
			return d.Err("apply_config takes the address of Caddy's admin endpoint, where that is not localhost:2019, and one of its origins, where it has any")
		}
		for i, dst := range []*string{&v.AdminAddress, &v.AdminOrigin}[:len(words)] {
			*dst = words[i]
		}
		v.ApplyConfig = true
		if err := v.checkApply(); err != nil {
			return d.Errf("apply_config: %v", err)
		}
		return nil
	default:
		return unknown(d, "allow", "apply_config", "provider", "session_ttl")
	}
}

// connections reads:
//
//	connections off
func connections(d *caddyfile.Dispenser, v *Connections) error {
	var word string
	if !d.AllArgs(&word) || word != "off" {
		return d.Err("connections takes off; without the option the page is there")
	}
	v.Off = true
	return nil
}

// console reads:
//
//	console {
//		brand     <text>
//		logo      <file>
//		accent    <rrggbb> [<rrggbb on dark paper>]
//		templates <directory>
//	}
func (p *parser) console(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("console takes a block, not %q", d.Val())
	}
	v := &p.app.Console
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d); err != nil {
			return err
		}
		if err := consoleOption(d, v); err != nil {
			return err
		}
	}
	if *v == (Console{}) {
		return d.Err("console is empty: set brand, logo, accent or templates")
	}
	return nil
}

func consoleOption(d *caddyfile.Dispenser, v *Console) error {
	switch d.Val() {
	case "brand":
		return oneArg(d, &v.Brand, console.CheckBrand)
	case "logo":
		return oneArg(d, &v.Logo, nil)
	case "accent":
		words := d.RemainingArgs()
		if len(words) < 1 || len(words) > 2 {
			return d.Err(`accent takes a colour such as 1f5fbf, and one for dark paper if you like; with # it must stand in quotes, "#1f5fbf", because # begins a comment`)
		}
		for i, dst := range []*string{&v.Accent, &v.AccentDark}[:len(words)] {
			if err := console.CheckAccent(words[i]); err != nil || words[i] == "" {
				return d.Errf("accent: %q is no colour such as 1f5fbf", words[i])
			}
			*dst = words[i]
		}
		return nil
	case "templates":
		return oneArg(d, &v.Templates, nil)
	default:
		return unknown(d, "accent", "brand", "logo", "templates")
	}
}
