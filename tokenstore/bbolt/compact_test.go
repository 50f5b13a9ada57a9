package bbolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/storetest"
)

// needCompaction skips a test where files that are open cannot be replaced.
func needCompaction(t testing.TB) {
	t.Helper()
	if !replaceable {
		t.Skip("files that are open cannot be replaced here")
	}
}

func mustCompact(t testing.TB, s *Store) (before, after int64) {
	t.Helper()
	before, after, err := s.Compact(t.Context(), nil)
	if err != nil {
		t.Fatalf("Compact: %v", err)
	}
	return before, after
}

// wantWhole checks that the file has each index entry that its rows say, and no other, that its numbers of rows are right, and that bbolt finds no fault in its pages.
func wantWhole(t testing.TB, s *Store) (rows int) {
	t.Helper()
	err := s.view(func(tx *bolt.Tx) error {
		for _, kind := range tokenstore.Kinds() {
			want := notes{places: make(map[place]struct{})}
			b, err := bucket(tx, kind, "")
			if err != nil {
				return err
			}
			err = b.ForEach(func(id, value []byte) error {
				rows++
				row, err := decodeRow(kind, string(id), value)
				want.add(row)
				return err
			})
			if err != nil {
				return err
			}
			for _, suffix := range suffixes {
				b, err := bucket(tx, kind, suffix)
				if err != nil {
					return err
				}
				err = b.ForEach(func(key, _ []byte) error {
					at := place{string(kind) + suffix, string(key)}
					if _, ok := want.places[at]; !ok {
						t.Errorf("%q is not of any row", at)
					}
					delete(want.places, at)
					return nil
				})
				if err != nil {
					return err
				}
			}
			for at := range want.places {
				t.Errorf("%q is missing", at)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantCounted(t, s)
	tx, err := s.db.Begin(true) // so that nobody changes what is checked
	if err != nil {
		t.Fatal(err)
	}
	for err := range tx.Check() {
		t.Errorf("the file is not consistent: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	return rows
}

// contents is all that is in the file.
func contents(t testing.TB, s *Store) map[place]string {
	t.Helper()
	all := make(map[place]string)
	err := s.view(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				all[place{string(name), string(k)}] = string(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func wantContents(t testing.TB, s *Store, want map[place]string) {
	t.Helper()
	got := contents(t, s)
	for at, value := range want {
		if found, ok := got[at]; !ok || found != value {
			t.Errorf("%q has %d bytes (%v); want %d", at, len(found), ok, len(value))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d keys; want %d", len(got), len(want))
	}
}

func TestStoreKeepsTheContractWhileItIsCompacted(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	var done atomic.Int64
	compacted := func(t *testing.T, path string) tokenstore.Store {
		s := openStore(t, path)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for ctx.Err() == nil {
				_, _, err := s.Compact(ctx, nil)
				switch {
				case err == nil:
					done.Add(1)
				case errors.Is(err, tokenstore.ErrClosed):
					return
				case errors.Is(err, context.Canceled), errors.Is(err, ErrCompact), errors.Is(err, tokenstore.ErrReadOnly):
				default:
					t.Errorf("Compact: %v", err)
					return
				}
			}
		}()
		t.Cleanup(func() { cancel(); <-ended })
		return s
	}
	t.Run("contract", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) tokenstore.Store { return compacted(t, newPath(t)) })
		storetest.RunDurability(t, func(t *testing.T) func(*testing.T) tokenstore.Store {
			path := newPath(t)
			return func(t *testing.T) tokenstore.Store { return compacted(t, path) }
		})
	})
	t.Logf("%d compactions", done.Load())
	if done.Load() == 0 {
		t.Error("nothing was compacted")
	}
}

func TestCompactingGivesRoomBackAndKeepsEverything(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	path := newPath(t)
	s := openStore(t, path)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		var changes []tokenstore.Change
		for j := range 100 {
			changes = append(changes, insert(fmt.Sprintf("%d-%d", i, j), make([]byte, 3000)))
		}
		mustApply(t, s, changes...)
	}
	if _, err := s.Sweep(t.Context(), tokenstore.KindGrant, time.UnixMilli(2000), 2800); err != nil {
		t.Fatal(err)
	}
	want := contents(t, s)
	var steps []tokenstore.Progress
	calls := watchGrants(t, s)
	before, after, err := s.Compact(t.Context(), func(p tokenstore.Progress) { steps = append(steps, p) })
	if err != nil || before < 10<<20 || after > 3<<20 {
		t.Errorf("Compact = %d, %d, %v; want the room of 2800 rows back", before, after, err)
	}
	if len(steps) < 2 || steps[0] != (tokenstore.Progress{Step: CompactCopying, Kind: tokenstore.KindGrant, Done: 200, Total: 200}) {
		t.Errorf("told of %+v", steps)
	}
	wantContents(t, s, want)
	wantWhole(t, s)
	if info, err := os.Stat(path); err != nil || info.Size() != after || info.Mode().Perm() != 0o640 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if _, err := os.Stat(path + compactSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other file: %v", err)
	}
	mustApply(t, s, insert("after", nil))
	if id := told(t, calls); id != "after" {
		t.Errorf("watchers were told of %q: a compaction changes nothing", id)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := openStore(t, path)
	if _, err := again.Get(t.Context(), tokenstore.KindGrant, "after"); err != nil {
		t.Error(err)
	}
}

// TestCompactingBesideWritersLosesNothing has writers insert, update, delete and sweep rows, with references and times that change, and compacts all the time.
func TestCompactingBesideWritersLosesNothing(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	path := newPath(t)
	s := openStore(t, path)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var writers sync.WaitGroup
	stop := make(chan struct{})
	models := make([]map[string]tokenstore.Row, 4)
	for w := range models {
		models[w] = make(map[string]tokenstore.Row)
		r := rand.New(rand.NewPCG(seed, uint64(w)))
		writers.Go(func() { writeAtRandom(t, s, r, w, models[w], stop) })
	}
	compactions := 0
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); compactions++ {
		mustCompact(t, s)
	}
	close(stop)
	writers.Wait()
	t.Logf("%d compactions", compactions)
	for range 2 {
		rows := 0
		for _, model := range models {
			for id, want := range model {
				got, err := s.Get(t.Context(), want.Kind, id)
				if err != nil || !bytes.Equal(encodeRow(got), encodeRow(want)) {
					t.Fatalf("%s is version %d with %d bytes, %v; want version %d with %d", id, got.Version, len(got.Sealed), err, want.Version, len(want.Sealed))
				}
			}
			rows += len(model)
		}
		if n := wantWhole(t, s); n != rows || rows < 100 {
			t.Errorf("%d rows; want %d, and more than 100", n, rows)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, path)
	}
}

// writeAtRandom changes rows of its own until it is stopped, and keeps in the model what there must be.
func writeAtRandom(t *testing.T, s *Store, r *rand.Rand, writer int, model map[string]tokenstore.Row, stop <-chan struct{}) {
	kinds := []tokenstore.Kind{tokenstore.KindAccount, tokenstore.KindGrant}
	for {
		select {
		case <-stop:
			return
		default:
		}
		n := r.IntN(400)
		row := tokenstore.Row{Kind: kinds[n%2], ID: fmt.Sprintf("%d-%d", writer, n), Version: 1, Sealed: make([]byte, r.IntN(3000))}
		for i := range r.IntN(4) {
			row.Refs = append(row.Refs, fmt.Sprintf("ref%d:%d", i, r.IntN(20)))
		}
		if r.IntN(2) == 0 {
			row.Due = time.UnixMilli(1 + r.Int64N(1000)).UTC()
		}
		if r.IntN(2) == 0 {
			row.DeleteAfter = time.UnixMilli(1 + r.Int64N(1000)).UTC()
		}
		before, there := model[row.ID]
		change := tokenstore.Change{Op: tokenstore.OpInsert, Row: row}
		switch {
		case there && r.IntN(3) == 0:
			change = tokenstore.Change{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: row.Kind, ID: row.ID, Version: before.Version}}
		case there:
			change.Op, change.Row.Version = tokenstore.OpUpdate, before.Version+1
		}
		if err := s.Apply(t.Context(), change); err != nil {
			t.Errorf("Apply: %v", err)
			return
		}
		if change.Op == tokenstore.OpDelete {
			delete(model, row.ID)
		} else {
			model[row.ID] = change.Row
		}
	}
}

func TestReaderOfTheOldFileReadsOn(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	path := newPath(t)
	s := openStore(t, path)
	mustApply(t, s, insert("a", []byte("old")))
	reading, read := make(chan struct{}), make(chan error)
	go func() {
		read <- s.view(func(tx *bolt.Tx) error {
			reading <- struct{}{}
			<-reading
			row, err := get(tx, tokenstore.KindGrant, "a")
			if err == nil && string(row.Sealed) != "old" {
				err = fmt.Errorf("it is %q", row.Sealed)
			}
			return err
		})
	}()
	<-reading
	s.wait = time.Millisecond
	mustCompact(t, s)
	s.wait = maxWait
	mustApply(t, s, update("a", 2, []byte("new")))
	if _, _, err := s.Compact(t.Context(), nil); !errors.Is(err, ErrCompact) || !strings.Contains(err.Error(), "try again") {
		t.Errorf("Compact while the file from before is read = %v; want ErrCompact", err)
	}
	reading <- struct{}{}
	if err := <-read; err != nil {
		t.Error(err)
	}
	s.compacting <- struct{}{} // the old file was closed
	<-s.compacting
	mustCompact(t, s)
	if row, err := s.Get(t.Context(), tokenstore.KindGrant, "a"); err != nil || string(row.Sealed) != "new" {
		t.Errorf("Get = %q, %v", row.Sealed, err)
	}
}

func TestCompactionThatIsNotToBeChangesNothing(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	frozen := tokenstore.Freeze{State: tokenstore.FreezeMoving, Vault: "v", From: "a", To: "b", Since: time.UnixMilli(1).UTC()}
	freeze := func(t *testing.T, s *Store) {
		if err := s.Freeze(t.Context(), tokenstore.Freeze{}, frozen); err != nil {
			t.Fatal(err)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		ctx    context.Context
		before func(t *testing.T, s *Store)
		during func(t *testing.T, s *Store)
		after  func(t *testing.T, s *Store)
		want   error
		says   string
	}{
		"frozen":           {before: freeze, want: tokenstore.ErrReadOnly, says: "it is being moved to b"},
		"frozen meanwhile": {during: freeze, want: ErrCompact, says: "read-only meanwhile"},
		"filled and served meanwhile": {during: func(t *testing.T, s *Store) {
			filling := frozen
			filling.State = tokenstore.FreezeFilling
			err := errors.Join(s.Freeze(t.Context(), tokenstore.Freeze{}, filling),
				s.Import(t.Context(), tokenstore.KindGrant, []tokenstore.Row{{Kind: tokenstore.KindGrant, ID: "imported", Version: 3}}, nil),
				s.Freeze(t.Context(), filling, tokenstore.Freeze{}))
			if err != nil {
				t.Fatal(err)
			}
		}, want: ErrCompact, says: "read-only meanwhile"},
		"two at a time": {during: func(t *testing.T, s *Store) {
			if _, _, err := s.Compact(t.Context(), nil); !errors.Is(err, ErrCompact) || !strings.Contains(err.Error(), "already") {
				t.Errorf("Compact beside another = %v; want ErrCompact", err)
			}
		}},
		"cancelled": {ctx: cancelled, want: context.Canceled},
		"something else is in the way": {before: func(t *testing.T, s *Store) {
			if err := os.MkdirAll(s.path+compactSuffix+"/x", 0o700); err != nil {
				t.Fatal(err)
			}
		}, want: ErrCompact, says: "cannot be removed"},
		"the file was moved": {during: func(t *testing.T, s *Store) {
			if err := os.Rename(s.path, s.path+".moved"); err != nil {
				t.Fatal(err)
			}
		}, after: func(t *testing.T, s *Store) {
			if err := os.Rename(s.path+".moved", s.path); err != nil {
				t.Fatal(err)
			}
		}, want: tokenstore.ErrUnavailable, says: "was deleted or moved"},
		"closed": {during: func(t *testing.T, s *Store) {
			s.once.Do(func() { close(s.closed) })
		}, after: func(t *testing.T, s *Store) {
			path := s.path
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			*s = Store{} // only its path is looked at from here on
			s.path = path
		}, want: tokenstore.ErrClosed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := newPath(t)
			s, err := Open(path, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			mustApply(t, s, insert("a", []byte("value")))
			if tt.before != nil {
				tt.before(t, s)
			}
			if tt.ctx == nil {
				tt.ctx = t.Context()
			}
			told := false
			_, _, err = s.Compact(tt.ctx, func(tokenstore.Progress) {
				if tt.during != nil && !told {
					told = true
					tt.during(t, s)
				}
			})
			if !errors.Is(err, tt.want) || tt.want != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Compact = %v; want %v that says %q", err, tt.want, tt.says)
			}
			if tt.after != nil {
				tt.after(t, s)
			}
			if info, err := os.Stat(path + compactSuffix); err == nil && info.Mode().IsRegular() {
				t.Error("the new file was left")
			}
			if s.db == nil {
				s = openStore(t, path)
			}
			row, err := s.Get(t.Context(), tokenstore.KindGrant, "a")
			if err != nil || string(row.Sealed) != "value" {
				t.Errorf("Get = %q, %v", row.Sealed, err)
			}
			wantWhole(t, s)
			if f, err := s.Frozen(t.Context()); err != nil || !f.Frozen() {
				mustApply(t, s, insert("b", nil))
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNameThatIsNotDurableTakesNoWrites has the directory gone when it is to be synced: until that works, a power cut could bring the old file back, without
// what is written to the new one.
func TestNameThatIsNotDurableTakesNoWrites(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	s := openStore(t, newPath(t))
	mustApply(t, s, insert("a", nil))
	turned := make(chan struct{})
	set := func(dir string) {
		s.turns <- func() { s.unsynced = dir; turned <- struct{}{} }
		<-turned
	}
	missing := t.TempDir() + "/missing"
	set(missing)
	if err := s.Apply(t.Context(), insert("b", nil)); !errors.Is(err, tokenstore.ErrUnavailable) || !strings.Contains(err.Error(), "synced") {
		t.Errorf("Apply = %v; want ErrUnavailable", err)
	}
	if _, err := s.Get(t.Context(), tokenstore.KindGrant, "a"); err != nil {
		t.Error(err)
	}
	if err := os.Mkdir(missing, 0o700); err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, insert("b", nil))
}

func TestVaultBehindALinkIsCompactedWhereItIs(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	real, link := newPath(t), newPath(t)
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, link)
	mustApply(t, s, insert("a", nil))
	mustCompact(t, s)
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info, err)
	}
	mustApply(t, s, insert("b", nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := wantWhole(t, openStore(t, real)); n != 2 {
		t.Errorf("%d rows", n)
	}
}

// TestWhoWaitsForTheFileGetsTheCompactedOne: another store waits for the lock of the file while that is replaced. What had it is the old file then, which has no name any more.
func TestWhoWaitsForTheFileGetsTheCompactedOne(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	path := newPath(t)
	s, err := Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, insert("a", nil))
	opened := make(chan *Store)
	go func() {
		other, err := Open(path, time.Minute)
		if err != nil {
			t.Error(err)
		}
		opened <- other
	}()
	for range 5 {
		mustCompact(t, s)
	}
	mustApply(t, s, insert("b", nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other := <-opened
	if other == nil {
		return
	}
	mustApply(t, other, insert("c", nil))
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if n := wantWhole(t, openStore(t, path)); n != 3 {
		t.Errorf("%d rows; want 3", n)
	}
}

// TestVaultIsMovedWhileItsFileIsCompacted: rows are copied from a file that is compacted all the time, until it is frozen.
func TestVaultIsMovedWhileItsFileIsCompacted(t *testing.T) {
	t.Parallel()
	needCompaction(t)
	from, to := openStore(t, newPath(t)), openStore(t, newPath(t))
	for i := range 20 {
		var changes []tokenstore.Change
		for j := range 100 {
			changes = append(changes, insert(fmt.Sprintf("%d-%d", i, j), make([]byte, 300)))
		}
		mustApply(t, from, changes...)
	}
	move := &tokenstore.Move{From: from, To: to, Source: "the old file", Target: "the new file", Vault: "v"}
	compactions := 0
	move.Progress = func(p tokenstore.Progress) {
		if p.Step == tokenstore.MoveCopying && compactions == 3 {
			return
		}
		_, _, err := from.Compact(t.Context(), nil)
		switch {
		case err == nil && p.Step == tokenstore.MoveCopying:
			compactions++
		case p.Step == tokenstore.MoveCopying || !errors.Is(err, tokenstore.ErrReadOnly):
			t.Errorf("Compact at the step %s = %v", p.Step, err)
		}
	}
	kinds, err := move.Run(t.Context())
	if err = errors.Join(err, tokenstore.Different(kinds)); err != nil {
		t.Fatal(err)
	}
	if compactions == 0 {
		t.Error("nothing was compacted while it was copied")
	}
	if rows := wantWhole(t, to); rows != 2000 {
		t.Errorf("%d rows; want 2000", rows)
	}
	if f, err := from.Frozen(t.Context()); err != nil || f.State != tokenstore.FreezeMoved {
		t.Errorf("Frozen = %v, %v", f, err)
	}
}
