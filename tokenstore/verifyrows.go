package tokenstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
)

// newRecord makes an empty record of a kind, nil of those that no record type is of.
func newRecord(kind Kind) Record {
	switch kind {
	case KindSigningKeys:
		return new(SigningKeys)
	case KindClient:
		return new(Client)
	case KindLogin:
		return new(Login)
	case KindCode:
		return new(Code)
	case KindGrant:
		return new(Grant)
	case KindAccount:
		return new(Account)
	case KindConsent:
		return new(Consent)
	case KindAssertion:
		return new(Assertion)
	case KindRegistration:
		return new(Registration)
	case KindAPIKey:
		return new(APIKey)
	case KindSignIn:
		return new(SignIn)
	case KindRevocationOrder:
		return new(RevocationOrder)
	case KindEvent:
		return new(Event)
	case KindAuditSegment:
		return new(auditSegment)
	case KindAuditHead:
		return new(auditHead)
	case KindJob:
		return new(Job)
	default:
		return nil
	}
}

// records opens every row. Accounts come first, since grants name them.
func (c *verification) records(ctx context.Context) error {
	kinds := Kinds()
	slices.SortStableFunc(kinds, func(a, b Kind) int {
		rank := map[Kind]int{KindAccount: -1}
		return cmp.Compare(rank[a], rank[b])
	})
	for _, kind := range kinds {
		found, err := c.kind(ctx, kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		c.report.Records = append(c.report.Records, found)
		if kind == KindAccount {
			c.accounts.sort()
		}
	}
	return nil
}

// kind opens every row of a kind. Pages become small around a row that cannot be read, which is then stepped over.
func (c *verification) kind(ctx context.Context, kind Kind) (VerifiedKind, error) {
	found := VerifiedKind{Kind: kind}
	total, err := c.vault.store.Count(ctx, kind)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return found, err
	}
	c.tell(Progress{Step: VerifyRecords, Kind: kind, Total: total})
	after, size := "", firstRows
	for {
		rows, err := c.vault.store.List(ctx, kind, Query{After: after, Limit: size})
		switch {
		case errors.Is(err, ErrDamaged) && size > 1:
			size /= 2
			continue
		case errors.Is(err, ErrDamaged):
			next := c.unreadableAfter(kind, after)
			if next == "" {
				c.fault(Fault{Class: FaultUnreadable, Kind: kind, Problem: fmt.Sprintf("the rows behind %q cannot be read: %v", clip(after), err)})
				return found, nil
			}
			found.Damaged++
			after = next
			continue
		case err != nil:
			return found, err
		}
		for _, row := range rows {
			row.Kind = kind
			whole, err := c.row(ctx, row)
			if err != nil {
				return found, err
			}
			if found.Rows++; !whole {
				found.Damaged++
			}
		}
		if len(rows) < size {
			c.tell(Progress{Step: VerifyRecords, Kind: kind, Done: found.Rows, Total: found.Rows})
			return found, nil
		}
		if rows[0].ID <= after {
			c.fault(Fault{Class: FaultUnreadable, Kind: kind, Problem: fmt.Sprintf("the rows behind %q come again", clip(after))})
			return found, nil
		}
		after, size = rows[len(rows)-1].ID, min(2*size, pageFor(rows))
		c.tell(Progress{Step: VerifyRecords, Kind: kind, Done: found.Rows, Total: max(found.Rows, total)})
	}
}

// note keeps the id of a row that cannot be read.
func (c *verification) note(kind Kind, id string) {
	known := c.unreadable[kind]
	if at, there := slices.BinarySearch(known, id); !there && c.unnamed < maxUnreadable {
		c.unnamed++
		c.unreadable[kind] = slices.Insert(known, at, id)
	}
}

// unreadableAfter is the first row behind an id that is known not to be readable, empty where there is none.
func (c *verification) unreadableAfter(kind Kind, after string) string {
	for _, id := range c.unreadable[kind] {
		if id > after {
			return id
		}
	}
	return ""
}

