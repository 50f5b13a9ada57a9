package tokenstore

import (
	"context"
	"fmt"
	"reflect"
	"slices"
)

// recalls are how the records that every request asks for are opened.
type recalls struct{ grant, account, apiKey OpenRow }

func (v *Vault) newRecalls() recalls {
	return recalls{grant: opener[Grant](v), account: opener[Account](v), apiKey: opener[APIKey](v)}
}

// recalled is a record that is remembered as it was opened.
type recalled[T any] interface {
	*T
	Record

	// compact makes the slices of the record exactly as long as they are, so that to append to one is to copy it.
	compact()
}

// opener makes an OpenRow of a type of records.
func opener[T any, R recalled[T]](v *Vault) OpenRow {
	size := int(reflect.TypeFor[T]().Size())
	return func(row Row) (any, int, error) {
		r := R(new(T))
		if err := v.openRecord(row, r); err != nil {
			return nil, 0, err
		}
		r.compact()
		return r, size + len(row.Sealed), nil // the record's texts and their rounding are about what its names and padding are in JSON
	}
}

// recall is load from memory, see Store.Recall. What is remembered there is shared by all, who each get a copy of the record, but of what it leads to: nobody changes
// the elements of its slices.
func recall[T any, R recalled[T]](ctx context.Context, v *Vault, kind Kind, id string, open OpenRow) (R, error) {
	if !plain(id, maxID) { // ids come from requests, and stores differ in what they stand
		return nil, fmt.Errorf("%s %w", kind, ErrNotFound)
	}
	opened, err := v.store.Recall(ctx, kind, id, open)
	if err != nil {
		return nil, err
	}
	shared, ok := opened.(R)
	if !ok || shared.meta().ID != id { // it opens only as what was asked for
		return nil, fmt.Errorf("%s %s: %w: the storage has answered with another record", kind, id, ErrTampered)
	}
	own := *shared
	return &own, nil
}

// RecallGrant is Grant from memory, see Store.Recall. The elements of its slices are not to be changed; so it is with the following.
func (v *Vault) RecallGrant(ctx context.Context, id string) (*Grant, error) {
	return recall[Grant](ctx, v, KindGrant, id, v.recalls.grant)
}

// RecallAccount is Account from memory, see Store.Recall. What its Revocation points to is not to be changed either.
func (v *Vault) RecallAccount(ctx context.Context, id string) (*Account, error) {
	return recall[Account](ctx, v, KindAccount, id, v.recalls.account)
}

// RecallAPIKey is APIKey from memory, see Store.Recall.
func (v *Vault) RecallAPIKey(ctx context.Context, id string) (*APIKey, error) {
	return recall[APIKey](ctx, v, KindAPIKey, id, v.recalls.apiKey)
}

func (g *Grant) compact() {
	g.Scopes, g.Providers, g.User.Groups, g.Family.Replaced = exact(g.Scopes), exact(g.Providers), exact(g.User.Groups), exact(g.Family.Replaced)
}

func (a *Account) compact() { a.Scopes = exact(a.Scopes) }

func (k *APIKey) compact() { k.Proxies, k.Scopes = exact(k.Proxies), exact(k.Scopes) }

// exact is a slice without room for more.
func exact[E any](s []E) []E { return slices.Clip(slices.Clone(s)) }
