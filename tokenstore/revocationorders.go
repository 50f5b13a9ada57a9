package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// RevocationFilter says whom a revocation order means. Its fields are AND; there is at least one, and All stands alone.
type RevocationFilter struct {
	// UserID is the user's id in the gateway, the `sub` of their access tokens.
	UserID string `json:"user_id,omitempty"`

	// ClientID is the client's id, `(session)` for session tokens.
	ClientID string `json:"client_id,omitempty"`

	// Proxy is the id of the proxy that the grants are for. Session tokens, which are good for all proxies of a provider, are for none.
	Proxy string `json:"proxy,omitempty"`

	// Provider is the name of a provider that the users have logged in at, or that their upstream tokens are of.
	Provider string `json:"provider,omitempty"`

	// All means every grant there is.
	All bool `json:"all,omitempty"`
}

// Check says what is wrong with a filter, and what to write instead.
func (f RevocationFilter) Check() error {
	named := f.UserID != "" || f.ClientID != "" || f.Proxy != "" || f.Provider != ""
	switch {
	case f.All && named:
		return errors.New("all stands alone: leave out all to revoke by the other fields, or leave them out to revoke every grant")
	case !f.All && !named:
		return errors.New("the filter is empty: set at least one of user_id, client_id, proxy and provider, or all to revoke every grant")
	}
	for _, field := range [][3]string{{"user_id", "user:", f.UserID}, {"client_id", "client:", f.ClientID}, {"proxy", "proxy:", f.Proxy}, {"provider", "provider:", f.Provider}} {
		if field[2] != "" && !plain(field[1]+field[2], maxRef) {
			return fmt.Errorf("%s %q is none: it has 1 to %d printable ASCII characters without spaces", field[0], clip(field[2]), maxRef-len(field[1]))
		}
	}
	return nil
}

// refs are references that all rows carry which the filter means. Not all rows with them are meant: the provider is not among them, since users may
// log in at another than that of their account, which is the one that grants are found by.
func (f RevocationFilter) refs(kind Kind) []string {
	var refs []string
	if f.UserID != "" {
		refs = append(refs, "user:"+f.UserID)
	}
	if f.ClientID != "" {
		refs = append(refs, "client:"+f.ClientID)
	}
	if f.Proxy != "" && kind == KindGrant {
		refs = append(refs, "proxy:"+f.Proxy)
	}
	return refs
}

// means reports whether all of the filter's fields are those given. Providers are names, or identities, which begin with the name and a space.
func (f RevocationFilter) means(userID, clientID, proxy string, providers ...string) bool {
	switch {
	case f.All:
		return true
	case f.UserID != "" && f.UserID != userID, f.ClientID != "" && f.ClientID != clientID, f.Proxy != "" && f.Proxy != proxy:
		return false
	case f.Provider == "":
		return f != RevocationFilter{} // an empty one means nobody
	default:
		return slices.ContainsFunc(providers, func(p string) bool {
			rest, ok := strings.CutPrefix(p, f.Provider)
			return ok && (rest == "" || rest[0] == ' ')
		})
	}
}

// RevocationOrder is an operator's word that grants end: those that its filter means and that users had agreed to by then, in whatever login they
// come out of one. It is in force from when it is stored, before any of the grants is ended in its own row, until none of them can be left.
type RevocationOrder struct {
	Meta

	Filter RevocationFilter `json:"filter"`

	// By is who gave the order, and Reason why, both for operators to read.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason"`

	// Created is when the order was given. What was agreed to later it does not mean.
	Created time.Time `json:"created"`

	// Matched is how many grants the order meant when it was given; zero while they are not counted.
	Matched int `json:"matched,omitempty"`

	// Ended is how many of them the order has ended in their own rows.
	Ended int `json:"ended,omitempty"`

	// Unreadable is how many rows of grants did not open on the way, and UnreadableIDs are the first of their ids. Nobody can use such a grant.
	Unreadable    int      `json:"unreadable,omitempty"`
	UnreadableIDs []string `json:"unreadable_ids,omitempty"`

	// Reading is the kind of rows that are being gone through, empty at the begin, and After the id behind which to go on.
	Reading Kind   `json:"reading,omitempty"`
	After   string `json:"after,omitempty"`

	// Done is when all grants that were there had been ended. Closed is when they were gone through once more, after the last login that the
	// order means; then it is in force no longer.
	Done   time.Time `json:"done,omitzero"`
	Closed time.Time `json:"closed,omitzero"`
}

// refInForce is the reference of revocation orders that are in force.
const refInForce = "in_force"

func (o *RevocationOrder) layout() layout {
	l := layout{kind: KindRevocationOrder, use: useGrant}
	if o.Closed.IsZero() {
		l.refs = []string{refInForce}
	}
	return l
}

