package bbolt

import (
	"bytes"
	"context"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// fuzzPage is the size of pages in these files.
const fuzzPage = 4096

// FuzzPages checks a file of damaged pages. Whatever they hold, the check comes to its end, and reads nothing beyond them.
func FuzzPages(f *testing.F) {
	page := func(id uint64, flags, count uint16, rest ...byte) []byte {
		p := make([]byte, pageHeader, fuzzPage)
		native.PutUint64(p, id)
		native.PutUint16(p[8:], flags)
		native.PutUint16(p[10:], count)
		return append(p, rest...)[:fuzzPage]
	}
	element := func(words ...uint32) (b []byte) {
		for _, w := range words {
			b = native.AppendUint32(b, w)
		}
		return b
	}
	f.Add(slices.Concat(page(2, branchPage, 1, append(element(16, 1, 3, 0), 'a')...), page(3, leafPage, 1, append(element(0, 16, 1, 1), "ab"...)...)))
	f.Add(slices.Concat(page(2, branchPage, 1, append(element(16, 1, 2, 0), 'a')...)))
	f.Add(slices.Concat(page(2, leafPage, 1, append(element(bucketFlag, 16, 1, 16), append([]byte("a"), element(3, 0, 0, 0)...)...)...), page(3, leafPage, 0)))
	f.Add(slices.Concat(page(2, leafPage, 1, append(element(bucketFlag, 16, 1, 32), append([]byte("a"), append(element(0, 0, 0, 0), page(0, leafPage, 1)[:pageHeader]...)...)...)...)))
	f.Add(page(2, leafPage, 0xffff))
	f.Add(page(2, freelistPage, 0xffff, element(0xffffffff, 0xffffffff)...))
	f.Fuzz(func(t *testing.T, pages []byte) {
		if len(pages) > 64*fuzzPage {
			return
		}
		file := append(make([]byte, 2*fuzzPage), pages...)
		file = append(file, make([]byte, (fuzzPage-len(file)%fuzzPage)%fuzzPage)...)
		for _, freelist := range []uint64{noFreelist, 2, 3} {
			told := 0
			c := &pageCheck{
				ctx: context.Background(), file: bytes.NewReader(file), size: fuzzPage, high: uint64(len(file) / fuzzPage), tally: make(tally),
				fault: func(fault tokenstore.StoreFault) {
					if told++; fault.Class != tokenstore.FaultStorage || fault.Problem == "" {
						t.Errorf("%+v", fault)
					}
				},
				progress: func(tokenstore.Progress) {},
			}
			c.reached, c.free = make([]bool, c.high), make([]bool, c.high)
			c.readFreelist(freelist)
			c.tree(2, nil, nil)
			if c.err != nil || len(c.path) > 0 || told > 1_000_000 {
				t.Errorf("%v, %d faults, path %v", c.err, told, c.path)
			}
		}
	})
}

// FuzzIndexedBy reads what a row is found by, as decodeRow does.
func FuzzIndexedBy(f *testing.F) {
	f.Add(encodeRow(tokenstore.Row{Version: 1, State: "active", Refs: []string{"user:1", "client:1"}, Sealed: []byte("sealed")}))
	f.Add([]byte("short"))
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, value []byte) {
		row, err := decodeRow(tokenstore.KindGrant, "id", value)
		refs, expiry, due, whole := indexedBy(value)
		if err != nil || row.DeleteAfter.UnixMilli() < 0 && !row.DeleteAfter.IsZero() || row.Due.UnixMilli() < 0 && !row.Due.IsZero() || row.DeleteAfter.IsZero() && !bytes.Equal(expiry, make([]byte, timeSize)) {
			return // or of a time that no row has
		}
		if !whole || len(refs) != len(row.Refs) || !bytes.Equal(expiry, timeKey(row.DeleteAfter, "")) || (due != nil) == row.Due.IsZero() {
			t.Fatalf("%x: %q, %x, %x, %t; want those of %+v", value, refs, expiry, due, whole, row)
		}
		for i, ref := range refs {
			if string(ref) != row.Refs[i] {
				t.Errorf("%x: reference %q; want %q", value, ref, row.Refs[i])
			}
		}
	})
}

// FuzzCheck checks files in which rows and index entries were written by somebody else: each that does not fit is told, and none makes it fail.
func FuzzCheck(f *testing.F) {
	path := checkable(f)
	s := openStore(f, path)
	s.db.NoSync = true
	f.Add("grant", []byte("a0001"), []byte("short"))
	f.Add("grant/refs", []byte("user:1\x00a0001x"), []byte{})
	f.Add("grant/due", []byte("12345678a0001"), []byte{1})
	f.Add("grant/expiry", []byte{0}, []byte{})
	f.Fuzz(func(t *testing.T, name string, key, value []byte) {
		if len(key) == 0 || len(key) > 1000 || len(value) > 1000 || !slices.Contains([]string{"grant", "grant/refs", "grant/due", "grant/expiry"}, name) {
			return
		}
		edit := func(do func(b *bolt.Bucket) error) {
			t.Helper()
			if err := s.db.Update(func(tx *bolt.Tx) error { return do(tx.Bucket([]byte(name))) }); err != nil {
				t.Fatal(err)
			}
		}
		var before []byte
		edit(func(b *bolt.Bucket) error { before = bytes.Clone(b.Get(key)); return b.Put(key, value) })
		found := checked(t, s)
		if len(found) == 0 && before == nil && name != "grant" { // a row may need no index
			t.Errorf("%s %q → %q is no fault", name, key, value)
		}
		edit(func(b *bolt.Bucket) error {
			if before == nil {
				return b.Delete(key)
			}
			return b.Put(key, before)
		})
	})
}
