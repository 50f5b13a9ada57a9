package bbolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// checkStep is how many rows or entries are looked at in one transaction: so short that no writer waits for it.
const checkStep = 500

// Check implements tokenstore.Store: it reads every page of the file, and compares every row with its index entries, and the other way round.
func (s *Store) Check(ctx context.Context, fault func(tokenstore.StoreFault), progress func(tokenstore.Progress)) error {
	if err := s.checkPages(ctx, fault, progress); err != nil {
		return err
	}
	if s.broken.Load() { // of which nothing more can be read
		fault(tokenstore.StoreFault{Class: tokenstore.FaultStorage, Problem: errBroken.Error()})
		return nil
	}
	for _, kind := range tokenstore.Kinds() {
		c := &indexCheck{store: s, kind: kind, fault: fault, progress: progress}
		if err := c.run(ctx, "", c.row); err != nil {
			return err
		}
		for _, suffix := range suffixes[1:] {
			if err := c.run(ctx, suffix, c.entry); err != nil {
				return err
			}
		}
	}
	return nil
}

// indexCheck checks the rows and the indexes of a kind.
type indexCheck struct {
	store    *Store
	kind     tokenstore.Kind
	fault    func(tokenstore.StoreFault)
	progress func(tokenstore.Progress)
	checked  int
	found    []tokenstore.StoreFault // in this transaction
}

func (c *indexCheck) add(class tokenstore.FaultClass, id []byte, format string, args ...any) {
	c.found = append(c.found, tokenstore.StoreFault{Class: class, Kind: c.kind, ID: string(id), Problem: fmt.Sprintf(format, args...)})
}

// run goes through a bucket, a step at a time.
func (c *indexCheck) run(ctx context.Context, suffix string, look func(tx *bolt.Tx, suffix string, key, value []byte) error) error {
	name := string(c.kind) + suffix
	var last []byte
	for more := true; more; {
		if err := c.store.usable(ctx); err != nil {
			return err
		}
		if c.checked > 0 {
			c.progress(tokenstore.Progress{Step: tokenstore.VerifyIndexes, Kind: c.kind, Done: c.checked, Total: c.checked})
		}
		err := c.store.view(func(tx *bolt.Tx) (err error) {
			last, more, err = c.step(tx, suffix, last, look)
			return err
		})
		for _, f := range c.found {
			c.fault(f)
		}
		c.found = nil
		switch {
		case errors.Is(err, tokenstore.ErrDamaged):
			c.fault(tokenstore.StoreFault{Class: tokenstore.FaultStorage, Kind: c.kind, Problem: fmt.Sprintf("the bucket %s cannot be read behind %q: %v", name, printable(last), err)})
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// step looks at what comes behind the last key.
func (c *indexCheck) step(tx *bolt.Tx, suffix string, last []byte, look func(tx *bolt.Tx, suffix string, key, value []byte) error) ([]byte, bool, error) {
	b, err := bucket(tx, c.kind, suffix)
	if err != nil {
		return last, false, err
	}
	cursor := b.Cursor()
	key, value := cursor.Seek(append(bytes.Clone(last), 0))
	if last == nil {
		key, value = cursor.First()
	}
	for n := 0; key != nil; key, value = cursor.Next() {
		if len(key) > 2*tokenstore.MaxKey || bytes.Compare(key, last) <= 0 && last != nil {
			return last, false, fmt.Errorf("%w: its keys are out of order", tokenstore.ErrDamaged)
		}
		if n++; n > checkStep {
			return last, true, nil
		}
		last = bytes.Clone(key)
		c.checked++
		if err := look(tx, suffix, last, value); err != nil {
			return last, false, err
		}
	}
	return last, false, nil
}

// row looks for the index entries of a row.
func (c *indexCheck) row(tx *bolt.Tx, _ string, id, value []byte) error {
	row, err := decodeRow(c.kind, string(id), value)
	if err != nil || value == nil || len(id) > tokenstore.MaxKey {
		c.add(tokenstore.FaultUnreadable, id, "the row cannot be read: the vault file is damaged")
		return nil //nolint:nilerr // it is told
	}
	for _, ref := range row.Refs {
		if err := c.want(tx, refsSuffix, id, []byte(refKey(ref, row.ID)), "the reference "+ref); err != nil {
			return err
		}
	}
	if !row.DeleteAfter.IsZero() {
		if err := c.want(tx, expirySuffix, id, timeKey(row.DeleteAfter, row.ID), "its deletion"); err != nil {
			return err
		}
	}
	if !row.Due.IsZero() {
		return c.want(tx, dueSuffix, id, timeKey(row.Due, row.ID), "its being due")
	}
	return nil
}

func (c *indexCheck) want(tx *bolt.Tx, suffix string, id, key []byte, what string) error {
	b, err := bucket(tx, c.kind, suffix)
	if err != nil {
		return err
	}
	if found, _ := b.Cursor().Seek(key); !bytes.Equal(found, key) {
		c.add(tokenstore.FaultIndex, id, "the row is not found by %s: the entry is missing", what)
	}
	return nil
}

// entry looks for the row of an index entry.
func (c *indexCheck) entry(tx *bolt.Tx, suffix string, key, _ []byte) error {
	rows, err := bucket(tx, c.kind, "")
	if err != nil {
		return err
	}
	by, id := key, []byte(nil)
	if suffix == refsSuffix {
		by, id, _ = bytes.Cut(key, []byte{0})
	} else if len(key) > timeSize {
		by, id = key[:timeSize], key[timeSize:]
	}
	value := rows.Get(id)
	if len(id) == 0 || value == nil {
		c.add(tokenstore.FaultIndex, id, "the index %s%s has an entry %q without a row", c.kind, suffix, printable(key))
		return nil
	}
	refs, expiry, due, whole := indexedBy(value)
	if !whole { // which has been told
		return nil
	}
	same := false
	switch suffix {
	case refsSuffix:
		same = slices.ContainsFunc(refs, func(ref []byte) bool { return bytes.Equal(ref, by) })
	case expirySuffix:
		same = bytes.Equal(expiry, by)
	case dueSuffix:
		same = bytes.Equal(due, by)
	}
	if !same {
		c.add(tokenstore.FaultIndex, id, "the index %s%s has an entry %q that the row does not", c.kind, suffix, printable(key))
	}
	return nil
}

// indexedBy reads what a row is found by, as it stands in the file, without copying any of it.
func indexedBy(value []byte) (refs [][]byte, expiry, due []byte, whole bool) {
	d := decoder{rest: value}
	d.take(8)
	expiry = d.take(timeSize)
	d.sized()
	n := d.uint8()
	refs = make([][]byte, 0, n&^hasDue)
	for range n &^ hasDue {
		refs = append(refs, d.sized())
	}
	if n&hasDue != 0 {
		due = d.take(timeSize)
	}
	return refs, expiry, due, !d.short
}

// printable makes a key of an index fit to be shown.
func printable(key []byte) string {
	if len(key) > timeSize && key[0] == 0 { // the milliseconds of no time that is likely begin otherwise
		return fmt.Sprintf("%d %s", binary.BigEndian.Uint64(key), key[timeSize:])
	}
	return string(bytes.ReplaceAll(key, []byte{0}, []byte{' '}))
}
