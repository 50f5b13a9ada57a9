package tokenstore

import (
	"context"
	"fmt"
	"reflect"
	"time"
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
}

// opener makes an OpenRow of a type of records.
func opener[T any, R recalled[T]](v *Vault) OpenRow {
	return func(row Row) (any, int, error) {
		r := R(new(T))
		if err := v.openRecord(row, r); err != nil {
			return nil, 0, err
		}
		record := reflect.ValueOf(r).Elem()
		return r, int(record.Type().Size()) + settle(record), nil
	}
}

// settle takes from the slices in a value the room that they have for more, so that whoever appends to one of a shared record copies it. It returns how many bytes there
// are outside the value.
func settle(v reflect.Value) (bytes int) {
	switch v.Kind() {
	case reflect.String:
		bytes = v.Len()
	case reflect.Slice:
		bytes = v.Cap() * int(v.Type().Elem().Size())
		v.SetCap(v.Len())
		for i := range v.Len() {
			bytes += settle(v.Index(i))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			bytes = int(v.Type().Elem().Size()) + settle(v.Elem())
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return 0
		}
		for _, field := range v.Fields() {
			bytes += settle(field)
		}
	default: // is all in the value
	}
	return bytes
}

// recall is load from memory, see Store.Recall. What is remembered there is shared by all, and nobody changes it.
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
	return shared, nil
}

// RecallGrant is Grant from memory, see Store.Recall. The record is not to be changed, nor saved: others have the same one. So it is with the following.
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
