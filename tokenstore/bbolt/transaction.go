package bbolt

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// errBroken says that bbolt met damage while it held a lock, and will hold it for ever: whoever asks it for
// another transaction, or to close, hangs.
var errBroken = fmt.Errorf("%w: the vault file is damaged and was given up; restore it from a backup and restart Caddy", tokenstore.ErrDamaged)

// view runs f in a transaction that reads.
func (s *Store) view(f func(*bolt.Tx) error) error {
	return s.guard(func() error {
		tx, err := s.begin(false)
		if err != nil {
			return err
		}
		defer s.end(tx)
		return f(tx)
	})
}

// update runs f in a transaction that writes, and commits it. Once the store is open only the committer calls it.
func (s *Store) update(f func(*bolt.Tx) error) error {
	s.writing = math.MaxInt // none yet
	return s.guard(func() error {
		if err := inPlace(s.file, s.path); err != nil {
			return err
		}
		if err := s.syncName(); err != nil {
			return err
		}
		tx, err := s.begin(true)
		if err != nil {
			return err
		}
		defer s.end(tx)
		s.writing = tx.ID()
		if err := goOnCounting(tx); err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// shown reports whether the last transaction that update has begun can be read, for the committer. That may be so of one that failed: what is written is seen before it is synced.
func (s *Store) shown() bool {
	last := -1
	err := s.view(func(tx *bolt.Tx) error {
		last = tx.ID()
		return nil
	})
	return err == nil && last >= s.writing
}

// begin is bbolt's Begin, one at a time, so that nobody waits inside for a lock that is never released.
func (s *Store) begin(writable bool) (*bolt.Tx, error) {
	s.beginning.Lock()
	defer s.beginning.Unlock()
	if s.broken.Load() {
		return nil, errBroken
	}
	var tx *bolt.Tx
	var err error
	s.locking(func() { tx, err = s.db.Begin(writable) })
	return tx, err
}

// end rolls back what was not committed. bbolt's own View and Update read the file again to do so after a
// panic; where that is damaged as well they panic once more, and never release the writer's lock. Rollback does not
// read: at worst it forgets some free pages.
func (s *Store) end(tx *bolt.Tx) {
	if tx.DB() == nil || s.broken.Load() {
		return
	}
	s.locking(func() { _ = tx.Rollback() })
}

// locking calls what takes or releases bbolt's locks, and declares the store broken when that panics.
func (s *Store) locking(call func()) {
	returned := false
	defer func() {
		if !returned {
			s.broken.Store(true)
		}
	}()
	call()
	returned = true
}

// guard says bbolt's errors in the contract's words. bbolt has no checksums on its pages: on a damaged
// file it panics, or follows a page number out of the mapped memory. Both become errors here; nothing is repaired.
func (s *Store) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: the vault file is damaged: %v", tokenstore.ErrDamaged, r)
		}
	}()
	err = f()
	if err == nil {
		return nil
	}
	for _, known := range []error{tokenstore.ErrNotFound, tokenstore.ErrConflict, tokenstore.ErrInvalid, tokenstore.ErrUnavailable} {
		if errors.Is(err, known) {
			return err
		}
	}
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return tokenstore.ErrClosed
	}
	return fmt.Errorf("%w: %w", tokenstore.ErrUnavailable, err)
}
