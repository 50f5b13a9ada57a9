//go:build slow

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// siege is a gateway whose residents never rest while it, or its database, is killed again and again.
type siege struct {
	t         *testing.T
	w         *testenv.World
	random    *rand.Rand // of what is done to the gateway; each resident has its own
	residents []*resident
	chores    []chore

	onPostgres bool      // not on a file
	long       bool      // the round
	rekeyed    time.Time // when the last rekey was begun; the lock is mu
	rekeyEnded time.Time // when one came to its end, as was left last

	// way is that of requests in this run, and office that of operators' on Caddy's admin endpoint, which is away for a moment when a configuration is loaded.
	way     http.RoundTripper
	office  *http.Client
	loading sync.RWMutex

	firstClient string    // that all begin with
	began       time.Time // when the vault's last gap ended

	// falling is set before anything is killed: what fails from then on may fail, and what is answered all the same is an answer.
	falling atomic.Bool

	// resting ends a load without that.
	resting atomic.Bool

	mu     sync.Mutex
	counts map[string]int
	faults int
	cut    map[string]bool // refresh tokens whose refresh was cut off
}

// besiegedLife is how long the provider's access tokens live.
const besiegedLife = 3 * time.Second

const (
	// shortRound is the longest time in which everybody lives before something is killed, and longRound that of one in longOneIn, in which a rekey can come from one step to the next.
	shortRound = 700 * time.Millisecond
	longRound  = 12 * time.Second
	longOneIn  = 20
)

// maxFaults is after how many faults a siege ends.
const maxFaults = 20

// besiege starts a gateway with so many residents, each with an account of its own, at a provider that ends a login when a refresh token comes twice.
func besiege(t *testing.T, seed uint64, many int, o testenv.Options) *siege {
	t.Helper()
	s := &siege{t: t, random: rand.New(rand.NewPCG(seed, 0)), counts: make(map[string]int), cut: make(map[string]bool), onPostgres: o.Postgres != nil}
	for i := range many {
		name := fmt.Sprintf("resident%02d", i)
		user := provider.User{Name: name, Password: "password of " + name, FullName: name}
		o.Users = append(o.Users, user)
		s.residents = append(s.residents, &resident{s: s, user: user, random: rand.New(rand.NewPCG(seed, uint64(i)+1))})
	}
	o.Ledger, o.TokenLife = true, besiegedLife
	o.Caddyfile = besiegedCaddyfile
	s.w = testenv.Start(t, o)
	s.w.Ledger.Linger(20 * time.Millisecond)
	s.newWay()
	bot := s.w.NewPlainBot(t)
	s.firstClient = bot.ID
	for _, r := range s.residents {
		r.bot = bot.Twin("")
	}
	s.findChores()
	return s
}

// besiegedCaddyfile is the standard one without the lines of each request in the log, with limits that nobody meets, and messages that soon expire, so that rekeys come to an end.
func besiegedCaddyfile(w *testenv.World) string {
	text := w.CaddyfileWith("login_ttl 1m\nrefresh_grace 1h\nrate_limit token 100000 1s\nrate_limit client 100000 1s")
	text = strings.Replace(text, "level DEBUG", "level WARN", 1)
	return strings.Replace(text, "\tlog\n\toauth_proxy\n", "\toauth_proxy\n", 1)
}

// newWay makes requests go by connections that no earlier process has had.
func (s *siege) newWay() {
	if s.office != nil {
		s.office.CloseIdleConnections()
	}
	way := &http.Transport{MaxIdleConnsPerHost: 2 * len(s.residents)}
	s.goBy(way)
	s.office = &http.Client{Transport: way}
}

// goBy makes the requests of residents go by a way.
func (s *siege) goBy(way http.RoundTripper) {
	s.way = way
	for _, r := range s.residents {
		if r.bot != nil {
			r.bot.Client = &http.Client{Transport: way}
		}
	}
}

// count counts what happened.
func (s *siege) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// counted is how often it did.
func (s *siege) counted(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

// fail fails the test for something that must not happen.
func (s *siege) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults++; s.faults <= maxFaults {
		s.t.Errorf("%s: %s", clockNow(), fmt.Sprintf(format, args...))
	}
}

// failed says whether there is no point in going on.
func (s *siege) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults >= maxFaults
}

func clockNow() string { return time.Now().Format("15:04:05.000") }

// all has every resident do something, and waits for them.
func (s *siege) all(do func(*resident)) {
	var wg sync.WaitGroup
	for _, r := range s.residents {
		wg.Go(func() { do(r) })
	}
	wg.Wait()
}

