package caddyoauthproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// rootKeys returns the encryption keys of this configuration for that vault: those of the configured sources, in order, each of which is asked, or else that of the
// key file beside the vault. It makes nothing, so where there is none of either it fails, with fs.ErrNotExist where the key file is missing. The app need not be
// provisioned, but needs its ctx.
func (a *App) rootKeys(ctx context.Context, v Vault) ([]tokenstore.RootKey, error) {
	return keysOf(ctx, a.ctx, a.EncryptionKeys, v)
}

// keysOf is rootKeys of a configuration that has these elements.
func keysOf(ctx context.Context, parent caddy.Context, elements []json.RawMessage, v Vault) ([]tokenstore.RootKey, error) {
	if len(elements) > 0 {
		return askKeys(ctx, parent, elements)
	}
	path := v.KeyFile()
	if path == "" {
		return nil, errors.New("this vault needs one: set encryption_key to a placeholder such as {file./run/secrets/vault.key}, the same on every node")
	}
	text, err := readKeyText(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	key, err := tokenstore.ParseRootKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return []tokenstore.RootKey{key}, nil
}

// keyBesideVault returns the key of the key file beside the vault, which is made together with the vault. A vault without
// its key is an error, never a reason for a new key.
func (a *App) keyBesideVault(ctx context.Context, store tokenstore.Store) ([]tokenstore.RootKey, error) {
	keys, err := keysOf(ctx, a.ctx, nil, a.vault)
	path := a.vault.KeyFile()
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		if open := tooOpen(path); open != "" {
			a.log.Warn("the key file "+open, zap.String("path", path))
		}
		return keys, err
	}
	initialized, err := tokenstore.Initialized(ctx, store)
	if err != nil {
		return nil, err
	}
	if initialized {
		return nil, fmt.Errorf("%s is missing, but the vault was encrypted with it; restore the file, or set encryption_key", path)
	}
	return a.createKeyFile(path)
}

// tooOpen says in words what is wrong with the mode of a key file, or nothing.
func tooOpen(path string) string {
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 {
		return ""
	}
	return fmt.Sprintf("has mode %04o, so others on this machine can read it: set it to 0600, and change the key if they may have", info.Mode().Perm())
}

// createKeyFile makes the key file whole or not at all: half a key, or one that a power cut takes back, would keep the vault from ever being opened. Nobody else makes it
// meanwhile, as the vault is open.
func (a *App) createKeyFile(path string) ([]tokenstore.RootKey, error) {
	key := tokenstore.NewRootKey()
	err := replaceFile(path, func(f *os.File) error {
		_, err := f.WriteString(key.Text() + "\n")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	a.log.Warn("made an encryption key beside the vault: it protects copies of the vault only as long as the key is not copied with it; "+
		"for production set encryption_key to a secret kept elsewhere", zap.String("path", path))
	return []tokenstore.RootKey{key}, nil
}

// examineKeys says whether the encryption keys can be had.
func (a *App) examineKeys(ctx context.Context) []upstream.Finding {
	keys, err := a.rootKeys(ctx, a.vault)
	if len(a.EncryptionKeys) > 0 {
		if err != nil {
			return []upstream.Finding{{Level: upstream.Warning, What: err.Error(),
				Fix: "the gateway will not start where that is so for it too: run this as the user, and with the environment, that Caddy has"}}
		}
		return []upstream.Finding{{Level: upstream.Fine, What: fmt.Sprintf("encryption keys that can be had: %d of %d", len(keys), len(keys))}}
	}
	found := []upstream.Finding{{Level: upstream.Warning, What: "the encryption key lies beside the vault", Fix: "for production set encryption_key to a secret that is kept elsewhere"}}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the first start makes it
		found = append(found, upstream.Finding{Level: upstream.Problem, What: err.Error(), Fix: "restore the file, readable for the user that Caddy runs as, or set encryption_key"})
	}
	if open := tooOpen(a.vault.KeyFile()); open != "" {
		found = append(found, upstream.Finding{Level: upstream.Warning, What: a.vault.KeyFile() + " " + open})
	}
	return found
}
