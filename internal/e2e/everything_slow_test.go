//go:build slow

package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// Everything that people, chatbots and operators do, at once, for a minute, while the configuration is loaded anew again and again: no request fails, nobody is logged out,
// and nothing that was revoked lives. With -race, Caddy runs with it, too.
func TestSlowEverythingAtOnceFailsNothing(t *testing.T) { //nolint:paralleltest // it measures
	const length, many = time.Minute, 10
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := besiege(t, seed, many, testenv.Options{})
	s.goBy(s.w.HTTP2())
	begun := time.Now()
	for ; time.Since(begun) < length && !s.failed(); s.resting.Store(false) {
		s.all((*resident).settle)
		wait := s.load()
		var wg sync.WaitGroup
		for i := range 3 {
			time.Sleep(time.Duration(s.random.Int64N(int64(2 * time.Second))))
			wg.Go(func() { s.reload(i) })
		}
		wg.Wait()
		s.resting.Store(true)
		wait()
	}
	s.quiet()
	s.w.Terminate()
	s.left(time.Now(), true)
	s.w.Run()
	s.report()
}

// reload loads the configuration with another lifetime, so that none is skipped.
func (s *siege) reload(n int) {
	s.loading.Lock()
	defer s.loading.Unlock()
	next := strings.Replace(s.w.Caddyfile(), "refresh_grace 1h", fmt.Sprintf("refresh_grace 1h\naccess_token_ttl %ds", 3000+s.counted("reload")+n), 1)
	if err := s.w.Reload(next); err != nil {
		s.fail("reload: %v", err)
	}
	s.office.CloseIdleConnections() // of the old admin endpoint
	s.count("reload")
}
