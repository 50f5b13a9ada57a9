package postgres

import (
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
)

// Watch implements tokenstore.Store.
func (s *Store) Watch(kind tokenstore.Kind, changed func(id string)) (stop func()) {
	return s.watchers.Watch(kind, changed)
}

// Now implements tokenstore.Store.
func (s *Store) Now() time.Time { return s.clock.now() }

// Steady implements tokenstore.Store. It is no longer ago than this Store was opened.
func (s *Store) Steady() time.Time { return s.outage.steadySince() }

// forget is called for each row that an Apply or a Sweep was about, when that has ended, however it did: the row is read anew. Others hear of it from the database, and
// so do those who watch here.
func (s *Store) forget(row tokenstore.Row) {
	if memory.Keeps(row.Kind) {
		s.memory.Forget(memory.Key{Kind: row.Kind, ID: row.ID})
	}
	if !s.listener.trusted(time.Now()) {
		s.watchers.Tell(row.Kind, row.ID)
	}
}

// forgetKind is forget for a Sweep that does not know of what rows.
func (s *Store) forgetKind(kind tokenstore.Kind) {
	if memory.Keeps(kind) {
		s.memory.ForgetKind(kind)
	}
	if !s.listener.trusted(time.Now()) {
		s.watchers.Tell(kind, "")
	}
}
