package tokenstore

import (
	"context"
	"errors"
)

// endLater ends the grants and remembered consents that an order of now does not mean because they were given later, by a clock that was ahead of this one.
func (u *catchUp) endLater(ctx context.Context, o *RevocationOrder) error {
	v := u.vault
	for grants := newRowCursor(v.store, KindGrant); ; {
		row, err := grants.next(ctx)
		if err != nil {
			return err
		}
		if row == nil {
			break
		}
		g := new(Grant)
		if v.openRecord(*row, g) != nil || g.State == StateRevoked || o.MeansGrant(g) { // nobody can use one that does not open
			continue
		}
		err = u.again(func() error {
			e := v.NewEvent(ctx, EventGrantEnded)
			e.UserID, e.ClientID, e.Client, e.Proxy, e.Grant, e.Account, e.Reason = g.UserID, g.ClientID, g.Client, g.Proxy, g.ID, g.AccountID, restoredReason
			return u.endGrant(ctx, g.ID, e)
		})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	for consents := newRowCursor(v.store, KindConsent); ; {
		row, err := consents.next(ctx)
		if err != nil || row == nil {
			return err
		}
		c := new(Consent)
		if v.openRecord(*row, c) != nil || o.MeansConsent(c) {
			continue
		}
		if err := v.Commit(ctx, Delete(c)); err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
}
