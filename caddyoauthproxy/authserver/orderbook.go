package authserver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A revocation order can mean more grants than can be ended in a moment. So it counts from when it is stored: every server on the vault keeps those in
// force in memory, and a grant that one of them means counts as ended wherever a grant is judged. Ending the grants in their own rows comes
// after, see orderwork.go, and an order leaves the memory only when none can be left.

// orderBook is the revocation orders in force.
type orderBook struct {
	inForce atomic.Pointer[[]*tokenstore.RevocationOrder] // nil when there are none, so that requests pay for one load

	mu   sync.Mutex // of changing inForce; held while the vault is read
	told func()     // is called when there is a new one

	again   *rereader
	stop    func()     // of watching the vault
	working sync.Mutex // held while orders are carried out
	closing context.Context
	rest    context.CancelFunc // ends the work
}

// openOrders reads the orders in force, and goes on with those that are not carried out. From then on the server is told of new ones.
func (s *Server) openOrders(ctx context.Context) error {
	b := &s.orders
	b.closing, b.rest = context.WithCancel(context.Background())
	b.again = &rereader{what: "revocation orders", read: s.readOrders, acquire: s.acquire, ending: s.watching, log: s.log}
	b.stop = s.vault.WatchRevocationOrders(b.again.changed)
	if err := s.readOrders(ctx); err != nil {
		b.rest()
		b.stop()
		return err
	}
	if b.inForce.Load() != nil {
		s.carryOutNow()
	}
	return nil
}

// WatchOrders has told called whenever there is a new revocation order in force: whoever waits for a grant to end should look again.
func (s *Server) WatchOrders(told func()) {
	s.orders.mu.Lock()
	defer s.orders.mu.Unlock()
	s.orders.told = told
}

// readOrders takes the orders in force from the vault. One that does not open is passed over, and said.
func (s *Server) readOrders(ctx context.Context) error {
	b := &s.orders
	b.mu.Lock()
	defer b.mu.Unlock()
	orders, err := s.vault.RevocationOrders(ctx, true)
	switch {
	case errors.Is(err, tokenstore.ErrTampered):
		s.log.Error("a revocation order does not open, and is not followed: order again what it said", zap.Error(err))
	case err != nil:
		return err
	}
	b.put(orders)
	return nil
}

// add puts an order that was just stored in force, without waiting to be told of it.
func (b *orderBook) add(o *tokenstore.RevocationOrder) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var orders []*tokenstore.RevocationOrder
	if before := b.inForce.Load(); before != nil {
		orders = slices.DeleteFunc(slices.Clone(*before), func(other *tokenstore.RevocationOrder) bool { return other.ID == o.ID })
	}
	b.put(append(orders, o))
}

// put replaces the orders in force. It is called with the lock held.
func (b *orderBook) put(orders []*tokenstore.RevocationOrder) {
	var before []*tokenstore.RevocationOrder
	if p := b.inForce.Load(); p != nil {
		before = *p
	}
	if b.inForce.Store(&orders); len(orders) == 0 {
		b.inForce.Store(nil)
	}
	fresh := slices.ContainsFunc(orders, func(o *tokenstore.RevocationOrder) bool {
		return !slices.ContainsFunc(before, func(known *tokenstore.RevocationOrder) bool { return known.ID == o.ID })
	})
	if fresh && b.told != nil {
		b.told()
	}
}

// any reports whether one of the orders in force means what is asked for.
func (b *orderBook) any(means func(*tokenstore.RevocationOrder) bool) bool {
	orders := b.inForce.Load()
	return orders != nil && slices.ContainsFunc(*orders, means)
}

// over reports whether a grant was ended, in its own row or by an order in force. That it has expired is another question.
func (s *Server) over(g *tokenstore.Grant) bool {
	return g.State != tokenstore.StateActive || s.orders.any(func(o *tokenstore.RevocationOrder) bool { return o.MeansGrant(g) })
}

// health is how a grant fares now, and why: one that an order in force means has ended, whatever its row says.
func (s *Server) health(g *tokenstore.Grant) (health tokenstore.Health, reason string) {
	health, reason = g.Health(s.vault.Now())
	s.orders.any(func(o *tokenstore.RevocationOrder) bool {
		if g.State != tokenstore.StateActive || !o.MeansGrant(g) {
			return false
		}
		health, reason = tokenstore.HealthRevoked, o.Reason
		return true
	})
	return health, reason
}

// endedBy says to a client why a grant is over. What an operator wrote is not for it.
func (s *Server) endedBy(g *tokenstore.Grant) string {
	if _, own := endings[g.Reason]; g.State != tokenstore.StateActive && g.Order == "" && (own || g.Reason == reasonUser) {
		return g.Reason
	}
	return "revoked by the operator of this gateway"
}

// errLoginRevoked is why a login goes no further that an order in force means.
var errLoginRevoked = errors.New("its connections were revoked after the user had agreed to this one")

// orderedAgainst reports whether an order in force means a login: that of the user, if it is known.
func (s *Server) orderedAgainst(l *tokenstore.Login, userID string) bool {
	return s.orders.any(func(o *tokenstore.RevocationOrder) bool { return o.MeansLogin(l, userID) })
}

// consentRevoked reports whether an order in force means a remembered consent.
func (s *Server) consentRevoked(c *tokenstore.Consent) bool {
	return s.orders.any(func(o *tokenstore.RevocationOrder) bool { return o.MeansConsent(c) })
}