// load has the residents live, and one of the chores be done, or in a long round one after the other, until something falls or all are to rest. It returns at once; wait waits for the end.
func (s *siege) load() (wait func()) {
	var wg sync.WaitGroup
	for _, r := range s.residents {
		wg.Go(func() {
			for !s.falling.Load() && !s.resting.Load() {
				r.act()
				time.Sleep(time.Duration(r.random.Int64N(int64(20 * time.Millisecond))))
			}
		})
	}
	chores := s.chores
	first := s.random.IntN(len(chores))
	wg.Go(func() {
		s.do(chores[first])
		for i := first + 1; s.long && !s.falling.Load(); i++ {
			s.do(chores[i%len(chores)])
		}
	})
	return wg.Wait
}

// round has a gateway that answers be lived with, and kills something at a random moment. Every other time everything is looked at before, so that nothing goes unseen for long.
func (s *siege) round(kill func()) {
	s.newWay()
	s.falling.Store(false)
	if s.random.IntN(2) == 0 {
		s.all((*resident).settle)
	}
	length := shortRound
	if s.long = s.random.IntN(longOneIn) == 0; s.long {
		length = longRound
		s.count("long round")
	}
	wait := s.load()
	time.Sleep(time.Duration(s.random.Int64N(int64(length))))
	s.falling.Store(true)
	kill()
	wait()
}

// left judges the vault as what was killed has left it, and gone says whether the gateway was. One that lives may be in the middle of a refresh, and loses none.
func (s *siege) left(at time.Time, gone bool) {
	s.w.LeftVault(s.t, func(v *tokenstore.Vault) {
		for _, r := range s.residents {
			r.left(v, at, gone)
		}
		if s.random.IntN(5) == 0 {
			s.verify(v)
		}
		s.leftRekey(v)
	})
}

// leftRekey counts in which state of a rekey things were killed.
func (s *siege) leftRekey(v *tokenstore.Vault) {
	r, err := v.Rekey(s.t.Context())
	if err != nil || r.DamagedRows > 0 {
		s.fail("the rekey that was left: %v %+v", err, r)
		return
	}
	s.count("rekey was left " + string(r.State))
	if !r.Ended.Equal(s.rekeyEnded) {
		s.rekeyEnded = r.Ended
		s.count("rekey ended")
	}
}

// passLease has the time pass in which a process that was killed keeps the rekey from the next.
func (s *siege) passLease() {
	const lease = 2*time.Minute + 10*time.Second
	errPass := errors.New("nothing is done")
	inVaultLater(s.t, s.w, lease, func(v *tokenstore.Vault) {
		if _, err := v.RunJob(s.t.Context(), "rekey", 0, func(context.Context) error { return errPass }); !errors.Is(err, errPass) {
			s.fail("the lease of the rekey: %v", err)
		}
	})
}

// verify has every row, index and event of what was left be looked at.
func (s *siege) verify(v *tokenstore.Vault) {
	report, err := v.Verify(s.t.Context(), nil)
	if err != nil || !report.Whole() {
		s.fail("the vault that was left: %v %+v", err, report)
	}
	s.count("vault that was left verified")
}

// quiet has nothing be killed until everybody knows whether they are lost, and judges what is left.
func (s *siege) quiet() {
	s.newWay()
	s.falling.Store(false)
	s.all(func(r *resident) {
		for late := time.Now().Add(time.Minute); r.held != nil && !r.settled() && time.Now().Before(late); time.Sleep(50 * time.Millisecond) {
			r.settle()
		}
		if r.held != nil && !r.settled() {
			s.fail("%s: nothing is settled after a minute: %+v", r.user.Name, r.held)
		}
		for _, e := range r.ended {
			r.refused(e)
		}
	})
	s.mustRekey()
	_, _, again := s.w.Ledger.Presented()
	for token, all := range again {
		if len(all) > 2 || !s.cut[token] {
			s.fail("a refresh token of %s came to the provider %d times, and was cut off: %t", all[0].User, len(all), s.cut[token])
		}
	}
	for _, bad := range []string{"panic", "DATA RACE", "tampered", "damaged"} {
		if at := strings.Index(s.w.Log(), bad); at >= 0 {
			s.fail("the log says %s: %s", bad, s.w.Log()[max(0, at-500):min(len(s.w.Log()), at+2000)])
		}
	}
}

// report prints the figures.
func (s *siege) report() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var told strings.Builder
	for _, what := range slices.Sorted(maps.Keys(s.counts)) {
		fmt.Fprintf(&told, "\n%8d %s", s.counts[what], what)
	}
	s.t.Logf("%d faults; provider %+v%s", s.faults, s.w.Provider.Stats(), told.String())
}
