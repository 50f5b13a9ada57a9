package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// bbolt has a check of its own, which reads by the memory that the file is mapped to, in a goroutine of its own: in a damaged file it follows a page number out of that, and the
// process ends. So the pages are read here, as bbolt has written them: in the machine's byte order,
//
//	page    id (8 bytes) | flags (2) | count (2) | pages behind this that belong to it (4) | elements
//	branch  position of the key (4) | its size (4) | id of the page below (8)
//	leaf    flags (4) | position of the key (4) | its size (4) | size of the value behind it (4)
//	bucket  id of its first page (8), zero where that lies in the value itself | sequence (8)
//	meta    magic (4) | version (4) | page size (4) | flags (4) | bucket (16) | id of the first free list page (8) | id behind the last page (8) | transaction (8) | checksum (8)
//
// where positions count from the element.
const (
	pageHeader  = 16
	elementSize = 16
	bucketSize  = 16

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketFlag   = 0x01

	// noFreelist is the page of a free list that is not in the file.
	noFreelist = ^uint64(0)

	// maxDepth is more levels than a tree can have.
	maxDepth = 48

	// pagesTold is after how many pages it is told how far the check is.
	pagesTold = 1024
)

var native = binary.NativeEndian

// checkPages reads every page that the file's trees lead to, as of one moment, and compares the numbers of rows that are kept with what is there. A file with a page that leads back to itself is given up: bbolt follows it until the process
// dies of that.
func (s *Store) checkPages(ctx context.Context, fault func(tokenstore.StoreFault), progress func(tokenstore.Progress)) error {
	const attempts = 20 // between which the file has changed twice
	for range attempts {
		if err := s.usable(ctx); err != nil {
			return err
		}
		again := false
		err := s.view(func(tx *bolt.Tx) error {
			f := s.fileOf(tx)
			if again = f == nil; again {
				return nil
			}
			c := newPageCheck(ctx, tx, f)
			freelist, found, err := c.freelistOf(uint64(tx.ID()), c.root) //nolint:gosec // not negative
			if again = !found; again || err != nil {
				return err
			}
			whole := true
			c.fault = func(f tokenstore.StoreFault) { whole = false; fault(f) }
			c.progress = progress
			c.readFreelist(freelist)
			c.tree(c.root, nil, nil)
			if c.circular {
				s.broken.Store(true)
			}
			if c.err != nil || !whole {
				return c.err
			}
			return c.tally.differs(tx, fault)
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, tokenstore.ErrDamaged):
			fault(tokenstore.StoreFault{Class: tokenstore.FaultStorage, Problem: err.Error()})
			return nil
		case err != nil || !again:
			return err
		}
	}
	return fmt.Errorf("%w: the vault file is not what it was when it was opened: was it replaced?", tokenstore.ErrUnavailable)
}

// fileOf is the file that a transaction reads, which stays open as long as that does; nil where a compaction has put another in its place.
func (s *Store) fileOf(tx *bolt.Tx) *os.File {
	s.beginning.Lock()
	defer s.beginning.Unlock()
	if tx.DB() != s.db {
		return nil
	}
	return s.file
}

// pageCheck is one check of a file.
type pageCheck struct {
	ctx           context.Context
	file          io.ReaderAt
	size          int
	root, high    uint64 // the first page of all, and the id behind the last
	reached, free []bool
	path          []uint64 // the pages that have led to the one that is read
	circular      bool     // one of them is led to by another
	read          int
	err           error  // of reading, which ends the check
	bucket        string // the one whose pages are read; empty at the root
	tally         tally  // of what is in whole pages
	fault         func(tokenstore.StoreFault)
	progress      func(tokenstore.Progress)
}

