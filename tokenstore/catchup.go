package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// CatchUp says what becomes of what was ended after the moment that a vault was set back to, and lives again in it. One of AuditLog, EndAll and Revive is set.
type CatchUp struct {
	// AuditLog is what the log says was ended. It is ended again.
	AuditLog *AuditLog

	// EndAll ends all grants and API keys.
	EndAll bool

	// Revive leaves everything alive that was.
	Revive bool

	// Retention is how long ended grants and API keys are kept. Default: 90 days.
	Retention time.Duration
}

// ErrCatchUp is the error of a catch-up that cannot be made as it was asked for.
var ErrCatchUp = errors.New("cannot catch up")

// CaughtUp is what was ended when a vault caught up.
type CaughtUp struct {
	// Grants, APIKeys and Clients are how many of each were ended, or deleted.
	Grants  int `json:"grants"`
	APIKeys int `json:"api_keys"`
	Clients int `json:"clients"`

	// Orders are revocation orders that are in force now; the gateway carries them out when it runs.
	Orders int `json:"orders"`

	// Sessions are logins under way and sign-ins to the gateway's pages, which end in any case.
	Sessions int `json:"sessions"`

	// Unreadable are records that do not open, which nobody can use.
	Unreadable int `json:"unreadable,omitempty"`
}

const (
	restoredReason = "the vault was restored"
	endedBefore    = "ended before the vault was restored: "
)

// CatchUp ends what the vault has, and should not: always logins under way, sign-ins and the signing keys, so that access tokens end and clients refresh; and what c says. From, in
// words, is what the vault was set back to. From then on processes serve the vault that knew a later state of it. It may be run again.
func (v *Vault) CatchUp(ctx context.Context, c CatchUp, from string) (*CaughtUp, error) {
	choice := ""
	for name, set := range map[string]bool{"audit_log": c.AuditLog != nil, "end_all": c.EndAll, "revive": c.Revive} {
		if set && choice != "" {
			return nil, fmt.Errorf("%w: what becomes of what was ended is said twice", ErrCatchUp)
		}
		if set {
			choice = name
		}
	}
	if choice == "" {
		return nil, fmt.Errorf("%w: it is not said what becomes of what was ended", ErrCatchUp)
	}
	if c.Retention == 0 {
		c.Retention = defaultAuditRetention
	}
	if err := v.FlushAudit(ctx); err != nil {
		return nil, err
	}
	u := &catchUp{CatchUp: c, vault: v, done: new(CaughtUp)}
	if err := u.checkLog(ctx); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{u.endSessions, u.endSigningKeys, u.endLogged, u.endAll} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	e := v.NewEvent(ctx, EventVaultRestored)
	e.Details = map[string]string{
		"from": from, "since": choice, "grants": strconv.Itoa(u.done.Grants), "api_keys": strconv.Itoa(u.done.APIKeys), "clients": strconv.Itoa(u.done.Clients),
		"orders": strconv.Itoa(u.done.Orders),
	}
	if err := v.Commit(ctx, RecordEvent(e)); err != nil {
		return nil, err
	}
	return u.done, v.markRestored(ctx)
}

// catchUp is one under way.
type catchUp struct {
	CatchUp
	vault *Vault
	done  *CaughtUp
}

// checkLog refuses a log that begins after the vault's last event: what was ended between them would live again.
func (u *catchUp) checkLog(ctx context.Context) error {
	if u.AuditLog == nil {
		return nil
	}
	head, err := u.vault.head(ctx)
	if err != nil {
		return err
	}
	switch newest := eventTime(head.Newest); {
	case head.Newest == "":
		return nil
	case u.AuditLog.First.IsZero():
		return fmt.Errorf("%w: the audit log has no event at all: give the log of the logger oauth_proxy.audit, as JSON lines", ErrCatchUp)
	case u.AuditLog.First.After(newest):
		return fmt.Errorf("%w: the audit log begins at %s, and the last event that the vault knows of is of %s: what was ended in between would live again; "+
			"give the older files of the log as well", ErrCatchUp, u.AuditLog.First.Format(time.RFC3339), newest.Format(time.RFC3339))
	}
	return nil
}

