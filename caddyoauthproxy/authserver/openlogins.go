package authserver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Whoever has many addresses can begin many logins, and each of them is kept for an hour and more. So all that nobody has come back from
// are bounded together. The oldest give way to new ones rather than the other way round: nobody can lock others out, and who
// really logs in comes back within minutes.

// recountAfter is how long the count of open logins is believed. Other nodes begin logins too.
const recountAfter = time.Minute

// openLogins knows roughly how many open logins there are. To count them is to read through them, which no request should do by itself.
type openLogins struct {
	most int

	mu       sync.Mutex
	n        int // those of the last count, and those begun here since
	counted  time.Time
	counting bool
}

// begin adds a login. due says that it is time to count, and the caller's turn.
func (o *openLogins) begin(now time.Time) (before int, due bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n++
	if o.counting || o.n <= o.most && now.Sub(o.counted) < recountAfter {
		return 0, false
	}
	o.counting = true
	return o.n, true
}

// done ends what begin made due. Logins that were begun meanwhile may be counted twice until the next time.
func (o *openLogins) done(before, n int, now time.Time, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counting = false
	if err == nil {
		o.n += n + 1 - before // the one that is about to be stored is not among those counted
		o.counted = now
	}
}

// makeRoomForLogin keeps open logins within their bound. It is called before one is stored.
func (s *Server) makeRoomForLogin(ctx context.Context) error {
	now := s.vault.Now()
	before, due := s.openLogins.begin(now)
	if !due {
		return nil
	}
	n, err := s.evictLogins(ctx)
	s.openLogins.done(before, n, now, err)
	if err != nil {
		return fmt.Errorf("make room for a login: %w", err)
	}
	return nil
}

// evictLogins brings the open logins below their bound, and returns how many are left. Logins end in the order in which they were last touched,
// so with the oldest open ones go some that were finished long ago, and nothing that is under way.
func (s *Server) evictLogins(ctx context.Context) (int, error) {
	most := s.openLogins.most
	for {
		n, err := s.vault.CountOpenLogins(ctx)
		if err != nil || n < most {
			return n, err
		}
		evicted, err := s.vault.EvictLogins(ctx, n-most+1+most/20) // a few at once, so that a flood does not pay for every one
		if err != nil || evicted == 0 {
			return n, err
		}
		s.log.Warn("logins that nobody came back from gave way to new ones", zap.Int("evicted", evicted))
	}
}
