package caddyoauthproxy

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// position remembers where the dispenser stands, for an error that is found later.
func position(d *caddyfile.Dispenser) func(error) error {
	file, line := d.File(), d.Line()
	return func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("%w, at %s:%d", err, file, line)
	}
}

// once finds options that are set twice: the second would silently win.
type once map[string]int

func newOnce() once { return make(once) }

func (o once) check(d *caddyfile.Dispenser) error {
	if line, seen := o[d.Val()]; seen {
		return d.Errf("%s is set twice; it was set in line %d", d.Val(), line)
	}
	o[d.Val()] = d.Line()
	return nil
}

// oneArg reads exactly one value and checks it.
func oneArg(d *caddyfile.Dispenser, dst *string, check func(string) error) error {
	name := d.Val()
	if !d.AllArgs(dst) {
		return d.Errf("%s takes one value", name)
	}
	if check == nil {
		return nil
	}
	if err := check(*dst); err != nil {
		// Some checks name the option themselves, because JSON has no line to point at.
		if strings.HasPrefix(err.Error(), name+" ") {
			return d.WrapErr(err)
		}
		return d.Errf("%s %w", name, err)
	}
	return nil
}

// args reads one or more values, adding to those of earlier lines.
func args(d *caddyfile.Dispenser, dst *[]string, check func(string) error) error {
	name := d.Val()
	values := d.RemainingArgs()
	if len(values) == 0 {
		return d.Errf("%s takes one or more values", name)
	}
	for _, v := range values {
		if check == nil {
			continue
		}
		if err := check(v); err != nil {
			return d.Errf("%s: %q %w", name, v, err)
		}
	}
	*dst = append(*dst, values...)
	return nil
}

// duration reads a duration in Caddy's notation, which knows days; "off", where allowed, is negative.
func duration(d *caddyfile.Dispenser, dst *caddy.Duration, off bool) error {
	name := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return d.Errf("%s takes one duration, such as 1h or 30d", name)
	}
	if off && text == "off" {
		*dst = -1
		return nil
	}
	v, err := caddy.ParseDuration(text)
	if err != nil || v <= 0 {
		return d.Errf("%s takes a duration such as 90s, 1h or 30d, not %q", name, text)
	}
	*dst = caddy.Duration(v)
	return nil
}

// blockName reads the one name before a block.
func blockName(d *caddyfile.Dispenser, what string) (string, error) {
	if !d.NextArg() {
		return "", d.Errf("%s needs a name, such as %s example { … }", what, what)
	}
	name := d.Val()
	if d.NextArg() {
		return "", d.Errf("%s takes one name; %q is too much", what, d.Val())
	}
	return name, nil
}

// unknown refuses an option that does not exist, and names those that do: a typo must not
// disable what the operator meant.
func unknown(d *caddyfile.Dispenser, known ...string) error {
	return d.Errf("unknown option %q; known here are %s", d.Val(), strings.Join(known, ", "))
}

// param reads a name and a value into a map.
func param(d *caddyfile.Dispenser, dst *map[string]string) error {
	option := d.Val()
	var name, value string
	if !d.AllArgs(&name, &value) {
		return d.Errf("%s takes a name and a value; put a value with spaces in quotes", option)
	}
	if *dst == nil {
		*dst = make(map[string]string)
	}
	(*dst)[name] = value
	return nil
}
