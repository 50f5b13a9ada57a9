package bbolt

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// How many rows there are stands beside them in the file. These tests show that it is right whatever has happened to the file: changes, crashes, copies, releases that know nothing of it.

func ofHealth(health, id string) tokenstore.Change {
	c := insert(id, []byte("sealed"))
	c.Row.Refs = []string{"user:1", "health:" + health}
	return c
}

func deletion(id string, version uint64) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: id, Version: version}}
}

// someCounted is the path of a closed file with n rows, every third of which has expired.
func someCounted(t testing.TB, n int) string {
	t.Helper()
	path := newPath(t)
	s := openStore(t, path)
	changes := make([]tokenstore.Change, 0, n)
	for i := range n {
		health := "valid"
		if i%3 == 0 {
			health = "expired"
		}
		changes = append(changes, ofHealth(health, fmt.Sprintf("%05d", i)))
	}
	mustApply(t, s, changes...)
	wantCounted(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantCounted checks that numbers are kept, and that each is right.
func wantCounted(t testing.TB, s *Store) {
	t.Helper()
	if !s.counts() {
		t.Error("numbers of rows are not kept")
	}
	if found := checked(t, s); len(found) > 0 {
		t.Errorf("Check tells of %+v", found)
	}
}

func wantCount(t testing.TB, s *Store, want int, refs ...string) {
	t.Helper()
	if n, err := s.Count(t.Context(), tokenstore.KindGrant, refs...); n != want || err != nil {
		t.Errorf("Count(%q) = %d, %v; want %d", refs, n, err, want)
	}
}

// awaitCounted waits until the rows of a file that was opened are counted.
func awaitCounted(t testing.TB, s *Store) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !s.counts(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the rows are not counted anew")
		}
	}
}

