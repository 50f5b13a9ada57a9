package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// encryptionKeys returns the configured keys, or else the key of the key file beside the vault, which is made
// together with the vault. A vault without its key is an error, never a reason for a new key.
func (a *App) encryptionKeys(ctx context.Context, store tokenstore.Store) ([]tokenstore.RootKey, error) {
	if len(a.config.keys) > 0 {
		return a.config.keys, nil
	}
	path := a.vault.KeyFile()
	if path == "" {
		return nil, errors.New("this vault needs one: set encryption_key to a placeholder such as {file./run/secrets/vault.key}, the same on every node")
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		initialized, err := tokenstore.Initialized(ctx, store)
		if err != nil {
			return nil, err
		}
		if initialized {
			return nil, fmt.Errorf("%s is missing, but the vault was encrypted with it; restore the file, or set encryption_key", path)
		}
		return a.createKeyFile(path)
	}
	if err != nil {
		return nil, err
	}
	key, err := tokenstore.ParseRootKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return []tokenstore.RootKey{key}, nil
}

func (a *App) createKeyFile(path string) ([]tokenstore.RootKey, error) {
	key := tokenstore.NewRootKey()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(key.Text() + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	a.log.Warn("made an encryption key beside the vault: it protects copies of the vault only as long as the key is not copied with it; "+
		"for production set encryption_key to a secret kept elsewhere", zap.String("path", path))
	return []tokenstore.RootKey{key}, nil
}
