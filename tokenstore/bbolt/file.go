package bbolt

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// growth is by how many bytes a file grows at a time, with a sync each time. bbolt's own 16 MiB would be the size of the smallest vault, and a wait for the disk that is felt.
	growth = 1 << 20

	// mapped is how many bytes of address space are set aside for a file, which costs neither memory nor disk. A file that outgrows what is mapped is mapped
	// anew, and for that bbolt waits until nobody reads, with all writers behind it: a backup would hold up the gateway for as long as it takes.
	mapped = 64 << 30
)

// options are bbolt's for every file.
//
//   - FreelistType: the other one searches all free pages one by one for each page that is written.
//   - NoFreelistSync stays off. Without the list in the file bbolt reads all of it at every start, and again after every transaction that fails, as all do on a disk that
//     is full: of 200,000 grants, 1.1 GB, that took 1.8 to 4.6 s, instead of 0.02 to 0.08 s; and it does so where nothing catches the panic that a damaged page is, which
//     would end Caddy. The price is that the list is written with every transaction: with the 154,000 free pages that file had, 29 to 41 ms instead of 1.5 to 1.8 ms;
//     once it was compacted there was no difference.
//   - PreLoadFreelist makes no difference: bbolt always loads the list of a file that it may write.
func options(timeout time.Duration) *bolt.Options {
	o := &bolt.Options{Timeout: timeout, FreelistType: bolt.FreelistMapType}
	if size := uint64(mapped); replaceable && size < math.MaxInt { // elsewhere a file becomes as long as what is mapped of it, or there is not so much to map
		o.InitialMmapSize = int(size)
	}
	return o
}

// openFile opens a database, and says which file it is in.
func openFile(path string, o *bolt.Options) (db *bolt.DB, file *os.File, err error) {
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		if o.NoSync && file == nil { // a new file
			flag |= os.O_EXCL
		}
		f, err := os.OpenFile(name, flag, mode)
		file = f
		return f, err
	}
	returned := false
	defer func() {
		if !returned && file != nil { // bbolt met damage and panicked: without this the file stays locked, and what is restored in its place cannot be opened
			_ = unlock(file) // closing is not enough: it is still mapped
			_ = file.Close()
		}
	}()
	db, err = bolt.Open(path, 0o600, o)
	if errors.Is(err, syscall.ENOMEM) && o.InitialMmapSize > 0 { // a process may be allowed less address space
		o.InitialMmapSize = 0
		db, err = bolt.Open(path, 0o600, o)
	}
	if err == nil {
		db.AllocSize = growth
	}
	returned = true
	return db, file, err
}

// openAt opens the vault file, waiting for its lock. Whoever had that may have put another file there meanwhile, see Compact.
func (s *Store) openAt(path string, timeout time.Duration, readOnly bool) error {
	for end := time.Now().Add(timeout); ; {
		var err error
		o := options(max(time.Until(end), time.Millisecond))
		o.ReadOnly = readOnly
		s.db, s.file, err = openFile(path, o)
		if err != nil {
			return err
		}
		err = inPlace(s.file, path)
		if err == nil {
			return nil
		}
		if err := s.release(); err != nil {
			return err
		}
		if time.Now().After(end) {
			return bolterrors.ErrTimeout
		}
	}
}

// inPlace returns an error when another file is at a path by now, or none is: what was written to this one would be gone when it is closed.
func inPlace(file *os.File, path string) error {
	ours, err := file.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(path) //nolint:gosec // the operator's path
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: the vault file %s was deleted or moved while it is open; put it back, or restart Caddy with one from a backup", tokenstore.ErrUnavailable, path)
	case err == nil && !os.SameFile(ours, there):
		return fmt.Errorf("%w: the vault file %s was replaced while it is open; put the old one back, or restart Caddy with the new one", tokenstore.ErrUnavailable, path)
	}
	return nil // of another error nobody can say more
}
