package bbolt

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// checkable is the path of a closed vault file with rows a0000 to a1199, which have all that a row can be found by.
func checkable(t testing.TB) string {
	t.Helper()
	path := newPath(t)
	s, err := Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var changes []tokenstore.Change
	for i := range 1200 {
		c := insert(fmt.Sprintf("a%04d", i), []byte(strings.Repeat("sealed ", 40)))
		c.Row.Due = time.UnixMilli(int64(2000 + i)).UTC()
		changes = append(changes, c)
	}
	mustApply(t, s, changes...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// damage writes to a vault file behind the store's back.
func damage(t testing.TB, path string, f func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(f); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func checked(t testing.TB, s *Store) []tokenstore.StoreFault {
	t.Helper()
	var found []tokenstore.StoreFault
	if err := s.Check(t.Context(), func(f tokenstore.StoreFault) { found = append(found, f) }, func(tokenstore.Progress) {}); err != nil {
		t.Fatalf("Check: %v", err)
	}
	return found
}

func TestCheckTellsOfEveryIndexThatDoesNotFitItsRows(t *testing.T) {
	t.Parallel()
	row := func(edit func(*tokenstore.Row)) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			r, err := get(tx, tokenstore.KindGrant, "a0600")
			if err != nil {
				return err
			}
			edit(&r)
			return tx.Bucket([]byte("grant")).Put([]byte("a0600"), encodeRow(r))
		}
	}
	in := func(bucket string, do func(*bolt.Bucket) error) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error { return do(tx.Bucket([]byte(bucket))) }
	}
	put := func(key string) func(*bolt.Bucket) error {
		return func(b *bolt.Bucket) error { return b.Put([]byte(key), nil) }
	}
	remove := func(key string) func(*bolt.Bucket) error {
		return func(b *bolt.Bucket) error { return b.Delete([]byte(key)) }
	}
	ms := func(ms uint64, id string) string { return string(binary.BigEndian.AppendUint64(nil, ms)) + id }
	for name, test := range map[string]struct {
		damage func(*bolt.Tx) error
		class  tokenstore.FaultClass
		want   []string // one of each fault
	}{
		"a reference's entry is missing":       {in("grant/refs", remove(refKey("user:1", "a0600"))), tokenstore.FaultIndex, []string{"not found by the reference user:1"}},
		"the entry of its deletion is missing": {in("grant/expiry", remove(ms(1000, "a0600"))), tokenstore.FaultIndex, []string{"not found by its deletion"}},
		"the entry of its being due is gone":   {in("grant/due", remove(ms(2600, "a0600"))), tokenstore.FaultIndex, []string{"not found by its being due"}},
		"the row is missing": {in("grant", remove("a0600")), tokenstore.FaultIndex, []string{
			`"client:1 a0600" without a row`, `"user:1 a0600" without a row`, "grant/expiry has an entry", "grant/due has an entry",
		}},
		"a reference leads to a row without it":   {in("grant/refs", put(refKey("user:2", "a0600"))), tokenstore.FaultIndex, []string{`"user:2 a0600" that the row does not`}},
		"a reference leads nowhere":               {in("grant/refs", put(refKey("user:2", "nobody"))), tokenstore.FaultIndex, []string{"without a row"}},
		"an entry has no id":                      {in("grant/refs", put("user:2")), tokenstore.FaultIndex, []string{"without a row"}},
		"an entry by time is of no row":           {in("grant/due", put(ms(5, "nobody"))), tokenstore.FaultIndex, []string{`"5 nobody" without a row`}},
		"an entry by time has no id":              {in("grant/due", put("12345678")), tokenstore.FaultIndex, []string{"without a row"}},
		"an entry has another time than the row":  {in("grant/expiry", put(ms(999, "a0600"))), tokenstore.FaultIndex, []string{`"999 a0600" that the row does not`}},
		"an entry is due and the row is not then": {in("grant/due", put(ms(1, "a0600"))), tokenstore.FaultIndex, []string{`"1 a0600" that the row does not`}},
		"the row has another reference": {row(func(r *tokenstore.Row) { r.Refs[1] = "user:2" }), tokenstore.FaultIndex, []string{
			"not found by the reference user:2", `"user:1 a0600" that the row does not`,
		}},
		"the row has another time": {row(func(r *tokenstore.Row) { r.DeleteAfter = time.UnixMilli(7) }), tokenstore.FaultIndex, []string{
			"not found by its deletion", `"1000 a0600" that the row does not`,
		}},
		"the row cannot be read":   {in("grant", func(b *bolt.Bucket) error { return b.Put([]byte("a0600"), []byte("short")) }), tokenstore.FaultUnreadable, []string{"cannot be read"}},
		"the row is a bucket":      {in("grant", func(b *bolt.Bucket) error { _, err := b.CreateBucket([]byte("a0600x")); return err }), tokenstore.FaultUnreadable, []string{"cannot be read"}},
		"a kind has no rows":       {func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("consent")) }, tokenstore.FaultStorage, []string{"bucket consent"}},
		"a kind has lost its refs": {func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("consent/refs")) }, tokenstore.FaultStorage, []string{"bucket consent/refs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := checkable(t)
			damage(t, path, test.damage)
			found := checked(t, openStore(t, path))
			for _, want := range test.want {
				if !slices.ContainsFunc(found, func(f tokenstore.StoreFault) bool { return f.Class == test.class && strings.Contains(f.Problem, want) }) {
					t.Errorf("Check does not tell of %q, of the class %s: %+v", want, test.class, found)
				}
			}
			if len(found) != len(test.want) {
				t.Errorf("Check tells of %d faults; want %d: %+v", len(found), len(test.want), found)
			}
		})
	}
}

