package bbolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A row is stored as
//
//	version (8 bytes) | delete after (8 bytes, ms, 0 for never) | state (sized) | number of refs | refs (sized) | due (8 bytes, ms) | sealed
//
// where a sized text is one byte of length and the text, and sealed is all the rest. The number of refs has its highest bit set
// in rows that are due at some time; the others have no due.
func encodeRow(r tokenstore.Row) []byte {
	size := 8 + 8 + 1 + len(r.State) + 1 + 8 + len(r.Sealed)
	for _, ref := range r.Refs {
		size += 1 + len(ref)
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, size), r.Version)
	b = binary.BigEndian.AppendUint64(b, millis(r.DeleteAfter))
	b = appendSized(b, r.State)
	refs := byte(len(r.Refs)) //nolint:gosec // at most 32, see tokenstore.Row
	if !r.Due.IsZero() {
		refs |= hasDue
	}
	b = append(b, refs)
	for _, ref := range r.Refs {
		b = appendSized(b, ref)
	}
	if !r.Due.IsZero() {
		b = binary.BigEndian.AppendUint64(b, millis(r.Due))
	}
	return append(b, r.Sealed...)
}

const (
	hasDue = 1 << 7

	// maxHeader is more than all that stands before the sealed value can take: 32 references of 193 bytes, and the rest.
	maxHeader = 8192
)

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
	row, sealed, err := decodeClear(kind, id, b)
	if err != nil {
		return tokenstore.Row{}, err
	}
	row.Sealed = bytes.Clone(sealed)
	return row, nil
}

// decodeClear reads what a row has in clear. The sealed value beside it stays in the transaction's memory.
func decodeClear(kind tokenstore.Kind, id string, b []byte) (row tokenstore.Row, sealed []byte, err error) {
	// The sizes in a damaged page can claim gigabytes.
	d := decoder{rest: b, short: len(b) > tokenstore.MaxSealed+maxHeader}
	row = tokenstore.Row{Kind: kind, ID: id, Version: d.uint64()}
	row.DeleteAfter = d.time()
	row.State = string(d.sized())
	refs := d.uint8()
	row.Refs = d.texts(int(refs &^ hasDue))
	if refs&hasDue != 0 {
		row.Due = d.time()
		d.short = d.short || row.Due.IsZero()
	}
	if d.short {
		return tokenstore.Row{}, nil, fmt.Errorf("%w: %s %s cannot be read: the vault file is damaged", tokenstore.ErrDamaged, kind, id)
	}
	return row, d.rest, nil
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
func (d *decoder) time() time.Time {
	ms := d.uint64()
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)).UTC() //nolint:gosec // written by millis
}
func (d *decoder) sized() []byte { return d.take(int(d.uint8())) }

// texts reads n sized texts, into memory that they share: whoever keeps one of a row keeps all.
func (d *decoder) texts(n int) []string {
	if n == 0 {
		return nil
	}
	begin := d.rest
	for range n {
		d.sized()
	}
	if d.short {
		return nil
	}
	all := string(begin[:len(begin)-len(d.rest)])
	texts := make([]string, n)
	for i := range texts {
		size := int(all[0])
		texts[i], all = all[1:1+size], all[1+size:]
	}
	return texts
}

// put writes a row and its index entries, over the row that was there before, if any. Of the index it writes what differs: most updates change none of it.
func put(tx *bolt.Tx, row tokenstore.Row, before *tokenstore.Row) error {
	return putValue(tx, row, encodeRow(row), before)
}

// putValue is put of a row that was encoded before. Nobody changes the value until the transaction has ended.
func putValue(tx *bolt.Tx, row tokenstore.Row, value []byte, before *tokenstore.Row) error {
	rows, err := bucket(tx, row.Kind, "")
	if err != nil {
		return err
	}
	if err := rows.Put([]byte(row.ID), value); err != nil {
		return err
	}
	if before == nil {
		before = &tokenstore.Row{}
		if err := count(tx, countName(row.Kind, ""), 1); err != nil {
			return err
		}
	}
	return reindex(tx, row.Kind, row.ID, *before, row)
}

// remove deletes a row and its index entries.
func remove(tx *bolt.Tx, row tokenstore.Row) error {
	if err := reindex(tx, row.Kind, row.ID, row, tokenstore.Row{}); err != nil {
		return err
	}
	rows, err := bucket(tx, row.Kind, "")
	if err != nil {
		return err
	}
	if err := rows.Delete([]byte(row.ID)); err != nil {
		return err
	}
	return count(tx, countName(row.Kind, ""), -1)
}

// reindex makes the index entries of a row, and the numbers of rows with its references, those of its new form.
func reindex(tx *bolt.Tx, kind tokenstore.Kind, id string, before, row tokenstore.Row) error {
	refs, err := bucket(tx, kind, refsSuffix)
	if err != nil {
		return err
	}
	for _, ref := range before.Refs {
		if !slices.Contains(row.Refs, ref) {
			if err := refs.Delete([]byte(refKey(ref, id))); err != nil {
				return err
			}
			if err := countRef(tx, kind, ref, -1); err != nil {
				return err
			}
		}
	}
	for _, ref := range row.Refs {
		if !slices.Contains(before.Refs, ref) {
			if err := refs.Put([]byte(refKey(ref, id)), nil); err != nil {
				return err
			}
			if err := countRef(tx, kind, ref, 1); err != nil {
				return err
			}
		}
	}
	if err := retime(tx, kind, expirySuffix, id, before.DeleteAfter, row.DeleteAfter); err != nil {
		return err
	}
	return retime(tx, kind, dueSuffix, id, before.Due, row.Due)
}

// retime moves a row in an index by time.
func retime(tx *bolt.Tx, kind tokenstore.Kind, suffix, id string, before, after time.Time) error {
	if millis(before) == millis(after) {
		return nil
	}
	b, err := bucket(tx, kind, suffix)
	if err != nil {
		return err
	}
	if !before.IsZero() {
		if err := b.Delete(timeKey(before, id)); err != nil {
			return err
		}
	}
	if after.IsZero() {
		return nil
	}
	return b.Put(timeKey(after, id), nil)
}

func refKey(ref, id string) string { return ref + "\x00" + id }

// timeSize is the size of the time in a timeKey.
const timeSize = 8

func timeKey(t time.Time, id string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, millis(t)), id...)
}
