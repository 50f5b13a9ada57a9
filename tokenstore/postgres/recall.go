package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
)

// fillWait is how long a Recall waits for another one that reads the same row, before it reads it itself.
const fillWait = 250 * time.Millisecond

// Recall implements tokenstore.Store. What was changed is seen here at once, and within a second on other nodes. While the database is gone, it answers as the row was when the
// database was last reached, for MaxStale from then on.
func (s *Store) Recall(ctx context.Context, kind tokenstore.Kind, id string, open tokenstore.OpenRow) (any, error) {
	if !memory.Keeps(kind) {
		return tokenstore.GetOpened(ctx, s, kind, id, open)
	}
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	k := memory.Key{Kind: kind, ID: id}
	if !s.listener.listens { // so that what is remembered could never be believed
		s.memory.Missed(k)
		return tokenstore.GetOpened(ctx, s, kind, id, open)
	}
	if s.listener.trusted(time.Now()) {
		if opened, ok := s.memory.Get(k); ok {
			return opened, nil
		}
	}
	return s.recall(ctx, k, open)
}

// recall reads a row that the memory cannot answer for, and fills it.
func (s *Store) recall(ctx context.Context, k memory.Key, open tokenstore.OpenRow) (opened any, err error) {
	if opened, ok := s.stale(k); ok {
		return opened, nil
	}
	f, first := s.memory.Begin(k)
	if !first && s.listener.trusted(time.Now()) {
		if opened, ok := s.recallWith(ctx, k, f); ok {
			return opened, nil
		}
	}
	if first && s.listener.trusted(time.Now()) {
		if opened, ok := s.memory.Get(k); ok { // another read has filled it since it was not there
			s.memory.End(k, f, nil, 0, false)
			return opened, nil
		}
	}
	s.memory.Missed(k)
	bytes, filled := 0, false
	if first {
		defer func() { s.memory.End(k, f, opened, bytes, filled) }()
	}
	known := s.memory.Has(k) && s.listener.knewWithin(time.Now(), s.maxStale)
	row, err := s.get(ctx, manner{hasty: known}, k.Kind, k.ID)
	read := err == nil || errors.Is(err, tokenstore.ErrNotFound)
	if err == nil {
		opened, bytes, err = open(row)
		filled = err == nil
	}
	switch {
	case read && (err != nil || !first && !s.listener.trusted(time.Now())):
		s.memory.Forget(k) // what is there, or what whoever was first has read, may be older, and nobody is told of it
	case errors.Is(err, tokenstore.ErrUnavailable):
		if old, ok := s.stale(k); ok {
			return old, nil
		}
	}
	return opened, err
}

// recallWith waits for another read of the row to fill the memory.
func (s *Store) recallWith(ctx context.Context, k memory.Key, f *memory.Fill) (any, bool) {
	late := time.NewTimer(s.fillWait)
	defer late.Stop()
	select {
	case <-f.Done():
	case <-late.C:
	case <-ctx.Done():
	}
	if !s.listener.trusted(time.Now()) {
		return nil, false
	}
	return s.memory.Get(k)
}

// stale is a row as it was when the database was last reached, which is now gone.
func (s *Store) stale(k memory.Key) (any, bool) {
	if !s.outage.gone() || !s.listener.knewWithin(time.Now(), s.maxStale) {
		return nil, false
	}
	return s.memory.Get(k)
}
