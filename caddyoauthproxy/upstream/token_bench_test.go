package upstream

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// BenchmarkToken asks for upstream tokens that are good for an hour, on a vault file: for that of one account again and again, for those of a thousand in turn, and
// for the latter by many at a time.
func BenchmarkToken(b *testing.B) {
	const accounts = 1000
	store, err := bbolt.Open(filepath.Join(b.TempDir(), "vault.db"), time.Second)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	vault, err := tokenstore.Open(b.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}})
	if err != nil {
		b.Fatal(err)
	}
	provider, err := New("idp", Config{
		Type: "oauth2", ClientID: clientID, ClientSecret: clientSecret, AuthorizationURL: "https://idp.example/authorize", TokenURL: "https://idp.example/token",
		UserinfoURL: "https://idp.example/userinfo",
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	a := NewAccounts(AccountsOptions{Vault: vault, Providers: map[string]*Provider{"idp": provider}})
	b.Cleanup(a.StopWatching)
	ids := make([]string, accounts)
	var writes []tokenstore.Write
	for i := range ids {
		ids[i] = fmt.Sprintf("account-%d", i)
		writes = append(writes, tokenstore.Save(&tokenstore.Account{
			Meta: tokenstore.Meta{ID: ids[i]}, State: tokenstore.StateActive, Provider: "idp", Identity: provider.Identity(), UserID: "user",
			AccessToken: "at." + ids[i], RefreshToken: "rt." + ids[i], Scopes: []string{"read"}, Obtained: vault.Now(), Expires: vault.Now().Add(time.Hour),
		}))
	}
	if err := vault.Commit(b.Context(), writes...); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, accounts} {
		b.Run(fmt.Sprintf("accounts=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := a.Token(b.Context(), ids[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("by many", func(b *testing.B) {
		b.ReportAllocs()
		var next atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			for i := next.Add(accounts / 8); pb.Next(); i++ {
				if _, err := a.Token(b.Context(), ids[i%accounts]); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
