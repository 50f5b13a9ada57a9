package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// maxGroup bounds how many Applies share one commit.
const maxGroup = 256

// pending is an Apply that waits for the committer.
type pending struct {
	changes []tokenstore.Change
	values  [][]byte          // of the rows that they insert or update, as those are stored
	before  []*tokenstore.Row // what the changes replace, without what is sealed, once they were judged
	err     error             // to be read after done
	done    chan struct{}

	// alone is done instead of changes. What it refuses, it refuses with ErrConflict, before it writes.
	alone func(*bolt.Tx) error
}

// Apply implements tokenstore.Store. Applies that wait at the same time share one commit, and so one sync of the
// disk. Each is judged by itself, before any of its changes is written. A disk that does not answer for ten
// seconds is ErrUnavailable; the changes may still be made then.
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
	if err := s.refuses(changes); err != nil {
		return err
	}
	return s.settle(ctx, own(changes))
}

// exclusive has the committer make something else than changes.
func (s *Store) exclusive(ctx context.Context, p *pending) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	return s.settle(ctx, p)
}

// settle queues what is to be committed, and waits until it is.
func (s *Store) settle(ctx context.Context, p *pending) error {
	late := time.NewTimer(s.wait)
	defer late.Stop()
	p.done = make(chan struct{})
	select {
	case s.queue <- p:
	case <-late.C:
		return s.tooLate()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.closed:
		return tokenstore.ErrClosed
	}
	select {
	case <-p.done:
		return p.err
	case <-late.C:
		return s.tooLate()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.done: // the committer ended, perhaps before it saw p
	}
	select {
	case <-p.done:
		return p.err
	default:
		return tokenstore.ErrClosed
	}
}

func (s *Store) tooLate() error {
	return fmt.Errorf("%w: the disk has not answered for %s", tokenstore.ErrUnavailable, s.wait)
}

// own copies changes, since the committer may read them after Apply has returned. It encodes what they write: that is work which the committer need not do for all.
func own(changes []tokenstore.Change) *pending {
	p := &pending{changes: slices.Clone(changes), values: make([][]byte, len(changes))}
	for i := range p.changes {
		c := &p.changes[i]
		c.Row.Refs = slices.Clone(c.Row.Refs)
		switch c.Op {
		case tokenstore.OpInsert:
			c.Row.Version = 1
			p.values[i], c.Row.Sealed = encodeRow(c.Row), nil
		case tokenstore.OpUpdate:
			p.values[i], c.Row.Sealed = encodeRow(c.Row), nil
		default:
			c.Row.Sealed = bytes.Clone(c.Row.Sealed)
		}
	}
	return p
}

// commitLoop is the one writer. It ends when the store is closed, after answering what was queued, and closes the file.
func (s *Store) commitLoop() {
	defer close(s.done)
	defer func() {
		s.compacting <- struct{}{} // whoever copies the file has ended
		s.err = s.release()
	}()
	for {
		select {
		case p := <-s.queue:
			s.commit(s.gather(p))
		case turn := <-s.turns:
			turn()
		case <-s.closed:
			for {
				select {
				case p := <-s.queue:
					s.commit(s.gather(p))
				default:
					return
				}
			}
		}
	}
}

// gather takes what waits already; it does not wait for more.
func (s *Store) gather(first *pending) []*pending {
	group := []*pending{first}
	for len(group) < maxGroup {
		select {
		case p := <-s.queue:
			group = append(group, p)
		default:
			return group
		}
	}
	return group
}

