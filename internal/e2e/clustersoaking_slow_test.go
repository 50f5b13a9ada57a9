//go:build slow && !race

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// soak is what happened in a cluster.
type soak struct {
	t     *testing.T
	c     *testenv.Cluster
	vault *tokenstore.Vault

	mu       sync.Mutex
	requests int
	took     durations // of the phase
	failed   []request
	strikes  []strike
	outages  []strike
	cutOff   map[string][]lost // by user
	again    map[string]int    // by user, logins after the first
}

// request is a request as its client saw it.
type request struct {
	user, step   string
	began, ended time.Time
	node         int // that answered, or was to; 0 when nobody says
	status       int
	text         string // of the answer, or why there is none
}

func (r request) String() string {
	return fmt.Sprintf("%s, %s on node %d, from %s to %s: status %d, %s", r.user, r.step, r.node, clock(r.began), clock(r.ended), r.status, r.text[:min(len(r.text), 300)])
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

// strike is when a node, or the database, was as good as gone. From the beginning to struck is how long it took to be so.
type strike struct {
	node             int
	how              string
	from, struck, to time.Time
}

func (s strike) String() string {
	return fmt.Sprintf("node %d %s at %s", s.node, s.how, clock(s.struck))
}

// lost is an account whose refresh a strike has cut off.
type lost struct {
	strike
	account, token string
}

// record keeps a request.
func (s *soak) record(r request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	s.took = append(s.took, r.ended.Sub(r.began))
	if r.status != http.StatusOK {
		s.failed = append(s.failed, r)
	}
}

// phase does something and reports how requests fared meanwhile.
func (s *soak) phase(name string, do func()) {
	s.mu.Lock()
	s.took = nil
	failed := len(s.failed)
	s.mu.Unlock()
	began := time.Now()
	do()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Logf("%s %s, for %s: %d failed of %s", clock(began), name, time.Since(began).Round(100*time.Millisecond), len(s.failed)-failed, s.took)
}

// strike strikes a node, notes whose refresh that has cut off, and heals it.
func (s *soak) strike(node int, how string, hit, heal func()) {
	x := strike{node: node, how: how, from: time.Now()}
	hit()
	x.struck = time.Now()
	for _, account := range s.c.Refreshing(s.t, s.vault) {
		user := s.c.Ledger.Owner(account.RefreshToken)
		s.mu.Lock()
		s.cutOff[user] = append(s.cutOff[user], lost{x, account.ID, account.RefreshToken})
		s.mu.Unlock()
	}
	heal()
	x.to = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strikes = append(s.strikes, x)
}

// outage does something to the database, and notes from when to when it did not answer.
func (s *soak) outage(how string, do func()) {
	x := strike{how: how, from: time.Now()}
	do()
	x.to = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outages = append(s.outages, x)
	s.t.Logf("the database was %s: it was gone for at most %s", how, x.to.Sub(x.from).Round(time.Millisecond))
}

// reached is how much later than the signal the provider may have read what a node had sent before.
const reached = time.Second

// isLost says whether no design could have saved what a strike has cut off: the node had presented the refresh token, and the vault did not have what the
// provider gave for it. Of what a node sends with its last breath nobody can tell where it came from.
func (s *soak) isLost(l lost) bool {
	return slices.ContainsFunc(s.c.Ledger.Presentations(l.token), func(p testenv.Presentation) bool {
		mine := p.Node == l.node || p.Node == 0 && l.how == "killed" && p.Received.After(l.from.Add(-reached))
		return mine && p.Received.Before(l.struck.Add(reached))
	})
}

// losses are what a user has lost in that way.
func (s *soak) losses(user string) (all []lost) {
	s.mu.Lock()
	cutOff := slices.Clone(s.cutOff[user])
	s.mu.Unlock()
	for _, l := range cutOff {
		if s.isLost(l) {
			all = append(all, l)
		}
	}
	return all
}

// allowed says why a request may have failed.
func (s *soak) allowed(r request) (why string, ok bool) {
	if r.status == http.StatusUnauthorized || r.status == http.StatusBadRequest {
		return "lost at the provider", len(s.losses(r.user)) > 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.strikes {
		if x.node == r.node && r.began.Before(x.to) && r.ended.After(x.from) && (x.how == "halted" || r.began.Before(x.struck)) {
			return "on the node when it was " + x.how, true
		}
	}
	for _, x := range s.outages { // that took longer than calls wait, on a machine that is busy with other things
		if x.to.Sub(x.from) > wait-time.Second && r.status == http.StatusServiceUnavailable && r.began.Before(x.to.Add(time.Second)) && r.ended.After(x.from) {
			return "during an outage of " + x.to.Sub(x.from).String(), true
		}
	}
	return "", false
}

// judge fails the test for everything that is not allowed.
func (s *soak) judge(users int) {
	t := s.t
	reasons, failures := make(map[string]int), 0
	for _, r := range s.failed {
		why, ok := s.allowed(r)
		if ok {
			reasons[why]++
			continue
		}
		if failures++; failures <= 40 {
			t.Errorf("failed: %s", r)
		}
	}
	var spent []string // refresh tokens that may come a second time
	for user, cutOff := range s.cutOff {
		for _, l := range cutOff {
			if s.isLost(l) {
				spent = append(spent, l.token)
				t.Logf("%s was cut off: %s, when account %s was at the provider: %s; logged in %d times more", user, l.strike, l.account, tell(s.c.Ledger.Presentations(l.token)), s.again[user])
			} else {
				t.Logf("%s is safe: %s, when account %s had not come to the provider by that node: %s", user, l.strike, l.account, tell(s.c.Ledger.Presentations(l.token)))
			}
		}
	}
	tokens, times, again := s.c.Ledger.Presented()
	for token, all := range again {
		if len(all) > 2 || !slices.Contains(spent, token) {
			t.Errorf("a refresh token of %s was presented %d times: %s", all[0].User, len(all), tell(all))
		}
	}
	logins := 0
	for user, n := range s.again {
		if lost := len(s.losses(user)); n > lost {
			t.Errorf("%s had to log in %d times more, and was lost %d times", user, n, lost)
		}
		logins += n
	}
	stats := s.c.Provider.Stats()
	t.Logf("%d requests, %d failed: %d not allowed, others %v; %d refresh tokens presented %d times, by node %v; %+v", s.requests, len(s.failed), failures, reasons,
		tokens, times, s.c.Ledger.By(), stats)
	if stats.Logins != users+logins {
		t.Errorf("%d logins at the provider, of %d users", stats.Logins, users)
	}
}

// tell says when a refresh token was presented.
func tell(all []testenv.Presentation) string {
	if len(all) == 0 {
		return "never presented"
	}
	var told []string
	for _, p := range all {
		told = append(told, fmt.Sprintf("by node %d at %s, answered %d at %s", p.Node, clock(p.Received), p.Status, clock(p.Answered)))
	}
	return strings.Join(told, "; ")
}