// pageOf is a page of a vault file that is of a sort and has at least so many elements.
func pageOf(t testing.TB, file []byte, flags uint16, least int) (id uint64, page []byte) {
	t.Helper()
	size := os.Getpagesize()
	for at := 2 * size; at < len(file); at += size {
		p := file[at : at+size]
		if native.Uint64(p) == uint64(at/size) && native.Uint16(p[8:]) == flags && int(native.Uint16(p[10:])) >= least && !strings.Contains(string(p), "keyring/due") {
			return native.Uint64(p), p
		}
	}
	t.Fatal("there is no such page")
	return 0, nil
}

// freelistIn is the page of a vault file that says which pages are free.
func freelistIn(file []byte) []byte {
	size := os.Getpagesize()
	newest := file[pageHeader:]
	if other := file[size+pageHeader:]; native.Uint64(other[48:]) > native.Uint64(newest[48:]) {
		newest = other
	}
	return file[native.Uint64(newest[32:])*uint64(size):]
}

func TestCheckTellsOfDamagedPages(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		edit func(t *testing.T, file []byte)
		want string
	}{
		"branch that leads out of the file": {func(t *testing.T, file []byte) {
			_, page := pageOf(t, file, branchPage, 3)
			native.PutUint64(page[pageHeader+elementSize+8:], 1<<40)
		}, "does not exist, and something leads to it"},
		"branch that leads to itself": {func(t *testing.T, file []byte) {
			id, page := pageOf(t, file, branchPage, 3)
			native.PutUint64(page[pageHeader+elementSize+8:], id)
		}, "is in two places"},
		"leaf that is another page": {func(t *testing.T, file []byte) {
			id, page := pageOf(t, file, leafPage, 5)
			native.PutUint64(page, id+1)
		}, "has the header of another page"},
		"leaf that is no leaf": {func(t *testing.T, file []byte) {
			_, page := pageOf(t, file, leafPage, 5)
			native.PutUint16(page[8:], 0x40)
		}, "is neither branch nor leaf"},
		"leaf with too many elements": {func(t *testing.T, file []byte) {
			_, page := pageOf(t, file, leafPage, 5)
			native.PutUint16(page[10:], 0xffff)
		}, "elements, which cannot be"},
		"element beyond its page": {func(t *testing.T, file []byte) {
			_, page := pageOf(t, file, leafPage, 5)
			native.PutUint32(page[pageHeader+elementSize+12:], 1<<30)
		}, "goes beyond it"},
		"keys out of order": {func(t *testing.T, file []byte) {
			_, page := pageOf(t, file, leafPage, 5)
			at := pageHeader + 2*elementSize
			key := page[at+int(native.Uint32(page[at+4:])):]
			clear(key[:native.Uint32(page[at+8:])])
		}, "out of order"},
		"overflow beyond the file": {func(t *testing.T, file []byte) {
			_, page := pageOf(t, file, leafPage, 5)
			native.PutUint32(page[12:], 1<<31)
		}, "has the header of another page"},
		"page in use that is free": {func(t *testing.T, file []byte) {
			used, _ := pageOf(t, file, leafPage, 5)
			list := freelistIn(file)
			native.PutUint16(list[10:], 1)
			native.PutUint64(list[pageHeader:], used)
		}, "in the list of free pages: it will be overwritten"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := checkable(t)
			damage(t, path, func(tx *bolt.Tx) error { return tx.Bucket([]byte(metaBucket)).Put([]byte("x"), nil) }) // so that there are free pages
			whole := openStore(t, path)
			awaitCounted(t, whole) // which writes to the file
			if found := checked(t, whole); len(found) > 0 {
				t.Fatalf("Check of a whole file tells of %+v", found)
			}
			copied := newPath(t)
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			test.edit(t, file)
			if err := os.WriteFile(copied, file, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(copied, time.Minute)
			if err != nil {
				t.Fatalf("the file does not open, so that it cannot be checked: %v", err)
			}
			defer func() { _ = s.Close() }() // which may say that it is damaged
			found := checked(t, s)
			if !slices.ContainsFunc(found, func(f tokenstore.StoreFault) bool {
				return f.Class == tokenstore.FaultStorage && strings.Contains(f.Problem, test.want)
			}) {
				t.Errorf("Check does not tell of %q: %+v", test.want, found)
			}
		})
	}
}

