package tokenstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// GrantQuery selects grants that are as all of its fields say; those that are empty say nothing.
type GrantQuery struct {
	ClientID, UserID, AccountID, Proxy string

	// Provider is the name of the account's provider.
	Provider string

	// Health is that of when the grant was last saved, which is soon after it turns, see Server.Maintain.
	Health Health

	// Text is words of which all must be among those that the grant is found by, see Words.
	Text string

	// After is the id of the last grant of the page before. Limit is the size of a page, 100 when zero and 1000 at most.
	After string
	Limit int
}

func (v *Vault) query(q GrantQuery) Query {
	out := Query{After: q.After, Limit: q.Limit}
	for _, word := range Words(q.Text) {
		out.Refs = append(out.Refs, v.refWord(word))
	}
	for _, by := range [][2]string{ // in the order of how few grants each is likely to have
		{"account:", q.AccountID}, {"user:", q.UserID}, {"client:", q.ClientID}, {"proxy:", q.Proxy}, {"provider:", q.Provider}, {refHealth, string(q.Health)},
	} {
		if by[1] != "" {
			out.Refs = append(out.Refs, by[0]+by[1])
		}
	}
	return out
}

// Grants lists grants, ordered by id, which is the newest first. A grant that does not open does not hide the others: they are returned together
// with an ErrTampered that names it. Any other error comes with no grants.
func (v *Vault) Grants(ctx context.Context, q GrantQuery) ([]*Grant, error) {
	grants, _, err := v.listGrants(ctx, v.query(q))
	return grants, err
}

// FoundGrant is a grant, or why it does not open.
type FoundGrant struct {
	ID    string
	Grant *Grant // nil when it does not open
	Err   error
}

// FindGrants lists a page of grants, ordered by id, which is the newest first, with those that do not open. more says that there are others behind them.
func (v *Vault) FindGrants(ctx context.Context, q GrantQuery) (found []FoundGrant, more bool, err error) {
	query := v.query(q)
	rows, err := v.store.List(ctx, KindGrant, query)
	if err != nil {
		return nil, false, err
	}
	for _, row := range rows {
		g, err := v.openGrant(row, query.Refs)
		found = append(found, FoundGrant{ID: row.ID, Grant: g, Err: err})
	}
	if limit := cmp.Or(query.Limit, 100); len(rows) >= min(limit, 1000) {
		query.After, query.Limit = rows[len(rows)-1].ID, 1
		if rows, err = v.store.List(ctx, KindGrant, query); err != nil {
			return nil, false, err
		}
		more = len(rows) > 0
	}
	return found, more, nil
}

// UnindexedGrants lists grants that were made by a release that did not know of their health, of a page of limit grants behind the id after, also those that were saved
// since: they have an account, and do not say of which provider. One that does not open is left out. next is where to go on, empty at the end.
func (v *Vault) UnindexedGrants(ctx context.Context, after string, limit int) (grants []*Grant, next string, err error) {
	rows, err := v.store.List(ctx, KindGrant, Query{After: after, Limit: limit})
	if err != nil {
		return nil, "", err
	}
	for _, row := range rows {
		has := func(prefix string) bool {
			return slices.ContainsFunc(row.Refs, func(ref string) bool { return strings.HasPrefix(ref, prefix) && ref != prefix })
		}
		if has(refHealth) && (has("provider:") || !has("account:")) {
			continue
		}
		if g, err := v.openGrant(row, nil); err == nil {
			grants = append(grants, g)
		}
	}
	if len(rows) == limit {
		next = rows[limit-1].ID
	}
	return grants, next, nil
}

// CountGrants returns how many grants are of a health, as of when each was last saved.
func (v *Vault) CountGrants(ctx context.Context, h Health) (int, error) {
	return v.store.Count(ctx, KindGrant, refHealth+string(h))
}

// DueGrants lists at most limit grants whose health has turned since they were saved, those first that have waited longest. Saving one
// settles it. Errors are as those of Grants.
func (v *Vault) DueGrants(ctx context.Context, limit int) ([]*Grant, error) {
	rows, err := v.store.Due(ctx, KindGrant, v.now(), limit)
	if err != nil {
		return nil, err
	}
	return v.openGrants(rows, nil)
}

// RefreshableGrants lists all grants that a user gave a client, that nobody has ended, and that have refresh tokens; those that have expired
// are among them until they are swept. Errors are as those of Grants.
func (v *Vault) RefreshableGrants(ctx context.Context, userID, clientID string) ([]*Grant, error) {
	const page = 1000
	var all []*Grant
	var faults error
	q := Query{Refs: []string{refRefreshable(userID, clientID)}, Limit: page}
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
	grants, err := v.openGrants(rows, q.Refs)
	return grants, rows, err
}

func (v *Vault) openGrants(rows []Row, refs []string) ([]*Grant, error) {
	grants := make([]*Grant, 0, len(rows))
	var faults error
	for _, row := range rows {
		g, err := v.openGrant(row, refs)
		if err != nil {
			faults = errors.Join(faults, err)
			continue
		}
		grants = append(grants, g)
	}
	return grants, faults
}

// openGrant opens a row that was listed under the references.
func (v *Vault) openGrant(row Row, refs []string) (*Grant, error) {
	g := new(Grant)
	row.Kind = KindGrant
	if err := v.openRecord(row, g); err != nil {
		return nil, err
	}
	for _, ref := range refs {
		if !slices.Contains(row.Refs, ref) {
			return nil, fmt.Errorf("grant %s: %w: listed where it does not belong", row.ID, ErrTampered)
		}
	}
	return g, nil
}

// ExpiredGrants lists grants of users that expired before a time and that nobody has ended, of a page of limit grants behind the id after: those that were saved
// since they expired, see DueGrants. One that does not open is left out. next is where to go on, empty at the end.
func (v *Vault) ExpiredGrants(ctx context.Context, before time.Time, after string, limit int) (grants []*Grant, next string, err error) {
	rows, err := v.store.List(ctx, KindGrant, Query{Refs: []string{refHealth + string(HealthExpired)}, After: after, Limit: limit})
	if err != nil {
		return nil, "", err
	}
	for _, row := range rows {
		g := new(Grant)
		row.Kind = KindGrant
		if v.openRecord(row, g) == nil && g.State == StateActive && g.AccountID != "" && g.Expires.Before(before) {
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
	if most, err := v.store.Count(ctx, KindGrant, refLiving+proxy); err != nil || most < least {
		return false, err
	}
	n, now := 0, v.now()
	for after := ""; ; {
		rows, err := v.store.List(ctx, KindGrant, Query{Refs: []string{refLiving + proxy}, After: after, Limit: 1000})
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
			rows, err := v.store.List(ctx, KindAccount, Query{Refs: []string{ref}, After: after, Limit: page})
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
	rows, err := v.store.List(ctx, KindAccount, Query{Refs: []string{refRevoking}, After: after, Limit: limit})
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
