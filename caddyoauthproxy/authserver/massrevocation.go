package authserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// RevocationFilter says which grants are to be revoked together: all of its fields are AND, at least one is set, and All stands alone.
type RevocationFilter = tokenstore.RevocationFilter

// RevocationOrder is what operators see of a revocation order.
type RevocationOrder struct {
	ID      string           `json:"id"`
	Filter  RevocationFilter `json:"filter"`
	By      string           `json:"by,omitempty"` // who gave it
	Reason  string           `json:"reason"`
	Created time.Time        `json:"created"` // since when it holds

	// Matched is how many grants it meant then, and Ended how many of them it has ended in their own rows. Where counting would have taken too
	// long, Matched grows with Ended.
	Matched int `json:"matched"`
	Ended   int `json:"ended"`

	// Done is when all of them were ended in their own rows.
	Done time.Time `json:"done,omitzero"`

	// Unreadable is how many grants do not open, which nobody can use, and UnreadableGrants are the ids of the first 20.
	Unreadable       int      `json:"unreadable,omitempty"`
	UnreadableGrants []string `json:"unreadable_grants,omitempty"`

	// Warnings say what may not be as the operator thinks.
	Warnings []string `json:"warnings,omitempty"`
}

const (
	// countFor is how long the grants of a new order are counted, in which they are refused already.
	countFor = 3 * time.Second

	// countPage is how many grants are counted together.
	countPage = 1000

	// maxOrderText is how long an order's reason may be, and who gave it, in characters.
	maxOrderText = 500

	// defaultOrderReason is the reason of orders that have none.
	defaultOrderReason = "revoked by the operator"
)

// CountGrants is the dry run of RevokeGrants: how many grants would be ended, those that have expired and that nobody has ended yet among them. A filter
// that is none is an *Error; others are what the vault says.
func (s *Server) CountGrants(ctx context.Context, f RevocationFilter) (int, error) {
	if err := f.Check(); err != nil {
		return 0, refuse("invalid_request", err.Error())
	}
	return s.countMeant(ctx, &tokenstore.RevocationOrder{Filter: f, Created: s.vault.Now()})
}

// countMeant counts the grants that an order means and that are not ended in their own rows, nor by another order.
func (s *Server) countMeant(ctx context.Context, o *tokenstore.RevocationOrder) (int, error) {
	n := 0
	for after := ""; ; {
		grants, _, next, err := s.vault.MeantGrants(ctx, o, after, countPage)
		if err != nil {
			return 0, fmt.Errorf("count grants: %w", err)
		}
		for _, g := range grants {
			if !s.orders.any(func(other *tokenstore.RevocationOrder) bool { return other.ID != o.ID && other.MeansGrant(g) }) {
				n++
			}
		}
		if after = next; after == "" {
			return n, nil
		}
	}
}

// RevokeGrants ends all grants that the filter means and that users had agreed to before. When it returns, none of them is accepted any more, here at
// once and within a second on other nodes, and that outlives a crash. In their own rows they are ended in the background, see RevocationOrder; their
// providers are told after that. A login that the user had agreed to before leads to nothing, and what they had remembered is forgotten. by says who
// gave the order, and reason why, for operators alone. What is wrong with the order is an *Error; others are what the vault says.
func (s *Server) RevokeGrants(ctx context.Context, f RevocationFilter, by, reason string) (*RevocationOrder, error) {
	if err := f.Check(); err != nil {
		return nil, refuse("invalid_request", err.Error())
	}
	reason = cmp.Or(strings.TrimSpace(reason), defaultOrderReason)
	if err := checkOrderReason(reason); err != nil {
		return nil, err
	}
	o := &tokenstore.RevocationOrder{Meta: tokenstore.Meta{ID: rand.Text()}, Filter: f, By: orderGiver(by), Reason: reason, Created: s.vault.Now()}
	if err := s.vault.Commit(ctx, tokenstore.Save(o), tokenstore.RecordEvent(s.orderEvent(ctx, tokenstore.EventRevocationOrdered, o))); err != nil {
		return nil, fmt.Errorf("store revocation order: %w", err)
	}
	known := *o
	s.orders.add(&known)
	defer s.carryOutNow()
	return s.describeOrder(s.countOrder(ctx, o)), nil
}

// checkOrderReason refuses a reason that an order cannot have.
func checkOrderReason(reason string) error {
	if utf8.RuneCountInString(reason) > maxOrderText || !utf8.ValidString(reason) || strings.ContainsFunc(reason, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return refuse("invalid_request", fmt.Sprintf("reason must be at most %d printable characters, in one line", maxOrderText))
	}
	return nil
}

