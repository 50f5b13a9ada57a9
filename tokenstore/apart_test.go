package tokenstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Two gateways whose operator gave both one encryption key, as for staging and production.
func TestT57VaultsOfOneEncryptionKeyOpenNothingOfEachOther(t *testing.T) {
	t.Parallel()
	key := tokenstore.NewRootKey()
	oneStore, otherStore := newStore(t), &writable{Store: newStore(t)}
	one, other := openVault(t, oneStore, key), openVault(t, otherStore, key)
	otherStore.edit = func(row tokenstore.Row) tokenstore.Row {
		foreign, err := oneStore.Get(context.Background(), row.Kind, row.ID)
		if err != nil {
			t.Error(err)
		}
		return foreign
	}
	reads := oneOfEach(other)
	for record := range oneOfEach(one) {
		commit(t, one, tokenstore.Save(record))
	}
	for record, read := range reads {
		commit(t, other, tokenstore.Save(record))
		if got, err := read(t.Context()); !errors.Is(err, tokenstore.ErrTampered) {
			t.Errorf("%T of the other vault: %v, %v; want ErrTampered", record, got, err)
		}
	}
	message := one.Seal("consent", []byte("for a browser"), now.Add(time.Hour))
	if got, err := other.OpenSealed("consent", message); !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("message of the other vault: %q, %v; want ErrTampered", got, err)
	}
}
