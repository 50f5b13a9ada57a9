//go:build slow && !race

package authserver_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// manyGrants is the larger of the two vaults that are compared.
var manyGrants = flag.Int("grants", 100_000, "grants in the larger vault of TestSlowGrantsAreFoundAmongMany")

// slowest is how long a page may take at all, on a machine that is busy with other things.
const slowest = 2 * time.Second

// TestSlowGrantsAreFoundAmongMany prints how long the first page of every filter takes in a small vault and in a large one, as the median of many. It fails only
// where something is out of all proportion, or what is found is wrong.
func TestSlowGrantsAreFoundAmongMany(t *testing.T) { //nolint:paralleltest // it measures
	small, large := scaleWorld(t, 1000), scaleWorld(t, *manyGrants)
	t.Logf("%-28s %12s %12s %8s %6s", "filter", "1000", fmt.Sprint(*manyGrants), "ratio", "found")
	for _, tt := range []struct {
		name   string
		filter authserver.GrantFilter
		found  bool
	}{
		{"none", authserver.GrantFilter{}, true},
		{"user", authserver.GrantFilter{UserID: "user-42"}, true},
		{"client", authserver.GrantFilter{ClientID: "client-7"}, true},
		{"proxy", authserver.GrantFilter{Proxy: "proxy-3"}, true},
		{"provider", authserver.GrantFilter{Provider: "provider-1"}, true},
		{"valid", authserver.GrantFilter{Health: tokenstore.HealthValid}, true},
		{"expiring", authserver.GrantFilter{Health: tokenstore.HealthExpiring}, true},
		{"expired", authserver.GrantFilter{Health: tokenstore.HealthExpired}, true},
		{"broken", authserver.GrantFilter{Health: tokenstore.HealthBroken}, true},
		{"revoked", authserver.GrantFilter{Health: tokenstore.HealthRevoked}, true},
		{"text: address", authserver.GrantFilter{Text: "user.42@example-2.test"}, true},
		{"text: common word", authserver.GrantFilter{Text: "chatbot"}, true},
		{"text: two words", authserver.GrantFilter{Text: "ada chatbot"}, true},
		{"user, client", authserver.GrantFilter{UserID: "user-42", ClientID: "client-42"}, true},
		{"proxy, valid", authserver.GrantFilter{Proxy: "proxy-3", Health: tokenstore.HealthValid}, true},
		{"proxy, provider, broken", authserver.GrantFilter{Proxy: "proxy-1", Provider: "provider-1", Health: tokenstore.HealthBroken}, true},
		{"user, client, valid", authserver.GrantFilter{UserID: "user-42", ClientID: "client-42", Health: tokenstore.HealthValid}, true},
		{"no such user", authserver.GrantFilter{UserID: "nobody"}, false},
		{"no such word, valid", authserver.GrantFilter{Text: "nobody", Health: tokenstore.HealthValid}, false},
		{"two halves without common", authserver.GrantFilter{Proxy: "proxy-3", Provider: "provider-1"}, false},
		{"three without common", authserver.GrantFilter{Proxy: "proxy-3", Provider: "provider-1", Health: tokenstore.HealthValid}, false},
		{"user, sorted by use", authserver.GrantFilter{UserID: "user-42", Sort: "-used"}, true},
	} {
		of, n := median(t, small, tt.filter, tt.found)
		among, m := median(t, large, tt.filter, tt.found)
		t.Logf("%-28s %12s %12s %8.1f %6d", tt.name, of, among, float64(among)/float64(max(of, 1)), max(n, m))
		if among > slowest {
			t.Errorf("%s: a page takes %s", tt.name, among)
		}
	}
	for _, h := range tokenstore.Healths() {
		start := time.Now()
		n, err := large.vault.CountGrants(t.Context(), h)
		if err != nil || n == 0 {
			t.Errorf("%d grants are %s, %v", n, h, err)
		}
		t.Logf("count of %-19s %25s %15d", h, time.Since(start), n)
	}
	cleanUpMany(t, large)
}