// orderGiver is who gave an order, as it is kept. What people are called is a provider's word, and none that keeps an operator from revoking.
func orderGiver(by string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, console.Clean(by, maxOrderText-1))
}

// countOrder counts what a new order means, and returns the order with that. It holds already, so that nothing depends on the count.
func (s *Server) countOrder(ctx context.Context, o *tokenstore.RevocationOrder) *tokenstore.RevocationOrder {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countFor)
	defer cancel()
	matched, err := s.countMeant(ctx, o)
	for err == nil {
		o.Matched = matched
		if err = s.vault.Commit(ctx, tokenstore.Save(o)); !errors.Is(err, tokenstore.ErrConflict) {
			break
		}
		var stored *tokenstore.RevocationOrder // somebody has begun with it
		if stored, err = s.vault.RevocationOrder(ctx, o.ID); err == nil {
			o = stored
		}
	}
	if err != nil {
		s.log.Warn("grants of a revocation order are not counted before they are ended", append(orderFields(o), zap.Error(err))...)
	}
	return o
}

// RevocationOrders lists the revocation orders, the newest first. They are kept for as long as ended grants.
func (s *Server) RevocationOrders(ctx context.Context) ([]*RevocationOrder, error) {
	records, err := s.vault.RevocationOrders(ctx, false)
	switch {
	case err != nil && !errors.Is(err, tokenstore.ErrTampered):
		return nil, fmt.Errorf("revocation orders: %w", err)
	case err != nil:
		s.log.Error("revocation orders that do not open are not listed", zap.Error(err))
	}
	orders := make([]*RevocationOrder, 0, len(records))
	for _, o := range records {
		orders = append(orders, s.describeOrder(o))
	}
	slices.SortStableFunc(orders, func(a, b *RevocationOrder) int { return b.Created.Compare(a.Created) })
	return orders, nil
}

// RevocationOrder returns the revocation order of this id, as far as it is carried out. An id of none is an *Error with status 404; others are what the vault says.
func (s *Server) RevocationOrder(ctx context.Context, id string) (*RevocationOrder, error) {
	o, err := s.vault.RevocationOrder(ctx, id)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, &Error{Status: http.StatusNotFound, Code: "not_found", Description: "there is no revocation order of this id, or not any more"}
	case err != nil:
		return nil, fmt.Errorf("revocation order: %w", err)
	}
	return s.describeOrder(o), nil
}

// RevocationWarnings say what an operator who is about to revoke by this filter may not know.
func (s *Server) RevocationWarnings(f RevocationFilter) []string {
	var warnings []string
	switch p := s.proxies[f.Proxy]; {
	case f.Proxy == "":
	case p == nil:
		warnings = append(warnings, fmt.Sprintf("proxy %q is not in the running configuration: only grants that are left of an earlier one are meant", f.Proxy))
	case s.sessions && p.Login == nil && f.ClientID != sessionClient:
		warnings = append(warnings, fmt.Sprintf("session tokens of provider %q are good at proxy %q too, and at its others: revoke by provider and client_id %s to end them",
			p.Provider.Name(), p.ID, sessionClient))
	}
	known := slices.ContainsFunc(s.order, func(p *Proxy) bool { return p.Provider.Name() == f.Provider || p.loginProvider().Name() == f.Provider })
	if f.Provider != "" && !known {
		warnings = append(warnings, fmt.Sprintf("provider %q is not in use in the running configuration: only grants that are left of an earlier one are meant", f.Provider))
	}
	if c := s.configured[f.ClientID]; c != nil && slices.Contains(c.GrantTypes, grantMachine) {
		warnings = append(warnings, fmt.Sprintf("client %q may ask for tokens without a user, and can again: take it out of the configuration to keep it out", f.ClientID))
	}
	if f.All {
		warnings = append(warnings, "API keys stay: revoke them one by one")
	}
	return warnings
}

// describeOrder is what operators see of an order.
func (s *Server) describeOrder(o *tokenstore.RevocationOrder) *RevocationOrder {
	return &RevocationOrder{
		ID: o.ID, Filter: o.Filter, By: o.By, Reason: o.Reason, Created: o.Created, Matched: max(o.Matched, o.Ended), Ended: o.Ended, Done: o.Done,
		Unreadable: o.Unreadable, UnreadableGrants: o.UnreadableIDs, Warnings: s.RevocationWarnings(o.Filter),
	}
}

func orderFields(o *tokenstore.RevocationOrder) []zap.Field {
	return []zap.Field{zap.String("order", o.ID), zap.Any("filter", o.Filter), zap.String("by", o.By), zap.String("reason", o.Reason)}
}