// endSessions deletes sign-ins, logins under way and codes.
func (u *catchUp) endSessions(ctx context.Context) error {
	for _, kind := range []Kind{KindSignIn, KindLogin, KindCode} {
		for cursor := newRowCursor(u.vault.store, kind); ; {
			row, err := cursor.next(ctx)
			if err != nil {
				return err
			}
			if row == nil {
				break
			}
			err = u.vault.store.Apply(ctx, Change{OpDelete, Row{Kind: kind, ID: row.ID, Version: row.Version}})
			switch {
			case err == nil:
				u.done.Sessions++
			case !errors.Is(err, ErrConflict): // one that goes on is of now
				return err
			}
		}
	}
	return nil
}

// endSigningKeys leaves no signing key. The gateway makes another one.
func (u *catchUp) endSigningKeys(ctx context.Context) error {
	return u.again(func() error {
		keys, err := u.vault.SigningKeys(ctx)
		if errors.Is(err, ErrNotFound) || err == nil && len(keys.Keys) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		keys.Keys = nil
		return u.vault.Commit(ctx, Save(keys))
	})
}

// endLogged ends what the log says was ended.
func (u *catchUp) endLogged(ctx context.Context) error {
	if u.AuditLog == nil {
		return nil
	}
	for _, e := range u.AuditLog.ended {
		err := u.again(func() error {
			switch e.Type {
			case EventAPIKeyRevoked:
				return u.endAPIKey(ctx, e)
			case EventClientDeleted:
				return u.deleteClient(ctx, e)
			case EventRevocationOrdered:
				return u.order(ctx, e)
			default:
				return u.endGrant(ctx, e.Grant, u.logged(ctx, e))
			}
		})
		switch {
		case errors.Is(err, ErrNotFound): // it was made, or swept, since
		case errors.Is(err, ErrTampered):
			u.done.Unreadable++
		case err != nil:
			return fmt.Errorf("%s of %s: %w", e.Type, e.Time.Format(time.RFC3339), err)
		}
	}
	return nil
}

// again tries what lost against somebody else once more.
func (*catchUp) again(step func() error) (err error) {
	for range 10 {
		if err = step(); !errors.Is(err, ErrConflict) {
			break
		}
	}
	return err
}

// logged is an event of the log once more, as one of now.
func (u *catchUp) logged(ctx context.Context, e *Event) *Event {
	again := u.vault.NewEvent(ctx, e.Type)
	again.UserID, again.User, again.ClientID, again.Client, again.Proxy, again.Provider = e.UserID, e.User, e.ClientID, e.Client, e.Proxy, e.Provider
	again.Grant, again.Account, again.Consent, again.JTI, again.Details = e.Grant, e.Account, e.Consent, e.JTI, e.Details
	again.Reason = endedBefore + e.Reason
	return again
}

// endGrant ends a grant for the event's reason, its account, and what its user had remembered of its client. The account's tokens are given to the gateway to be ended at the provider, which may have been done.
func (u *catchUp) endGrant(ctx context.Context, id string, e *Event) error {
	v, now := u.vault, u.vault.Now()
	g, err := v.Grant(ctx, id)
	if err != nil || g.State == StateRevoked {
		return err
	}
	g.State, g.Reason, g.DeleteAfter = StateRevoked, printable(e.Reason, maxEventReason), now.Add(u.Retention)
	writes := []Write{Save(g), RecordEvent(e)}
	if g.AccountID != "" {
		acc, err := v.Account(ctx, g.AccountID)
		switch {
		case err == nil && acc.State != StateRevoked:
			writes = append(writes, Save(u.endAccount(acc, g.DeleteAfter)))
		case err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrTampered):
			return err
		}
	}
	consents, err := v.Consents(ctx, g.UserID)
	if err != nil {
		return err
	}
	for _, c := range consents {
		if c.ClientID == g.ClientID {
			writes = append(writes, Delete(c))
		}
	}
	if err := v.Commit(ctx, writes...); err != nil {
		return err
	}
	u.done.Grants++
	return nil
}

