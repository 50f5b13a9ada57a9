package tokenstore

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// OpenReadOnly opens the vault in a store for reading: unlike Open it writes nothing, neither a vault that is not there nor a ring that another key seals, and what would
// write later is ErrReadOnly. The state that the store is in makes no difference: see MayServe. Errors are those of Open, and ErrNotFound where there is no vault.
func OpenReadOnly(ctx context.Context, s Store, o Options) (*Vault, error) {
	if len(o.Keys) == 0 || slices.Contains(o.Keys, RootKey{}) {
		return nil, ErrNoKey
	}
	row, err := s.Get(ctx, KindKeyring, keyringRow)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	stored, _, err := unsealRing(row, o.Keys)
	if err != nil {
		return nil, err
	}
	ring, err := newKeyring(stored)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = s.Now
	}
	return newVault(readOnlyStore{s}, o, ring), nil
}

// readOnlyStore is a store that is not written.
type readOnlyStore struct{ Store }

var errOpenedReadOnly = fmt.Errorf("%w: it was opened for reading", ErrReadOnly)

// Apply implements Store.
func (readOnlyStore) Apply(context.Context, ...Change) error { return errOpenedReadOnly }

// Sweep implements Store.
func (readOnlyStore) Sweep(context.Context, Kind, time.Time, int) (int, error) {
	return 0, errOpenedReadOnly
}
