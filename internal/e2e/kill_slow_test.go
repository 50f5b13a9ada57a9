//go:build slow && !race

package e2e

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
)

// The environment variables of the tests that kill.
const (
	killsVariable = "KILLS"     // how often; default: for as long as killsFor
	seedVariable  = "KILL_SEED" // of all chances; default: any
)

const (
	killsFor  = 80 * time.Second
	residents = 24

	// enoughKills is after how many of them every chore was done between two, but for a chance of one in a billion.
	enoughKills = 60
)

// numberFrom reads an environment variable, or takes the default.
func numberFrom(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// A gateway on a file is killed at random moments, also while it starts, under all that people, chatbots and operators do. After each kill everything that was
// acknowledged is in the file, and the next process acts by it: a code that was given is redeemed, tokens are refreshed, what was revoked is dead, and the vault
// never takes an upstream refresh token for good that the provider has exchanged. Nobody is logged out but those whose refresh was at the provider at that moment.
func TestSlowKillLosesNothingAcknowledged(t *testing.T) { //nolint:paralleltest // it measures
	s := besiegeBySeed(t, testenv.Options{})
	s.killFor(numberFrom(t, killsVariable, 0), killsFor, func() {
		s.killWhileItRuns("gateway", s.w.Kill)
	})
}

// The same on PostgreSQL, and it is killed, too: the gateway, the database under a gateway that goes on, or both.
func TestSlowKillOfGatewayAndDatabaseLosesNothingAcknowledged(t *testing.T) { //nolint:paralleltest // it measures
	db := testpg.Start(t)
	s := besiegeBySeed(t, testenv.Options{Postgres: db})
	s.killFor(numberFrom(t, killsVariable, 0)/10, killsFor/2, func() {
		switch n := s.random.IntN(10); {
		case n < 5:
			s.killWhileItRuns("gateway", s.w.Kill)
		case n < 8:
			s.round(func() {
				db.Kill(t)
				db.Restart(t)
			})
			s.count("killed: database")
			s.left(time.Now(), false)
			s.began = time.Now()
		default:
			s.killWhileItRuns("gateway and database", func() {
				db.Kill(t)
				s.w.Kill()
				db.Restart(t)
			})
		}
	})
}

func besiegeBySeed(t *testing.T, o testenv.Options) *siege {
	t.Helper()
	seed := numberFrom(t, seedVariable, rand.Uint64())
	t.Logf("%s=%d", seedVariable, seed)
	return besiege(t, seed, residents, o)
}

// killFor has something be killed so often, or for so long, and prints what happened.
func (s *siege) killFor(kills uint64, length time.Duration, kill func()) {
	begun, done := time.Now(), uint64(0)
	for more := true; more && !s.failed(); more = done < kills || kills == 0 && time.Since(begun) < length {
		kill()
		done++
	}
	s.t.Logf("%d kills in %s", done, time.Since(begun).Round(time.Second))
	s.quiet()
	s.report()
	for _, c := range s.chores {
		if n := s.counted("chore: " + c.path); n == 0 && done >= enoughKills {
			s.t.Errorf("no %s was done", c.path)
		}
	}
}

// killWhileItRuns kills the gateway, with whatever else, under load, or sometimes while it starts, judges what is left, and starts it again.
func (s *siege) killWhileItRuns(what string, kill func()) {
	s.round(kill)
	s.count("killed: " + what)
	s.left(time.Now(), true)
	for s.random.IntN(8) == 0 {
		s.w.Launch()
		time.Sleep(time.Duration(s.random.Int64N(int64(300 * time.Millisecond))))
		s.w.Kill()
		s.count("killed: gateway while it started")
		s.left(time.Now(), true)
	}
	if !s.onPostgres {
		s.passLease()
	}
	s.w.Run()
	s.began = time.Now()
}
