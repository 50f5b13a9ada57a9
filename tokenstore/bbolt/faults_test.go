package bbolt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func update(id string, version uint64, sealed []byte) tokenstore.Change {
	c := insert(id, sealed)
	c.Op, c.Row.Version = tokenstore.OpUpdate, version
	return c
}

// lastCommit is the number of the last transaction that wrote.
func lastCommit(t *testing.T, s *Store) (id int) {
	t.Helper()
	if err := s.db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

// commitTogether commits Applies as one group, and returns their errors.
func commitTogether(s *Store, applies ...[]tokenstore.Change) []error {
	var group []*pending
	for _, changes := range applies {
		p := own(changes)
		p.done = make(chan struct{})
		group = append(group, p)
	}
	s.commit(group)
	var errs []error
	for _, p := range group {
		<-p.done
		errs = append(errs, p.err)
	}
	return errs
}

func wantErrors(t *testing.T, got []error, want ...error) {
	t.Helper()
	if !slices.EqualFunc(got, want, errors.Is) {
		t.Errorf("errors are %v; want %v", got, want)
	}
}

func TestAppliesThatWaitShareOneCommit(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	waiting := &Store{queue: make(chan *pending, 128)} // without a committer
	for range 40 {
		waiting.queue <- &pending{}
	}
	if n := len(waiting.gather(&pending{})); n != 41 {
		t.Errorf("gather takes %d of 41 that wait", n)
	}
	before := lastCommit(t, s)
	errs := commitTogether(s,
		[]tokenstore.Change{insert("a", nil)},
		[]tokenstore.Change{insert("b", nil), insert("a", nil)}, // loses against the first
		[]tokenstore.Change{update("a", 2, nil), insert("c", nil)},
		[]tokenstore.Change{update("a", 2, nil), insert("d", nil)}, // loses against the third
		[]tokenstore.Change{insert("b", nil)},                      // free, since the second made nothing
	)
	wantErrors(t, errs, nil, tokenstore.ErrConflict, nil, tokenstore.ErrConflict, nil)
	if n := lastCommit(t, s) - before; n != 1 {
		t.Errorf("%d commits; want 1", n)
	}
	rows, err := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{})
	if err != nil || len(rows) != 3 || rows[0].Version != 2 || rows[1].ID != "b" || rows[2].ID != "c" {
		t.Errorf("List = %v, %v; want a in version 2, b and c", rows, err)
	}
}

// failShown is a transaction that fails after what it has written can be read, as one whose last sync fails.
func failShown(tx *bolt.Tx) error {
	tx.OnCommit(func() { panic("sync: input/output error") })
	return nil
}

func TestGroupWhoseSyncFailedIsSyncedAndNotMadeAgain(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	mustApply(t, s, insert("there", nil))
	calls := watchGrants(t, s)
	group := []*pending{
		own([]tokenstore.Change{insert("a", nil)}),
		own([]tokenstore.Change{insert("there", nil)}), // loses
		own([]tokenstore.Change{update("there", 2, nil)}),
		{alone: failShown},
	}
	commits := 0
	turned := make(chan struct{})
	s.turns <- func() { // for the committer has the file to itself
		before := lastCommit(t, s)
		for _, p := range group {
			p.done = make(chan struct{})
		}
		s.commit(group)
		commits = lastCommit(t, s) - before
		close(turned)
	}
	<-turned
	var errs []error
	for _, p := range group {
		<-p.done
		errs = append(errs, p.err)
	}
	wantErrors(t, errs, nil, tokenstore.ErrConflict, nil, nil)
	if commits != 2 {
		t.Errorf("%d commits; want that of the group, and an empty one that syncs it", commits)
	}
	for i, id := range []string{"a", "there"} { // in the order in which they were told
		if row, err := s.Get(t.Context(), tokenstore.KindGrant, id); err != nil || row.Version != uint64(i+1) {
			t.Errorf("%s is in version %d, %v; want %d", id, row.Version, err, i+1)
		}
		if got := told(t, calls); got != id {
			t.Errorf("told of %q; want %q", got, id)
		}
	}
}

func TestGroupWhoseSyncsFailIsUnavailable(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s := openStore(t, path)
	mustApply(t, s, insert("there", nil))
	away := path + ".away"
	group := []*pending{
		own([]tokenstore.Change{insert("a", nil)}),
		own([]tokenstore.Change{insert("there", nil)}), // perhaps loses against what is not durable either
		{alone: func(tx *bolt.Tx) error {
			if err := os.Rename(path, away); err != nil { // so that the second transaction fails as well
				return err
			}
			return failShown(tx)
		}},
	}
	turned := make(chan struct{})
	s.turns <- func() {
		for _, p := range group {
			p.done = make(chan struct{})
		}
		s.commit(group)
		close(turned)
	}
	<-turned
	for _, p := range group {
		if <-p.done; !errors.Is(p.err, tokenstore.ErrUnavailable) {
			t.Errorf("error is %v; want ErrUnavailable", p.err)
		}
	}
	if err := os.Rename(away, path); err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, update("there", 2, nil))
}

