package tokenstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// ringEvery is how long a ring that was just read is not read again for a key that is not in it: a new key is in the ring for longer before it seals.
	ringEvery = time.Second

	// ringTime bounds how long who opens a value waits for the ring.
	ringTime = 2 * time.Second

	// ringAttempts is how often what was sealed by a ring that is gone is sealed again.
	ringAttempts = 8

	// toldEvery is how long an error is not told again.
	toldEvery = time.Minute
)

// keys is what a Vault has of its keyring.
type keys struct {
	root     []RootKey
	messages time.Duration
	every    time.Duration // ringEvery, where tests have no other
	current  atomic.Pointer[keyring]
	learned  atomic.Pointer[[]RootKey] // see LearnKeys
	learning sync.Mutex                // held while that changes

	lockedOut atomic.Bool

	reading sync.Mutex // one reading at a time, and of the following
	read    time.Time  // when the ring was last read
	err     error      // of that

	telling sync.Mutex // of the following
	failed  func(error)
	told    string
	toldAt  time.Time

	rekey rekeying
}

func newKeys(o Options, ring *keyring) *keys {
	k := &keys{root: o.Keys, messages: orDefault(o.Messages, time.Hour), failed: o.KeysFailed, read: time.Now()}
	k.rekey.wake = make(chan struct{}, 1)
	k.rekey.left, k.rekey.leave = context.WithCancel(context.Background())
	k.current.Store(ring)
	return k
}

// LearnKeys gives the vault root keys that open its keyring beside those of Options. They are those of a configuration that has taken over: what was begun under the one
// before goes on when the encryption key is changed, and the vault's keys after that.
func (v *Vault) LearnKeys(keys ...RootKey) {
	v.keys.learning.Lock()
	defer v.keys.learning.Unlock()
	known := v.keys.roots()
	learned := slices.DeleteFunc(slices.Clone(keys), func(k RootKey) bool { return slices.Contains(known, k) })
	learned = append(learned, known[len(v.keys.root):]...)
	v.keys.learned.Store(&learned)
}

// roots are the root keys that open the ring.
func (k *keys) roots() []RootKey {
	if learned := k.learned.Load(); learned != nil {
		return slices.Concat(k.root, *learned)
	}
	return k.root
}

// ring is the keyring as this process knows it.
func (v *Vault) ring() *keyring { return v.keys.current.Load() }

// tell tells of an error, unless it just did.
func (k *keys) tell(err error) {
	if k.failed == nil || err == nil || errors.Is(err, ErrClosed) || errors.Is(err, ErrReadOnly) || errors.Is(err, context.Canceled) {
		return
	}
	k.telling.Lock()
	text := err.Error()
	again := k.told == text && time.Since(k.toldAt) < toldEvery
	if !again {
		k.told, k.toldAt = text, time.Now()
	}
	k.telling.Unlock()
	if !again {
		k.failed(err)
	}
}

// readRing reads the ring anew. When it does not open, the vault goes on with the one that it has: what that opens can be read.
func (v *Vault) readRing(ctx context.Context) (*keyring, error) {
	v.keys.reading.Lock()
	defer v.keys.reading.Unlock()
	return v.readRingLocked(ctx)
}

func (v *Vault) readRingLocked(ctx context.Context) (*keyring, error) {
	k := v.keys
	ring, err := v.openRing(ctx)
	k.read, k.err = time.Now(), err
	if err != nil {
		if !errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
			v.missRing(ctx, err)
		}
		return nil, err
	}
	k.lockedOut.Store(false)
	k.current.Store(ring)
	return ring, nil
}

// missRing tells of a ring that does not open. While only the root key is another, what the ring before seals is as good as ever.
func (v *Vault) missRing(ctx context.Context, err error) {
	row, getErr := v.store.Get(ctx, KindKeyring, generationRow)
	switch {
	case getErr != nil && !errors.Is(getErr, ErrNotFound):
	case row.Version == v.ring().Generation:
		v.keys.tell(fmt.Errorf("the vault was encrypted with another key meanwhile: this process goes on, but could not be started again: %w", err))
	default:
		v.keys.lockedOut.Store(true)
		v.keys.tell(fmt.Errorf("the vault's keys were changed, and are not known here, so that this process can no longer write to it: %w", err))
	}
}

