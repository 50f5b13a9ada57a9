package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

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
}

// Apply implements tokenstore.Store. It is one call of the function apply. When the connection is lost during that, nobody knows whether the changes were made; so the call is
// repeated under the same number, and the database says whether they had been.
func (s *Store) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if err := tokenstore.CheckChanges(changes); err != nil {
		return err
	}
	if len(changes) == 0 {
		return nil
	}
	b := newBatch(changes)
	slot, err := s.slot(ctx)
	if err != nil {
		return err
	}
	defer func() { s.slots <- slot }()
	sequence := s.count.Add(1)
	defer func() {
		for _, c := range changes {
			s.forget(c.Row)
		}
	}()
	outcome, err := do(ctx, s, func(ctx context.Context, c *pgxpool.Conn) (outcome int, err error) {
		err = c.QueryRow(ctx, s.applySQL, s.node, slot, sequence, b.ops, b.kinds, b.ids, b.versions, b.states, b.refs, b.due, b.deletions, b.seals).Scan(&outcome)
		return outcome, err
	})
	switch {
	case err != nil:
		return err
	case outcome == outcomeMade:
		return nil
	case outcome == outcomeFrozen:
		return s.refuse(ctx)
	case outcome == outcomeOver:
		return fmt.Errorf("%w: the changes were given up", tokenstore.ErrUnavailable)
	default:
		return fmt.Errorf("%s %s: %w", b.kinds[outcome-1], b.ids[outcome-1], tokenstore.ErrConflict)
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
		if c.Op == tokenstore.OpDelete {
			row = tokenstore.Row{Kind: row.Kind, ID: row.ID, Version: row.Version}
		}
		b.ops = append(b.ops, int32(c.Op))
		b.kinds, b.ids = append(b.kinds, string(row.Kind)), append(b.ids, row.ID)
		b.versions = append(b.versions, int64(row.Version)) //nolint:gosec // no row gets so far
		b.states, b.refs = append(b.states, row.State), append(b.refs, strings.Join(row.Refs, " "))
		b.due, b.deletions = append(b.due, millis(row.Due)), append(b.deletions, millis(row.DeleteAfter))
		b.seals = append(b.seals, append([]byte{}, row.Sealed...))
	}
	return b
}

// slot waits for a number under which this node applies nothing at the moment.
func (s *Store) slot(ctx context.Context) (int32, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, s.wait, fmt.Errorf("%w: %d Applies are waiting for the database", tokenstore.ErrUnavailable, cap(s.slots)))
	defer cancel()
	select {
	case slot := <-s.slots:
		return slot, nil
	case <-bounded.Done():
		return 0, context.Cause(bounded)
	}
}

// millis is a time of the database.
func millis(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	ms := t.UnixMilli()
	return &ms
}
