package authserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Revocation orders are carried out in batches. A batch is one commit, of the grants, their accounts, and how far the order has come: so that a crash
// loses nothing and counts nothing twice, and of two who work on the same order one goes on from where the other is.
//
// Everything is gone through twice. A login that was under way, and that no node has refused, because it was too late or not told of the order
// yet, makes a grant after the first time; the second comes when the last of these is over.

const (
	// orderBatch is how many rows a batch has at most, and firstBatch how many the first has, so that even a process that is soon gone gets something
	// done. A batch is halved as long as somebody else changes any of its rows meanwhile.
	orderBatch = 250
	firstBatch = 8

	// orderPages bounds how many batches of rows are read to fill one.
	orderPages = 40

	// loginsUnderWay is how long a login can take from the user's consent to its grant: two legs, each with the longest login_ttl there is.
	loginsUnderWay = 2*(time.Hour+callbackTimeout) + clockLeeway

	// maxUnreadable bounds how many ids of grants that do not open an order keeps.
	maxUnreadable = 20
)

// carryOutNow carries out what there is, apart from the request that asks for it and for no longer than a minute. CarryOutOrders goes on.
func (s *Server) carryOutNow() {
	release, err := s.acquire()
	if err != nil {
		return
	}
	s.tasks.Go(func() {
		defer release()
		ctx, cancel := context.WithTimeout(s.orders.closing, time.Minute)
		defer cancel()
		if err := s.CarryOutOrders(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("grants are refused that a revocation order means, but could not be ended in the vault; trying again", zap.Error(err))
		}
	})
}

// CarryOutOrders ends in their own rows the grants that revocation orders mean. It is to be called every minute or so; several processes on one vault
// may do so at the same time.
func (s *Server) CarryOutOrders(ctx context.Context) (failed error) {
	s.orders.working.Lock()
	defer s.orders.working.Unlock()
	orders, err := s.vault.RevocationOrders(ctx, true)
	if err != nil && !errors.Is(err, tokenstore.ErrTampered) { // which was said when they were read before
		return fmt.Errorf("revocation orders: %w", err)
	}
	for _, o := range orders {
		if !s.orderDue(o) {
			continue
		}
		if err := s.carryOut(ctx, o.ID); err != nil {
			failed = errors.Join(failed, fmt.Errorf("revocation order %s: %w", o.ID, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return failed
}

// orderDue reports whether there is something to go through for an order now.
func (s *Server) orderDue(o *tokenstore.RevocationOrder) bool {
	return o.Closed.IsZero() && (o.Done.IsZero() || s.vault.Now().After(o.Created.Add(loginsUnderWay)))
}

// carryOut goes on with an order from where it is, until nothing is due.
func (s *Server) carryOut(ctx context.Context, id string) error {
	for size := firstBatch; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		o, err := s.vault.RevocationOrder(ctx, id)
		switch {
		case errors.Is(err, tokenstore.ErrNotFound):
			return nil
		case err != nil:
			return err
		case !s.orderDue(o):
			return nil
		}
		err = s.carryOutBatch(ctx, o, size)
		switch {
		case err == nil:
			size = min(2*size, orderBatch)
		case errors.Is(err, tokenstore.ErrConflict): // another batch is through, or a row was changed
			size = max(size/2, 1)
		default:
			return err
		}
	}
}

// carryOutBatch makes one step of an order.
func (s *Server) carryOutBatch(ctx context.Context, o *tokenstore.RevocationOrder, size int) error {
	if o.Reading == "" {
		o.Reading, o.Unreadable, o.UnreadableIDs = tokenstore.KindGrant, 0, nil
	}
	var grants []*tokenstore.Grant
	var writes []tokenstore.Write
	var accounts []string
	var err error
	if o.Reading == tokenstore.KindGrant {
		grants, err = s.takeGrants(ctx, o, size)
	} else {
		writes, err = s.takeConsents(ctx, o, size)
	}
	if err != nil {
		return err
	}
	now := s.vault.Now()
	for _, g := range grants {
		g.State, g.Reason, g.Order, g.DeleteAfter = tokenstore.StateRevoked, o.Reason, o.ID, now.Add(s.life.Retention)
		ended := s.ended(ctx, g)
		ended.Details = map[string]string{"order": o.ID}
		writes = append(writes, tokenstore.Save(g), tokenstore.RecordEvent(ended))
		if g.AccountID != "" && !slices.Contains(accounts, g.AccountID) {
			accounts = append(accounts, g.AccountID)
		}
	}
	o.Ended += len(grants)
	if o.After == "" {
		s.endOfKind(o, now)
	}
	if o.Reading == "" {
		writes = append(writes, tokenstore.RecordEvent(s.orderEvent(ctx, tokenstore.EventRevocationDone, o)))
	}
	if err := s.accounts.EndMany(ctx, accounts, append(writes, tokenstore.Save(o))...); err != nil {
		return err
	}
	for _, g := range grants {
		s.tellEnded(g)
	}
	if o.Unreadable > 0 && o.Reading == "" {
		s.log.Error("grants that a revocation order may mean do not open, and are refused for that", append(orderFields(o), zap.Int("unreadable", o.Unreadable),
			zap.Strings("unreadable_grants", o.UnreadableIDs))...)
	}
	return nil
}

// endOfKind says what comes when all rows of a kind were gone through.
func (s *Server) endOfKind(o *tokenstore.RevocationOrder, now time.Time) {
	switch {
	case o.Reading == tokenstore.KindGrant:
		o.Reading = tokenstore.KindConsent
	case o.Done.IsZero():
		o.Reading, o.Done = "", now
	default:
		o.Reading, o.Closed, o.DeleteAfter = "", now, now.Add(s.life.Retention)
	}
}

// takeGrants reads on until there are grants for a batch, and notes in the order how far that is.
func (s *Server) takeGrants(ctx context.Context, o *tokenstore.RevocationOrder, size int) ([]*tokenstore.Grant, error) {
	for range orderPages {
		grants, unreadable, next, err := s.vault.MeantGrants(ctx, o, o.After, size)
		if err != nil {
			return nil, fmt.Errorf("list grants: %w", err)
		}
		o.After = next
		o.Unreadable += len(unreadable)
		o.UnreadableIDs = append(o.UnreadableIDs, unreadable[:min(len(unreadable), maxUnreadable-len(o.UnreadableIDs))]...)
		if len(grants) > 0 || next == "" {
			return grants, nil
		}
	}
	return nil, nil
}

// takeConsents is takeGrants for remembered consents, which are to be deleted.
func (s *Server) takeConsents(ctx context.Context, o *tokenstore.RevocationOrder, size int) ([]tokenstore.Write, error) {
	for range orderPages {
		consents, next, err := s.vault.MeantConsents(ctx, o, o.After, size)
		if err != nil {
			return nil, fmt.Errorf("list consents: %w", err)
		}
		o.After = next
		if len(consents) > 0 || next == "" {
			writes := make([]tokenstore.Write, 0, len(consents))
			for _, c := range consents {
				writes = append(writes, tokenstore.Delete(c))
			}
			return writes, nil
		}
	}
	return nil, nil
}
