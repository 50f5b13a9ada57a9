package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// inVault opens the vault of a world whose Caddy is not running.
func inVault(t *testing.T, w *testenv.World, do func(*tokenstore.Vault)) {
	t.Helper()
	inVaultLater(t, w, 0, do)
}

// inVaultLater is inVault for a vault whose clock is so much ahead.
func inVaultLater(t *testing.T, w *testenv.World, ahead time.Duration, do func(*tokenstore.Vault)) {
	t.Helper()
	store, err := bbolt.Open(w.VaultPath(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	text, err := os.ReadFile(strings.TrimSuffix(w.VaultPath(), ".db") + ".key")
	if err != nil {
		t.Fatal(err)
	}
	key, err := tokenstore.ParseRootKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	vault, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: func() time.Time { return store.Now().Add(ahead) }})
	if err != nil {
		t.Fatal(err)
	}
	do(vault)
}

// copies stores copies of a client's only grant with its account, and returns their refresh tokens.
func copies(t *testing.T, v *tokenstore.Vault, clientID string, n int) (refresh []string) {
	t.Helper()
	grants, err := v.Grants(t.Context(), tokenstore.GrantQuery{ClientID: clientID})
	if err != nil || len(grants) != 1 {
		t.Fatalf("%d grants, %v", len(grants), err)
	}
	account, err := v.Account(t.Context(), grants[0].AccountID)
	if err != nil {
		t.Fatal(err)
	}
	var writes []tokenstore.Write
	for i := range n {
		g, a := *grants[0], *account
		g.ID, g.Version, a.ID, a.Version = rand.Text(), 0, rand.Text(), 0
		secret := make([]byte, 32)
		_, _ = rand.Read(secret)
		head := append(binary.BigEndian.AppendUint32(nil, 1), g.ID...)
		token := "gwr_" + base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(secret)
		g.AccountID, g.Family = a.ID, tokenstore.RefreshFamily{Generation: 1, Current: v.Hash("refresh_token", token), Rotated: g.Created, JTI: rand.Text()}
		refresh, writes = append(refresh, token), append(writes, tokenstore.Save(&g), tokenstore.Save(&a))
		if len(writes) == 500 || i == n-1 {
			if err := v.Commit(t.Context(), writes...); err != nil {
				t.Fatal(err)
			}
			writes = nil
		}
	}
	return refresh
}

// A process that is killed again and again while it revokes thousands of grants lets none of them in after any start, and gets it done.
func TestMassRevocationSurvivesKills(t *testing.T) {
	t.Parallel()
	const many = massRevoked
	w := testenv.Start(t, testenv.Options{Global: "rate_limit token 100000 1s"})
	b, other := w.NewPlainBot(t), w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	other.Login(t, testenv.NewBrowser(testenv.Alice))
	works(t, b)
	w.Terminate()

	var refresh []string
	inVault(t, w, func(v *tokenstore.Vault) { refresh = copies(t, v, b.ID, many-1) })
	w.Run()
	status, answer, err := b.TokenRequest("refresh_token", refresh[0])
	if err != nil || status != http.StatusOK {
		t.Fatalf("a stored grant is of no use before it is revoked: %d %v %v", status, answer, err)
	}
	works(t, b)
	w.Kill()
	const id = "order-of-the-test"
	inVault(t, w, func(v *tokenstore.Vault) { // as the process leaves it that is killed right after it took the order
		if err := v.Commit(t.Context(), tokenstore.Save(&tokenstore.RevocationOrder{
			Meta: tokenstore.Meta{ID: id}, Filter: tokenstore.RevocationFilter{ClientID: b.ID}, Reason: "a leak", Created: v.Now(),
		})); err != nil {
			t.Fatal(err)
		}
	})

	refused := func() {
		t.Helper()
		if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
			t.Fatalf("an access token after the order: %d %s %v", a.Status, a.Body, err)
		}
		for i := 1; i < many-1; i += many / 20 {
			if status, answer, err := b.TokenRequest("refresh_token", refresh[i]); err != nil || status != http.StatusBadRequest || answer["error"] != "invalid_grant" {
				t.Fatalf("refresh token %d after the order: %d %v %v", i, status, answer, err)
			}
		}
	}
	starts, halfway := 0, 0
	var order *tokenstore.RevocationOrder
	for ; order == nil || order.Done.IsZero(); starts++ {
		ended := func() int { return strings.Count(w.Log(), `"order":"`+id) }
		before := ended()
		w.Run()
		refused()
		testenv.Eventually(t, "the order to be carried on", func() bool {
			return ended() > before+many/6 || strings.Contains(w.Log(), `"msg":"revocation done"`)
		})
		w.Kill()
		inVault(t, w, func(v *tokenstore.Vault) {
			if order, err = v.RevocationOrder(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		})
		if order.Ended > 0 && order.Done.IsZero() {
			halfway++
		}
	}
	if halfway == 0 {
		t.Error("never killed half-way: nothing was shown")
	}
	t.Logf("%d starts, %d of them cut off half-way; carried out %s after the order", starts, halfway, order.Done.Sub(order.Created).Round(time.Millisecond))
	if order.Ended != many {
		t.Errorf("%d grants ended, want %d", order.Ended, many)
	}
	inVault(t, w, func(v *tokenstore.Vault) {
		active := 0
		for after, more := "", true; more; {
			grants, err := v.Grants(t.Context(), tokenstore.GrantQuery{ClientID: b.ID, After: after, Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range grants {
				if after = g.ID; g.State == tokenstore.StateActive || g.Order != id {
					active++
				}
			}
			more = len(grants) == 1000
		}
		if active > 0 {
			t.Errorf("%d rows are not ended", active)
		}
	})

	w.Run()
	refused()
	works(t, other)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	works(t, b)
}
