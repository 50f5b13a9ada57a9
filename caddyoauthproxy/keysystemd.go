package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(new(KeyCredential))
}

// KeyCredential takes an encryption key from a credential of the systemd service that Caddy runs as: `LoadCredential=` or
// `LoadCredentialEncrypted=` in its unit, which can be bound to the machine's TPM.
type KeyCredential struct {
	// The name of the credential, whose content is the key: 32 random bytes in base64 or hex. Required.
	Name string `json:"name,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*KeyCredential) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth_proxy.keys.systemd", New: func() caddy.Module { return new(KeyCredential) }}
}

// Provision implements caddy.Provisioner. It reads nothing.
func (k *KeyCredential) Provision(caddy.Context) error { return k.check() }

// credentialName is narrower than systemd's rule, and cannot leave the directory.
var credentialName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$`)

func (k *KeyCredential) check() error {
	if !credentialName.MatchString(k.Name) {
		return errors.New("systemd needs the name of one credential, of letters, digits, dots, - and _, as LoadCredential= of the unit has it: systemd vault-key")
	}
	return nil
}

// EncryptionKey implements KeySource.
func (k *KeyCredential) EncryptionKey(context.Context) (string, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", fmt.Errorf("systemd %s: CREDENTIALS_DIRECTORY is not set: Caddy does not run as a systemd service with credentials; add LoadCredential=%s:<file> to its unit", k.Name, k.Name)
	}
	text, err := readKeyText(filepath.Join(dir, k.Name))
	if err != nil {
		return "", fmt.Errorf("systemd %s: %w; its unit needs LoadCredential=%s:<file>", k.Name, err, k.Name)
	}
	return text, nil
}

// readKeyText reads a small regular file.
func readKeyText(path string) (string, error) {
	info, err := os.Stat(path) //nolint:gosec // of the operator's own configuration
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular(): // a pipe could be waited on for ever
		return "", fmt.Errorf("%s is no file", path)
	case info.Size() > maxKeyText:
		return "", fmt.Errorf("%s is larger than any key", path)
	}
	text, err := os.ReadFile(path) //nolint:gosec // of the operator's own configuration
	return string(text), err
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens:
//
//	encryption_key systemd <name>
func (k *KeyCredential) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		k.Name = d.Val()
	}
	if d.NextArg() {
		return d.Errf("encryption_key systemd takes one name, not %q as well", d.Val())
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("encryption_key systemd has no options such as %q", d.Val())
	}
	if err := k.check(); err != nil {
		return d.Errf("encryption_key %w", err)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*KeyCredential)(nil)
	_ caddyfile.Unmarshaler = (*KeyCredential)(nil)
	_ KeySource             = (*KeyCredential)(nil)
)
