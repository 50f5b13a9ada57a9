package testenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// LeftVault opens the vault as a Caddy that was killed has left it, and closes it again: a copy of the file, so that the next start finds the file untouched, or the
// database. The pages of a file are checked first.
func (w *World) LeftVault(t testing.TB, do func(*tokenstore.Vault)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	store, err := w.leftStore(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.inStore(ctx, t, store, do)
}

// RestingVault opens the vault while Caddy does not run, and closes it again.
func (w *World) RestingVault(t testing.TB, do func(*tokenstore.Vault)) {
	t.Helper()
	var store tokenstore.Store
	var err error
	if w.options.Postgres != nil {
		store, err = w.leftStore(t.Context())
	} else {
		store, err = bbolt.Open(w.VaultPath(), time.Second)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.inStore(t.Context(), t, store, do)
}

// inStore opens the vault in a store, and closes that.
func (w *World) inStore(ctx context.Context, t testing.TB, store tokenstore.Store, do func(*tokenstore.Vault)) {
	t.Helper()
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	text, err := os.ReadFile(filepath.Join(w.dir, "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := tokenstore.ParseRootKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	vault, err := tokenstore.Open(ctx, store, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	do(vault)
}

func (w *World) leftStore(ctx context.Context) (tokenstore.Store, error) {
	if w.options.Postgres != nil {
		return postgres.Open(ctx, postgres.Options{
			Connection: strings.Replace(w.database, ":"+testpg.Password, "", 1), Password: func(context.Context) (string, error) { return testpg.Password, nil }, ListenOff: true,
		})
	}
	left := filepath.Join(w.dir, "left.db")
	if err := copyFile(w.VaultPath(), left); err != nil {
		return nil, err
	}
	if err := checkPages(left); err != nil {
		return nil, err
	}
	return bbolt.Open(left, time.Second)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// checkPages has bbolt check that every page is in its place, and none in two.
func checkPages(path string) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	return db.View(func(tx *bolt.Tx) error {
		var all error
		for err := range tx.Check() {
			all = errors.Join(all, fmt.Errorf("pages of the vault file: %w", err))
		}
		return all
	})
}
