package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Vault reads and writes records on a Store. All methods are safe for concurrent use.
type Vault struct {
	store    Store
	keys     *keys
	now      func() time.Time
	trail    *trail
	recalls  recalls
	jobsKept sync.Map // name → owner: jobs of this process that could not be given back when their work had ended
}

// Options configures a Vault.
type Options struct {
	// Keys are the root keys. The first encrypts, all open. At least one.
	Keys []RootKey

	// Now is the clock; that of the store when nil.
	Now func() time.Time

	// Messages is how long messages of Seal are good for that somebody is to lose nothing of when the vault is sealed anew; an hour when zero.
	Messages time.Duration

	// KeysFailed, when set, is told of errors that keep the vault from being written, or sealed anew, for want of a key or because of damage. The same one is told
	// no more than once a minute.
	KeysFailed func(error)

	// Audit says how the audit trail is kept.
	Audit AuditOptions

	// Recorded, when set, is called for each event of the audit trail once it is durable, and for those that are not kept. It must not take long, nor
	// wait for anything of the vault. It is not called for events of a Commit whose outcome remained unknown.
	Recorded func(*Event)
}

// Open opens the vault in a store, and begins it where the store is empty. When the vault was encrypted with a
// key that is not the first, it is moved to the first. Errors: ErrNoKey, ErrWrongKey, ErrTampered, and those of the store.
func Open(ctx context.Context, s Store, o Options) (*Vault, error) {
	if len(o.Keys) == 0 || slices.Contains(o.Keys, RootKey{}) {
		return nil, ErrNoKey
	}
	if o.Now == nil {
		o.Now = s.Now
	}
	ring, err := openKeyring(ctx, s, o.Keys, o.Now())
	if err != nil {
		return nil, err
	}
	return newVault(s, o, ring), nil
}

func newVault(s Store, o Options, ring *keyring) *Vault {
	v := &Vault{store: s, keys: newKeys(o, ring), now: o.Now, trail: newTrail(o)}
	v.recalls = v.newRecalls()
	return v
}

// Now is the vault's clock, by which records live and end.
func (v *Vault) Now() time.Time { return v.now() }

// Steady is since when the storage has answered without a gap, see Store.Steady.
func (v *Vault) Steady() time.Time { return v.store.Steady() }

// Client returns the client of this id. Errors of this and the following: ErrNotFound, ErrTampered, and those of the store.
func (v *Vault) Client(ctx context.Context, id string) (*Client, error) {
	return load(ctx, v, new(Client), id)
}

// Login returns the login of this id, the keyed hash of its state.
func (v *Vault) Login(ctx context.Context, id string) (*Login, error) {
	return load(ctx, v, new(Login), id)
}

// Code returns the authorization code of this id, the code's keyed hash.
func (v *Vault) Code(ctx context.Context, id string) (*Code, error) {
	return load(ctx, v, new(Code), id)
}

// Grant returns the grant of this id.
func (v *Vault) Grant(ctx context.Context, id string) (*Grant, error) {
	return load(ctx, v, new(Grant), id)
}

// Account returns the account of this id.
func (v *Vault) Account(ctx context.Context, id string) (*Account, error) {
	return load(ctx, v, new(Account), id)
}

// Consent returns the remembered consent of this id.
func (v *Vault) Consent(ctx context.Context, id string) (*Consent, error) {
	return load(ctx, v, new(Consent), id)
}

// Registration returns the gateway's registrations of this id.
func (v *Vault) Registration(ctx context.Context, id string) (*Registration, error) {
	return load(ctx, v, new(Registration), id)
}

// Consents returns a user's remembered consents, a hundred at most. One that does not open counts as none.
func (v *Vault) Consents(ctx context.Context, userID string) ([]*Consent, error) {
	rows, err := v.store.List(ctx, KindConsent, Query{Refs: []string{"user:" + userID}})
	if err != nil {
		return nil, err
	}
	consents := make([]*Consent, 0, len(rows))
	for _, row := range rows {
		c := new(Consent)
		row.Kind = KindConsent
		if err := v.openRecord(row, c); err == nil && c.UserID == userID {
			consents = append(consents, c)
		}
	}
	return consents, nil
}

