package tokenstore

import (
	"context"
	"encoding/hex"
	"fmt"
)

// VaultState is what there is to know of a vault without opening a record.
type VaultState struct {
	// Format is the version of the form in which records are sealed.
	Format int `json:"format"`

	// EncryptionKey is the id of the root key that the vault is encrypted with now: part of a hash of the key, which says nothing about it. Which
	// of several keys is in use can be told from it.
	EncryptionKey string `json:"encryption_key"`

	// Records is how many records there are of each kind.
	Records map[Kind]int `json:"records"`
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
	for _, kind := range Kinds() {
		if s.Records[kind], err = v.store.Count(ctx, kind); err != nil {
			return nil, err
		}
	}
	return s, nil
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
