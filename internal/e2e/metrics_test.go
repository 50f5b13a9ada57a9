package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// Refreshes are counted in Caddy's own registry, which every configuration has anew.
func TestRefreshesAreCountedInCaddysMetrics(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{TokenLife: 2 * time.Second})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	for _, when := range []string{"at first", "after a reload"} {
		testenv.Eventually(t, "a refresh to be counted "+when, func() bool {
			if _, err := b.WhoAmI(t.Context()); err != nil {
				return false // a reload ends idle connections of HTTP/1.1, perhaps the one that this call was just sent on
			}
			return strings.Contains(get(t, w.AdminURL()+"/metrics"), `caddy_oauth_proxy_upstream_refreshes_total{outcome="ok",provider="demo"}`)
		})
		if err := w.Reload(w.CaddyfileWith("refresh_before 1s")); err != nil {
			t.Fatal(err)
		}
	}
}
