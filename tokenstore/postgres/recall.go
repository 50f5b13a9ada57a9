package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// patience is how long a Recall waits for another one that reads the same row, before it reads it itself.
const patience = 250 * time.Millisecond

// Recall implements tokenstore.Store. What was changed is seen here at once, and within a second on other nodes. While the database is gone, it answers as the row was when the
// database was last reached, for MaxStale from then on.
func (s *Store) Recall(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	if !recalled(kind) {
		return s.Get(ctx, kind, id)
	}
	if err := s.usable(ctx); err != nil {
		return tokenstore.Row{}, err
	}
	k := rowKey{kind, id}
	if s.listener.trusted(time.Now()) {
		if row, ok := s.memory.get(k); ok {
			return row, nil
		}
	}
	return s.recall(ctx, k)
}

// recall reads a row that the memory cannot answer for, and fills it.
func (s *Store) recall(ctx context.Context, k rowKey) (row tokenstore.Row, err error) {
	if row, ok := s.stale(k); ok {
		return row, nil
	}
	f, first := s.memory.begin(k)
	if !first && s.listener.trusted(time.Now()) {
		if row, ok := s.recallWith(ctx, k, f); ok {
			return row, nil
		}
	}
	s.memory.missed(k)
	filled := false
	if first {
		defer func() { s.memory.end(k, f, row, filled) }()
	}
	known := s.memory.has(k) && s.listener.knewWithin(time.Now(), s.maxStale)
	row, err = s.get(ctx, manner{hasty: known}, k.kind, k.id)
	filled = err == nil
	switch {
	case errors.Is(err, tokenstore.ErrUnavailable):
		if old, ok := s.stale(k); ok {
			return old, nil
		}
	case !first && !s.listener.trusted(time.Now()):
		s.memory.forget(k) // whoever was first may have read an older one, and nobody is told of it
	}
	return row, err
}

// recallWith waits for another read of the row to fill the memory.
func (s *Store) recallWith(ctx context.Context, k rowKey, f *fill) (tokenstore.Row, bool) {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-f.done:
	case <-late.C:
	case <-ctx.Done():
	}
	if !s.listener.trusted(time.Now()) {
		return tokenstore.Row{}, false
	}
	return s.memory.get(k)
}

// stale is a row as it was when the database was last reached, which is now gone.
func (s *Store) stale(k rowKey) (tokenstore.Row, bool) {
	if !s.outage.gone() || !s.listener.knewWithin(time.Now(), s.maxStale) {
		return tokenstore.Row{}, false
	}
	return s.memory.get(k)
}
