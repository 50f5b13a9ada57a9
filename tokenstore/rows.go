package tokenstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Record is one of this package's record types.
type Record interface {
	meta() *Meta
	layout() layout
}

// layout says how a record becomes a row.
type layout struct {
	kind  Kind
	use   string    // whose key seals it
	state State     // in clear
	refs  []string  // in clear
	due   time.Time // in clear
}

// indexed is a record of which more is in clear than can be said without the vault, or than is worth the while when it is only read.
type indexed interface {
	index(*Vault, *layout)
}

func (m *Meta) meta() *Meta { return m }

func (*SigningKeys) layout() layout { return layout{kind: KindSigningKeys, use: useJWTKey} }

// refOpen is the reference of logins that nobody has come back from.
const refOpen = "open"

func (l *Login) layout() layout {
	out := layout{kind: KindLogin, use: useTxn}
	if l.Claimed.IsZero() {
		out.refs = append(out.refs, refOpen)
	}
	return out
}

// RefUnused is the reference of clients that never got a token.
const RefUnused = "unused"

func (c *Client) layout() layout {
	l := layout{kind: KindClient, use: useGrant}
	if c.Used.IsZero() {
		l.refs = append(l.refs, RefUnused)
		if c.Address != "" {
			l.refs = append(l.refs, RefAddress(c.Address))
		}
	}
	return l
}

// RefAddress is the reference of clients that registered from an address, by its keyed hash, and never got a token.
func RefAddress(hash string) string { return "address:" + hash }

func (c *Consent) layout() layout {
	return layout{kind: KindConsent, use: useGrant, refs: []string{"user:" + c.UserID, "client:" + c.ClientID}}
}

func (a *Assertion) layout() layout { return layout{kind: KindAssertion, use: useTxn} }

func (r *Registration) layout() layout { return layout{kind: KindRegistration, use: useGrant} }

func (c *Code) layout() layout {
	return layout{kind: KindCode, use: useTxn, refs: []string{"grant:" + c.GrantID}}
}

func (g *Grant) layout() layout { return layout{kind: KindGrant, use: useGrant, state: g.State} }

// refLiving begins the reference of grants for a proxy that nobody has ended.
const refLiving = "living:"

// refRefreshable is the reference of grants that a user gave a client, that nobody has ended, and that have refresh tokens. It is
// a hash because both ids together may be longer than a reference.
func refRefreshable(userID, clientID string) string {
	sum := sha256.Sum256([]byte(userID + "\x00" + clientID))
	return "refreshable:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// refRevoking is the reference of accounts whose tokens are still to be ended at the provider.
const refRevoking = "revoking"

// refOwner begins the reference of accounts of one owner at a provider.
const refOwner = "owner:"

func (a *Account) layout() layout {
	l := layout{kind: KindAccount, use: useGrant, state: a.State, refs: []string{"user:" + a.UserID, "provider:" + a.Provider}}
	if a.OwnerID != "" {
		l.refs = append(l.refs, refOwner+a.OwnerID)
	}
	if a.Revocation != nil {
		l.refs = append(l.refs, refRevoking)
	}
	return l
}

// sealedRecord is what is encrypted: the record, and what stands beside it in clear, so that no
// column can be changed behind the vault's back.
type sealedRecord struct {
	State       State    `json:"state,omitempty"`
	Refs        []string `json:"refs,omitempty"` // as older releases sealed them, instead of their sum
	RefsSum     string   `json:"refs_sum,omitempty"`
	DeleteAfter int64    `json:"delete_after,omitempty"`
	Due         int64    `json:"due,omitempty"`
	Record      any      `json:"record"` // a Record, which is read into in the same pass
}

// recordMember is in every sealed record.
const recordMember = `"record":{`

// sealRecord makes the row of a record in the given version.
func (v *Vault) sealRecord(ring *keyring, r Record, version uint64) (Row, error) {
	l, m := r.layout(), r.meta()
	if r, ok := r.(indexed); ok {
		r.index(v, &l)
	}
	slices.Sort(l.refs)
	plain, err := json.Marshal(sealedRecord{State: l.state, RefsSum: sumOf(l.refs), DeleteAfter: millis(m.DeleteAfter), Due: millis(l.due), Record: r})
	if err != nil {
		return Row{}, fmt.Errorf("%s %s: %w", l.kind, m.ID, err)
	}
	row := Row{Kind: l.kind, ID: m.ID, Version: version, State: string(l.state), Refs: l.refs}
	row.DeleteAfter, row.Due = fromMillis(millis(m.DeleteAfter)), fromMillis(millis(l.due))
	row.Sealed = ring.sealing[l.use].seal(ring.rowContext(l.use, row), plain)
	return row, nil
}

// openRecord reads a row into r.
func (v *Vault) openRecord(row Row, r Record) error {
	l := r.layout()
	err := v.unsealRecord(l, row, r)
	if errors.Is(err, ErrTampered) && !errors.Is(err, ErrUnavailable) {
		v.tampered(row)
	}
	return err
}

func (v *Vault) unsealRecord(l layout, row Row, r Record) error {
	ring := v.ring()
	err := ring.unsealRecord(l, row, r)
	if errors.Is(err, errUnknownKey) {
		err = v.unsealLater(ring, l, row, r)
	}
	return err
}

func (k *keyring) unsealRecord(l layout, row Row, r Record) error {
	plain, err := k.open(l.use, k.rowContext(l.use, row), row.Sealed)
	if err != nil {
		return fmt.Errorf("%s %s: %w", row.Kind, row.ID, err)
	}
	s := sealedRecord{Record: r}
	err = decode(plain, &s)
	if err == nil && !bytes.Contains(plain, []byte(recordMember)) { // nothing was read into r
		err = errNoRecord
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %w", row.Kind, row.ID, ErrTampered, err)
	}
	refs := slices.Sorted(slices.Values(row.Refs))
	sameRefs := s.RefsSum == sumOf(refs)
	if len(s.Refs) > 0 { // of an older release
		sameRefs = slices.Equal(s.Refs, refs)
	}
	if string(s.State) != row.State || !sameRefs || s.DeleteAfter != millis(row.DeleteAfter) || s.Due != millis(row.Due) {
		return fmt.Errorf("%s %s: %w: a clear column was changed", row.Kind, row.ID, ErrTampered)
	}
	*r.meta() = Meta{ID: row.ID, Version: row.Version, DeleteAfter: row.DeleteAfter}
	return nil
}

// sumOf stands for sorted references, empty for none. A row holds them in clear, so that they need not be sealed a second time.
func sumOf(refs []string) string {
	if len(refs) == 0 {
		return ""
	}
	h := sha256.New()
	var b []byte
	for _, ref := range refs {
		b = appendSized(b[:0], ref)
		h.Write(b)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// errNoRecord says that what opens is no record.
var errNoRecord = errors.New("not a record")

// decode is strict about what follows the value, and lenient about members that a newer release may have added.
func decode(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return errNoRecord // the cause could quote the record
	}
	return nil
}

func (k *keyring) rowContext(use string, row Row) sealContext {
	return sealContext{instance: k.instance, purpose: use, kind: row.Kind, id: row.ID, version: row.Version}
}

// millis is a time in clear columns. Zero stands for never, so no time becomes it.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.UnixMilli(), 1)
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
