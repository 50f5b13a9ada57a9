package bbolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// ErrCompact is the error of a compaction that is not to be.
var ErrCompact = errors.New("the vault file cannot be compacted")

func noCompaction(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrCompact, fmt.Errorf(format, args...))
}

func errDamaged(how string) error {
	return fmt.Errorf("%w: the vault file is damaged: %s", tokenstore.ErrUnavailable, how)
}

// The steps of a compaction.
const (
	CompactCopying tokenstore.Step = "copying" // while Applies go on

	CompactCatchingUp tokenstore.Step = "catching up" // with what they have changed meanwhile
)

const (
	// compactSuffix is behind the name of the file that is to replace the vault file.
	compactSuffix = ".compact"

	// copyKeys and copyBytes bound what is read and written in one transaction.
	copyKeys, copyBytes = 1000, 1 << 20

	// maxNotes is how many changes are noted before copying stops to catch up with them, and lastNotes how many may be left to the step for which Applies wait.
	maxNotes, lastNotes = 50_000, 200

	// maxRounds bounds how often it is tried to catch up.
	maxRounds = 50

	// spare is how much room on the disk is left to others.
	spare = 16 << 20

	// fillPercent is how full pages are made; updates that make a row a little longer are to find room.
	fillPercent = 0.9
)

// Compact copies what is in the file to a new one beside it, without the free space that the file has gathered, and goes on with that. It returns the sizes of both. Calls go on
// meanwhile; only at the end Applies wait, for one sync of the disk. Watchers are told nothing, since nothing changes. A call that reads for long, such as a backup, goes on reading
// the old file, and the disk has its room back when that ends.
//
// A crash leaves one whole vault, at any time. What is left beside it is removed when it is opened again. ErrCompact says that it is not to be; a store that is
// read-only is ErrReadOnly.
func (s *Store) Compact(ctx context.Context, tell func(tokenstore.Progress)) (before, after int64, err error) {
	if err := s.usable(ctx); err != nil {
		return 0, 0, err
	}
	if !replaceable {
		return 0, 0, noCompaction("%s has no way to replace a file that is open", runtime.GOOS)
	}
	f, err := s.Frozen(ctx)
	if err != nil {
		return 0, 0, err
	}
	if f.Frozen() {
		return 0, 0, f.Refuse()
	}
	select {
	case s.compacting <- struct{}{}:
	default:
		return 0, 0, noCompaction("that is being done already, or something still reads the file from before the last time, such as a backup: try again later")
	}
	c := &compaction{store: s, path: s.path + compactSuffix, notes: &notes{places: make(map[place]struct{})}, tell: tell}
	s.notes.Store(c.notes)
	err = c.run(ctx)
	s.notes.Store(nil)
	if errors.Is(err, tokenstore.ErrUnavailable) && !errors.Is(err, ErrCompact) {
		err = noCompaction("%w", err)
	}
	if c.old == nil {
		c.discard()
		<-s.compacting
	} else {
		c.endOld(ctx)
	}
	return c.before, c.after, err
}

// compaction is one that runs.
type compaction struct {
	store *Store
	path  string // of the new file
	notes *notes
	tell  func(tokenstore.Progress)

	fresh *bolt.DB
	file  *os.File // that of fresh
	old   *bolt.DB // the one that was replaced, once it was

	before, after int64
}

func (c *compaction) run(ctx context.Context) error {
	if err := c.begin(); err != nil {
		return err
	}
	buckets, err := c.buckets()
	if err != nil {
		return err
	}
	for _, name := range buckets {
		if err := c.copyBucket(ctx, name); err != nil {
			return err
		}
	}
	for round := 0; ; round++ {
		left := c.notes.len()
		c.say(CompactCatchingUp, "", 0, left)
		if err := c.catchUp(ctx); err != nil {
			return err
		}
		if err := c.file.Sync(); err != nil { // now, so that little is left to sync while others wait
			return err
		}
		if c.notes.len() <= lastNotes {
			return c.store.inTurn(ctx, c.finish)
		}
		if round == maxRounds {
			return noCompaction("it is written faster than it can be copied: try again when there is less to do")
		}
	}
}

