package upstream

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// soakLife is how long tokens live in the soak.
	soakLife = 30 * time.Second

	// soakGrace is how long the provider of the soak forgives a refresh token that comes again. It must outlast a lease, the
	// time until the user's next request, and the pauses of a provider that fails now and then.
	soakGrace = 5 * time.Minute
)

// soakSeed repeats a run, but for the gateway's own jitter and the order of what happens at once.
var soakSeed = flag.Uint64("soak.seed", 0, "seed of the soak tests; 0 chooses one")

// No fault that a retry can heal costs a user the login, however many come in whatever order. TestSlowNoUserIsLoggedOutByAFaultThatARetryHeals
// is the same for more users and longer.
func TestNoUserIsLoggedOutByAFaultThatARetryHeals(t *testing.T) {
	t.Parallel()
	soak(t, 100, 10*time.Minute)
}

// soak has users make requests at random times, while one in twenty token requests and now and then a write to the
// vault fail.
func soak(t *testing.T, users int, lasts time.Duration) {
	t.Helper()
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to repeat: -args -soak.seed=%d", seed)
		}
	})
	began := time.Now()
	synctest.Test(t, func(t *testing.T) { newSoak(t, seed, users).run(lasts) })
	t.Logf("real time: %v", time.Since(began).Round(time.Millisecond))
}

// soakWorld is a world in which things go wrong at random.
type soakWorld struct {
	*world
	seed  uint64
	users int
	calm  atomic.Bool // nothing goes wrong any more

	mu     sync.Mutex
	dice   *rand.Rand
	faults map[string]int
	issued map[string]time.Time // when each access token ends

	requests, refused  atomic.Int64
	worstCall, worst   atomic.Int64
	tried, failedWrite atomic.Int64
}

func newSoak(t *testing.T, seed uint64, users int) *soakWorld {
	t.Helper()
	s := &soakWorld{world: bubbleWorld(t), seed: seed, users: users, dice: rand.New(rand.NewPCG(seed, 0)),
		faults: map[string]int{}, issued: map[string]time.Time{}}
	s.idp.set(func(p *fakeProvider) {
		p.grace, p.lives, p.answer = soakGrace, int(soakLife/time.Second), s.serveToken
	})
	s.store.failApply = s.failWrite
	// As in production: with repetitions, and no test's log of a hundred thousand refreshes.
	s.provider = s.idp.providerOver(t, &http.Client{Transport: s}, func(c *Config) { c.Retries = 0 })
	s.accounts = s.node(func(o *AccountsOptions) { o.Logger = nil })
	return s
}

// roll is a number below n.
func (s *soakWorld) roll(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dice.IntN(n)
}

// faultHeader tells the provider what to do wrong.
const faultHeader = "X-Fault"

// soakFaults are those that a retry heals.
var soakFaults = []string{"500", "429", "refused", "cut before rotating", "slow", "truncated after rotating", "cut after rotating"}

// RoundTrip chooses what goes wrong with a token request.
func (s *soakWorld) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != "/token" {
		return s.transport.RoundTrip(r)
	}
	s.tried.Add(1)
	if s.calm.Load() || s.roll(100) >= 5 {
		return s.transport.RoundTrip(r)
	}
	fault := soakFaults[s.roll(len(soakFaults))]
	s.mu.Lock()
	s.faults[fault]++
	s.mu.Unlock()
	if fault == "refused" {
		return nil, errRefused
	}
	r = r.Clone(r.Context())
	r.Header.Set(faultHeader, fault)
	return s.transport.RoundTrip(r)
}

func (s *soakWorld) serveToken(rw http.ResponseWriter, r *http.Request) {
	fault := r.Header.Get(faultHeader)
	switch fault {
	case "500":
		answerWith(500, jsonType, `{"error":"server_error"}`)(rw, r)
		return
	case "429":
		answerWith(429, jsonType, `{}`, "Retry-After", strconv.Itoa(1+s.roll(3)))(rw, r)
		return
	case "cut before rotating":
		cut(rw, r)
	case "slow":
		time.Sleep(time.Duration(1+s.roll(15)) * time.Second)
	}
	var status int
	var m map[string]any
	s.idp.set(func(p *fakeProvider) {
		p.posts, p.auth = nil, nil // too many to keep
		status, m = p.issue(r.PostForm)
	})
	if token, ok := m["access_token"].(string); ok {
		s.mu.Lock()
		s.issued[token] = time.Now().Add(soakLife)
		s.mu.Unlock()
	}
	switch fault {
	case "truncated after rotating":
		answerWith(200, jsonType, `{"access_token":"at.`)(rw, r)
	case "cut after rotating":
		cutInTheMiddle(rw, r)
	default:
		writeJSON(rw, status, m)
	}
}

