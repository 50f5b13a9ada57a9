package tokenstore

import (
	"errors"
	"fmt"
	"slices"
)

// Limits of a row, see Row. Stores use the exported ones to tell a damaged row before they copy it.
const (
	MaxKey    = 192     // bytes of an id or a reference
	MaxSealed = 4 << 20 // bytes of a sealed value

	maxID    = 128
	maxRef   = MaxKey
	maxRefs  = 32
	maxState = 32
)

// ErrInvalid says that a Change is outside the limits of Row, or of an Apply. It is the caller's mistake, not the storage's.
var ErrInvalid = errors.New("invalid change")

// Kinds lists every kind of rows, for stores that keep each in a place of its own.
func Kinds() []Kind {
	return []Kind{KindKeyring, KindSigningKeys, KindClient, KindLogin, KindCode, KindGrant, KindAccount, KindConsent, KindAssertion, KindRegistration, KindAPIKey, KindSignIn, KindRevocationOrder,
		KindEvent, KindAuditSegment, KindAuditHead, KindJob}
}

// CheckChanges returns ErrInvalid when the changes break a rule of Row or of Store.Apply. Every
// Store calls it first, so that all refuse the same.
func CheckChanges(changes []Change) error {
	type name struct {
		kind Kind
		id   string
	}
	changed := make(map[name]struct{}, len(changes))
	for _, c := range changes {
		if err := c.check(); err != nil {
			return fmt.Errorf("%w: %s %s: %w", ErrInvalid, c.Row.Kind, clip(c.Row.ID), err)
		}
		row := name{c.Row.Kind, c.Row.ID}
		if _, twice := changed[row]; twice {
			return fmt.Errorf("%w: %s %s is changed twice at once", ErrInvalid, c.Row.Kind, c.Row.ID)
		}
		changed[row] = struct{}{}
	}
	return nil
}

func (c Change) check() error {
	r := c.Row
	switch {
	case c.Op < OpInsert || c.Op > OpCheck:
		return fmt.Errorf("unknown operation %d", c.Op)
	case !slices.Contains(Kinds(), r.Kind):
		return errors.New("unknown kind")
	case !plain(r.ID, maxID):
		return fmt.Errorf("its id must be 1 to %d printable ASCII characters without spaces", maxID)
	case c.Op == OpCheck && r.Kind != KindKeyring:
		return fmt.Errorf("only rows of the kind %s can be checked", KindKeyring)
	case c.Op == OpDelete || c.Op == OpCheck:
		return nil
	case c.Op == OpReseal:
		return r.checkSealed()
	case r.State != "" && !plain(r.State, maxState):
		return fmt.Errorf("its state must be at most %d printable ASCII characters without spaces", maxState)
	case len(r.Refs) > maxRefs:
		return fmt.Errorf("it has more than %d references", maxRefs)
	}
	for i, ref := range r.Refs {
		if !plain(ref, maxRef) {
			return fmt.Errorf("its reference %q must be 1 to %d printable ASCII characters without spaces", clip(ref), maxRef)
		}
		if slices.Contains(r.Refs[:i], ref) {
			return fmt.Errorf("its reference %q is there twice", ref)
		}
	}
	return r.checkSealed()
}

func (r Row) checkSealed() error {
	if len(r.Sealed) > MaxSealed {
		return fmt.Errorf("it has %d bytes, more than %d", len(r.Sealed), MaxSealed)
	}
	return nil
}

// plain reports whether s is 1 to limit printable ASCII characters without spaces.
func plain(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// clip keeps an error short that quotes something far too long.
func clip(s string) string {
	if len(s) <= 48 {
		return s
	}
	return s[:48] + "…"
}
