// Package bbolt keeps a vault's rows in one bbolt file, for one process.
package bbolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/watch"
)

// The file has these buckets:
//
//	meta               "format" → the format's version; "freeze" → why the file is read-only, where it is
//	<kind>             id → row
//	<kind>/refs        reference \x00 id → nothing
//	<kind>/expiry      time (8 bytes, ms) id → nothing
//	<kind>/due         time (8 bytes, ms) id → nothing
//
// and those of the numbers of rows, see countSuffix.
const (
	formatVersion  = "5"
	formatFrozen   = "5 frozen" // the same, which older releases refuse: they would write
	formatVersion1 = "1"        // without consents and assertions
	formatVersion2 = "2"        // without registrations
	formatVersion3 = "3"        // without API keys
	formatVersion4 = "4"        // without sign-ins, revocation orders, the audit trail, jobs, and rows that are due
	metaBucket     = "meta"
	formatKey      = "format"
	refsSuffix     = "/refs"
	expirySuffix   = "/expiry"
	dueSuffix      = "/due"
)

const (
	defaultTimeout = 5 * time.Second

	// maxWait bounds how long Apply and Close wait for the disk.
	maxWait = 10 * time.Second
)

// suffixes are those of the buckets that each kind has.
var suffixes = []string{"", refsSuffix, expirySuffix, dueSuffix}

// Store is a tokenstore.Store on a bbolt file. Use Open.
type Store struct {
	path      string        // of the file, links followed
	db        *bolt.DB      // replaced by Compact, while beginning is held
	file      *os.File      // the one of db; the committer's
	unsynced  string        // see syncName; the committer's
	writing   int           // the number of the last transaction that writes; the committer's
	beginning sync.Mutex    // held while a transaction begins
	broken    atomic.Bool   // see errBroken
	wait      time.Duration // maxWait
	queue     chan *pending
	turns     chan func()   // what the committer does between two commits
	closed    chan struct{} // Close was called
	once      sync.Once
	done      chan struct{} // the committer has ended, and closed the file
	err       error         // of closing it; to be read after done
	watchers  *watch.Watchers
	memory    *memory.Memory // of what Recall has read

	frozen atomic.Pointer[tokenstore.Freeze] // as it is in the file

	compacting chan struct{}         // holds one while the file is copied, or the one that was replaced is open
	notes      atomic.Pointer[notes] // for who copies the file
}

// Open opens the file, or makes it with mode 0600 where there is none; its directory must exist. It waits for
// another process's lock no longer than the timeout, 5 seconds when zero.
func Open(path string, timeout time.Duration) (*Store, error) {
	if timeout <= 0 { // which bbolt reads as for ever
		timeout = defaultTimeout
	}
	s := newStore()
	if err := s.guard(func() error { return s.openAt(path, timeout, false) }); err != nil {
		return nil, explain(path, err)
	}
	var err error
	if s.path, err = filepath.EvalSymlinks(path); err == nil {
		err = s.prepare()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("vault file %s: %w", path, err), s.release())
	}
	_ = os.Remove(s.path + compactSuffix) // of a compaction that a crash has ended; one that cannot be removed is in nobody's way but the next one's
	go s.commitLoop()
	if !s.counts() {
		go func() { _ = s.countAnew() }()
	}
	return s, nil
}

// newStore is a Store without its file.
func newStore() *Store {
	s := &Store{
		wait:   maxWait,
		queue:  make(chan *pending, 128),
		turns:  make(chan func()),
		closed: make(chan struct{}),
		done:   make(chan struct{}),

		compacting: make(chan struct{}, 1),
		memory:     memory.New(),
	}
	s.watchers = watch.New(s.closed)
	return s
}

// explain says what to do about a file that does not open.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("vault file %s is locked: is another Caddy running? Use `caddy reload` to change a running one, or give each its own vault file: %w", path, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("vault file %s: create the directory %s first, writable for the user that runs Caddy: %w", path, filepath.Dir(path), err)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return fmt.Errorf("vault file %s is damaged, or is no vault file; restore it from a backup, or name another file: %w", path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("vault file %s: make it, and its directory, readable and writable for the user that runs Caddy: %w", path, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("vault file %s is on a disk that is mounted read-only; have that mounted for writing, or name another file: %w", path, err)
	default:
		return fmt.Errorf("vault file %s: %w", path, err)
	}
}

// prepare makes the buckets of a new file, adds those that an older release did not know, and refuses a file of another
// format. It writes nothing to a file that is complete.
func (s *Store) prepare() error {
	complete, err := s.readFormat()
	if err != nil || complete {
		return err
	}
	return s.update(func(tx *bolt.Tx) error {
		isNew := tx.Bucket([]byte(metaBucket)) == nil
		for _, kind := range tokenstore.Kinds() {
			for _, suffix := range suffixes {
				if _, err := tx.CreateBucketIfNotExists([]byte(string(kind) + suffix)); err != nil {
					return err
				}
			}
		}
		meta, err := tx.CreateBucketIfNotExists([]byte(metaBucket))
		if err != nil {
			return err
		}
		if err := meta.Put([]byte(formatKey), []byte(formatVersion)); err != nil || !isNew {
			return err
		}
		return setCounting(tx, counted)
	})
}

// readFormat reports whether the file has all that this release needs, and refuses one of another format.
func (s *Store) readFormat() (complete bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		meta := tx.Bucket([]byte(metaBucket))
		if meta == nil {
			if first, _ := tx.Cursor().First(); first != nil {
				return errors.New("another program's bbolt file; name another file")
			}
			return nil
		}
		switch v := string(meta.Get([]byte(formatKey))); v {
		case formatVersion, formatFrozen:
			complete = true
			f, err := freezeIn(tx)
			s.frozen.Store(&f)
			return err
		case formatVersion1, formatVersion2, formatVersion3, formatVersion4:
		default:
			return fmt.Errorf("format %q is not known to this release, which reads %q; use the release that wrote it, or a newer one", v, formatVersion)
		}
		return nil
	})
	return complete, err
}

// usable fails when the store was closed or ctx has ended.
func (s *Store) usable(ctx context.Context) error {
	select {
	case <-s.closed:
		return tokenstore.ErrClosed
	default:
		return ctx.Err()
	}
}

// Close implements tokenstore.Store. When running calls do not end within ten seconds, on a disk that
// does not answer or in a file that is damaged, it returns ErrUnavailable, and the file is closed when they do.
func (s *Store) Close() error {
	s.once.Do(func() { close(s.closed) })
	late := time.After(s.wait)
	select {
	case <-s.done:
	case <-late:
		return fmt.Errorf("%w: the vault file is still in use after %s, and locked until that ends or Caddy does", tokenstore.ErrUnavailable, s.wait)
	}
	if !s.watchers.End(late) {
		return fmt.Errorf("%w: somebody who watches the vault does not return for %s; its file is closed", tokenstore.ErrUnavailable, s.wait)
	}
	return s.err
}

// release closes the file. That of a broken store stays open, and so locked, as long as the process lives.
func (s *Store) release() error {
	if s.broken.Load() {
		return errBroken
	}
	return s.guard(s.db.Close)
}

// Interface guard
var _ tokenstore.Store = (*Store)(nil)
