package authserver

import (
	"container/list"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Rate is so many events in so much time. The zero value means the default, negative Events no limit.
type Rate struct {
	Events int
	Window time.Duration
}

// Limits bound how often the endpoints may be used: all but Client by network address (an IPv6 one by its /64). Nodes with Options.Rates
// count together.
type Limits struct {
	// Register bounds registrations. Default: 60 in a minute.
	Register Rate

	// Authorize bounds authorization requests, that is, consent pages. Default: 60 in a minute.
	Authorize Rate

	// Login bounds logins that begin, and callbacks that fail. Default: 10 in a minute.
	Login Rate

	// Token bounds requests to the token, revocation and introspection endpoints that fail, or are about a token that is not
	// the client's. Those that succeed do not count: a hosted chatbot refreshes for all its users from a few addresses. Default: 60 in a minute.
	Token Rate

	// Client bounds the tokens that one client gets, and the assertions that it uses, from whatever address. Each grant of a public client counts by
	// itself. Default: 600 in a minute each.
	Client Rate
}

// maxLimited bounds how many addresses a limiter remembers. The one that was quiet for longest is forgotten first.
const maxLimited = 16 << 10

// limiter counts events by key. It is a generic cell rate algorithm: all that it keeps of a
// key is when the bucket would be empty again.
type limiter struct {
	interval time.Duration // from one event to the next at the steady rate
	window   time.Duration // how far events may run ahead of it
	limited  func()        // told of each event that is refused
	name     string
	shared   *sharedRates // nil where each node counts by itself

	mu    sync.Mutex
	cells map[string]*list.Element
	order *list.List // of *cell, the latest in front
}

type cell struct {
	key   string
	empty time.Time
}

// newLimiter returns nil, which limits nothing, when the rate says so.
func newLimiter(r, standard Rate) *limiter {
	if r == (Rate{}) {
		r = standard
	}
	if r.Events <= 0 || r.Window <= 0 {
		return nil
	}
	return &limiter{interval: r.Window / time.Duration(r.Events), window: r.Window, limited: func() {}, cells: make(map[string]*list.Element), order: list.New()}
}

// take charges an event, or charges nothing and says how long to wait for one.
func (l *limiter) take(key string, now time.Time) (wait time.Duration) {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.cells[key]
	if e == nil {
		if l.order.Len() >= maxLimited {
			delete(l.cells, l.order.Remove(l.order.Back()).(*cell).key)
		}
		e = l.order.PushFront(&cell{key: key})
		l.cells[key] = e
	}
	l.order.MoveToFront(e)
	c := e.Value.(*cell)
	if c.empty.After(now.Add(2 * l.window)) { // by no number of events: the clock was set back
		c.empty = now
	}
	next := now
	if c.empty.After(now) {
		next = c.empty
	}
	next = next.Add(l.interval)
	if wait = next.Sub(now) - l.window; wait > 0 {
		l.limited()
		return wait
	}
	c.empty = next
	return 0
}

// giveBack takes an event back.
func (l *limiter) giveBack(key string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.cells[key]; e != nil {
		c := e.Value.(*cell)
		c.empty = c.empty.Add(-l.interval)
	}
}

// limiters are the server's, one for each kind of event.
type limiters struct{ register, authorize, login, token, client *limiter }

// LimitNames are the names of the limits, as the configuration has them.
func LimitNames() []string { return []string{"register", "authorize", "login", "token", "client"} }

// newLimiters makes them. limited is told the name of each that refuses an event.
func newLimiters(l Limits, shared *sharedRates, limited func(limit string)) limiters {
	named := func(name string, r, standard Rate) *limiter {
		l := newLimiter(r, standard)
		if l != nil {
			l.name, l.shared = name, shared
			l.limited = func() { limited(name) }
		}
		return l
	}
	return limiters{
		register:  named("register", l.Register, Rate{60, time.Minute}),
		authorize: named("authorize", l.Authorize, Rate{60, time.Minute}),
		login:     named("login", l.Login, Rate{10, time.Minute}),
		token:     named("token", l.Token, Rate{60, time.Minute}),
		client:    named("client", l.Client, Rate{600, time.Minute}),
	}
}

// charge counts an event of the request's address, or refuses it.
func (s *Server) charge(l *limiter, r *http.Request) error {
	err := tooMany(l.charge(r.Context(), s.address(r), s.vault.Now()))
	if due, ok := r.Context().Value(duesKey{}).(*dues); ok && err == nil {
		*due = append(*due, l)
	}
	return err
}

// dues are the limits that a request was counted by. A request that comes to nothing because the vault does not answer is none: those who try again until it does
// should not be refused for that afterwards.
type dues []*limiter

type duesKey struct{}

func (s *Server) refundDues(r *http.Request) {
	due, ok := r.Context().Value(duesKey{}).(*dues)
	if !ok {
		return
	}
	for _, l := range *due {
		l.refund(r.Context(), s.address(r))
	}
	*due = nil
}

func tooMany(wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	return &Error{Status: http.StatusTooManyRequests, Code: "temporarily_unavailable", RetryAfter: wait,
		Description: "too many requests; try again in " + strconv.Itoa(seconds(wait)) + " seconds"}
}

// seconds rounds up, so that whoever waits that long has waited long enough.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// address is what limits are counted by: the address that the request came from, as far as Caddy trusts what proxies
// say about it. A user has a whole /64 of IPv6 addresses.
func (s *Server) address(r *http.Request) string {
	addr, err := netip.ParseAddr(s.clientIP(r))
	if err != nil {
		return "unknown"
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, _ := addr.Prefix(64) // fails for IPv4 only
	return prefix.String()
}

// remoteIP is the peer's address.
func remoteIP(r *http.Request) string {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return addr.Addr().String()
}
