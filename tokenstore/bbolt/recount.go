package bbolt

import (
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// countAnew counts all rows of a file in which numbers are not kept, as an older release leaves it. From a first transaction on the numbers are what was added to those of that moment,
// which are then read from the file at leisure, and added in a last one. A crash in between leaves them without, and the next start begins anew.
//
// Nothing waits for it, and nobody needs it: what goes wrong leaves rows to be counted by going through them. A frozen file is not written.
func (s *Store) countAnew() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	var c *pageCheck
	var moment *bolt.Tx
	err := s.inTurn(ctx, func() (err error) {
		if err := s.unfrozen(); err != nil {
			return err
		}
		if err := s.update(beginCounting); err != nil {
			return err
		}
		return s.guard(func() (err error) {
			if moment, err = s.begin(false); err != nil {
				return err
			}
			c = newPageCheck(ctx, moment, s.file)
			return nil
		})
	})
	if err != nil {
		if moment != nil {
			s.end(moment)
		}
		return err
	}
	var fault error
	c.fault = func(f tokenstore.StoreFault) { fault = fmt.Errorf("%w: %s", tokenstore.ErrDamaged, f.Problem) }
	err = s.guard(func() error {
		defer s.end(moment) // before the committer is waited for: it may wait for readers, where the file is to be mapped anew
		c.tree(c.root, nil, nil)
		return errors.Join(c.err, fault)
	})
	if err != nil {
		return err
	}
	return s.inTurn(ctx, func() error {
		if err := s.unfrozen(); err != nil {
			return err
		}
		return s.update(c.tally.endCounting)
	})
}

// counts reports whether numbers of rows are kept in the file.
func (s *Store) counts() (yes bool) {
	err := s.view(func(tx *bolt.Tx) error {
		yes = countingIn(tx) == counted
		return nil
	})
	return yes && err == nil
}

func (s *Store) unfrozen() error {
	if f := s.frozen.Load(); f != nil && f.Frozen() {
		return f.Refuse()
	}
	return nil
}

// beginCounting has numbers kept from a transaction on, and makes them nothing.
func beginCounting(tx *bolt.Tx) error {
	names, err := keptNames(tx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if b := tx.Bucket([]byte(name)); b != nil && b.Sequence() != 0 {
			if err := b.SetSequence(0); err != nil {
				return err
			}
		}
	}
	return setCounting(tx, recounting)
}

// endCounting adds what there was when counting began.
func (t tally) endCounting(tx *bolt.Tx) error {
	if countingIn(tx) != recounting { // a compaction has put a file in the place of this one, with its own numbers
		return nil
	}
	for name, n := range t {
		if err := count(tx, name, n); err != nil {
			return err
		}
	}
	return setCounting(tx, counted)
}

// inTurn has the committer do something between two commits, and waits for it.
func (s *Store) inTurn(ctx context.Context, do func() error) error {
	turned := make(chan error, 1)
	select {
	case s.turns <- func() { turned <- do() }:
		return <-turned
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return tokenstore.ErrClosed
	}
}
