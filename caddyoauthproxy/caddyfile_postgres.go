package caddyoauthproxy

import "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

// UnmarshalCaddyfile sets up the vault from Caddyfile tokens:
//
//	vault postgres [<connection>] {
//		password  <placeholder>
//		schema    <name>
//		pool      <connections>
//		wait      <duration>
//		max_stale <duration>|off
//		listen    <connection>|off
//	}
func (p *PostgresVault) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		p.Connection = d.Val()
	}
	if d.NextArg() {
		return d.Err("vault postgres takes one connection; put one of several keywords into quotes: \"host=db.example.com user=gateway\"")
	}
	if err := p.check(); err != nil {
		return d.Errf("vault postgres: %w", err)
	}
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d); err != nil {
			return err
		}
		if err := p.option(d); err != nil {
			return err
		}
		if err := p.check(); err != nil {
			return d.Errf("vault postgres: %w", err)
		}
	}
	return nil
}

func (p *PostgresVault) option(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "password":
		return oneArg(d, &p.Password, checkSecret)
	case "schema":
		return oneArg(d, &p.Schema, checkSchema)
	case "pool":
		return number(d, &p.Pool, maxPool)
	case "wait":
		return duration(d, &p.Wait, false)
	case "max_stale":
		return duration(d, &p.MaxStale, true)
	case "listen":
		if err := oneArg(d, &p.Listen, nil); err != nil {
			return d.Errf("listen takes one connection, in quotes where it has spaces, or off, not both")
		}
		return nil
	default:
		return unknown(d, "listen", "max_stale", "password", "pool", "schema", "wait")
	}
}

// Interface guards
var _ caddyfile.Unmarshaler = (*PostgresVault)(nil)
