package bbolt

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// How many rows there are is kept beside them, in the transaction that changes them: to count them would be to read the whole file. The numbers are the sequences of buckets, of which
// bbolt itself makes no use. A sequence has no page of its own that could be damaged, and is written with what is written anyway:
//
//	<kind>               how many rows there are
//	<kind>/count/<ref>   how many of them carry a reference that tokenstore.Counted names; nothing is in this bucket
//	meta                 the transaction that has kept the numbers last, twice, and one more when they are whole, see countAnew
//
// An older release leaves the sequences alone, and its transactions and its copies of the file show: meta names none of them. Then rows are counted by going through them until
// countAnew is done.
const countSuffix = "/count/"

// countName is the bucket whose sequence says how many rows carry a reference, or are there at all when it is empty.
func countName(kind tokenstore.Kind, ref string) string {
	if ref == "" {
		return string(kind)
	}
	return string(kind) + countSuffix + ref
}

// counting says what the numbers are in a transaction.
type counting uint8

const (
	notCounted counting = iota
	recounting          // they are what was added since countAnew began
	counted
)

func countingIn(tx *bolt.Tx) counting {
	meta := tx.Bucket([]byte(metaBucket))
	switch {
	case meta == nil || meta.Sequence()>>1 != uint64(tx.ID()): //nolint:gosec // not negative
		return notCounted
	case meta.Sequence()&1 == 0:
		return recounting
	default:
		return counted
	}
}

// setCounting says that the numbers are kept in a transaction.
func setCounting(tx *bolt.Tx, c counting) error {
	meta, err := metaOf(tx)
	if err != nil {
		return err
	}
	whole := uint64(0)
	if c == counted {
		whole = 1
	}
	return meta.SetSequence(uint64(tx.ID())<<1 | whole) //nolint:gosec // not negative
}

// goOnCounting begins a transaction that writes: the numbers that the one before has kept are kept in this one, too.
func goOnCounting(tx *bolt.Tx) error {
	meta := tx.Bucket([]byte(metaBucket))
	switch {
	case meta == nil || meta.Sequence() == 0:
		return nil
	case meta.Sequence()>>1 != uint64(tx.ID()-1): //nolint:gosec // not negative
		return meta.SetSequence(0) // before another copy of the file comes to that number
	}
	if meta.Sequence()&1 == 0 {
		return setCounting(tx, recounting)
	}
	return setCounting(tx, counted)
}

// count adds to a number, where numbers are kept.
func count(tx *bolt.Tx, name string, n int) error {
	if countingIn(tx) == notCounted {
		return nil
	}
	b, err := tx.CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return err
	}
	return b.SetSequence(b.Sequence() + uint64(n)) //nolint:gosec // which subtracts what is negative
}

// countRef adds to the number of rows that carry a reference, if that is one of those that are counted.
func countRef(tx *bolt.Tx, kind tokenstore.Kind, ref string, n int) error {
	if !tokenstore.Counted(kind, ref) {
		return nil
	}
	return count(tx, countName(kind, ref), n)
}

// countEntry is the number in which an entry of a bucket counts, if it does in any.
func countEntry(bucket string, key []byte) (name string, ok bool) {
	kind, isRef := strings.CutSuffix(bucket, refsSuffix)
	if !slices.Contains(tokenstore.Kinds(), tokenstore.Kind(kind)) {
		return "", false
	}
	if !isRef {
		return bucket, true
	}
	ref, _, _ := bytes.Cut(key, []byte{0})
	if !tokenstore.Counted(tokenstore.Kind(kind), string(ref)) {
		return "", false
	}
	return countName(tokenstore.Kind(kind), string(ref)), true
}

// kept is how many rows carry the references, where that is kept. What no number of rows can be is not.
func kept(tx *bolt.Tx, kind tokenstore.Kind, refs []string) (n int, ok bool) {
	name := string(kind)
	switch {
	case len(refs) > 1 || countingIn(tx) != counted:
		return 0, false
	case len(refs) == 1:
		if !tokenstore.Counted(kind, refs[0]) {
			return 0, false
		}
		name = countName(kind, refs[0])
	}
	b := tx.Bucket([]byte(name))
	if b == nil {
		return 0, len(refs) == 1 // no row has carried it yet
	}
	n = int(b.Sequence()) //nolint:gosec // what is negative then is not believed
	return n, n >= 0
}

// tally is how many rows there are of each number that is kept.
type tally map[string]int

func (t tally) add(bucket string, key []byte) {
	if name, ok := countEntry(bucket, key); ok {
		t[name]++
	}
}

// keptNames are the buckets in whose sequences numbers are.
func keptNames(tx *bolt.Tx) (names []string, err error) {
	err = tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
		if slices.Contains(tokenstore.Kinds(), tokenstore.Kind(name)) || bytes.Contains(name, []byte(countSuffix)) {
			names = append(names, string(name))
		}
		return nil
	})
	return names, err
}

// differs tells of every number that is kept and is another than there are rows.
func (t tally) differs(tx *bolt.Tx, fault func(tokenstore.StoreFault)) error {
	if countingIn(tx) != counted {
		return nil
	}
	names, err := keptNames(tx)
	if err != nil {
		return err
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(append(names, slices.Collect(maps.Keys(t))...)))) {
		said := 0
		if b := tx.Bucket([]byte(name)); b != nil {
			said = int(b.Sequence()) //nolint:gosec // it is told as it is
		}
		if said == t[name] {
			continue
		}
		kind, ref, of := strings.Cut(name, countSuffix)
		what := "rows"
		if of {
			what = "rows with the reference " + printable([]byte(ref))
		}
		fault(tokenstore.StoreFault{Class: tokenstore.FaultCount, Kind: tokenstore.Kind(kind), Problem: fmt.Sprintf("the file says that there are %d %s, and there are %d", said, what, t[name])})
	}
	return nil
}