// LockedOut reports whether the vault has keys that this process cannot have: it can no longer write to it, nor read what they seal.
func (v *Vault) LockedOut() bool { return v.keys.lockedOut.Load() }

func (v *Vault) openRing(ctx context.Context) (*keyring, error) {
	row, err := v.store.Get(ctx, KindKeyring, keyringRow)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return v.openRingRow(row)
}

// openRingRow opens the row of the ring, which is to be this vault's.
func (v *Vault) openRingRow(row Row) (*keyring, error) {
	stored, _, err := unsealRing(row, v.keys.roots())
	if err != nil {
		return nil, err
	}
	if stored.Instance != v.ring().instance {
		return nil, fmt.Errorf("keyring: %w: it is that of another vault", ErrTampered)
	}
	return newKeyring(stored)
}

// newerRing returns the ring after one in which a key is missing; the same where there is none. Errors are ErrUnavailable: nobody knows yet whether there is one.
func (v *Vault) newerRing(seen *keyring) (*keyring, error) {
	k := v.keys
	k.reading.Lock()
	defer k.reading.Unlock()
	if now := v.ring(); now != seen {
		return now, nil
	}
	if time.Since(k.read) >= orDefault(k.every, ringEvery) {
		ctx, cancel := context.WithTimeout(context.Background(), ringTime)
		defer cancel()
		_, _ = v.readRingLocked(ctx)
	}
	if k.err != nil {
		return nil, fmt.Errorf("%w: the keyring cannot be read: %w", ErrUnavailable, k.err)
	}
	return v.ring(), nil
}

// unsealLater is unsealRecord for a row whose key the ring does not have: a newer ring may, or else the row was sealed anew since it was read.
func (v *Vault) unsealLater(seen *keyring, l layout, row Row, r Record) error {
	ring, err := v.newerRing(seen)
	if err != nil {
		return fmt.Errorf("%s %s: %w", row.Kind, row.ID, err)
	}
	if err = ring.unsealRecord(l, row, r); !errors.Is(err, errUnknownKey) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), ringTime)
	defer cancel()
	now, getErr := v.store.Get(ctx, row.Kind, row.ID)
	switch {
	case getErr != nil:
		return fmt.Errorf("%s %s: %w", row.Kind, row.ID, getErr)
	case bytes.Equal(now.Sealed, row.Sealed):
		return err
	}
	now.Kind, now.ID = row.Kind, row.ID
	return ring.unsealRecord(l, now, r)
}

// applySealed applies changes that are made by the ring, and only by the ring that the vault has then. Where that has changed, and perhaps lost the key that sealed, they are made
// by the new one.
func (v *Vault) applySealed(ctx context.Context, apply func(context.Context, []Change) error, by func(*keyring) ([]Change, error)) error {
	for range ringAttempts {
		ring := v.ring()
		changes, err := by(ring)
		if err != nil || len(changes) == 0 {
			return err
		}
		if sealing(changes) {
			changes = append(changes, Change{OpCheck, Row{Kind: KindKeyring, ID: generationRow, Version: ring.Generation}})
		}
		err = apply(ctx, changes)
		if !errors.Is(err, ErrCheckFailed) {
			return err
		}
		if v.ring() != ring { // somebody else has read it
			continue
		}
		now, err := v.readRing(ctx)
		switch {
		case err != nil && errors.Is(err, ErrUnavailable):
			return err
		case err != nil:
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		case now.Generation == ring.Generation:
			return fmt.Errorf("%w: keyring: %w: the row %s is not what it says", ErrUnavailable, ErrTampered, generationRow)
		}
	}
	return fmt.Errorf("%w: the keyring changes all the time", ErrUnavailable)
}

// sealing reports whether any of the changes writes a sealed value.
func sealing(changes []Change) bool {
	for _, c := range changes {
		if c.Op != OpDelete {
			return true
		}
	}
	return false
}
