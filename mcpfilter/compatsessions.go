package mcpfilter

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/sync/errgroup"
)

// maxSessions is how many sessions one transport keeps, and maxUserSessions how many of one user, who must not drive out those of
// others. When there is one more, the one that was not used for longest ends.
const (
	maxSessions     = 1000
	maxUserSessions = 50
)

// sessionIdle is how long a session is kept that nobody uses.
const sessionIdle = 15 * time.Minute

// farewells is how many sessions are ended at once.
const farewells = 8

// sessionKey is whose session it is, and where. No two users have one in common, nor two clients of a user, nor
// two grants: they may stand for different accounts.
type sessionKey struct {
	user, client, grant, account, proxy, upstream, path string
}

func keyOf(req *http.Request, x *exchange) sessionKey {
	grant := x.session.Grant
	key := sessionKey{
		user: grant.UserID, client: grant.ClientID, grant: grant.ID, account: grant.AccountID,
		proxy: x.proxy.ID, upstream: req.URL.Host, path: req.URL.RequestURI(),
	}
	if dial, ok := reverseproxy.GetDialInfo(req.Context()); ok {
		key.upstream = dial.String()
	}
	return key
}

// sessions keeps the MCP sessions that the gateway opened for clients that know of none. One that is kept no longer ends with its last request, so
// that nobody loses an answer over it.
type sessions struct {
	// end tells the MCP server, once, that a session has ended.
	end func(*session)

	max, maxUser int
	idle         time.Duration

	mu      sync.Mutex
	kept    map[sessionKey]*session
	opening map[sessionKey]chan struct{} // closed when whoever opens one is done
	closed  bool
}

func newSessions(end func(*session)) *sessions {
	return &sessions{end: end, max: maxSessions, maxUser: maxUserSessions, idle: sessionIdle, kept: make(map[sessionKey]*session), opening: make(map[sessionKey]chan struct{})}
}

// take returns the session that is kept under the key, if any, for one request. It must be given back, or be dropped.
func (p *sessions) take(key sessionKey) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken(key)
}

func (p *sessions) taken(key sessionKey) *session {
	s := p.kept[key]
	if s != nil {
		s.users++
		s.rest()
	}
	return s
}

// open returns a session as take does. If there is none, make opens it; others who want it wait meanwhile, and try themselves when that fails. It is nil when make
// returns none.
func (p *sessions) open(ctx context.Context, key sessionKey, make func() (*session, error)) (*session, error) {
	done, s, err := p.turn(ctx, key)
	if s != nil || err != nil {
		return s, err
	}
	defer done()
	if s, err = make(); s == nil {
		return nil, err
	}
	s.key, s.users = key, 1
	p.endAll(p.keep(s))
	return s, nil
}

// turn waits until nobody else opens a session for the key, and returns the one that is there then, or whom to tell when one is opened.
func (p *sessions) turn(ctx context.Context, key sessionKey) (done func(), s *session, err error) {
	for {
		p.mu.Lock()
		others, busy := p.opening[key]
		if s = p.taken(key); s == nil && !busy {
			p.opening[key] = make(chan struct{})
		}
		p.mu.Unlock()
		switch {
		case s != nil:
			return nil, s, nil
		case !busy:
			return func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				close(p.opening[key])
				delete(p.opening, key)
			}, nil, nil
		}
		select {
		case <-others:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// keep keeps a session, and returns the one that has to end for it.
func (p *sessions) keep(s *session) (ending []*session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	own := 0
	var oldest, oldestOwn *session
	for _, other := range p.kept {
		oldest = longerUnused(oldest, other)
		if other.key.user == s.key.user {
			own++
			oldestOwn = longerUnused(oldestOwn, other)
		}
	}
	switch {
	case own >= p.maxUser:
		ending = p.forget(oldestOwn)
	case len(p.kept) >= p.max:
		ending = p.forget(oldest)
	}
	p.kept[s.key] = s
	return ending
}

// longerUnused is the one of two sessions that nobody will miss; the first may be none.
func longerUnused(a, b *session) *session {
	if a == nil || b.users == 0 && (a.users > 0 || b.used.Before(a.used)) {
		return b
	}
	return a
}

// forget keeps a session no longer, and returns it if it is to be ended right away.
func (p *sessions) forget(s *session) []*session {
	delete(p.kept, s.key)
	s.rest()
	if s.users > 0 {
		return nil
	}
	return []*session{s}
}

// giveBack gives back a session. token is what the MCP server knows its user by now.
func (p *sessions) giveBack(s *session, token string) {
	p.mu.Lock()
	s.users--
	s.token, s.used = token, time.Now()
	var ending []*session
	switch {
	case s.users > 0 || s.lost:
	case p.kept[s.key] == s:
		s.idle = time.AfterFunc(p.idle, func() { p.expire(s) })
	default:
		ending = []*session{s}
	}
	p.mu.Unlock()
	p.endAll(ending)
}

// drop gives back a session that the MCP server does not know any more.
func (p *sessions) drop(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.users--
	s.lost = true
	if p.kept[s.key] == s {
		p.forget(s)
	}
}

// expire ends a session that was not used for some time.
func (p *sessions) expire(s *session) {
	p.mu.Lock()
	var ending []*session
	if p.kept[s.key] == s && s.users == 0 {
		ending = p.forget(s)
	}
	p.mu.Unlock()
	p.endAll(ending)
}

// close ends all sessions, and keeps none from now on. What it returns is closed when those are ended that nobody used.
func (p *sessions) close() <-chan struct{} {
	p.mu.Lock()
	p.closed = true
	ending := make([]*session, 0, len(p.kept))
	for _, s := range p.kept {
		ending = append(ending, p.forget(s)...)
	}
	p.mu.Unlock()
	return p.endAll(ending)
}

// endAll ends sessions in the background.
func (p *sessions) endAll(ending []*session) <-chan struct{} {
	done := make(chan struct{})
	if len(ending) == 0 {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		var group errgroup.Group
		group.SetLimit(farewells)
		for _, s := range ending {
			group.Go(func() error {
				p.end(s)
				return nil
			})
		}
		_ = group.Wait() // which fails never
	}()
	return done
}