// failWrite refuses one write in two hundred.
func (s *soakWorld) failWrite([]tokenstore.Change) error {
	if s.calm.Load() || s.roll(200) != 0 {
		return nil
	}
	s.failedWrite.Add(1)
	return tokenstore.ErrUnavailable
}

// works reports whether the provider would still honour a token.
func (s *soakWorld) works(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.issued[token])
}

// request asks for a token until it gets one, as clients do that are told when to come again.
func (s *soakWorld) request(id string) {
	begin := time.Now()
	for {
		s.requests.Add(1)
		asked := time.Now()
		token, err := s.accounts.Token(s.t.Context(), id)
		most(&s.worstCall, time.Since(asked))
		var down *UnavailableError
		switch {
		case err == nil && !s.works(token):
			s.t.Errorf("%s at %v: got %s, which does not work", id, time.Now(), token)
			return
		case err == nil:
			most(&s.worst, time.Since(begin))
			return
		case !isUnavailable(err) || !errors.As(err, &down):
			s.t.Errorf("%s at %v: %v", id, time.Now(), err)
			return
		}
		s.refused.Add(1)
		time.Sleep(down.RetryAfter)
	}
}

// most keeps the longest.
func most(longest *atomic.Int64, d time.Duration) {
	for old := longest.Load(); int64(d) > old && !longest.CompareAndSwap(old, int64(d)); old = longest.Load() {
	}
}

func (s *soakWorld) run(lasts time.Duration) {
	t := s.t
	s.calm.Store(true)
	for i := range s.users {
		acc := s.add(fmt.Sprintf("u%d", i), 0, soakLife)
		s.issued[acc.AccessToken] = acc.Expires
	}
	s.calm.Store(false)
	end := time.Now().Add(lasts)
	var all sync.WaitGroup
	for i := range s.users {
		all.Go(func() {
			dice := rand.New(rand.NewPCG(s.seed, uint64(i)+1))
			for !t.Failed() {
				// Sometimes right behind the last, sometimes so late that the token has ended.
				if dice.IntN(5) != 0 {
					time.Sleep(time.Duration(dice.Int64N(int64(soakLife))))
				}
				if time.Now().After(end) {
					return
				}
				s.request(fmt.Sprintf("u%d", i))
			}
		})
	}
	all.Wait()

	// Now all is well. What was in flight ends, and what could not be saved is.
	s.calm.Store(true)
	time.Sleep(2 * time.Minute)
	s.report(lasts)
	if t.Failed() {
		return
	}
	for i := range s.users {
		id := fmt.Sprintf("u%d", i)
		token := s.token(id)
		acc := s.stored(id)
		s.idp.mu.Lock()
		f := *s.idp.families[id]
		s.idp.mu.Unlock()
		if token != f.access || acc.AccessToken != token || acc.RefreshToken != fmt.Sprintf("rt.%s.%d", id, f.newest) || acc.State != tokenstore.StateActive {
			t.Errorf("%s: got %s, the provider's newest is %s and refresh token %d, stored %+v", id, token, f.access, f.newest, acc)
		}
	}
	if n := s.idp.reused(); n != 0 {
		t.Errorf("%d refresh tokens came again after the grace", n)
	}
}

func (s *soakWorld) report(lasts time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idp.mu.Lock()
	defer s.idp.mu.Unlock()
	s.t.Logf("%d users, %v: %d requests, %d token requests, %d faults %v, %d failed writes, %d reuses forgiven; %d times 503, longest call %v, longest until a token came %v",
		s.users, lasts, s.requests.Load(), s.tried.Load(), sum(s.faults), s.faults, s.failedWrite.Load(), s.idp.forgiven,
		s.refused.Load(), time.Duration(s.worstCall.Load()), time.Duration(s.worst.Load()))
}

func sum(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}