// scaleWorld has a vault with so many grants: of one user in ten, for one client in a thousand and one proxy of six, and of every health.
func scaleWorld(t *testing.T, n int) *world {
	t.Helper()
	w := newWorld(t)
	start, now := time.Now(), w.vault.Now()
	names := strings.Fields("Ada Alan Barbara Claude Donald Edsger Frances Grace Hedy John Katherine Margaret Niklaus Radia Tim")
	const batch = 2000
	writes := make([]tokenstore.Write, 0, batch)
	for i := range n {
		user, client, proxy := i/10, i/10%1000, i%6
		g := &tokenstore.Grant{
			Meta: tokenstore.Meta{ID: tokenstore.NewID(now.Add(-time.Duration(i) * time.Second)), DeleteAfter: now.AddDate(0, 6, 0)}, State: tokenstore.StateActive,
			ClientID: fmt.Sprint("client-", client), Client: fmt.Sprintf("Chatbot %d", client), Proxy: fmt.Sprint("proxy-", proxy), Resource: fmt.Sprint("https://gw.test/proxy-", proxy),
			Scopes: []string{"mcp"}, UserID: fmt.Sprint("user-", user), AccountID: fmt.Sprint("account-", i), Provider: fmt.Sprint("provider-", proxy%2+proxy/4),
			User: tokenstore.User{Provider: "idp", Issuer: "https://idp.test", Subject: fmt.Sprint(user), Name: fmt.Sprintf("%s Number%d", names[user%len(names)], user),
				Login: fmt.Sprintf("login%d", user), Email: fmt.Sprintf("user.%d@example-%d.test", user, user%40), EmailVerified: true},
			Created: now.AddDate(0, 0, -40), Expires: now.AddDate(0, 0, 20), Ends: now.AddDate(0, 0, 50), Used: now.Add(-time.Duration(i) * time.Minute),
			Family: tokenstore.RefreshFamily{Generation: 3, Current: w.vault.Hash("refresh", fmt.Sprint(i)), Rotated: now.AddDate(0, 0, -10), JTI: "jti"},
		}
		if proxy == 3 {
			g.Provider = "provider-2"
		}
		switch i % 100 {
		case 1:
			g.Expires = now.Add(time.Hour)
		case 2:
			g.Expires = now.Add(-time.Minute)
		case 3, 4, 5, 6, 7, 8:
			g.Broken = "the provider refused the refresh token"
		case 21, 22, 23, 24, 25, 26:
			g.State, g.Reason = tokenstore.StateRevoked, "revoked by the client"
		}
		if writes = append(writes, tokenstore.Save(g)); len(writes) == batch || i == n-1 {
			if err := w.vault.Commit(t.Context(), writes...); err != nil {
				t.Fatal(err)
			}
			writes = writes[:0]
		}
	}
	t.Logf("%d grants were stored in %s", n, time.Since(start).Round(time.Millisecond))
	return w
}

// median is how long the first page of a filter takes, and how many grants are on it.
func median(t *testing.T, w *world, f authserver.GrantFilter, found bool) (time.Duration, int) {
	t.Helper()
	var took []time.Duration
	n := 0
	for range 21 {
		start := time.Now()
		page, err := w.server.Grants(t.Context(), f)
		took = append(took, time.Since(start))
		if err != nil || (len(page.Grants) > 0) != found {
			t.Fatalf("%+v: %v", f, err)
		}
		n = len(page.Grants)
		for _, g := range page.Grants {
			if f.UserID != "" && g.User.ID != f.UserID || f.ClientID != "" && g.ClientID != f.ClientID || f.Proxy != "" && g.Proxy != f.Proxy ||
				f.Provider != "" && g.Provider != f.Provider || f.Health != "" && g.Health != f.Health {
				t.Fatalf("%+v finds %+v", f, g)
			}
		}
	}
	slices.Sort(took)
	return took[len(took)/2].Round(time.Microsecond), n
}

// cleanUpMany deletes all grants of a large vault, and prints how long that takes, and how long somebody else's writes do meanwhile.
func cleanUpMany(t *testing.T, w *world) {
	t.Helper()
	write := func(i int) time.Duration {
		start := time.Now()
		if err := w.vault.Commit(t.Context(), tokenstore.Save(&tokenstore.Login{Meta: tokenstore.Meta{ID: fmt.Sprint("login-", i)}})); err != nil {
			t.Error(err)
		}
		return time.Since(start)
	}
	var alone, beside []time.Duration
	for i := range 100 {
		alone = append(alone, write(i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for i := 100; ctx.Err() == nil; i++ {
			beside = append(beside, write(i))
		}
	}()
	start, deleted := time.Now(), 0
	for {
		n, err := w.vault.Sweep(t.Context(), w.vault.Now().AddDate(1, 0, 0), 1000)
		if err != nil {
			t.Error(err)
			break
		}
		if deleted += n; n < 1000 {
			break
		}
	}
	took := time.Since(start)
	cancel()
	<-finished
	slices.Sort(alone)
	slices.Sort(beside)
	t.Logf("%d grants were deleted in %s; a write took %s alone, and %s beside that, %s at most", deleted, took.Round(time.Millisecond), alone[len(alone)/2], beside[len(beside)/2], beside[len(beside)-1])
	if deleted != *manyGrants {
		t.Errorf("%d of %d grants were deleted", deleted, *manyGrants)
	}
	if worst := beside[len(beside)-1]; worst > 5*time.Second {
		t.Errorf("a write waited %s for the clean-up", worst)
	}
}