// newPageCheck is a check of the pages of a transaction, which reads the file.
func newPageCheck(ctx context.Context, tx *bolt.Tx, file io.ReaderAt) *pageCheck {
	c := &pageCheck{ctx: ctx, file: file, size: tx.DB().Info().PageSize, root: uint64(tx.Cursor().Bucket().Root()), tally: make(tally), progress: func(tokenstore.Progress) {}}
	c.high = uint64(tx.Size()) / uint64(c.size) //nolint:gosec // neither is negative
	c.reached, c.free = make([]bool, c.high), make([]bool, c.high)
	return c
}

func (c *pageCheck) bad(page uint64, format string, args ...any) {
	c.fault(tokenstore.StoreFault{Class: tokenstore.FaultStorage, Problem: fmt.Sprintf("page %d of the vault file %s", page, fmt.Sprintf(format, args...))})
}

// freelistOf finds the meta page of a transaction, and so makes sure that the file is the one that it reads.
func (c *pageCheck) freelistOf(transaction, root uint64) (freelist uint64, found bool, err error) {
	b := make([]byte, pageHeader+64)
	for page := range int64(2) {
		if _, err := c.file.ReadAt(b, page*int64(c.size)); err != nil {
			return 0, false, err
		}
		meta := b[pageHeader:]
		if native.Uint64(meta[48:]) == transaction && native.Uint64(meta[16:]) == root && native.Uint64(meta[40:]) == c.high {
			return native.Uint64(meta[32:]), true, nil
		}
	}
	return 0, false, nil
}

// page reads a page with those that belong to it. What it returns is nil where that is not whole, which has been told.
func (c *pageCheck) page(id uint64) []byte {
	if c.err == nil {
		c.err = c.ctx.Err()
	}
	if c.err != nil {
		return nil
	}
	if id < 2 || id >= c.high {
		c.bad(id, "does not exist, and something leads to it")
		return nil
	}
	header := make([]byte, pageHeader)
	if !c.readAt(header, id) {
		return nil
	}
	more := uint64(native.Uint32(header[12:]))
	if native.Uint64(header) != id || more >= c.high-id {
		c.bad(id, "has the header of another page, or none")
		return nil
	}
	for p := id; p <= id+more; p++ {
		switch {
		case c.reached[p]:
			if slices.Contains(c.path, p) {
				c.circular = true
			}
			c.bad(p, "is in two places")
			return nil
		case c.free[p]:
			c.bad(p, "is in use, and in the list of free pages: it will be overwritten")
		}
		c.reached[p] = true
	}
	if c.read++; c.read%pagesTold == 1 {
		c.progress(tokenstore.Progress{Step: tokenstore.VerifyStorage, Done: c.read, Total: max(c.read, int(c.high))}) //nolint:gosec // pages of a file
	}
	b := make([]byte, (more+1)*uint64(c.size)) //nolint:gosec // not negative
	if !c.readAt(b, id) {
		return nil
	}
	return b
}

func (c *pageCheck) readAt(b []byte, id uint64) bool {
	if _, err := c.file.ReadAt(b, int64(id)*int64(c.size)); err != nil { //nolint:gosec // within the file
		c.bad(id, "cannot be read: %v", err)
		return false
	}
	return true
}

// readFreelist reads which pages are free.
func (c *pageCheck) readFreelist(id uint64) {
	if id == noFreelist {
		return
	}
	b := c.page(id)
	if b == nil {
		return
	}
	n, ids := uint64(native.Uint16(b[10:])), b[pageHeader:]
	if n == 0xffff {
		n, ids = native.Uint64(ids), ids[8:]
	}
	if native.Uint16(b[8:]) != freelistPage || n > uint64(len(ids)/8) {
		c.bad(id, "is no list of free pages")
		return
	}
	for i := range n {
		free := native.Uint64(ids[8*i:])
		switch {
		case free < 2 || free >= c.high:
			c.bad(free, "does not exist, and is in the list of free pages")
		case c.free[free] || c.reached[free]:
			c.bad(free, "is in the list of free pages twice, or in use by that list")
		default:
			c.free[free] = true
		}
	}
}