func TestCountsAreReadWithoutTheRows(t *testing.T) {
	t.Parallel()
	s := openStore(t, someCounted(t, 900))
	mustApply(t, s, ofHealth("valid", "a"), ofHealth("broken", "b"))
	moved := ofHealth("expired", "a")
	moved.Op, moved.Row.Version = tokenstore.OpUpdate, 2
	mustApply(t, s, moved, deletion("b", 1), deletion("00000", 1))
	wantCounted(t, s)
	wantCount(t, s, 900)
	wantCount(t, s, 300, "health:expired")
	wantCount(t, s, 600, "health:valid")
	wantCount(t, s, 0, "health:broken")
	wantCount(t, s, 0, "health:unheard-of")
	err := s.view(func(tx *bolt.Tx) error {
		for _, refs := range [][]string{nil, {"health:valid"}, {"health:unheard-of"}} {
			if _, ok := kept(tx, tokenstore.KindGrant, refs); !ok {
				t.Errorf("Count(%q) goes through the rows", refs)
			}
		}
		for _, refs := range [][]string{{"user:1"}, {"health:valid", "user:1"}} { // something is decided by such
			if _, ok := kept(tx, tokenstore.KindGrant, refs); ok {
				t.Errorf("Count(%q) does not go through the rows", refs)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// olderWrites are what releases that do not keep numbers do to a file.
var olderWrites = map[string]func(t *testing.T, path string){
	"write rows": func(t *testing.T, path string) {
		damage(t, path, func(tx *bolt.Tx) error {
			for i := range 5 { // as put is of no use to numbers that are not kept in the transaction
				if err := put(tx, ofHealth("broken", fmt.Sprint("older-", i)).Row, nil); err != nil {
					return err
				}
			}
			row, err := get(tx, tokenstore.KindGrant, "00007")
			if err != nil {
				return err
			}
			return remove(tx, row)
		})
	},
	"commit nothing": func(t *testing.T, path string) {
		damage(t, path, func(*bolt.Tx) error { return nil })
	},
	"copy the file":                    func(t *testing.T, path string) { copyBuckets(t, path, false) },
	"copy the file with its sequences": func(t *testing.T, path string) { copyBuckets(t, path, true) }, // as bbolt's own tool does
	"make it": func(t *testing.T, path string) {
		damage(t, path, func(tx *bolt.Tx) error {
			names, err := keptNames(tx)
			if err != nil {
				return err
			}
			for _, name := range append(names, metaBucket) {
				if strings.Contains(name, countSuffix) {
					err = errors.Join(err, tx.DeleteBucket([]byte(name)))
				} else {
					err = errors.Join(err, tx.Bucket([]byte(name)).SetSequence(0))
				}
			}
			return err
		})
	},
}

func copyBuckets(t *testing.T, path string, sequences bool) {
	t.Helper()
	from, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	to, err := bolt.Open(path+".copy", 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = from.View(func(old *bolt.Tx) error {
		return to.Update(func(tx *bolt.Tx) error {
			return old.ForEach(func(name []byte, b *bolt.Bucket) error {
				copied, err := tx.CreateBucket(name)
				if err != nil {
					return err
				}
				if sequences {
					if err := copied.SetSequence(b.Sequence()); err != nil {
						return err
					}
				}
				return b.ForEach(copied.Put)
			})
		})
	})
	if err = errors.Join(err, from.Close(), to.Close(), os.Rename(path+".copy", path)); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAnOlderReleaseWritesIsCountedAnew(t *testing.T) {
	t.Parallel()
	for name, write := range olderWrites {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := someCounted(t, 900)
			write(t, path)
			all, broken := 900, 0
			if name == "write rows" {
				all, broken = 904, 5
			}
			right := func(s *Store) {
				t.Helper()
				wantCount(t, s, all)
				wantCount(t, s, broken, "health:broken")
				wantCount(t, s, 300, "health:expired")
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			reader, err := OpenReadOnly(path, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if reader.counts() {
				t.Error("what an older release has written is not noticed")
			}
			right(reader)
			if err := reader.Close(); err != nil {
				t.Error(err)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("opening for reading has changed the file (%v)", err)
			}
			s := openStore(t, path)
			right(s)
			awaitCounted(t, s)
			right(s)
			mustApply(t, s, ofHealth("broken", "new"))
			all, broken = all+1, broken+1
			right(s)
			wantCounted(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, path)
			wantCounted(t, s)
			right(s)
		})
	}
}

// What is written before the rows are counted anew does not make the numbers of the time before those of now.
func TestNumbersThatAnOlderReleaseHasPassedByAreNotGoneOnWith(t *testing.T) {
	t.Parallel()
	path := someCounted(t, 90)
	olderWrites["write rows"](t, path)
	s := newStore() // without a committer, so that nobody counts
	if err := s.openAt(path, time.Minute, false); err != nil {
		t.Fatal(err)
	}
	s.path = path
	if err := s.update(func(tx *bolt.Tx) error { return put(tx, ofHealth("valid", "new").Row, nil) }); err != nil {
		t.Fatal(err)
	}
	if s.counts() {
		t.Error("numbers are kept that are of another file")
	}
	wantCount(t, s, 95)
	if err := s.release(); err != nil {
		t.Error(err)
	}
}

// Rows are counted anew over and over, and the file is compacted, while every Apply takes one row for another.
func TestCountingAnewBesideWritersIsExact(t *testing.T) {
	t.Parallel()
	const rows, writers = 2000, 4
	s := openStore(t, someCounted(t, rows))
	var running sync.WaitGroup
	var stop atomic.Bool
	changed := new(atomic.Int64)
	for w := range writers {
		running.Go(func() {
			last := ""
			for i := 0; !stop.Load(); i++ {
				gone := deletion(fmt.Sprintf("%05d", w*rows/writers+i), 1)
				if i >= rows/writers {
					gone = deletion(last, 1)
				}
				next := fmt.Sprintf("%05d-%d", i*7919%100_000, w) // before what is counted already, and behind it
				if err := s.Apply(t.Context(), gone, ofHealth([]string{"valid", "expired", "broken"}[i%3], next)); err != nil {
					t.Errorf("Apply: %v", err)
					return
				}
				if i+1 >= rows/writers {
					last = next
				}
				changed.Add(1)
			}
		})
	}
	running.Go(func() {
		for !stop.Load() {
			wantCount(t, s, rows)
			if t.Failed() {
				return
			}
		}
	})
	for i := range 60 {
		before := changed.Load()
		if err := s.countAnew(); err != nil {
			t.Errorf("countAnew: %v", err)
		}
		wantCounted(t, s)
		for end := time.Now().Add(time.Minute); changed.Load() < before+10 && time.Now().Before(end) && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		if i%10 == 9 && replaceable {
			mustCompact(t, s)
			wantCounted(t, s)
		}
		if t.Failed() {
			break
		}
	}
	stop.Store(true)
	running.Wait()
	wantCounted(t, s)
	wantCount(t, s, rows)
	t.Logf("%d changes", changed.Load())
}

// A compaction that ends while rows are counted has counted them itself.
func TestCompactingWhileRowsAreCountedKeepsItsOwnNumbers(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	s := openStore(t, someCounted(t, 900))
	mustTurn(t, s, func() error { return s.update(beginCounting) })
	wantCount(t, s, 900)
	mustCompact(t, s)
	wantCounted(t, s)
	mustTurn(t, s, func() error { return s.update(tally{"grant": 900}.endCounting) })
	wantCounted(t, s)
	wantCount(t, s, 900)
}

func mustTurn(t *testing.T, s *Store, do func() error) {
	t.Helper()
	if err := s.inTurn(t.Context(), do); err != nil {
		t.Fatal(err)
	}
}

// What was being counted when the process ended is counted by the next one.
func TestCrashWhileRowsAreCountedLeavesThemToTheNextStart(t *testing.T) {
	t.Parallel()
	path := someCounted(t, 900)
	s := openStore(t, path)
	mustTurn(t, s, func() error { return s.update(beginCounting) })
	mustApply(t, s, ofHealth("expired", "new"), deletion("00001", 1), deletion("00002", 1))
	wantCount(t, s, 899)
	wantCount(t, s, 301, "health:expired")
	if found := checked(t, s); s.counts() || len(found) > 0 {
		t.Errorf("numbers are kept already, or Check tells of %+v", found)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
	wantCount(t, s, 899)
	awaitCounted(t, s)
	wantCounted(t, s)
	wantCount(t, s, 899)
	wantCount(t, s, 301, "health:expired")
}

// Where a file is mapped anew as it grows, a commit waits for all who read.
func TestCountingAnewReadsNothingWhileItWaitsForTheCommitter(t *testing.T) {
	t.Parallel()
	path := someCounted(t, 900)
	olderWrites["commit nothing"](t, path)
	s := newStore()
	if err := s.openAt(path, time.Second, false); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.release() }()
	s.path = path
	ended := make(chan error, 1)
	go func() { ended <- s.countAnew() }()
	turn := func() { // as the committer would
		t.Helper()
		select {
		case do := <-s.turns:
			do()
		case err := <-ended:
			t.Fatalf("it has ended: %v", err)
		}
	}
	turn()
	for end := time.Now().Add(time.Minute); s.db.Stats().OpenTxN > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the file is still being read")
		}
	}
	turn()
	if err := <-ended; err != nil || !s.counts() {
		t.Errorf("the rows are not counted: %v", err)
	}
}

func TestChangesThatTheDiskRefusedDoNotCount(t *testing.T) {
	t.Parallel()
	s := openStore(t, someCounted(t, 90))
	full := errors.New("no space left on device")
	mustTurn(t, s, func() error {
		group := []*pending{
			own([]tokenstore.Change{ofHealth("valid", "a")}),
			{alone: func(*bolt.Tx) error { return full }},
			own([]tokenstore.Change{ofHealth("valid", "b"), ofHealth("valid", "a")}),
			{alone: failShown},
		}
		for _, p := range group {
			p.done = make(chan struct{})
		}
		s.commit(group)
		return nil
	})
	wantCounted(t, s)
	wantCount(t, s, 91)
	wantCount(t, s, 61, "health:valid")
}

func TestFrozenFileIsNotCountedAnew(t *testing.T) {
	t.Parallel()
	path := someCounted(t, 90)
	s := openStore(t, path)
	freeze := tokenstore.Freeze{State: tokenstore.FreezeMoved, Vault: "vault", From: "a", To: "b", Since: time.UnixMilli(1).UTC()}
	if err := s.Freeze(t.Context(), tokenstore.Freeze{}, freeze); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	olderWrites["make it"](t, path)
	s = openStore(t, path)
	before := lastCommit(t, s)
	if err := s.countAnew(); !errors.Is(err, tokenstore.ErrReadOnly) {
		t.Errorf("countAnew = %v; want ErrReadOnly", err)
	}
	if lastCommit(t, s) != before {
		t.Error("a frozen file was written")
	}
	wantCount(t, s, 90)
}

// misstate writes wrong numbers, as the disk or somebody else may.
func misstate(t *testing.T, path string, numbers map[string]uint64) {
	t.Helper()
	damage(t, path, func(tx *bolt.Tx) error {
		for name, n := range numbers {
			b, err := tx.CreateBucketIfNotExists([]byte(name))
			if err != nil {
				return err
			}
			if err := b.SetSequence(n); err != nil {
				return err
			}
		}
		return setCounting(tx, counted)
	})
}

func TestWrongNumbersAreToldAndPutRightByCompaction(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	path := someCounted(t, 90)
	misstate(t, path, map[string]uint64{"grant": 17, "grant/count/health:valid": math.MaxUint64 - 1, "grant/count/health:broken": 3, "client": math.MaxInt64, "nothing/count/x": 1})
	s := openStore(t, path)
	var told []string
	for _, f := range checked(t, s) {
		if f.Class != tokenstore.FaultCount {
			t.Errorf("%+v is not of the class %s", f, tokenstore.FaultCount)
		}
		told = append(told, fmt.Sprintf("%s: %s", f.Kind, f.Problem))
	}
	want := []string{
		"client: the file says that there are 9223372036854775807 rows, and there are 0",
		"grant: the file says that there are 17 rows, and there are 90",
		"grant: the file says that there are 3 rows with the reference health:broken, and there are 0",
		"grant: the file says that there are -2 rows with the reference health:valid, and there are 60",
		"nothing: the file says that there are 1 rows with the reference x, and there are 0",
	}
	if !slices.Equal(told, want) {
		t.Errorf("Check tells %q; want %q", told, want)
	}
	wantCount(t, s, 17)                 // wrong, and no more
	wantCount(t, s, 60, "health:valid") // what no number can be is not believed
	wantCount(t, s, 90, "user:1")
	mustApply(t, s, ofHealth("valid", "new"), deletion("00001", 1), deletion("00002", 1))
	if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, time.UnixMilli(2000), 10); n != 10 || err != nil {
		t.Errorf("Sweep = %d, %v", n, err)
	}
	mustCompact(t, s)
	wantCounted(t, s)
	wantCount(t, s, 79)
	err := s.view(func(tx *bolt.Tx) error {
		names, err := keptNames(tx)
		if slices.Contains(names, "nothing/count/x") {
			t.Error("a number of nothing was copied")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestBucketWithinAnotherCountsAsNoRows(t *testing.T) {
	t.Parallel()
	path := someCounted(t, 90)
	damage(t, path, func(tx *bolt.Tx) error {
		within, err := tx.Bucket([]byte("grant")).CreateBucket([]byte("client"))
		if err != nil {
			return err
		}
		return errors.Join(within.Put([]byte("a"), nil), setCounting(tx, counted))
	})
	s := openStore(t, path)
	for _, f := range checked(t, s) {
		if f.Class == tokenstore.FaultCount {
			t.Errorf("Check tells of %+v", f)
		}
	}
}

// Nothing that stands where numbers do keeps the vault from being opened, read and written.
func TestSenselessNumbersHarmNothing(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(tx *bolt.Tx) error{
		"the bucket of a number is a tree": func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("grant/count/health:valid"))
			for i := range 500 {
				if err := b.Put(fmt.Appendf(nil, "key %d", i), make([]byte, 100)); err != nil {
					return err
				}
			}
			return setCounting(tx, counted)
		},
		"the bucket of a number is gone": func(tx *bolt.Tx) error {
			return errors.Join(tx.DeleteBucket([]byte("grant/count/health:valid")), setCounting(tx, counted))
		},
		"a transaction of the future counted": func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(metaBucket)).SetSequence(math.MaxUint64)
		},
		"a kind has no rows": func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("consent")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := someCounted(t, 90)
			damage(t, path, harm)
			s := openStore(t, path)
			mustApply(t, s, ofHealth("valid", "new"), deletion("00001", 1))
			wantCount(t, s, 90)
			wantCount(t, s, 60, "health:valid", "user:1")
			if err := s.countAnew(); err != nil && name != "a kind has no rows" {
				t.Errorf("countAnew: %v", err)
			}
			wantCount(t, s, 90)
			wantCount(t, s, 60, "health:valid")
			mustApply(t, s, ofHealth("valid", "newer"))
			wantCount(t, s, 61, "health:valid")
		})
	}
}