// signingKeysRow is the one row of signing keys.
const signingKeysRow = "keys"

// SigningKeys returns the signing keys.
func (v *Vault) SigningKeys(ctx context.Context) (*SigningKeys, error) {
	return load(ctx, v, new(SigningKeys), signingKeysRow)
}

func load[R Record](ctx context.Context, v *Vault, r R, id string) (R, error) {
	var none R
	kind := r.layout().kind
	if !plain(id, maxID) { // ids come from requests, and stores differ in what they stand
		return none, fmt.Errorf("%s %w", kind, ErrNotFound)
	}
	row, err := v.store.Get(ctx, kind, id)
	if err != nil {
		return none, err
	}
	row.Kind, row.ID = kind, id // it opens only as what was asked for
	if err := v.openRecord(row, r); err != nil {
		return none, err
	}
	return r, nil
}

// Write is one step of a Commit. Save and Delete make it.
type Write struct {
	op     Op
	record Record
}

// Save stores a record: a new one when its Version is zero, else an update of exactly that version.
func Save(r Record) Write {
	if keys, ok := r.(*SigningKeys); ok {
		keys.ID = signingKeysRow
	}
	if r.meta().Version == 0 {
		return Write{OpInsert, r}
	}
	return Write{OpUpdate, r}
}

// Delete deletes a record in exactly its version.
func Delete(r Record) Write { return Write{OpDelete, r} }

// Commit makes all writes or none, durably. It returns ErrConflict when any of the records was
// changed by somebody else since it was read, and ErrInvalid when one has an id, or names something by an id, that is
// outside the limits of Row. On success the saved records have their new Version. When ctx ends while Commit waits, the
// writes may or may not have been made.
func (v *Vault) Commit(ctx context.Context, writes ...Write) error {
	writes, events := v.splitEvents(writes)
	if len(writes) == 0 {
		v.trail.wasRecorded(events...)
		return nil
	}
	if err := v.applySealed(ctx, v.apply, func(ring *keyring) ([]Change, error) { return v.changes(ring, writes) }); err != nil {
		return err
	}
	for _, w := range writes {
		if w.op != OpDelete {
			w.record.meta().Version++
		}
	}
	v.trail.wasRecorded(events...)
	return nil
}

// changes makes those of writes.
func (v *Vault) changes(ring *keyring, writes []Write) ([]Change, error) {
	changes := make([]Change, 0, len(writes)+1)
	for _, w := range writes {
		m := w.record.meta()
		if w.op == OpDelete {
			changes = append(changes, Change{OpDelete, Row{Kind: w.record.layout().kind, ID: m.ID, Version: m.Version}})
			continue
		}
		row, err := v.sealRecord(ring, w.record, m.Version+1)
		if err != nil {
			return nil, err
		}
		changes = append(changes, Change{w.op, row})
	}
	return changes, CheckChanges(changes)
}

// splitEvents finds the events among what is to be written, and takes them out where none are kept.
func (v *Vault) splitEvents(writes []Write) (kept []Write, events []*Event) {
	kept = make([]Write, 0, len(writes))
	for _, w := range writes {
		e, ok := w.record.(*Event)
		if ok && w.op == OpInsert {
			e.clean()
			events = append(events, e)
			if v.trail.Off {
				continue
			}
		}
		kept = append(kept, w)
	}
	return kept, events
}

// WatchAccounts calls changed with the id of every account that is saved or deleted, as WatchGrants does for grants.
func (v *Vault) WatchAccounts(changed func(id string)) (stop func()) {
	return v.store.Watch(KindAccount, changed)
}

// WatchSigningKeys calls changed when the signing keys were saved, as WatchGrants does for grants.
func (v *Vault) WatchSigningKeys(changed func(id string)) (stop func()) {
	return v.store.Watch(KindSigningKeys, changed)
}

