package tokenstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Errors of Open.
var (
	// ErrNoKey says that no root key was given.
	ErrNoKey = errors.New("no encryption key")

	// ErrWrongKey says that the vault was encrypted with a key that is not among those given. Nothing was written.
	ErrWrongKey = errors.New("wrong encryption key: the vault was encrypted with another; put that key back, beside the new one if the key is being changed")
)

// The uses of keys in the ring. Each has a random key of its own.
const (
	useGrant  = "grant"  // clients, grants, accounts, API keys
	useTxn    = "txn"    // logins, codes, messages
	useJWTKey = "jwtkey" // signing keys
	useIndex  = "index"  // keyed hashes
	useDerive = "derive" // derived values
)

var keyUses = [...]string{useGrant, useTxn, useJWTKey, useIndex, useDerive}

// sealingUses are those of keys that seal.
var sealingUses = []string{useGrant, useTxn, useJWTKey}

// uses says whose key seals rows of a kind. The keyring is sealed by the root key.
var uses = map[Kind]string{
	KindSigningKeys: useJWTKey,
	KindLogin:       useTxn, KindCode: useTxn, KindAssertion: useTxn, KindSignIn: useTxn, KindJob: useTxn,
	KindClient: useGrant, KindGrant: useGrant, KindAccount: useGrant, KindConsent: useGrant, KindRegistration: useGrant, KindAPIKey: useGrant,
	KindRevocationOrder: useGrant, KindEvent: useGrant, KindAuditSegment: useGrant, KindAuditHead: useGrant,
}

const (
	// keyringRow is where the ring is: one row, sealed by the root key.
	keyringRow = "ring"

	// generationRow has nothing but its version, with which what is sealed by the ring is written together.
	generationRow = "generation"
)

// storedRing is the ring's record.
type storedRing struct {
	// Instance tells this vault from all others; it is part of what every value is bound to.
	Instance string      `json:"instance"`
	Keys     []storedKey `json:"keys"`

	// Generation grows whenever keys come or go, or another one of a use seals. It is the version of the row generationRow, of which there is none while it is zero.
	Generation uint64 `json:"generation,omitempty"`

	// Rekey is there while the vault is sealed anew, and Rekeyed is when that last came to its end.
	Rekey   *storedRekey `json:"rekey,omitempty"`
	Rekeyed time.Time    `json:"rekeyed,omitzero"`
}

// storedRekey is how far a rekey is.
type storedRekey struct {
	Began time.Time `json:"began"`

	// Sealing is when the new keys began to seal; zero while they only open.
	Sealing time.Time `json:"sealing,omitzero"`
}

type storedKey struct {
	ID      []byte    `json:"id"`
	Use     string    `json:"use"`
	Secret  []byte    `json:"secret"`
	Created time.Time `json:"created"`
}

// keyring is the opened ring. It does not change: a vault that is told of a new one opens that.
type keyring struct {
	storedRing
	instance string
	sealing  map[string]sealKey // by use: the key that seals
	opening  map[string]map[keyID]sealKey
	index    *hashKey
	derive   *hashKey
}

// Initialized reports whether the store holds a vault already.
func Initialized(ctx context.Context, s Store) (bool, error) {
	_, err := s.Get(ctx, KindKeyring, keyringRow)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// CheckKeys returns ErrWrongKey where none of the keys opens the vault in the store. It writes nothing.
func CheckKeys(ctx context.Context, s Store, keys []RootKey) error {
	row, err := s.Get(ctx, KindKeyring, keyringRow)
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	_, _, err = unsealRing(row, keys)
	return err
}

// openKeyring reads the ring, or makes it where the store is empty.
func openKeyring(ctx context.Context, s Store, keys []RootKey, now time.Time) (*keyring, error) {
	row, err := s.Get(ctx, KindKeyring, keyringRow)
	if errors.Is(err, ErrNotFound) {
		row, err = createKeyring(ctx, s, keys[0], now)
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	stored, by, err := unsealRing(row, keys)
	if err != nil {
		return nil, err
	}
	ring, err := newKeyring(stored)
	if err != nil {
		return nil, err
	}
	if by == keys[0] {
		return ring, nil
	}
	switch err := resealRing(ctx, s, row, stored, keys[0]); {
	case errors.Is(err, ErrConflict): // another node does the same, or seals the vault anew
		return openKeyring(ctx, s, keys, now)
	case errors.Is(err, ErrReadOnly): // it is moved when it is opened next
	case err != nil:
		return nil, fmt.Errorf("change of encryption key: %w", err)
	}
	return ring, nil
}

func createKeyring(ctx context.Context, s Store, root RootKey, now time.Time) (Row, error) {
	if err := checkEmpty(ctx, s); err != nil {
		return Row{}, err
	}
	ring := storedRing{Instance: hex.EncodeToString(random(16))}
	for _, use := range keyUses {
		ring.Keys = append(ring.Keys, storedKey{ID: random(len(keyID{})), Use: use, Secret: random(32), Created: now.UTC()})
	}
	row, err := sealRing(ring, root, 1)
	if err != nil {
		return Row{}, err
	}
	err = s.Apply(ctx, Change{OpInsert, row})
	if errors.Is(err, ErrConflict) { // another node was first
		return s.Get(ctx, KindKeyring, keyringRow)
	}
	return row, err
}

// checkEmpty refuses a store that lost its ring: a new one would turn everything in it to garbage.
func checkEmpty(ctx context.Context, s Store) error {
	for _, kind := range Kinds() {
		if kind == KindKeyring {
			continue
		}
		rows, err := s.List(ctx, kind, Query{Limit: 1})
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			continue
		}
		// Another node may have begun the vault in the meantime.
		_, err = s.Get(ctx, KindKeyring, keyringRow)
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: it is missing from a vault that has records; restore the vault from a backup", ErrTampered)
		}
		return err
	}
	return nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return b
}

