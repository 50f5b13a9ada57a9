package bbolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/storetest"
)

func TestStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) tokenstore.Store { return openStore(t, newPath(t)) })
	storetest.RunDurability(t, func(t *testing.T) func(*testing.T) tokenstore.Store {
		path := newPath(t)
		return func(t *testing.T) tokenstore.Store { return openStore(t, path) }
	})
}

func TestNothingOpensInAnotherPlaceOrForm(t *testing.T) {
	t.Parallel()
	storetest.RunAttacks(t, func(t *testing.T) tokenstore.Store { return openStore(t, newPath(t)) })
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "vault.db") }

func openStore(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func insert(id string, sealed []byte) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpInsert, Row: tokenstore.Row{
		Kind: tokenstore.KindGrant, ID: id, Version: 1, State: "active",
		Refs: []string{"client:1", "user:1"}, DeleteAfter: time.UnixMilli(1000).UTC(), Sealed: sealed,
	}}
}

func mustApply(t testing.TB, s *Store, changes ...tokenstore.Change) {
	t.Helper()
	if err := s.Apply(t.Context(), changes...); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

func TestNewFileIsReadableByItsOwnerOnly(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		return // has no modes
	}
	path := newPath(t)
	openStore(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode is %o; want 600", mode)
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	t.Parallel()
	bucketed := func(bucket, key, value string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bolt.Tx) error {
				b, err := tx.CreateBucket([]byte(bucket))
				if err != nil {
					return err
				}
				return b.Put([]byte(key), []byte(value))
			})
			if err != nil || db.Close() != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]struct {
		make func(t *testing.T, path string)
		want string
	}{
		"directory is missing": {
			func(t *testing.T, path string) {
				if err := os.Remove(filepath.Dir(path)); err != nil {
					t.Fatal(err)
				}
			}, "create the directory",
		},
		"file is text": {
			func(t *testing.T, path string) {
				if err := os.WriteFile(path, []byte(strings.Repeat("not a vault\n", 2000)), 0o600); err != nil {
					t.Fatal(err)
				}
			}, "no vault file",
		},
		"file is a directory": {
			func(t *testing.T, path string) {
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			}, "vault.db",
		},
		"file is another program's":   {bucketed("acme", "key", "value"), "another program's"},
		"format is of another time":   {bucketed(metaBucket, formatKey, "next"), `format "next" is not known`},
		"format is missing from meta": {bucketed(metaBucket, "other", "1"), `format "" is not known`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "sub", "vault.db")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			tt.make(t, path)
			before, _ := os.ReadFile(path)
			s, err := Open(path, time.Second)
			if err == nil {
				_ = s.Close()
				t.Fatal("Open = nil; want an error")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Open = %q; want it to name %s and say %q", err, path, tt.want)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("Open wrote to a file that it refused")
			}
		})
	}
}

func TestOpenDoesNotWriteToACompleteFile(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s := openStore(t, path)
	mustApply(t, s, insert("a", []byte("sealed")))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := openStore(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Errorf("opening and closing changed the file (%v)", err)
	}
}

func TestZeroTimesAndTheEpochAreKeptApart(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	epoch := insert("epoch", nil)
	epoch.Row.DeleteAfter = time.UnixMilli(-5)
	never := insert("never", nil)
	never.Row.DeleteAfter = time.Time{}
	mustApply(t, s, epoch, never)
	n, err := s.Sweep(t.Context(), tokenstore.KindGrant, time.UnixMilli(1000), 10)
	if n != 1 || err != nil {
		t.Errorf("Sweep = %d, %v; want the row of the epoch gone", n, err)
	}
	if _, err := s.Get(t.Context(), tokenstore.KindGrant, "never"); err != nil {
		t.Errorf("Get = %v; want the row without a deletion time kept", err)
	}
}

func TestRowThatClaimsToBeHugeIsDamaged(t *testing.T) {
	t.Parallel()
	largest := insert("a", make([]byte, tokenstore.MaxSealed)).Row
	if _, err := decodeRow(largest.Kind, largest.ID, encodeRow(largest)); err != nil {
		t.Errorf("largest row: %v", err)
	}
	larger := append(encodeRow(largest), make([]byte, maxHeader)...)
	if _, err := decodeRow(largest.Kind, largest.ID, larger); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("larger row: %v; want ErrUnavailable", err)
	}
}

