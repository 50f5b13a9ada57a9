package tokenstore

import (
	"context"
	"errors"
	"time"
)

// APIKeyPrefix begins every API key, and no other credential.
const APIKeyPrefix = "gwk_"

// APIKey is a key that the operator gave a program, which uses it for no user. Its ID stands in the key, and may be known. The key itself
// is not stored.
type APIKey struct {
	Meta

	// Name says to people what the key is for.
	Name string `json:"name"`

	// Proxies are the ids of the proxies that the key is good for.
	Proxies []string `json:"proxies"`

	// Scopes are those of the key at its proxies, as far as these have them.
	Scopes []string `json:"scopes"`

	// Hash is the keyed hash of the whole key.
	Hash string `json:"hash"`

	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`

	// Used is when the key was last used, to within a day; zero while it never was.
	Used time.Time `json:"used,omitzero"`

	// Revoked is when the key was revoked; zero while it is not. The row's state says the same in clear.
	Revoked time.Time `json:"revoked,omitzero"`
}

func (k *APIKey) layout() layout {
	l := layout{kind: KindAPIKey, use: useGrant, state: StateActive}
	if !k.Revoked.IsZero() {
		l.state = StateRevoked
	}
	return l
}

// APIKey returns the API key of this id. Errors: ErrNotFound, ErrTampered, and those of the store.
func (v *Vault) APIKey(ctx context.Context, id string) (*APIKey, error) {
	return load(ctx, v, new(APIKey), id)
}

// APIKeys lists all API keys, ordered by id; those that were revoked or have expired are among them until they are swept. One that does not
// open does not hide the others: they are returned together with an ErrTampered that names it. Any other error comes with no keys.
func (v *Vault) APIKeys(ctx context.Context) ([]*APIKey, error) {
	const page = 1000
	var keys []*APIKey
	var faults error
	for after := ""; ; {
		rows, err := v.store.List(ctx, KindAPIKey, Query{After: after, Limit: page})
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			after = row.ID
			key := new(APIKey)
			row.Kind = KindAPIKey
			if err := v.openRecord(row, key); err != nil {
				faults = errors.Join(faults, err)
				continue
			}
			keys = append(keys, key)
		}
		if len(rows) < page {
			return keys, faults
		}
	}
}