// begin makes the new file.
func (c *compaction) begin() error {
	dir := filepath.Dir(c.path)
	info, err := os.Stat(c.store.path)
	if err != nil {
		return err
	}
	c.before = info.Size()
	total, free, err := c.store.Size(context.Background())
	if err != nil {
		return err
	}
	if left, err := room(dir); err != nil || left < total-free+spare {
		return noRoom(dir, left, total-free+spare, err)
	}
	if err := syncDir(dir); err != nil {
		return noCompaction("the directory %s cannot be synced, so that no file in it can be replaced safely: %w", dir, err)
	}
	if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return noCompaction("what an earlier one has left cannot be removed: %w", err)
	}
	o := options(time.Second)
	o.NoSync = true // until it is whole
	err = c.store.guard(func() (err error) {
		if c.fresh, c.file, err = openFile(c.path, o); err != nil {
			return err
		}
		return c.fresh.Update(func(tx *bolt.Tx) error {
			if _, err := tx.CreateBucket([]byte(metaBucket)); err != nil {
				return err
			}
			return setCounting(tx, counted)
		})
	})
	if err != nil {
		return noCompaction("the new file cannot be made: %w", err)
	}
	if err := likeness(c.file, info); err != nil {
		return noCompaction("the new file cannot be given the owner and the mode of the old: %w", err)
	}
	return nil
}

func noRoom(dir string, left, need int64, err error) error {
	if err != nil {
		return noCompaction("it is not known how much room there is: %w", err)
	}
	return noCompaction("%s has %d MiB left, and the new file needs about %d MiB beside the old: make room", dir, left>>20, need>>20)
}

// buckets are the names of all that is to be copied.
func (c *compaction) buckets() (names []string, err error) {
	err = c.store.view(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			if b == nil {
				return errDamaged("what is no bucket stands between them")
			}
			if !strings.Contains(string(name), countSuffix) { // the rows are counted as they are written
				names = append(names, string(name))
			}
			return nil
		})
	})
	return names, err
}

// copyBucket copies one bucket, a part at a time.
func (c *compaction) copyBucket(ctx context.Context, name string) error {
	kind, isIndex := tokenstore.Kind(name), strings.Contains(name, "/")
	total := 0
	if slices.Contains(tokenstore.Kinds(), kind) && !isIndex {
		var err error
		if total, err = c.store.Count(ctx, kind); err != nil {
			return err
		}
	}
	var last []byte
	for done := 0; ; {
		if err := c.goOn(ctx); err != nil {
			return err
		}
		began := time.Now()
		pairs, err := c.read(name, last)
		if err != nil {
			return err
		}
		if err := c.write(map[string][]pair{name: pairs}); err != nil {
			return err
		}
		select { // the disk is for others first, who wait for theirs
		case <-time.After(time.Since(began)):
		case <-ctx.Done():
		}
		if len(pairs) == 0 {
			return nil
		}
		last = pairs[len(pairs)-1].key
		if done += len(pairs); total > 0 {
			c.say(CompactCopying, kind, min(done, total), max(done, total))
		}
	}
}

// goOn returns why a compaction must not go on, and catches up with changes when they become many.
func (c *compaction) goOn(ctx context.Context) error {
	if err := c.store.usable(ctx); err != nil {
		return err
	}
	if left, err := room(filepath.Dir(c.path)); err != nil || left < spare {
		return noRoom(filepath.Dir(c.path), left, spare, err)
	}
	if c.notes.len() < maxNotes {
		return nil
	}
	return c.catchUp(ctx)
}

// read reads a part of a bucket, behind a key. The order of keys is checked, since damaged pages can lead round in a circle.
func (c *compaction) read(name string, last []byte) (pairs []pair, err error) {
	err = c.store.view(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(name))
		if b == nil {
			return errDamaged("the bucket " + name + " is gone")
		}
		cursor := b.Cursor()
		key, value := cursor.Seek(last)
		if last != nil && bytes.Equal(key, last) {
			key, value = cursor.Next()
		}
		for size := 0; key != nil && len(pairs) < copyKeys && size < copyBytes; key, value = cursor.Next() {
			if last != nil && bytes.Compare(key, last) <= 0 || value == nil || len(key) > bolt.MaxKeySize {
				return errDamaged("the bucket " + name + " cannot be read")
			}
			v, err := cloneValue(value)
			if err != nil {
				return err
			}
			p := pair{bytes.Clone(key), v}
			pairs, last, size = append(pairs, p), p.key, size+len(key)+len(v)
		}
		return nil
	})
	return pairs, err
}