// row opens a row, and reports whether it is whole. One that does not open is read again: somebody may have deleted it, or put it right.
func (c *verification) row(ctx context.Context, row Row) (whole bool, err error) {
	record, err := c.open(ctx, row)
	if err != nil {
		again, getErr := c.vault.store.Get(ctx, row.Kind, row.ID)
		switch {
		case errors.Is(getErr, ErrNotFound):
			return true, nil
		case getErr == nil:
			again.Kind, again.ID = row.Kind, row.ID
			row = again
			record, err = c.open(ctx, row)
		case !errors.Is(getErr, ErrDamaged):
			return false, getErr
		}
	}
	switch {
	case err == nil:
		return true, c.references(ctx, record)
	case errors.Is(err, ErrTampered), errors.Is(err, ErrDamaged), errors.Is(err, ErrWrongKey):
		c.fault(Fault{Class: FaultSealed, Kind: row.Kind, ID: row.ID, Problem: err.Error()})
		c.vault.tampered(row)
		return false, nil
	default:
		return false, err
	}
}

// open opens a row, without a word to the audit trail.
func (c *verification) open(ctx context.Context, row Row) (Record, error) {
	if row.Kind == KindKeyring {
		return nil, c.vault.checkKeyring(ctx, row)
	}
	record, ring := newRecord(row.Kind), c.vault.ring()
	l := record.layout()
	err := ring.unsealRecord(l, row, record)
	if errors.Is(err, errUnknownKey) {
		err = c.vault.unsealLater(ring, l, row, record)
	}
	return record, err
}

// checkKeyring looks whether the ring opens by the root keys that there are, and is of the generation that stands beside it. Rows of the ring are read together: each
// alone may be of another moment.
func (v *Vault) checkKeyring(ctx context.Context, row Row) error {
	if row.ID != keyringRow && row.ID != generationRow {
		return fmt.Errorf("%s %s: %w: there is no such row in a keyring", row.Kind, clip(row.ID), ErrTampered)
	}
	const attempts = 5 // between which a rekey went on
	var generation uint64
	var ring *keyring
	for range attempts {
		var err error
		if ring, err = v.openRing(ctx); err != nil {
			return err
		}
		beside, err := v.store.Get(ctx, KindKeyring, generationRow)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if generation = beside.Version; generation == ring.Generation {
			return nil
		}
	}
	return fmt.Errorf("%s %s: %w: the ring is of generation %d, and the row %s of %d", row.Kind, row.ID, ErrTampered, ring.Generation, generationRow, generation)
}

// references looks for the records that a record names.
func (c *verification) references(ctx context.Context, record Record) error {
	switch r := record.(type) {
	case *Account:
		c.accounts.add(r.ID)
	case *Grant:
		if r.State != StateRevoked && r.AccountID != "" && !c.accounts.has(r.AccountID) {
			return c.missing(ctx, KindAccount, r.AccountID, r)
		}
	case *Code:
		if r.Used.IsZero() && c.vault.now().Before(r.Expires) {
			return c.missing(ctx, KindGrant, r.GrantID, r)
		}
	}
	return nil
}

// missing remarks that a record names another one that is not there, if both is still so.
func (c *verification) missing(ctx context.Context, kind Kind, id string, by Record) error {
	if there, err := c.there(ctx, kind, id); there || err != nil {
		return err
	}
	own := by.layout().kind
	if there, err := c.there(ctx, own, by.meta().ID); !there || err != nil {
		return err
	}
	c.remark(Fault{Class: FaultReference, Kind: own, ID: by.meta().ID, Problem: fmt.Sprintf("its %s %s is not there", kind, clip(id))})
	return nil
}

// there reports whether a row is there. One that cannot be read is.
func (c *verification) there(ctx context.Context, kind Kind, id string) (bool, error) {
	_, err := c.vault.store.Get(ctx, kind, id)
	switch {
	case err == nil, errors.Is(err, ErrDamaged):
		return true, nil
	case errors.Is(err, ErrNotFound):
		return false, nil
	default:
		return false, err
	}
}

// idSet knows ids by hashes of them. Of a million, one that was not added is taken for one that was about once in 10^13 times.
type idSet struct {
	seed   maphash.Seed
	hashes []uint64
}

func (s *idSet) add(id string) {
	if s.seed == (maphash.Seed{}) {
		s.seed = maphash.MakeSeed()
	}
	s.hashes = append(s.hashes, maphash.String(s.seed, id))
}

func (s *idSet) sort() { slices.Sort(s.hashes) }

// has is to be asked after sort.
func (s *idSet) has(id string) bool {
	if len(s.hashes) == 0 {
		return false
	}
	_, found := slices.BinarySearch(s.hashes, maphash.String(s.seed, id))
	return found
}