// resealRing moves the ring to a new root key.
func resealRing(ctx context.Context, s Store, row Row, ring storedRing, root RootKey) error {
	next, err := sealRing(ring, root, row.Version+1)
	if err != nil {
		return err
	}
	return s.Apply(ctx, Change{OpUpdate, next})
}

func ringContext(version uint64) sealContext {
	return sealContext{purpose: "keyring", kind: KindKeyring, id: keyringRow, version: version}
}

func sealRing(ring storedRing, root RootKey, version uint64) (Row, error) {
	plain, err := json.Marshal(ring)
	if err != nil {
		return Row{}, err
	}
	key, err := newSealKey(root.id(), root[:])
	if err != nil {
		return Row{}, err
	}
	return Row{Kind: KindKeyring, ID: keyringRow, Version: version, Sealed: key.seal(ringContext(version), plain)}, nil
}

// unsealRing opens the ring, and returns the root key that did.
func unsealRing(row Row, keys []RootKey) (storedRing, RootKey, error) {
	by, err := sealedBy(row.Sealed)
	if err != nil {
		return storedRing{}, RootKey{}, fmt.Errorf("keyring: %w", err)
	}
	for _, root := range keys {
		if root.id() != by {
			continue
		}
		key, err := newSealKey(by, root[:])
		if err != nil {
			return storedRing{}, RootKey{}, err
		}
		plain, err := key.open(ringContext(row.Version), row.Sealed)
		if err != nil {
			return storedRing{}, RootKey{}, fmt.Errorf("keyring: %w", err)
		}
		var ring storedRing
		if err := decode(plain, &ring); err != nil {
			return storedRing{}, RootKey{}, fmt.Errorf("keyring: %w: %w", ErrTampered, err)
		}
		return ring, root, nil
	}
	return storedRing{}, RootKey{}, ErrWrongKey
}

func newKeyring(stored storedRing) (*keyring, error) {
	k := &keyring{storedRing: stored, instance: stored.Instance, sealing: make(map[string]sealKey), opening: make(map[string]map[keyID]sealKey)}
	for _, sk := range stored.Keys {
		if len(sk.ID) != len(keyID{}) || len(sk.Secret) != 32 {
			return nil, fmt.Errorf("keyring: %w", ErrTampered)
		}
		switch sk.Use {
		case useIndex:
			k.index = newHashKey(bytes.Clone(sk.Secret))
			continue
		case useDerive:
			k.derive = newHashKey(bytes.Clone(sk.Secret))
			continue
		}
		key, err := newSealKey(keyID(sk.ID), sk.Secret)
		if err != nil {
			return nil, err
		}
		if _, have := k.sealing[sk.Use]; !have { // the first of a use seals, all open
			k.sealing[sk.Use] = key
			k.opening[sk.Use] = make(map[keyID]sealKey)
		}
		k.opening[sk.Use][key.id] = key
	}
	if k.index == nil || k.derive == nil || len(k.sealing) != len(keyUses)-2 {
		return nil, fmt.Errorf("keyring: %w: a key is missing", ErrTampered)
	}
	return k, nil
}

// errUnknownKey is of a value that may have been sealed by a key that came into the ring since it was read.
var errUnknownKey = fmt.Errorf("%w: its key is not in the keyring", ErrTampered)

// open opens a value with the key that its header names. Keys are never tried in turn.
func (k *keyring) open(use string, c sealContext, sealed []byte) ([]byte, error) {
	by, err := sealedBy(sealed)
	if err != nil {
		return nil, err
	}
	key, ok := k.opening[use][by]
	if !ok {
		return nil, errUnknownKey
	}
	return key.open(c, sealed)
}
