package bbolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A row is stored as
//
//	version (8 bytes) | delete after (8 bytes, ms, 0 for never) | state (sized) | number of refs | refs (sized) | sealed
//
// where a sized text is one byte of length and the text, and sealed is all the rest.
func encodeRow(r tokenstore.Row) []byte {
	b := binary.BigEndian.AppendUint64(nil, r.Version)
	b = binary.BigEndian.AppendUint64(b, millis(r.DeleteAfter))
	b = appendSized(b, r.State)
	b = append(b, byte(len(r.Refs))) //nolint:gosec // at most 8, see tokenstore.Row
	for _, ref := range r.Refs {
		b = appendSized(b, ref)
	}
	return append(b, r.Sealed...)
}

// maxHeader is more than all that stands before the sealed value can take: 8 references of 193 bytes, and the rest.
const maxHeader = 2048

func appendSized(b []byte, s string) []byte {
	return append(append(b, byte(len(s))), s...) //nolint:gosec // at most 192, see tokenstore.Row
}

// millis is a time in the file. Zero stands for never, so no time becomes it.
func millis(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(t.UnixMilli(), 1))
}

// decodeRow reads a row, copying it out of the transaction's memory.
func decodeRow(kind tokenstore.Kind, id string, b []byte) (tokenstore.Row, error) {
	// The sizes in a damaged page can claim gigabytes.
	d := decoder{rest: b, short: len(b) > tokenstore.MaxSealed+maxHeader}
	row := tokenstore.Row{Kind: kind, ID: id, Version: d.uint64()}
	if after := d.uint64(); after != 0 {
		row.DeleteAfter = time.UnixMilli(int64(after)).UTC() //nolint:gosec // written by millis
	}
	row.State = string(d.sized())
	for range d.uint8() {
		row.Refs = append(row.Refs, string(d.sized()))
	}
	if d.short {
		return tokenstore.Row{}, fmt.Errorf("%w: %s %s cannot be read: the vault file is damaged", tokenstore.ErrUnavailable, kind, id)
	}
	row.Sealed = bytes.Clone(d.rest)
	return row, nil
}

// decoder takes a row's bytes apart. After the first field that is cut short all further ones are empty.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) take(n int) []byte {
	if d.short || len(d.rest) < n {
		d.short = true
		return make([]byte, n)
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }
func (d *decoder) uint8() uint8   { return d.take(1)[0] }
func (d *decoder) sized() []byte  { return d.take(int(d.uint8())) }

// put writes a row and its index entries, over the row that was there before, if any.
func put(tx *bolt.Tx, row tokenstore.Row, before *tokenstore.Row) error {
	if before != nil {
		if err := unindex(tx, *before); err != nil {
			return err
		}
	}
	rows, refs, expiry, err := buckets(tx, row.Kind)
	if err != nil {
		return err
	}
	if err := rows.Put([]byte(row.ID), encodeRow(row)); err != nil {
		return err
	}
	for _, ref := range row.Refs {
		if err := refs.Put([]byte(refKey(ref, row.ID)), nil); err != nil {
			return err
		}
	}
	if row.DeleteAfter.IsZero() {
		return nil
	}
	return expiry.Put(expiryKey(row.DeleteAfter, row.ID), nil)
}

// remove deletes a row and its index entries.
func remove(tx *bolt.Tx, row tokenstore.Row) error {
	if err := unindex(tx, row); err != nil {
		return err
	}
	rows, err := bucket(tx, row.Kind, "")
	if err != nil {
		return err
	}
	return rows.Delete([]byte(row.ID))
}

func unindex(tx *bolt.Tx, row tokenstore.Row) error {
	_, refs, expiry, err := buckets(tx, row.Kind)
	if err != nil {
		return err
	}
	for _, ref := range row.Refs {
		if err := refs.Delete([]byte(refKey(ref, row.ID))); err != nil {
			return err
		}
	}
	if row.DeleteAfter.IsZero() {
		return nil
	}
	return expiry.Delete(expiryKey(row.DeleteAfter, row.ID))
}

func buckets(tx *bolt.Tx, kind tokenstore.Kind) (rows, refs, expiry *bolt.Bucket, err error) {
	if rows, err = bucket(tx, kind, ""); err != nil {
		return nil, nil, nil, err
	}
	if refs, err = bucket(tx, kind, refsSuffix); err != nil {
		return nil, nil, nil, err
	}
	expiry, err = bucket(tx, kind, expirySuffix)
	return rows, refs, expiry, err
}

func refKey(ref, id string) string { return ref + "\x00" + id }

// expirySize is the size of the time in an expiryKey.
const expirySize = 8

func expiryKey(t time.Time, id string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, millis(t)), id...)
}
