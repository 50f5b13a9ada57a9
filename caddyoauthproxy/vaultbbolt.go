package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

func init() {
	caddy.RegisterModule(new(BboltVault))
}

// BboltVault keeps the gateway's records in one bbolt file, for one Caddy process. No other process can open the
// file meanwhile.
type BboltVault struct {
	// The file. Default: `oauth_proxy/vault.db` in Caddy's data directory.
	Path string `json:"path,omitempty"`

	isDefault bool
	log       *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*BboltVault) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth_proxy.vaults.bbolt", New: func() caddy.Module { return new(BboltVault) }}
}

// bboltFiles are the open vault files of this process. A config reload finds the file of the config before
// open, and both use it until the old one is gone. The key is the path and nothing else:
// a second handle on one file would wait for the first for ever.
var bboltFiles = caddy.NewUsagePool()

const bboltTimeout = 5 * time.Second

// Provision makes the path canonical. It opens nothing.
func (b *BboltVault) Provision(ctx caddy.Context) error {
	b.log = ctx.Logger()
	if b.Path == "" {
		b.isDefault = true
		b.Path = filepath.Join(caddy.AppDataDir(), "oauth_proxy", "vault.db")
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(b.Path, true, true)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if b.Path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(b.Path))
	switch {
	case err == nil:
		b.Path = filepath.Join(dir, filepath.Base(b.Path))
	case errors.Is(err, fs.ErrNotExist) && !b.isDefault:
		return fmt.Errorf("path %s: its directory does not exist; create it, owned by the user that Caddy runs as", b.Path)
	}
	if info, err := os.Stat(b.Path); err == nil && info.IsDir() {
		return fmt.Errorf("path %s is a directory; name a file in it", b.Path)
	}
	return nil
}

// bboltFile is an open file in the pool.
type bboltFile struct{ *bbolt.Store }

// Destruct implements caddy.Destructor.
func (f bboltFile) Destruct() error { return f.Close() }

// OpenVault implements Vault.
func (b *BboltVault) OpenVault(context.Context) (tokenstore.Store, func(), error) {
	if b.isDefault {
		if err := os.MkdirAll(filepath.Dir(b.Path), 0o700); err != nil {
			return nil, nil, err
		}
	}
	value, _, err := bboltFiles.LoadOrNew(b.Path, func() (caddy.Destructor, error) {
		store, err := bbolt.Open(b.Path, bboltTimeout)
		if err != nil {
			return nil, err
		}
		return bboltFile{store}, nil
	})
	if err != nil {
		return nil, nil, err
	}
	release := func() {
		if _, err := bboltFiles.Delete(b.Path); err != nil {
			b.log.Error("closing vault", zap.String("path", b.Path), zap.Error(err))
		}
	}
	return value.(bboltFile).Store, release, nil
}

// KeyFile implements Vault.
func (b *BboltVault) KeyFile() string {
	return strings.TrimSuffix(b.Path, ".db") + ".key"
}

// UnmarshalCaddyfile sets up the vault from Caddyfile tokens:
//
//	vault bbolt [<path>]
func (b *BboltVault) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		b.Path = d.Val()
	}
	if d.NextArg() {
		return d.Errf("vault bbolt takes one path, not %q as well", d.Val())
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("vault bbolt has no options such as %q; give the path on the same line", d.Val())
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*BboltVault)(nil)
	_ caddyfile.Unmarshaler = (*BboltVault)(nil)
	_ Vault                 = (*BboltVault)(nil)
)
