package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What the function apply returns beside the number of a change that lost its compare-and-swap.
const (
	outcomeMade   = 0
	outcomeOver   = -1 // the Apply was given up
	outcomeFrozen = -2
)

// batch is Changes as the function apply takes them.
type batch struct {
	ops            []int32
	kinds, ids     []string
	versions       []int64
	states, refs   []string
	due, deletions []*int64
	seals          [][]byte
	size           int  // bytes, about
	rings          bool // changes the keyring
}

// Apply implements tokenstore.Store. It is one call of the function apply, or one of several that share a transaction, and so a sync of the server's disk. When the connection
// is lost meanwhile, nobody knows whether the changes were made; so the call is repeated under the same number, and the database says whether they had been.
func (s *Store) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.running.Done()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := tokenstore.CheckChanges(changes); err != nil {
		return err
	}
	if len(changes) == 0 {
		return nil
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	ctx, cancel := context.WithTimeoutCause(ctx, s.wait, fmt.Errorf("%w: the changes could not be made within %s", tokenstore.ErrUnavailable, s.wait))
	defer cancel()
	p := &pending{batch: newBatch(changes), ctx: ctx, done: make(chan struct{})}
	select {
	case p.slot = <-s.slots:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p.sequence = s.count.Add(1)
	s.send(p)
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	select {
	case <-p.done:
		if err := p.result(); !errors.Is(err, tokenstore.ErrReadOnly) {
			return err
		}
		return s.refuse(ctx)
	default:
		return context.Cause(ctx)
	}
}

// result is how an Apply ended.
func (p *pending) result() error {
	switch {
	case p.err != nil:
		return p.err
	case p.outcome == outcomeMade:
		return nil
	case p.outcome == outcomeFrozen:
		return tokenstore.ErrReadOnly
	case p.outcome == outcomeOver:
		return fmt.Errorf("%w: the changes were given up", tokenstore.ErrUnavailable)
	case p.ops[p.outcome-1] == int32(tokenstore.OpCheck):
		return fmt.Errorf("%s %s: %w", p.kinds[p.outcome-1], p.ids[p.outcome-1], tokenstore.ErrCheckFailed)
	default:
		return fmt.Errorf("%s %s: %w", p.kinds[p.outcome-1], p.ids[p.outcome-1], tokenstore.ErrConflict)
	}
}

// newBatch copies changes, since the database may still be asked after Apply has returned. They come in the order in which all lock rows.
func newBatch(changes []tokenstore.Change) *batch {
	changes = slices.Clone(changes)
	slices.SortFunc(changes, func(a, b tokenstore.Change) int {
		return cmp.Or(cmp.Compare(a.Row.Kind, b.Row.Kind), cmp.Compare(a.Row.ID, b.Row.ID))
	})
	b := new(batch)
	for _, c := range changes {
		row := c.Row
		if c.Op == tokenstore.OpDelete || c.Op == tokenstore.OpCheck {
			row = tokenstore.Row{Kind: row.Kind, ID: row.ID, Version: row.Version}
		}
		b.ops = append(b.ops, int32(c.Op))
		b.kinds, b.ids = append(b.kinds, string(row.Kind)), append(b.ids, row.ID)
		b.versions = append(b.versions, int64(row.Version)) //nolint:gosec // no row gets so far
		b.states, b.refs = append(b.states, row.State), append(b.refs, strings.Join(row.Refs, " "))
		b.due, b.deletions = append(b.due, millis(row.Due)), append(b.deletions, millis(row.DeleteAfter))
		b.seals = append(b.seals, append([]byte{}, row.Sealed...))
		b.rings = b.rings || row.Kind == tokenstore.KindKeyring && c.Op != tokenstore.OpCheck
		b.size += len(row.Sealed) + len(b.refs[len(b.refs)-1])
	}
	return b
}

// millis is a time of the database.
func millis(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	ms := t.UnixMilli()
	return &ms
}