// commit makes the changes of a group in one transaction. When the storage refuses the whole,
// each gets a transaction of its own: one that meets a damaged page, or needs the space
// that a full disk does not have, fails alone. One that shows although its sync failed is not made again, which each would lose against itself: it is
// synced by the next transaction, an empty one. bbolt writes what it refers to, and syncs that, before it shows.
func (s *Store) commit(group []*pending) {
	err := s.update(func(tx *bolt.Tx) error {
		for _, p := range group {
			if err := p.commit(tx); err != nil {
				return err
			}
		}
		return nil
	})
	made := err == nil || s.shown()
	if err != nil && made && s.update(func(*bolt.Tx) error { return nil }) == nil {
		err = nil
	}
	for _, p := range group {
		if err != nil || p.err == nil { // changes that the storage refused may show all the same: the file is written before it is synced
			s.note(p)
			s.forget(p)
			s.announce(p.changes)
		}
	}
	if !made && len(group) > 1 {
		for _, p := range group {
			s.commit([]*pending{p})
		}
		return
	}
	for _, p := range group {
		if err != nil {
			p.err = err
		}
		if p.alone != nil {
			s.noteFreeze()
		}
		close(p.done)
	}
}

// commit judges what is pending, and writes it. An error means that the transaction is lost.
func (p *pending) commit(tx *bolt.Tx) error {
	p.err = nil
	if p.alone != nil {
		err := p.alone(tx)
		if errors.Is(err, tokenstore.ErrConflict) {
			p.err, err = err, nil
		}
		return err
	}
	if p.before, p.err = judge(tx, p.changes); p.err == nil {
		p.err = mayWrite(tx, p.changes, p.before)
	}
	if p.err == nil {
		return p.write(tx)
	}
	return nil
}

// judge reads the rows that changes are about, nil for one that is to be inserted, without what is sealed, and returns ErrConflict when any is not
// as its change expects.
func judge(tx *bolt.Tx, changes []tokenstore.Change) ([]*tokenstore.Row, error) {
	before := make([]*tokenstore.Row, len(changes))
	var failed error // a check, which counts if nothing else conflicts
	for i, c := range changes {
		rows, err := bucket(tx, c.Row.Kind, "")
		if err != nil {
			return nil, err
		}
		value := rows.Get([]byte(c.Row.ID))
		if c.Op == tokenstore.OpCheck {
			if err := checkRow(c.Row, value); err != nil {
				failed = err
			}
			continue
		}
		if c.Op == tokenstore.OpInsert {
			if value != nil {
				return nil, conflict(c.Row)
			}
			continue
		}
		if value == nil {
			return nil, conflict(c.Row)
		}
		row, _, err := decodeClear(c.Row.Kind, c.Row.ID, value)
		if err != nil {
			return nil, err
		}
		want := c.Row.Version
		if c.Op == tokenstore.OpUpdate {
			want--
		}
		if row.Version != want {
			return nil, conflict(c.Row)
		}
		before[i] = &row
	}
	return before, failed
}

func conflict(row tokenstore.Row) error {
	return fmt.Errorf("%s %s: %w", row.Kind, row.ID, tokenstore.ErrConflict)
}

// checkRow returns ErrCheckFailed unless a row, as it is stored, has the version of another.
func checkRow(row tokenstore.Row, value []byte) error {
	version := uint64(0)
	if value != nil {
		if len(value) < 8 {
			return fmt.Errorf("%w: %s %s cannot be read: the vault file is damaged", tokenstore.ErrUnavailable, row.Kind, row.ID)
		}
		version = binary.BigEndian.Uint64(value)
	}
	if version != row.Version {
		return fmt.Errorf("%s %s: %w", row.Kind, row.ID, tokenstore.ErrCheckFailed)
	}
	return nil
}

// write makes the changes, which were judged. An error means that the transaction is lost.
func (p *pending) write(tx *bolt.Tx) error {
	for i, c := range p.changes {
		var err error
		switch c.Op {
		case tokenstore.OpInsert:
			err = putValue(tx, c.Row, p.values[i], nil)
		case tokenstore.OpUpdate:
			err = putValue(tx, c.Row, p.values[i], p.before[i])
		case tokenstore.OpCheck: // was judged
		case tokenstore.OpReseal:
			row := *p.before[i]
			row.Sealed = c.Row.Sealed
			err = put(tx, row, p.before[i])
		case tokenstore.OpDelete:
			err = remove(tx, *p.before[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}
