//go:build slow && !race

package bbolt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// rowsVariable is how many rows the files of these tests have, where that is not what every test run can wait for.
const rowsVariable = "VAULT_TEST_ROWS"

func manyRows(t *testing.T) int {
	t.Helper()
	text := os.Getenv(rowsVariable)
	if text == "" {
		return 50_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1000 {
		t.Fatalf("%s=%q is no number of rows, or too small", rowsVariable, text)
	}
	return n
}

// manyID is an id without order, as those of records are.
func manyID(i int) string {
	h := uint64(i)*0x9E3779B97F4A7C15 + 0x1234567
	return fmt.Sprintf("%016x%08d", h, i)
}

// grantRow is about what a grant takes.
func grantRow(i int) tokenstore.Row {
	sealed := make([]byte, 900)
	_, _ = rand.Read(sealed)
	return tokenstore.Row{
		Kind: tokenstore.KindGrant, ID: manyID(i), Version: 1, State: "active", DeleteAfter: time.UnixMilli(int64(1_000_000 + i)).UTC(), Sealed: sealed,
		Refs: []string{fmt.Sprintf("client:%d", i%1000), fmt.Sprintf("user:%d", i/3), "proxy:wiki", fmt.Sprintf("account:%d", i/2), "health:valid"},
	}
}

// fillMany makes a file with rows, half of which are deleted again, all over it.
func fillMany(t *testing.T, path string, rows int) {
	t.Helper()
	s := openStore(t, path)
	s.db.NoSync, s.wait = true, time.Hour // nobody waits for this one
	changes := make([]tokenstore.Change, 0, 5000)
	flush := func() {
		mustApply(t, s, changes...)
		changes = changes[:0]
	}
	order := make([]int, 2*rows)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(manyID(a), manyID(b)) }) // which is faster
	for _, i := range order {
		changes = append(changes, tokenstore.Change{Op: tokenstore.OpInsert, Row: grantRow(i)})
		if len(changes) == cap(changes) {
			flush()
		}
	}
	flush()
	for i := range rows {
		changes = append(changes, tokenstore.Change{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: manyID(2 * i), Version: 1}})
		if len(changes) == cap(changes) {
			flush()
		}
	}
	flush()
	if err := errors.Join(s.db.Sync(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// load has writers update rows of their own until it is stopped, and tells how long each Apply took.
func load(t *testing.T, s *Store, writers, rows int) (stop func() []time.Duration, failed *atomic.Int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	took := make([][]time.Duration, writers)
	failed = new(atomic.Int64)
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for i := w; ctx.Err() == nil; i = (i + writers*37) % rows {
				id := manyID(2*(i-i%writers+w) + 1)
				began := time.Now()
				row, err := s.Get(t.Context(), tokenstore.KindGrant, id)
				if errors.Is(err, tokenstore.ErrNotFound) {
					continue
				}
				row.Version++
				if err == nil {
					err = s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: row})
				}
				if err != nil {
					failed.Add(1)
					t.Errorf("call: %v", err)
					return
				}
				took[w] = append(took[w], time.Since(began))
			}
		})
	}
	return func() []time.Duration {
		cancel()
		running.Wait()
		return slices.Concat(took...)
	}, failed
}