// What is flipped is told, or harms nothing that Check looks at; never does it panic, or not come to its end.
func TestCheckSurvivesFlippedBytes(t *testing.T) {
	t.Parallel()
	path := checkable(t)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	size := os.Getpagesize()
	for range 60 {
		edited := slices.Clone(file)
		for range 1 + random.IntN(4) { // headers and elements are where it hurts
			edited[2*size+random.IntN(len(file)/size-2)*size+random.IntN(200)] ^= 1 << random.IntN(8)
		}
		copied := newPath(t)
		if err := os.WriteFile(copied, edited, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(copied, time.Minute)
		if err != nil {
			continue
		}
		checked(t, s)
		_ = s.Close() // which may say that it is damaged
	}
}

// A check reads the file that its transaction is of, whatever has taken that file's place.
func TestCheckBesideCompactionsFindsNothing(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	path := checkable(t)
	s := openStore(t, path)
	if faults := checked(t, s); len(faults) > 0 {
		t.Fatalf("before: %+v", faults)
	}
	mustCompact(t, s)
	if faults := checked(t, s); len(faults) > 0 {
		t.Errorf("of a compacted file: %+v", faults)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 5 {
			if _, _, err := s.Compact(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
	}()
	for checking := true; checking; {
		select {
		case <-ended:
			checking = false
		default:
		}
		if faults := checked(t, s); len(faults) > 0 {
			t.Errorf("beside compactions: %+v", faults)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	readOnly, err := OpenReadOnly(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if faults := checked(t, readOnly); len(faults) > 0 {
		t.Errorf("opened for reading: %+v", faults)
	}
	if err := readOnly.Close(); err != nil {
		t.Error(err)
	}
}
