package tokenstore

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// VaultState is what there is to know of a vault without opening a record.
type VaultState struct {
	// Format is the version of the form in which records are sealed.
	Format int `json:"format"`

	// EncryptionKey is the id of the root key that the vault is encrypted with now: part of a hash of the key, which says nothing about it. Which
	// of several keys is in use can be told from it.
	EncryptionKey string `json:"encryption_key"`

	// Configured are the ids of the root keys that this process was given, in their order. Those that are not EncryptionKey open nothing here.
	Configured []string `json:"-"`

	// VaultKeys are the vault's own keys, which the root key encrypts.
	VaultKeys []VaultKey `json:"vault_keys"`

	// Records is how many records there are of each kind.
	Records map[Kind]int `json:"records"`
}

// VaultKey is one of a vault's own keys, of which there is one for each use, and while it is sealed anew a new and an old one of some. Nothing of it says what the key is.
type VaultKey struct {
	ID      string    `json:"id"`
	Use     string    `json:"use"`
	Created time.Time `json:"created"`

	// Seals says that records are sealed by it, as all are but for what is still sealed by an old one.
	Seals bool `json:"seals"`
}

// vaultKeys describes a ring.
func (k *keyring) vaultKeys() []VaultKey {
	keys := make([]VaultKey, 0, len(k.Keys))
	for _, key := range k.Keys {
		seals, sealing := k.sealing[key.Use]
		keys = append(keys, VaultKey{ID: hex.EncodeToString(key.ID), Use: key.Use, Created: key.Created, Seals: !sealing || seals.id == keyID(key.ID)})
	}
	slices.SortStableFunc(keys, func(a, b VaultKey) int { return cmp.Or(cmp.Compare(a.Use, b.Use), a.Created.Compare(b.Created)) })
	return keys
}

// State counts the records, and reads which root key the vault is encrypted with.
func (v *Vault) State(ctx context.Context) (*VaultState, error) {
	row, err := v.store.Get(ctx, KindKeyring, keyringRow)
	if err != nil {
		return nil, err
	}
	id, err := sealedBy(row.Sealed)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", KindKeyring, keyringRow, err)
	}
	s := &VaultState{Format: sealVersion, EncryptionKey: hex.EncodeToString(id[:]), Records: make(map[Kind]int)}
	ring, err := v.readRing(ctx)
	if err != nil { // this process does not have the key
		ring = v.ring()
	}
	s.VaultKeys = ring.vaultKeys()
	for _, root := range v.keys.root {
		id := root.id()
		s.Configured = append(s.Configured, hex.EncodeToString(id[:]))
	}
	for _, kind := range Kinds() {
		if s.Records[kind], err = v.store.Count(ctx, kind); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Counted reports whether a Store may keep how many rows of a kind carry a reference: those by which people are told how many there are of each sort, of which there are few, and by which
// nothing is decided.
func Counted(kind Kind, ref string) bool {
	switch kind {
	case KindGrant:
		return strings.HasPrefix(ref, refHealth)
	case KindAccount:
		return strings.HasPrefix(ref, "provider:")
	default:
		return false
	}
}

// CountAccounts returns how many accounts there are at a provider. Those that are over are among them until they are swept.
func (v *Vault) CountAccounts(ctx context.Context, provider string) (int, error) {
	return v.store.Count(ctx, KindAccount, "provider:"+provider)
}

// CountLivingGrants returns how many grants for a proxy nobody has ended. Those that have expired are among them until the clean-up ends them.
func (v *Vault) CountLivingGrants(ctx context.Context, proxy string) (int, error) {
	return v.store.Count(ctx, KindGrant, refLiving+proxy)
}

// Count returns how many records of a kind there are.
func (v *Vault) Count(ctx context.Context, kind Kind) (int, error) {
	return v.store.Count(ctx, kind)
}
