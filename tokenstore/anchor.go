package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Anchor is the end of a vault's audit trail at one time. Kept outside of the store, it shows that the store was set back to an earlier state: what was revoked would live again.
type Anchor struct {
	// Vault tells the vault from all others, see Vault.Identity.
	Vault string `json:"vault"`

	// Number and Hash are those of the last segment; zero and empty while nothing was chained.
	Number uint64 `json:"number"`
	Hash   string `json:"hash,omitempty"`

	// Restored is when the vault last caught up after it was set back, see Vault.CatchUp; zero for never. Older anchors are not held against it.
	Restored time.Time `json:"restored,omitzero"`
}

// ErrSetBack says that a vault does not have what an anchor names.
var ErrSetBack = errors.New("the vault was set back to an earlier state, or to a copy: what was revoked since would live again")

// Anchor is the end of the audit trail now. Errors: ErrTampered, and those of the store.
func (v *Vault) Anchor(ctx context.Context) (Anchor, error) {
	head, err := v.head(ctx)
	if err != nil {
		return Anchor{}, err
	}
	return Anchor{Vault: v.Identity(), Number: head.Number, Hash: head.Hash, Restored: head.Restored}, nil
}

// Holds returns ErrSetBack when the vault's audit trail has not got what the anchor names, and nobody has said since what is to become of that. What is past its time
// is no part of the trail any more. Other errors: ErrTampered, and those of the store.
func (v *Vault) Holds(ctx context.Context, a Anchor) error {
	head, err := v.head(ctx)
	if err != nil {
		return err
	}
	setBack := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrSetBack, fmt.Sprintf(format, args...))
	}
	switch {
	case head.Restored.After(a.Restored):
		return nil
	case head.Restored.Before(a.Restored):
		return setBack("it was restored at %s, and this is the vault of before", a.Restored.Format(time.RFC3339))
	case a.Number == 0:
		return nil
	case head.Number < a.Number:
		return setBack("its audit trail had %d segments, and has %d", a.Number, head.Number)
	case head.Number == a.Number && head.Hash == a.Hash:
		return nil
	case head.Number == a.Number:
		return setBack("segment %d of its audit trail is another one", a.Number)
	}
	next, _, err := v.segment(ctx, a.Number+1)
	switch {
	case errors.Is(err, ErrNotFound):
		oldest, err := v.oldestSegment(ctx)
		if err == nil && oldest != 0 && oldest <= a.Number {
			err = setBack("segment %d of its audit trail is missing", a.Number+1)
		}
		return err
	case err != nil:
		return err
	case next.Previous != a.Hash:
		return setBack("segment %d of its audit trail is another one", a.Number)
	}
	return nil
}

// markRestored has anchors of before not held against the vault.
func (v *Vault) markRestored(ctx context.Context) error {
	for {
		if err := v.FlushAudit(ctx); err != nil {
			return err
		}
		head, err := v.head(ctx)
		if err != nil {
			return err
		}
		at := v.now().UTC().Truncate(time.Millisecond)
		if !at.After(head.Restored) { // the clock was put back
			at = head.Restored.Add(time.Millisecond)
		}
		head.Restored = at
		if err := v.Commit(ctx, Save(head)); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}
