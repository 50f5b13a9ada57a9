package caddyoauthproxy

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// encryptionKeys reads one line of encryption keys, and adds them to those of earlier lines:
//
//	encryption_key <placeholder>…
//	encryption_key <source> …
func encryptionKeys(d *caddyfile.Dispenser, dst *[]json.RawMessage) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	id := keySources + "." + name
	if _, err := caddy.GetModule(id); err != nil || strings.Contains(name, ".") {
		return placeholderKeys(d, dst)
	}
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return err
	}
	*dst = append(*dst, caddyconfig.JSONModuleObject(module, "source", name, nil))
	return nil
}

func placeholderKeys(d *caddyfile.Dispenser, dst *[]json.RawMessage) error {
	for _, key := range append([]string{d.Val()}, d.RemainingArgs()...) {
		if err := checkSecret(key); err != nil {
			return d.WrapErr(fmt.Errorf("encryption_key %w; on a line of its own it may be a source instead, one of %s", err, keySourceNames()))
		}
		*dst = append(*dst, caddyconfig.JSON(key, nil))
	}
	return nil
}
