//go:build slow

package e2e

import (
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// A stream outlives its token, and ends with its grant: after a minute here, the shortest life that there is.
func TestSlowT58StreamsEndWithTheirGrantToTheSecond(t *testing.T) {
	const life = time.Minute
	w := testenv.Start(t, testenv.Options{Global: "access_token_ttl 10s\nrefresh_token_idle 1m\nrefresh_token_ttl 1m"})
	t.Run("eras", func(t *testing.T) {
		for version, open := range eras {
			t.Run(version, func(t *testing.T) {
				t.Parallel()
				b := w.NewPlainBot(t)
				earliest := time.Now().Add(life)
				b.Login(t, testenv.NewBrowser(testenv.Alice))
				latest := time.Now().Add(life + 2*time.Second) // two for a machine that is busy
				select {
				case err := <-open(t, w, b, time.Second).ended:
					if now := time.Now(); err != nil || now.Before(earliest) || now.After(latest) {
						t.Errorf("the stream ended %s after the earliest end of its grant: %v", now.Sub(earliest), err)
					}
				case <-time.After(life + 20*time.Second):
					t.Error("the stream has outlived its grant")
				}
			})
		}
	})
}