// tree checks a page and what is below. Its keys are not before least, if there is one, and before end.
func (c *pageCheck) tree(id uint64, least, end []byte) {
	if len(c.path) > maxDepth {
		c.bad(id, "is deeper than a tree can be")
		return
	}
	b := c.page(id)
	if b == nil {
		return
	}
	c.path = append(c.path, id)
	defer func() { c.path = c.path[:len(c.path)-1] }()
	keys, err := c.keys(b)
	if err == nil {
		err = inOrder(keys, least, end)
	}
	if err != nil {
		c.bad(id, "%v", err)
		return
	}
	if native.Uint16(b[8:]) == leafPage {
		c.leaf(id, b, keys)
		return
	}
	for i, key := range keys {
		below := native.Uint64(b[pageHeader+elementSize*i+8:])
		next := end
		if i+1 < len(keys) {
			next = keys[i+1]
		}
		c.tree(below, key, next)
	}
}

// keys are those of a page's elements.
func (c *pageCheck) keys(page []byte) ([][]byte, error) {
	flags, n := native.Uint16(page[8:]), int(native.Uint16(page[10:]))
	if flags != branchPage && flags != leafPage {
		return nil, errors.New("is neither branch nor leaf")
	}
	if flags == branchPage && n == 0 || pageHeader+n*elementSize > len(page) {
		return nil, fmt.Errorf("has %d elements, which cannot be", n)
	}
	keys := make([][]byte, n)
	for i := range n {
		at := pageHeader + i*elementSize
		element := page[at:]
		position, size, value := native.Uint32(element), native.Uint32(element[4:]), uint32(0)
		if flags == leafPage {
			position, size, value = native.Uint32(element[4:]), native.Uint32(element[8:]), native.Uint32(element[12:])
		}
		from := uint64(at) + uint64(position)
		if from+uint64(size)+uint64(value) > uint64(len(page)) {
			return nil, fmt.Errorf("has an element %d that goes beyond it", i)
		}
		keys[i] = page[from : from+uint64(size)]
	}
	return keys, nil
}

func inOrder(keys [][]byte, least, end []byte) error {
	for i, key := range keys {
		if i > 0 && bytes.Compare(keys[i-1], key) >= 0 || i == 0 && least != nil && bytes.Compare(key, least) < 0 || end != nil && bytes.Compare(key, end) >= 0 {
			return fmt.Errorf("has keys that are out of order, from element %d on", i)
		}
	}
	return nil
}

// leaf checks the buckets in a leaf, and counts what else is in it.
func (c *pageCheck) leaf(id uint64, page []byte, keys [][]byte) {
	within := c.bucket
	defer func() { c.bucket = within }()
	for i, key := range keys {
		at := pageHeader + i*elementSize
		element := page[at:]
		if native.Uint32(element)&bucketFlag == 0 {
			c.tally.add(within, key)
			continue
		}
		if c.bucket = string(key); within != "" {
			c.bucket = "\x00" // which has no name: there are none in others
		}
		from := uint64(at) + uint64(native.Uint32(element[4:])) + uint64(len(key))
		value := page[from : from+uint64(native.Uint32(element[12:]))]
		if len(value) < bucketSize {
			c.bad(id, "has a bucket %q that is cut short", key)
			continue
		}
		if root := native.Uint64(value); root != 0 {
			c.tree(root, nil, nil)
			continue
		}
		inline := value[bucketSize:]
		if len(inline) < pageHeader || native.Uint16(inline[8:]) != leafPage {
			c.bad(id, "has a bucket %q that is cut short", key)
			continue
		}
		entries, err := c.keys(inline)
		if err == nil {
			err = inOrder(entries, nil, nil)
		}
		if err != nil {
			c.bad(id, "has a bucket %q that %v", key, err)
			continue
		}
		for _, entry := range entries {
			c.tally.add(c.bucket, entry)
		}
	}
}
