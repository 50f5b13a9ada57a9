package tokenstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// unsynced is a store on a disk that refuses to sync for so many Applies: what they write shows.
type unsynced struct {
	tokenstore.Store
	left atomic.Int64
}

func (u *unsynced) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	err := u.Store.Apply(ctx, changes...)
	if u.left.Add(-1) >= 0 && err == nil {
		return fmt.Errorf("%w: fdatasync: input/output error", tokenstore.ErrUnavailable)
	}
	return err
}

// TestWhatShowsIsNotAcknowledgedBeforeItIsDurable: a power cut would take it back, such as that a grant was ended.
func TestWhatShowsIsNotAcknowledgedBeforeItIsDurable(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*tokenstore.Grant) tokenstore.Write{
		"update": func(g *tokenstore.Grant) tokenstore.Write {
			g.State = tokenstore.StateRevoked
			return tokenstore.Save(g)
		},
		"delete": func(g *tokenstore.Grant) tokenstore.Write { return tokenstore.Delete(g) },
	} {
		for failures, want := range map[int64]error{1: nil, 100: tokenstore.ErrUnavailable} {
			u := &unsynced{Store: newStore(t)}
			v := openVault(t, u, tokenstore.NewRootKey())
			g := newGrant("grant-1")
			commit(t, v, tokenstore.Save(g))
			u.left.Store(failures)
			if err := v.Commit(t.Context(), change(g)); !errors.Is(err, want) {
				t.Errorf("%s, %d syncs refused: Commit = %v; want %v", name, failures, err, want)
			}
		}
	}
}
