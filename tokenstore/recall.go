package tokenstore

import (
	"context"
	"fmt"
)

// recalls are how the records that every request asks for are opened.
type recalls struct{ grant, account, apiKey OpenRow }

func (v *Vault) newRecalls() recalls {
	return recalls{grant: opener[Grant](v), account: opener[Account](v), apiKey: opener[APIKey](v)}
}

// recalled is a record that is remembered.
type recalled[T any] interface {
	*T
	flattened
}

// opener makes an OpenRow of a type of records.
func opener[T any, R recalled[T]](v *Vault) OpenRow {
	return func(row Row) (any, int, error) {
		r := R(new(T))
		if err := v.openRecord(row, r); err != nil {
			return nil, 0, err
		}
		text := flatten(r)
		return text, len(text), nil
	}
}

// recall is load from memory, see Store.Recall.
func recall[T any, R recalled[T]](ctx context.Context, v *Vault, kind Kind, id string, open OpenRow) (R, error) {
	if !plain(id, maxID) { // ids come from requests, and stores differ in what they stand
		return nil, fmt.Errorf("%s %w", kind, ErrNotFound)
	}
	opened, err := v.store.Recall(ctx, kind, id, open)
	if err != nil {
		return nil, err
	}
	made := new(struct { // in one piece
		record T
		from   flat
	})
	r := R(&made.record)
	if text, ok := opened.(string); ok {
		made.from.unflatten(text, r)
	}
	if r.meta().ID != id { // it opens only as what was asked for
		return nil, fmt.Errorf("%s %s: %w: the storage has answered with another record", kind, id, ErrTampered)
	}
	return r, nil
}

// RecallGrant is Grant from memory, see Store.Recall. The record is not to be saved: it may be a second old. So it is with the following.
func (v *Vault) RecallGrant(ctx context.Context, id string) (*Grant, error) {
	return recall[Grant](ctx, v, KindGrant, id, v.recalls.grant)
}

// RecallAccount is Account from memory, see Store.Recall.
func (v *Vault) RecallAccount(ctx context.Context, id string) (*Account, error) {
	return recall[Account](ctx, v, KindAccount, id, v.recalls.account)
}

// RecallAPIKey is APIKey from memory, see Store.Recall.
func (v *Vault) RecallAPIKey(ctx context.Context, id string) (*APIKey, error) {
	return recall[APIKey](ctx, v, KindAPIKey, id, v.recalls.apiKey)
}
