package postgres

import (
	"context"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Recall implements tokenstore.Store.
func (s *Store) Recall(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	return s.Get(ctx, kind, id)
}

// Now implements tokenstore.Store.
func (*Store) Now() time.Time { return time.Now() }

// Steady implements tokenstore.Store.
func (*Store) Steady() time.Time { return time.Time{} }

// Watch implements tokenstore.Store.
func (*Store) Watch(tokenstore.Kind, func(id string)) (stop func()) { return func() {} }

// forget drops a row from memory.
func (*Store) forget(tokenstore.Row) {}