func (u *catchUp) endAccount(acc *Account, keep time.Time) *Account {
	now := u.vault.Now()
	if acc.AccessToken != "" || acc.RefreshToken != "" {
		acc.Revocation = &Revocation{AccessToken: acc.AccessToken, RefreshToken: acc.RefreshToken, Begun: now, Next: now}
	}
	if acc.DeleteAfter.Before(keep) {
		acc.DeleteAfter = keep
	}
	acc.State, acc.Reason, acc.Lease = StateRevoked, restoredReason, Lease{}
	acc.AccessToken, acc.RefreshToken, acc.IDToken = "", "", ""
	return acc
}

func (u *catchUp) endAPIKey(ctx context.Context, e *Event) error {
	key, err := u.vault.APIKey(ctx, e.Grant)
	if err != nil || !key.Revoked.IsZero() {
		return err
	}
	return u.revokeAPIKey(ctx, key, u.logged(ctx, e))
}

func (u *catchUp) revokeAPIKey(ctx context.Context, key *APIKey, e *Event) error {
	key.Revoked = u.vault.Now()
	key.DeleteAfter = key.Revoked.Add(u.Retention)
	if err := u.vault.Commit(ctx, Save(key), RecordEvent(e)); err != nil {
		return err
	}
	u.done.APIKeys++
	return nil
}

func (u *catchUp) deleteClient(ctx context.Context, e *Event) error {
	c, err := u.vault.Client(ctx, e.ClientID)
	if err != nil {
		return err
	}
	if err := u.vault.Commit(ctx, Delete(c), RecordEvent(u.logged(ctx, e))); err != nil {
		return err
	}
	u.done.Clients++
	return nil
}

// order gives a revocation order again that the vault does not know. It means what users had agreed to by then.
func (u *catchUp) order(ctx context.Context, e *Event) error {
	o := &RevocationOrder{
		Meta:   Meta{ID: e.Details["order"]},
		Filter: RevocationFilter{UserID: e.UserID, ClientID: e.ClientID, Proxy: e.Proxy, Provider: e.Provider, All: e.Details["all"] == "true"},
		By:     e.Details["by"], Reason: e.Reason, Created: e.Time,
	}
	if _, err := u.vault.RevocationOrder(ctx, o.ID); !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := o.Filter.Check(); err != nil {
		return err
	}
	return u.store(ctx, o, u.logged(ctx, e))
}

func (u *catchUp) store(ctx context.Context, o *RevocationOrder, e *Event) error {
	if err := u.vault.Commit(ctx, Save(o), RecordEvent(e)); err != nil {
		return err
	}
	u.done.Orders++
	return nil
}

// endAll orders the end of every grant, and ends the API keys.
func (u *catchUp) endAll(ctx context.Context) error {
	if !u.EndAll {
		return nil
	}
	v := u.vault
	o := &RevocationOrder{Meta: Meta{ID: NewID(v.Now())}, Filter: RevocationFilter{All: true}, By: ActorFrom(ctx).Label, Reason: restoredReason, Created: v.Now()}
	e := v.NewEvent(ctx, EventRevocationOrdered)
	e.Reason, e.Details = o.Reason, map[string]string{"order": o.ID, "by": o.By, "all": "true"}
	if err := u.store(ctx, o, e); err != nil {
		return err
	}
	if err := u.endLater(ctx, o); err != nil {
		return err
	}
	keys, err := v.APIKeys(ctx)
	if errors.Is(err, ErrTampered) {
		u.done.Unreadable++
	} else if err != nil {
		return err
	}
	for _, key := range keys {
		err := u.again(func() error {
			key, err := v.APIKey(ctx, key.ID)
			if err != nil || !key.Revoked.IsZero() {
				return err
			}
			e := v.NewEvent(ctx, EventAPIKeyRevoked)
			e.Client, e.Grant, e.JTI, e.Reason = key.Name, key.ID, key.ID, restoredReason
			return u.revokeAPIKey(ctx, key, e)
		})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}
