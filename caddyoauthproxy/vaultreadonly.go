package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// ReadableVault is a Vault that can be opened for reading while no gateway serves it.
type ReadableVault interface {
	Vault

	// OpenReadOnly opens the store of a vault that is there, and writes nothing: it makes no file, directory or schema, and brings none up to date. What is
	// called on the store later only reads. It must return before ctx ends; release is called once.
	OpenReadOnly(ctx context.Context) (store tokenstore.Store, release func(), err error)
}

// OpenReadOnly implements ReadableVault.
func (b *BboltVault) OpenReadOnly(context.Context) (tokenstore.Store, func(), error) {
	store, err := bbolt.OpenReadOnly(b.Path, bboltTimeout)
	if err != nil {
		return nil, nil, err
	}
	return store, func() { _ = store.Close() }, nil // it was only read
}

// OpenReadOnly implements ReadableVault.
func (p *PostgresVault) OpenReadOnly(ctx context.Context) (tokenstore.Store, func(), error) {
	options := p.options.ofStore()
	options.ReadOnly, options.ListenOff, options.Listen, options.MaxConns = true, true, "", 1
	store, err := postgres.Open(ctx, options)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", placeOf(p), err)
	}
	return store, func() { _ = store.Close() }, nil // it was only read
}

// storedVault is the vault of a configuration, opened for reading.
type storedVault struct {
	*tokenstore.Vault
	store   tokenstore.Store
	name    string // in words, for people
	release func()
}

// openStored opens the vault of a configuration for reading, in this process.
func openStored(parent context.Context, file, adapter string) (*storedVault, error) {
	app, err := readApp(file, adapter)
	if err != nil {
		return nil, badUsage("--config: %w", err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: parent})
	app.ctx = ctx
	module, name, unload, err := app.loadTarget(app.ownTarget())
	if err != nil {
		cancel()
		return nil, err
	}
	v := &storedVault{name: name, release: func() {
		unload()
		cancel()
	}}
	if err := v.open(parent, app, module); err != nil {
		v.release()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

func (v *storedVault) open(ctx context.Context, app *App, module Vault) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	readable, ok := module.(ReadableVault)
	if !ok {
		return errors.New("a vault of this module is only read by a gateway that serves it: start Caddy, and run the command again")
	}
	keys, err := app.rootKeys(ctx, module) // the key file is not made where there is none
	if len(app.EncryptionKeys) == 0 && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("encryption key: none is configured, and the key file %s is missing: restore it, or set encryption_key", module.KeyFile())
	}
	if err != nil {
		return fmt.Errorf("encryption key: %w", err)
	}
	store, release, err := readable.OpenReadOnly(ctx)
	if err != nil {
		return err
	}
	unload := v.release
	v.store, v.release = store, func() {
		release()
		unload()
	}
	v.Vault, err = tokenstore.OpenReadOnly(ctx, store, tokenstore.Options{Keys: keys})
	if errors.Is(err, tokenstore.ErrNotFound) {
		return errors.New("there is no vault in it")
	}
	return err
}

// Interface guards
var (
	_ ReadableVault = (*BboltVault)(nil)
	_ ReadableVault = (*PostgresVault)(nil)
)
