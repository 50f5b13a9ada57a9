package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Vault is what a module in the namespace oauth_proxy.vaults implements: a place where the gateway keeps its records.
type Vault interface {
	// OpenVault opens the store, or joins one that is open already. It is called when the config
	// starts, never while it is only validated, and must return before ctx ends. The store
	// stays open until release is called, once.
	OpenVault(ctx context.Context) (store tokenstore.Store, release func(), err error)

	// KeyFile is where a generated encryption key is kept when none is configured, or empty when a
	// key must be configured, as it must be where several nodes share the store.
	KeyFile() string
}

// checkShared refuses what cannot be where several nodes share the vault.
func (a *App) checkShared(v Vault) error {
	if v.KeyFile() != "" {
		return nil
	}
	var errs []error
	if len(a.EncryptionKeys) == 0 {
		errs = append(errs, errors.New("encryption_key is missing: this vault is shared, and makes none. Make one with openssl rand -base64 32, give it to every node, "+
			"and set encryption_key to a placeholder such as {file./run/secrets/vault.key}"))
	}
	for _, name := range slices.Sorted(maps.Keys(a.Providers)) {
		if provider := a.Providers[name]; provider != nil && provider.TokenStorage == "off" {
			errs = append(errs, fmt.Errorf("provider %q: token_storage off keeps tokens in the memory of one node, and any node of this vault may be asked for them: leave it out, or use vault bbolt", name))
		}
	}
	return errors.Join(errs...)
}