// WatchGrants calls changed with the id of every grant, or API key, that is saved or deleted, by this vault or another on the same storage; an empty id
// stands for all. The rest is as with Store.Watch, but that there may be two calls at a time.
func (v *Vault) WatchGrants(changed func(id string)) (stop func()) {
	grants, keys := v.store.Watch(KindGrant, changed), v.store.Watch(KindAPIKey, changed)
	return func() {
		grants()
		keys()
	}
}

// SweptKinds are the kinds of records that Sweep deletes.
func SweptKinds() []Kind {
	return []Kind{KindLogin, KindCode, KindAssertion, KindGrant, KindAccount, KindConsent, KindRegistration, KindClient, KindAPIKey, KindSignIn, KindRevocationOrder, KindAuditSegment}
}

// PassingKinds are those of SweptKinds that are of use for minutes only.
func PassingKinds() []Kind { return []Kind{KindLogin, KindCode, KindAssertion, KindSignIn} }

// Sweep deletes at most limit records whose DeleteAfter lies before the given time, and returns how many.
func (v *Vault) Sweep(ctx context.Context, before time.Time, limit int) (int, error) {
	total := 0
	swept, err := v.SweepKinds(ctx, before, limit)
	for _, n := range swept {
		total += n
	}
	return total, err
}

// SweepKinds is Sweep of some kinds, of all where none is named, that returns how many records of each it has deleted.
func (v *Vault) SweepKinds(ctx context.Context, before time.Time, limit int, kinds ...Kind) (map[Kind]int, error) {
	if len(kinds) == 0 {
		kinds = SweptKinds()
	}
	swept := make(map[Kind]int)
	for _, kind := range kinds {
		if limit <= 0 {
			break
		}
		n, err := v.store.Sweep(ctx, kind, before, limit)
		if n > 0 {
			swept[kind] = n
		}
		limit -= n
		if err != nil {
			return swept, err
		}
	}
	return swept, nil
}

// CountClients returns how many clients carry the reference, RefUnused or a RefAddress; all when it is empty.
func (v *Vault) CountClients(ctx context.Context, ref string) (int, error) {
	if ref == "" {
		return v.store.Count(ctx, KindClient)
	}
	return v.store.Count(ctx, KindClient, ref)
}

// EvictClients deletes at most limit clients whose DeleteAfter lies before the given time, those that end first before
// others; with a reference only among those that carry it. It returns how many.
func (v *Vault) EvictClients(ctx context.Context, ref string, before time.Time, limit int) (int, error) {
	if ref == "" {
		return v.store.Sweep(ctx, KindClient, before, limit)
	}
	rows, err := v.store.List(ctx, KindClient, Query{Refs: []string{ref}, Limit: 1000})
	if err != nil {
		return 0, err
	}
	rows = slices.DeleteFunc(rows, func(r Row) bool { return r.DeleteAfter.IsZero() || !r.DeleteAfter.Before(before) })
	slices.SortFunc(rows, func(a, b Row) int { return a.DeleteAfter.Compare(b.DeleteAfter) })
	evicted := 0
	for _, row := range rows[:min(limit, len(rows))] {
		err := v.store.Apply(ctx, Change{OpDelete, Row{Kind: KindClient, ID: row.ID, Version: row.Version}})
		switch {
		case err == nil:
			evicted++
		case !errors.Is(err, ErrConflict): // one that was used just now stays
			return evicted, err
		}
	}
	return evicted, nil
}

// CountOpenLogins returns how many logins there are that nobody has come back from.
func (v *Vault) CountOpenLogins(ctx context.Context) (int, error) {
	return v.store.Count(ctx, KindLogin, refOpen)
}

// EvictLogins deletes at most limit logins, those whose DeleteAfter is first before others. It returns how many.
func (v *Vault) EvictLogins(ctx context.Context, limit int) (int, error) {
	return v.store.Sweep(ctx, KindLogin, v.now().AddDate(100, 0, 0), limit)
}