// cloneValue copies a value, never nil, out of the transaction's memory. The size in a damaged page can be gigabytes.
func cloneValue(value []byte) ([]byte, error) {
	if len(value) > tokenstore.MaxSealed+maxHeader {
		return nil, errDamaged("a row is longer than any can be")
	}
	return append([]byte{}, value...), nil
}

// write writes to the new file.
func (c *compaction) write(buckets map[string][]pair) error {
	fill := func(tx *bolt.Tx) error {
		if err := goOnCounting(tx); err != nil {
			return err
		}
		for name, pairs := range buckets {
			b, err := tx.CreateBucketIfNotExists([]byte(name))
			if err != nil {
				return err
			}
			b.FillPercent = fillPercent
			for _, p := range pairs {
				if err := countPair(tx, b, name, p); err != nil {
					return err
				}
				if p.value == nil {
					err = b.Delete(p.key)
				} else {
					err = b.Put(p.key, p.value)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := c.store.guard(func() error { return c.fresh.Update(fill) }); err != nil {
		return noCompaction("the new file cannot be written: %w", err)
	}
	return nil
}

// countPair counts what is about to be written to a bucket of the new file, in which no value is nil.
func countPair(tx *bolt.Tx, b *bolt.Bucket, bucket string, p pair) error {
	name, ok := countEntry(bucket, p.key)
	before := ok && b.Get(p.key) != nil
	switch {
	case !ok || before == (p.value != nil):
		return nil
	case before:
		return count(tx, name, -1)
	default:
		return count(tx, name, 1)
	}
}

// catchUp copies what has changed.
func (c *compaction) catchUp(ctx context.Context) error {
	places, spoiled := c.notes.take()
	if spoiled {
		return noCompaction("it was made read-only meanwhile, or moved: try again when that is done")
	}
	part := make(map[place]struct{})
	copyPart := func() error {
		if err := c.store.usable(ctx); err != nil {
			return err
		}
		var found map[string][]pair
		err := c.store.view(func(tx *bolt.Tx) (err error) {
			found, err = readPlaces(tx, part)
			return err
		})
		if err != nil {
			return err
		}
		clear(part)
		return c.write(found)
	}
	for at := range places {
		if part[at] = struct{}{}; len(part) == copyKeys {
			if err := copyPart(); err != nil {
				return err
			}
		}
	}
	if len(part) == 0 {
		return nil
	}
	return copyPart()
}

// finish puts the new file in the place of the old. The committer calls it.
func (c *compaction) finish() error {
	s := c.store
	if err := c.catchUp(context.Background()); err != nil {
		return err
	}
	if err := c.file.Sync(); err != nil {
		return err
	}
	info, err := c.file.Stat()
	if err != nil {
		return err
	}
	if err := inPlace(s.file, s.path); err != nil {
		return err
	}
	if err := os.Rename(c.path, s.path); err != nil {
		return noCompaction("the new file cannot be put in the place of the old: %w", err)
	}
	c.after, c.fresh.NoSync = info.Size(), false
	s.beginning.Lock()
	c.old, s.db, s.file = s.db, c.fresh, c.file
	s.beginning.Unlock()
	s.unsynced = filepath.Dir(s.path)
	return s.syncName()
}

// syncName makes durable that a compacted file has replaced the old one. Before that nothing that is written to it is: a power cut could bring the old one back.
func (s *Store) syncName() error {
	if s.unsynced == "" {
		return nil
	}
	if err := syncDir(s.unsynced); err != nil {
		return fmt.Errorf("%w: nothing can be written until the directory can be synced: %w", tokenstore.ErrUnavailable, err)
	}
	s.unsynced = ""
	return nil
}

// discard removes the new file.
func (c *compaction) discard() {
	if c.fresh == nil {
		return
	}
	_ = c.store.guard(c.fresh.Close)
	_ = os.Remove(c.path) // the next one or the next start does, or says why not
}

// endOld closes the old file when nobody reads it any more, and waits for that, but not long.
func (c *compaction) endOld(ctx context.Context) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.store.guard(c.old.Close) // nothing is in it that is not in the new one
		<-c.store.compacting
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	case <-time.After(c.store.wait):
	}
}

func (c *compaction) say(step tokenstore.Step, kind tokenstore.Kind, done, total int) {
	if c.tell != nil {
		c.tell(tokenstore.Progress{Step: step, Kind: kind, Done: done, Total: total})
	}
}
