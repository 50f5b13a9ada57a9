package bbolt

import (
	"context"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
)

// Recall implements tokenstore.Store. The committer makes all changes, and forgets what they are about before whoever asked for them is told.
func (s *Store) Recall(ctx context.Context, kind tokenstore.Kind, id string, open tokenstore.OpenRow) (opened any, err error) {
	if !memory.Keeps(kind) {
		return tokenstore.GetOpened(ctx, s, kind, id, open)
	}
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	if s.broken.Load() {
		return nil, errBroken
	}
	k := memory.Key{Kind: kind, ID: id}
	if opened, ok := s.memory.Get(k); ok {
		return opened, nil
	}
	s.memory.Missed(k)
	bytes, filled := 0, false
	if f, first := s.memory.Begin(k); first { // others do not wait for it: the file is read as fast
		defer func() { s.memory.End(k, f, opened, bytes, filled) }()
	}
	row, err := s.Get(ctx, kind, id)
	if err != nil {
		return nil, err
	}
	opened, bytes, err = open(row)
	filled = err == nil
	return opened, err
}

// Recalls says what is in memory, and what for.
func (s *Store) Recalls() tokenstore.Recalls { return s.memory.Stat() }

// forget drops from memory what a transaction that has ended has changed, or may have. What was read before it ended does not get there any more.
func (s *Store) forget(p *pending) {
	if p.alone != nil { // which does not say what it has changed
		s.memory.ForgetAll()
	}
	for _, c := range p.changes {
		if c.Op != tokenstore.OpCheck && memory.Keeps(c.Row.Kind) {
			s.memory.Forget(memory.Key{Kind: c.Row.Kind, ID: c.Row.ID})
		}
	}
}
