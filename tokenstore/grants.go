package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// GrantQuery selects grants by at most one of its first four fields.
type GrantQuery struct {
	ClientID, UserID, AccountID, Proxy string

	// After is the id of the last grant of the page before. Limit is the size of a page, 100 when zero.
	After string
	Limit int
}

func (q GrantQuery) ref() (string, error) {
	ref := ""
	for _, by := range [][2]string{{"client:", q.ClientID}, {"user:", q.UserID}, {"account:", q.AccountID}, {"proxy:", q.Proxy}} {
		if by[1] == "" {
			continue
		}
		if ref != "" {
			return "", fmt.Errorf("grants are selected by one field, not by %s and %s", ref, by[0])
		}
		ref = by[0] + by[1]
	}
	return ref, nil
}

// Grants lists grants, ordered by id. A grant that does not open does not hide the others: they are returned together
// with an ErrTampered that names it. Any other error comes with no grants.
func (v *Vault) Grants(ctx context.Context, q GrantQuery) ([]*Grant, error) {
	ref, err := q.ref()
	if err != nil {
		return nil, err
	}
	grants, _, err := v.listGrants(ctx, Query{Ref: ref, After: q.After, Limit: q.Limit})
	return grants, err
}

// RefreshableGrants lists all grants that a user gave a client, that nobody has ended, and that have refresh tokens; those that have expired
// are among them until they are swept. Errors are as those of Grants.
func (v *Vault) RefreshableGrants(ctx context.Context, userID, clientID string) ([]*Grant, error) {
	const page = 1000
	var all []*Grant
	var faults error
	q := Query{Ref: refRefreshable(userID, clientID), Limit: page}
	for {
		grants, rows, err := v.listGrants(ctx, q)
		if err != nil && rows == nil {
			return nil, err
		}
		all, faults = append(all, grants...), errors.Join(faults, err)
		if len(rows) < page {
			return all, faults
		}
		q.After = rows[page-1].ID
	}
}

// listGrants returns the rows of one page beside the grants in them. Without rows, the error is the store's.
func (v *Vault) listGrants(ctx context.Context, q Query) ([]*Grant, []Row, error) {
	rows, err := v.store.List(ctx, KindGrant, q)
	if err != nil {
		return nil, nil, err
	}
	grants := make([]*Grant, 0, len(rows))
	var faults error
	for _, row := range rows {
		g := new(Grant)
		row.Kind = KindGrant
		err := v.openRecord(row, g)
		if err == nil && q.Ref != "" && !slices.Contains(row.Refs, q.Ref) {
			err = fmt.Errorf("grant %s: %w: listed where it does not belong", row.ID, ErrTampered)
		}
		if err != nil {
			faults = errors.Join(faults, err)
			continue
		}
		grants = append(grants, g)
	}
	return grants, rows, faults
}

// ExpiredGrants lists grants of users that expired before a time and that nobody has ended, of a page of limit grants behind the id after. One that does not open
// is left out. next is where to go on, empty at the end.
func (v *Vault) ExpiredGrants(ctx context.Context, before time.Time, after string, limit int) (grants []*Grant, next string, err error) {
	rows, err := v.store.List(ctx, KindGrant, Query{Ref: refActive, After: after, Limit: limit})
	if err != nil {
		return nil, "", err
	}
	for _, row := range rows {
		g := new(Grant)
		row.Kind = KindGrant
		if v.openRecord(row, g) == nil && g.Expires.Before(before) {
			grants = append(grants, g)
		}
	}
	if len(rows) == limit {
		next = rows[limit-1].ID
	}
	return grants, next, nil
}

// LivingGrants reports whether a proxy has at least so many grants that are neither ended nor expired, nor what over says. One that does not open counts as none.
func (v *Vault) LivingGrants(ctx context.Context, proxy string, least int, over func(*Grant) bool) (bool, error) {
	n, now := 0, v.now()
	for after := ""; ; {
		rows, err := v.store.List(ctx, KindGrant, Query{Ref: refLiving + proxy, After: after, Limit: 1000})
		if err != nil {
			return false, err
		}
		for _, row := range rows {
			g := new(Grant)
			row.Kind = KindGrant
			if v.openRecord(row, g) == nil && now.Before(g.Expires) && !over(g) {
				n++
			}
			after = row.ID
		}
		if n >= least || len(rows) < 1000 {
			return n >= least, nil
		}
	}
}

// OwnerHasAccount reports whether the owner of an account has another one that is not over. One of the same user that does not know its owner may
// be theirs.
func (v *Vault) OwnerHasAccount(ctx context.Context, a *Account) (bool, error) {
	const page = 1000
	for _, ref := range []string{refOwner + a.OwnerID, "user:" + a.UserID} {
		for after := ""; ; {
			rows, err := v.store.List(ctx, KindAccount, Query{Ref: ref, After: after, Limit: page})
			if err != nil {
				return false, err
			}
			for _, row := range rows {
				after = row.ID
				living := row.ID != a.ID && (row.State == string(StateActive) || row.State == string(StateRefreshing))
				owned := slices.ContainsFunc(row.Refs, func(ref string) bool { return strings.HasPrefix(ref, refOwner) })
				if living && (strings.HasPrefix(ref, refOwner) || !owned && slices.Contains(row.Refs, "provider:"+a.Provider)) {
					return true, nil
				}
			}
			if len(rows) < page {
				break
			}
		}
	}
	return false, nil
}

// Revoking lists accounts whose tokens are still to be ended at their provider, ordered by id: at most limit, behind the id after. One that
// does not open is left out. next is where to go on, empty at the end.
func (v *Vault) Revoking(ctx context.Context, after string, limit int) (accounts []*Account, next string, err error) {
	rows, err := v.store.List(ctx, KindAccount, Query{Ref: refRevoking, After: after, Limit: limit})
	if err != nil {
		return nil, "", err
	}
	for _, row := range rows {
		a := new(Account)
		row.Kind = KindAccount
		if err := v.openRecord(row, a); err == nil && a.Revocation != nil {
			accounts = append(accounts, a)
		}
	}
	if len(rows) == limit {
		next = rows[limit-1].ID
	}
	return accounts, next, nil
}