func TestSlowDiskIsUnavailableInBoundedTime(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	s.wait = 20 * time.Millisecond
	held, err := s.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	sealed := []byte("sealed")
	if err := s.Apply(t.Context(), insert("a", sealed)); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("Apply on a disk that does not answer = %v; want ErrUnavailable", err)
	}
	clear(sealed) // it is the caller's again, though not written yet
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Apply(ctx, insert("b", nil)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Apply whose context ends = %v; want context.DeadlineExceeded", err)
	}
	if err := held.Rollback(); err != nil {
		t.Fatal(err)
	}
	s.wait = maxWait
	mustApply(t, s, insert("c", nil))
	if row, err := s.Get(t.Context(), tokenstore.KindGrant, "a"); err != nil || string(row.Sealed) != "sealed" {
		t.Errorf("late row is %q, %v; want it as Apply was given it", row.Sealed, err)
	}
}

func TestCloseReturnsInBoundedTime(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	s.wait = 20 * time.Millisecond
	held, err := s.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("Close beside a call that does not end = %v; want ErrUnavailable", err)
	}
	if err := held.Rollback(); err != nil {
		t.Fatal(err)
	}
	<-s.done
	if err := s.Close(); err != nil {
		t.Errorf("Close afterwards = %v; want nil", err)
	}
}

func TestApplyThatMissesTheCommitterIsClosed(t *testing.T) {
	t.Parallel()
	s := &Store{wait: time.Minute, queue: make(chan *pending, 1), closed: make(chan struct{}), done: make(chan struct{})}
	close(s.done)
	if err := s.Apply(t.Context(), insert("a", nil)); !errors.Is(err, tokenstore.ErrClosed) {
		t.Errorf("Apply = %v; want ErrClosed", err)
	}
}

func TestR26FullDiskRefusesWhatDoesNotFitAndRecovers(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	s.db.MaxSize = 512 << 10 // stands for the disk; taken by the committer with the next Apply
	mustApply(t, s, insert("first", []byte("value")))

	errs := commitTogether(s,
		[]tokenstore.Change{insert("huge", make([]byte, 1<<20))},
		[]tokenstore.Change{insert("first", nil)},
		[]tokenstore.Change{insert("small", nil)},
	)
	wantErrors(t, errs, tokenstore.ErrUnavailable, tokenstore.ErrConflict, nil)

	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = s.Apply(t.Context(), insert(fmt.Sprint("row-", n), make([]byte, 10_000)))
	}
	if !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Fatalf("Apply on a full disk = %v; want ErrUnavailable", err)
	}
	row, err := s.Get(t.Context(), tokenstore.KindGrant, "first")
	if err != nil || string(row.Sealed) != "value" {
		t.Errorf("Get on a full disk = %v; want the row", err)
	}
	s.db.MaxSize = 0 // space returns
	mustApply(t, s, insert("after", nil))
}

// TestR32DamagedFileNeverEndsTheProcess damages pages of a file in many ways. What cannot be read is an error or is missing;
// a damage that bbolt answers with a panic, or with a fault of memory, is an error too. Left out is a
// damaged count of overflow pages: bbolt counts to it before it answers.
func TestR32DamagedFileNeverEndsTheProcess(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s := openStore(t, path)
	pageSize := s.db.Info().PageSize
	const rows = 200
	for i := range rows {
		mustApply(t, s, insert(fmt.Sprintf("%03d", i), make([]byte, 1000)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func(page []byte, r *rand.Rand){
		"type":   func(page []byte, _ *rand.Rand) { page[8], page[9] = 0x77, 0x77 },
		"header": func(page []byte, _ *rand.Rand) { copy(page[8:16], "\xff\xff\xff\xff\xff\xff\xff\xff") },
		"pointer": func(page []byte, _ *rand.Rand) {
			copy(page[16:64], "\xff\xff\xff\x7f\xff\xff\xff\x7f\xff\xff\xff\x7f\xff\xff\xff\x7f")
		},
		"zeros": func(page []byte, _ *rand.Rand) { clear(page) },
		"noise": func(page []byte, r *rand.Rand) {
			for range 8 { // in the low halves of numbers: bbolt itself asks for the gigabytes that a page claims
				page[16+4*r.IntN(60)+r.IntN(2)] = byte(r.Uint32())
			}
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(1, 2))
			failed := 0
			for range 40 {
				file := slices.Clone(whole)
				page := 2 + r.IntN(len(file)/pageSize-2)
				damage(file[page*pageSize:(page+1)*pageSize], r)
				damaged := newPath(t)
				if err := os.WriteFile(damaged, file, 0o600); err != nil {
					t.Fatal(err)
				}
				failed += useDamaged(t, damaged, rows)
			}
			if failed == 0 {
				t.Error("no damage was noticed: the test damages nothing")
			}
		})
	}
}

func TestR32PanicInATransactionReleasesTheFile(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	for name, run := range map[string]func(func(*bolt.Tx) error) error{"view": s.view, "update": s.update} {
		if err := run(func(*bolt.Tx) error { panic("damaged page") }); !errors.Is(err, tokenstore.ErrUnavailable) {
			t.Errorf("panic in %s = %v; want ErrUnavailable", name, err)
		}
	}
	mustApply(t, s, insert("a", nil))
}

func TestR32StoreWhoseLocksAreLostAnswersAndCloses(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s, err := Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	db := s.db
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	_ = s.guard(func() error { s.locking(func() { panic("damaged page") }); return nil })
	_, get := s.Get(t.Context(), tokenstore.KindGrant, "a")
	_, list := s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{})
	_, sweep := s.Sweep(t.Context(), tokenstore.KindGrant, time.UnixMilli(1), 1)
	apply := s.Apply(t.Context(), insert("a", nil))
	for name, err := range map[string]error{"Get": get, "List": list, "Sweep": sweep, "Apply": apply, "Close": s.Close()} {
		if !errors.Is(err, errBroken) {
			t.Errorf("%s = %v; want errBroken", name, err)
		}
	}
}