func describe(took []time.Duration) string {
	if len(took) == 0 {
		return "none"
	}
	slices.Sort(took)
	at := func(share float64) time.Duration {
		return took[min(len(took)-1, int(share*float64(len(took))))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d, median %s, 99%% %s, longest %s", len(took), at(0.5), at(0.99), at(1))
}

// TestSlowCompactingManyRowsBesideWriters prints how long compacting takes, and what those notice who write meanwhile.
func TestSlowCompactingManyRowsBesideWriters(t *testing.T) { //nolint:paralleltest // it measures
	needCompaction(t)
	rows, path := manyRows(t), newPath(t)
	fillMany(t, path, rows)
	began := time.Now()
	s := openStore(t, path)
	t.Logf("%d rows: opened in %s", rows, time.Since(began))
	total, free, err := s.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB, %d MiB of them free", total>>20, free>>20)
	measure := func(when string, for_ time.Duration) {
		stop, _ := load(t, s, 16, rows)
		time.Sleep(for_) // what is measured is how many there are in this time
		t.Logf("calls %s: %s", when, describe(stop()))
	}
	measure("before", 5*time.Second)
	stop, failed := load(t, s, 16, rows)
	began = time.Now()
	before, after, err := s.Compact(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("compacted in %s: %d MiB before, %d MiB after", time.Since(began), before>>20, after>>20)
	during := stop()
	t.Logf("calls meanwhile: %s", describe(during))
	if failed.Load() > 0 || after > before*7/10 {
		t.Errorf("%d calls failed, %d of %d bytes are left", failed.Load(), after, before)
	}
	measure("after", 5*time.Second)
	if n := wantWhole(t, s); n != rows {
		t.Errorf("%d rows; want %d", n, rows)
	}
}

// TestSlowCounting prints what counting costs in time and in memory that the process has of the file: with numbers that are kept, while they are made anew, and by going through the rows.
func TestSlowCounting(t *testing.T) { //nolint:paralleltest // it measures
	rows, path := manyRows(t), newPath(t)
	fillMany(t, path, rows)
	s := openStore(t, path)
	measure := func(how string, count func() (int, error)) (grown int) {
		before, began := residentFile(t), time.Now()
		n, err := count()
		grown = residentFile(t) - before
		t.Logf("%d rows, %s: %s, and %d KiB of the file", rows, how, time.Since(began).Round(time.Microsecond), grown)
		if n != rows || err != nil {
			t.Errorf("%s: %d, %v; want %d", how, n, err, rows)
		}
		return grown
	}
	kept := func() (int, error) { return s.Count(t.Context(), tokenstore.KindGrant) }
	if grown := measure("numbers are kept", kept); grown > 1024 {
		t.Errorf("to know how many rows there are %d KiB of the file were read", grown)
	}
	measure("made anew", func() (int, error) {
		if err := s.countAnew(); err != nil {
			return 0, err
		}
		return kept()
	})
	measure("by a reference that is counted", func() (int, error) { return s.Count(t.Context(), tokenstore.KindGrant, "health:valid") })
	measure("by a reference that is not", func() (int, error) { return s.Count(t.Context(), tokenstore.KindGrant, "proxy:wiki") })
	measure("going through the rows", func() (n int, err error) {
		err = s.view(func(tx *bolt.Tx) error {
			return walk(tx, tokenstore.KindGrant, nil, "", func([]byte) bool { n++; return true })
		})
		return n, err
	})
}

// residentFile is how many KiB of files are in the memory of this process; the test is skipped where that is not told.
func residentFile(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("the system does not tell how much memory is of files")
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	kib, err := strconv.Atoi(strings.Fields(rest + " 0")[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// TestSlowFreelist prints what it costs to keep the list of free pages in the file, and what not to: the reason for which it is kept, see options.
func TestSlowFreelist(t *testing.T) { //nolint:paralleltest // it measures
	rows, path := manyRows(t), newPath(t)
	fillMany(t, path, rows)
	for _, compacted := range []bool{false, true} {
		if compacted && replaceable {
			s := openStore(t, path)
			mustCompact(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for _, unkept := range []bool{false, true, true, false} {
			o := options(time.Minute)
			o.NoFreelistSync = unkept
			began := time.Now()
			db, _, err := openFile(path, o)
			if err != nil {
				t.Fatal(err)
			}
			opened := time.Since(began)
			var took []time.Duration
			for i := range 300 {
				began := time.Now()
				err := db.Update(func(tx *bolt.Tx) error {
					row, err := get(tx, tokenstore.KindGrant, manyID(2*(i*31%rows)+1))
					if err != nil {
						return err
					}
					before := row
					row.Version++
					return put(tx, row, &before)
				})
				if err != nil {
					t.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			t.Logf("%d rows, compacted %v, list not kept %v: opened in %s; %d free pages; commits %s", rows, compacted, unkept, opened, db.Stats().FreePageN, describe(took))
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSlowTenThousandFlippedBits is TestFlippedBitsAreErrorsOrNothing, many times over.
func TestSlowTenThousandFlippedBits(t *testing.T) {
	t.Parallel()
	noticed := newFlipped(t).flip(t, 10_000)
	t.Logf("%d were noticed", noticed)
}
