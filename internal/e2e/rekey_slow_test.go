//go:build slow && !race

package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// rekeyedGrants is how many grants there are beside those of the clients.
var rekeyedGrants = flag.Int("rekey-grants", 100_000, "grants in the vault of TestSlowRekeyOfManyGrantsFailsNoCall")

// TestSlowRekeyOfManyGrantsFailsNoCall has fifty clients call and refresh while a vault of many grants is given new keys. It prints how long that takes, and how long requests do meanwhile.
func TestSlowRekeyOfManyGrantsFailsNoCall(t *testing.T) { //nolint:paralleltest // it measures
	const clients = 50
	text := testenv.NewKey()
	key := filepath.Join(t.TempDir(), "vault.key")
	if err := os.WriteFile(key, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var users []provider.User
	for i := range clients {
		name := fmt.Sprintf("user%03d", i)
		users = append(users, provider.User{Name: name, Password: "password of " + name, FullName: name})
	}
	w := testenv.Start(t, testenv.Options{TokenLife: 10 * time.Minute, Users: users, Global: "encryption_key {file." + key + "}\n\t\trate_limit token 100000 1s\n\t\trate_limit client 100000 1s"})
	w.Terminate()
	began := time.Now()
	seedGrants(t, w.VaultPath(), text, *rekeyedGrants)
	t.Logf("%d grants were made in %s", *rekeyedGrants, time.Since(began).Round(time.Millisecond))
	w.Run()
	var bots []*testenv.PlainBot
	for _, user := range users {
		b := w.NewPlainBot(t)
		b.Login(t, testenv.NewBrowser(user))
		bots = append(bots, b)
	}
	var mu sync.Mutex
	var calls, refreshes durations
	live := func(during func()) {
		calls, refreshes = nil, nil
		ctx, stop := context.WithCancel(t.Context())
		var living sync.WaitGroup
		for i, b := range bots {
			living.Go(func() {
				for n := i; ctx.Err() == nil; n++ {
					began := time.Now()
					var err error
					if n%10 == 0 {
						err = b.TryRefresh()
					} else {
						_, err = b.WhoAmI(context.WithoutCancel(ctx))
					}
					took := time.Since(began)
					if err != nil {
						t.Errorf("client %d: %v", i, err)
						return
					}
					mu.Lock()
					if n%10 == 0 {
						refreshes = append(refreshes, took)
					} else {
						calls = append(calls, took)
					}
					mu.Unlock()
					time.Sleep(100 * time.Millisecond) // as clients do: what is measured is the vault, not the machine
				}
			})
		}
		during()
		stop()
		living.Wait()
	}
	live(func() { time.Sleep(10 * time.Second) })
	t.Logf("before:     calls %s, refreshes %s", calls, refreshes)
	var r tokenstore.Rekey
	began = time.Now()
	live(func() {
		var said string
		var code int
		if r, said, code = rekeyed(t, w); code != 0 || r.State != tokenstore.RekeyWaiting || r.Resealed < *rekeyedGrants || r.DamagedRows != 0 {
			t.Errorf("exit code %d, %+v\n%s", code, r, said)
		}
	})
	t.Logf("meanwhile:  calls %s, refreshes %s", calls, refreshes)
	t.Logf("%d rows were sealed anew and opened in %s", r.Resealed, time.Since(began).Round(time.Millisecond))
	if _, keys := vaultKeys(t, w); len(keys["grant"]) != 1 || len(keys["jwtkey"]) != 1 {
		t.Errorf("keys of before are still there: %v", keys)
	}
}

// seedGrants fills the vault of a Caddy that does not run.
func seedGrants(t *testing.T, path, text string, n int) {
	t.Helper()
	s, err := bbolt.Open(path, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	root, err := tokenstore.ParseRootKey(text)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{root}})
	if err != nil {
		t.Fatal(err)
	}
	now := v.Now()
	writes := make([]tokenstore.Write, 0, n)
	for i := range n {
		writes = append(writes, tokenstore.Save(&tokenstore.Grant{
			Meta: tokenstore.Meta{ID: fmt.Sprintf("seeded-%07d", i), DeleteAfter: now.Add(1000 * time.Hour)}, State: tokenstore.StateActive,
			ClientID: fmt.Sprintf("client-%d", i%500), Client: "Chatbot", Proxy: "demo", Resource: "https://gw.test/demo", Scopes: []string{"read", "write"},
			UserID: fmt.Sprintf("seeded-user-%d", i%10_000), User: tokenstore.User{Provider: "demo", Issuer: "https://provider.test", Subject: fmt.Sprint(i % 10_000), Email: fmt.Sprintf("user%d@example.com", i%10_000)},
			AccountID: fmt.Sprintf("seeded-account-%d", i%10_000), Created: now, Expires: now.Add(time.Hour), Ends: now.Add(1000 * time.Hour),
			Family: tokenstore.RefreshFamily{Generation: 1, Current: strings.Repeat("x", 43), Rotated: now}, Provider: "demo",
		}))
	}
	for batch := range slices.Chunk(writes, 1000) {
		if err := v.Commit(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
