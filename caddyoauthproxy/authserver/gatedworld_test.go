package authserver_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// gatedStore is a store in which the batches of revocation orders wait, or fail.
type gatedStore struct {
	tokenstore.Store
	batches atomic.Int64           // that may pass; none when negative or zero
	refuse  atomic.Bool            // those that may not fail at once, as if the process had ended there
	before  atomic.Pointer[func()] // is called once, in the way of a whole batch
}

const open = 1 << 40

func (s *gatedStore) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	order := slices.ContainsFunc(changes, func(c tokenstore.Change) bool {
		return c.Row.Kind == tokenstore.KindRevocationOrder && c.Op != tokenstore.OpInsert
	})
	if !order || writes(changes) == 1 && s.batches.Load() <= 0 && !s.refuse.Load() { // an order's count
		return s.Store.Apply(ctx, changes...)
	}
	for s.batches.Add(-1) < 0 {
		s.batches.Add(1)
		if s.refuse.Load() {
			return tokenstore.ErrUnavailable
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	if before := s.before.Load(); len(changes) > 400 && before != nil && s.before.CompareAndSwap(before, nil) {
		(*before)()
	}
	return s.Store.Apply(ctx, changes...)
}

// writes counts the changes that write anything.
func writes(changes []tokenstore.Change) (n int) {
	for _, c := range changes {
		if c.Op != tokenstore.OpCheck {
			n++
		}
	}
	return n
}

// gatedWorld is a world whose store is gated. The gate is closed.
func gatedWorld(t *testing.T, options ...option) (*world, *gatedStore) {
	t.Helper()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "gated.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	gate := &gatedStore{Store: file}
	var vault *tokenstore.Vault
	var w *world
	gated := func(o *authserver.Options) {
		vault, err = tokenstore.Open(t.Context(), gate, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}, Now: o.Vault.Now})
		if err != nil {
			t.Fatal(err)
		}
		provider := o.Proxies[0].Provider
		o.Vault = vault
		o.Accounts = upstream.NewAccounts(upstream.AccountsOptions{Vault: vault, Providers: map[string]*upstream.Provider{"idp": provider}, Logger: zap.NewNop()})
	}
	w = newWorld(t, append([]option{gated}, options...)...)
	w.vault, w.store = vault, gate
	t.Cleanup(func() { gate.batches.Store(open) })
	return w, gate
}

// filled is a grant that nobody logged in for.
type filled struct{ id, refresh string }

// fill stores copies of a grant with its account, each with a refresh token of its own.
func (w *world) fill(n int, model *tokenstore.Grant) []filled {
	w.t.Helper()
	account, err := w.vault.Account(w.t.Context(), model.AccountID)
	if err != nil {
		w.t.Fatal(err)
	}
	var all []filled
	var writes []tokenstore.Write
	for i := range n {
		g, a := *model, *account
		g.ID, g.Version, a.ID, a.Version = rand.Text(), 0, rand.Text(), 0
		g.AccountID = a.ID
		secret := make([]byte, 32)
		_, _ = rand.Read(secret)
		head := append(binary.BigEndian.AppendUint32(nil, 1), g.ID...)
		f := filled{g.ID, "gwr_" + base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(secret)}
		g.Family = tokenstore.RefreshFamily{Generation: 1, Current: w.vault.Hash("refresh_token", f.refresh), Rotated: g.Created, JTI: rand.Text()}
		all, writes = append(all, f), append(writes, tokenstore.Save(&g), tokenstore.Save(&a))
		if len(writes) == 500 || i == n-1 {
			if err := w.vault.Commit(w.t.Context(), writes...); err != nil {
				w.t.Fatal(err)
			}
			writes = nil
		}
	}
	return all
}

// states counts the grants of a client by what their rows say.
func (w *world) states(client string) (active, revoked int) {
	w.t.Helper()
	q := tokenstore.GrantQuery{ClientID: client, Limit: 1000}
	for {
		grants, err := w.vault.Grants(w.t.Context(), q)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, g := range grants {
			q.After = g.ID
			if g.State == tokenstore.StateActive {
				active++
			} else {
				revoked++
			}
		}
		if len(grants) < 1000 {
			return active, revoked
		}
	}
}

func (w *world) revoke(f authserver.RevocationFilter) *authserver.RevocationOrder {
	w.t.Helper()
	o, err := w.server.RevokeGrants(w.t.Context(), f, "ann", "a leak")
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// finished waits until an order is carried out.
func (w *world) finished(id string) *authserver.RevocationOrder {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		o, err := w.server.RevocationOrder(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if !o.Done.IsZero() {
			return o
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("not carried out after a minute: %+v", o)
		}
	}
}