// MeansGrant reports whether the order ends the grant.
func (o *RevocationOrder) MeansGrant(g *Grant) bool {
	agreed := g.Agreed
	if agreed.IsZero() {
		agreed = g.Created
	}
	if agreed.After(o.Created) {
		return false
	}
	return o.Filter.means(g.UserID, g.ClientID, g.Proxy, g.User.Provider, g.Provider) || o.Filter.means(g.UserID, g.ClientID, g.Proxy, g.Providers...)
}

// MeansConsent reports whether the order ends the remembered consent.
func (o *RevocationOrder) MeansConsent(c *Consent) bool {
	return !c.Given.After(o.Created) && (o.Filter.means(c.UserID, c.ClientID, c.Proxy, c.Provider) || o.Filter.means(c.UserID, c.ClientID, c.Proxy, c.Providers...))
}

// MeansLogin reports whether the order ends the login: that of the user, if it is known. A login that does not say when it was agreed to may be
// of any time.
func (o *RevocationOrder) MeansLogin(l *Login, userID string) bool {
	r := &l.Request
	return !l.Agreed.After(o.Created) && (o.Filter.means(userID, r.ClientID, r.Proxy, l.Provider, l.LoginIdentity) || o.Filter.means(userID, r.ClientID, r.Proxy, r.Providers...))
}

// RevocationOrder returns the revocation order of this id. Errors: ErrNotFound, ErrTampered, and those of the store.
func (v *Vault) RevocationOrder(ctx context.Context, id string) (*RevocationOrder, error) {
	return load(ctx, v, new(RevocationOrder), id)
}

// RevocationOrders lists all revocation orders, or those alone that are in force, ordered by id. One that does not open does not hide the others: they are
// returned together with an ErrTampered that names it. Any other error comes with no orders.
func (v *Vault) RevocationOrders(ctx context.Context, inForce bool) ([]*RevocationOrder, error) {
	const page = 1000
	q := Query{Limit: page}
	if inForce {
		q.Refs = []string{refInForce}
	}
	var orders []*RevocationOrder
	var faults error
	for {
		rows, err := v.store.List(ctx, KindRevocationOrder, q)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			q.After = row.ID
			o := new(RevocationOrder)
			row.Kind = KindRevocationOrder
			if err := v.openRecord(row, o); err != nil {
				faults = errors.Join(faults, err)
				continue
			}
			orders = append(orders, o)
		}
		if len(rows) < page {
			return orders, faults
		}
	}
}

// MeantGrants lists grants that the order means and that nobody has ended, of a page of limit rows behind the id after. unreadable are the ids of
// rows among them that do not open, and next is where to go on, empty at the end.
func (v *Vault) MeantGrants(ctx context.Context, o *RevocationOrder, after string, limit int) (grants []*Grant, unreadable []string, next string, err error) {
	rows, err := v.store.List(ctx, KindGrant, Query{Refs: o.Filter.refs(KindGrant), After: after, Limit: limit})
	if err != nil {
		return nil, nil, "", err
	}
	for _, row := range rows {
		if row.State != string(StateActive) { // one that says so and is not does not open for anybody
			continue
		}
		g := new(Grant)
		row.Kind = KindGrant
		switch err := v.openRecord(row, g); {
		case err != nil:
			unreadable = append(unreadable, row.ID)
		case o.MeansGrant(g):
			grants = append(grants, g)
		}
	}
	if len(rows) == limit {
		next = rows[limit-1].ID
	}
	return grants, unreadable, next, nil
}

// MeantConsents lists remembered consents that the order means, as MeantGrants does. One that does not open is left out: it counts as none.
func (v *Vault) MeantConsents(ctx context.Context, o *RevocationOrder, after string, limit int) (consents []*Consent, next string, err error) {
	rows, err := v.store.List(ctx, KindConsent, Query{Refs: o.Filter.refs(KindConsent), After: after, Limit: limit})
	if err != nil {
		return nil, "", err
	}
	for _, row := range rows {
		c := new(Consent)
		row.Kind = KindConsent
		if err := v.openRecord(row, c); err == nil && o.MeansConsent(c) {
			consents = append(consents, c)
		}
	}
	if len(rows) == limit {
		next = rows[limit-1].ID
	}
	return consents, next, nil
}

// WatchRevocationOrders calls changed with the id of every revocation order that is saved or deleted, by this vault or another on the same storage; an
// empty id stands for all. The rest is as with Store.Watch.
func (v *Vault) WatchRevocationOrders(changed func(id string)) (stop func()) {
	return v.store.Watch(KindRevocationOrder, changed)
}