// TestR32FileCutWhileOpenIsUnavailable takes the file away under a running store, as a careless restore does. Every
// call must return, and the process must live.
func TestR32FileCutWhileOpenIsUnavailable(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		return // does not let a mapped file be cut
	}
	path := newPath(t)
	s, err := Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		mustApply(t, s, insert(fmt.Sprintf("%03d", i), make([]byte, 1000)))
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		var calls sync.WaitGroup
		for i := range 16 {
			calls.Go(func() {
				_, err := s.Get(t.Context(), tokenstore.KindGrant, fmt.Sprintf("%03d", i))
				if i%4 == 0 {
					err = s.Apply(t.Context(), insert(fmt.Sprint("new-", i), nil))
				}
				if !errors.Is(err, tokenstore.ErrUnavailable) {
					t.Errorf("call on a file that was cut = %v; want ErrUnavailable", err)
				}
			})
		}
		calls.Wait()
		if err := s.Close(); err != nil && !errors.Is(err, tokenstore.ErrUnavailable) {
			t.Errorf("Close of a file that was cut = %v; want nil or ErrUnavailable", err)
		}
	}()
	select {
	case <-finished:
	case <-time.After(time.Minute):
		t.Fatal("a call hangs")
	}
}

// useDamaged calls everything on a damaged file, and returns how many calls failed.
func useDamaged(t *testing.T, path string, rows int) int {
	t.Helper()
	s, err := Open(path, time.Second)
	if err != nil {
		if !errors.Is(err, tokenstore.ErrUnavailable) {
			t.Errorf("Open = %v; want ErrUnavailable", err)
		}
		return 1
	}
	var errs []error
	for i := range rows {
		_, err := s.Get(t.Context(), tokenstore.KindGrant, fmt.Sprintf("%03d", i))
		errs = append(errs, err)
		if i%10 == 0 {
			errs = append(errs, s.Apply(t.Context(), update(fmt.Sprintf("%03d", i), 2, nil)))
		}
	}
	_, err = s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Limit: 1000})
	errs = append(errs, err)
	_, err = s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Refs: []string{"user:1"}, Limit: 1000})
	errs = append(errs, err)
	_, err = s.List(t.Context(), tokenstore.KindGrant, tokenstore.Query{Refs: []string{"user:1", "client:1"}, Limit: 1000})
	errs = append(errs, err)
	_, err = s.Count(t.Context(), tokenstore.KindGrant, "user:1", "client:1")
	errs = append(errs, err)
	_, err = s.Due(t.Context(), tokenstore.KindGrant, time.UnixMilli(2000), 50)
	errs = append(errs, err)
	_, err = s.Sweep(t.Context(), tokenstore.KindGrant, time.UnixMilli(2000), 50)
	errs = append(errs, err, s.Apply(t.Context(), insert("new", nil)), s.Close())
	failed := 0
	for _, err := range errs {
		switch {
		case err == nil, errors.Is(err, tokenstore.ErrConflict):
		case errors.Is(err, tokenstore.ErrUnavailable), errors.Is(err, tokenstore.ErrNotFound):
			failed++
		default:
			t.Errorf("call on a damaged file = %v; want an error of the contract", err)
		}
	}
	return failed
}