func FuzzDecodeRow(f *testing.F) {
	row := insert("id", []byte("sealed")).Row
	f.Add(encodeRow(row))
	row.Due = time.UnixMilli(5)
	f.Add(encodeRow(row))
	f.Add([]byte{})
	f.Add(encodeRow(row)[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		row, err := decodeRow(tokenstore.KindGrant, "id", b)
		if err != nil || row.DeleteAfter.UnixMilli() < 1 && !row.DeleteAfter.IsZero() || row.Due.UnixMilli() < 1 && !row.Due.IsZero() {
			return
		}
		if again := encodeRow(row); string(again) != string(b) {
			t.Errorf("row of %x is encoded as %x", b, again)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	s := openStore(b, newPath(b))
	mustApply(b, s, insert("a", make([]byte, 1024)))
	for b.Loop() {
		if _, err := s.Get(b.Context(), tokenstore.KindGrant, "a"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	for _, parallel := range []int{1, 32} {
		b.Run(fmt.Sprintf("goroutines=%d", parallel), func(b *testing.B) {
			s := openStore(b, newPath(b))
			queue := make(chan int)
			ended := make(chan error)
			for range parallel {
				go func() {
					var err error
					for i := range queue {
						if e := s.Apply(b.Context(), insert(fmt.Sprintf("%09d", i), make([]byte, 1024))); e != nil {
							err = e
						}
					}
					ended <- err
				}()
			}
			i := 0
			for b.Loop() {
				queue <- i
				i++
			}
			close(queue)
			for range parallel {
				if err := <-ended; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestFileOfAnOlderFormatIsCompleted(t *testing.T) {
	t.Parallel()
	latest := []tokenstore.Kind{tokenstore.KindSignIn, tokenstore.KindRevocationOrder, tokenstore.KindEvent, tokenstore.KindAuditSegment, tokenstore.KindAuditHead, tokenstore.KindJob}
	for format, unknown := range map[string][]tokenstore.Kind{
		formatVersion1: append([]tokenstore.Kind{tokenstore.KindConsent, tokenstore.KindAssertion, tokenstore.KindRegistration, tokenstore.KindAPIKey}, latest...),
		formatVersion2: append([]tokenstore.Kind{tokenstore.KindRegistration, tokenstore.KindAPIKey}, latest...),
		formatVersion3: append([]tokenstore.Kind{tokenstore.KindAPIKey}, latest...),
		formatVersion4: latest,
	} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			completeOlder(t, format, unknown)
		})
	}
}

// completeOlder opens a file of a format that had no place for some kinds of rows.
func completeOlder(t *testing.T, format string, unknown []tokenstore.Kind) {
	t.Helper()
	path := newPath(t)
	s := openStore(t, path)
	mustApply(t, s, insert("a", []byte("kept")))
	if err := s.update(func(tx *bolt.Tx) error {
		for _, kind := range unknown {
			for _, suffix := range suffixes {
				if err := tx.DeleteBucket([]byte(string(kind) + suffix)); err != nil {
					return err
				}
			}
		}
		for _, kind := range tokenstore.Kinds() {
			if slices.Contains(unknown, kind) {
				continue
			}
			if err := tx.DeleteBucket([]byte(string(kind) + dueSuffix)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(metaBucket)).Put([]byte(formatKey), []byte(format))
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
	if row, err := s.Get(t.Context(), tokenstore.KindGrant, "a"); err != nil || string(row.Sealed) != "kept" {
		t.Errorf("row of the older file = %q, %v", row.Sealed, err)
	}
	for _, kind := range tokenstore.Kinds() {
		added := insert("b", []byte("new"))
		added.Row.Kind, added.Row.Refs, added.Row.Due = kind, []string{"user:2"}, time.UnixMilli(1)
		mustApply(t, s, added)
		if rows, err := s.Due(t.Context(), kind, time.UnixMilli(2), 1); len(rows) != 1 || err != nil {
			t.Errorf("rows of kind %s that are due in the completed file = %v, %v", kind, rows, err)
		}
		if n, err := s.Count(t.Context(), kind, "user:2"); n != 1 || err != nil {
			t.Errorf("rows of kind %s in the completed file = %d, %v", kind, n, err)
		}
	}
	if err := s.db.View(func(tx *bolt.Tx) error {
		if v := tx.Bucket([]byte(metaBucket)).Get([]byte(formatKey)); string(v) != formatVersion {
			t.Errorf("format of the completed file = %q", v)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
