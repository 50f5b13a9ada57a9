package bbolt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// flipped is a vault file in which bits are flipped.
type flipped struct {
	whole    []byte
	pageSize int
	key      tokenstore.RootKey
	accounts int
}

func tokenOf(i int) string { return fmt.Sprintf("access-token-%d", i) }

// newFlipped makes a vault of some accounts. What is saved last is something else, so that they are the same in the two last transactions, either of which bbolt may find the better one.
func newFlipped(t *testing.T) *flipped {
	t.Helper()
	path := newPath(t)
	s := openStore(t, path)
	f := &flipped{key: tokenstore.NewRootKey(), accounts: 60}
	v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{f.key}})
	if err != nil {
		t.Fatal(err)
	}
	save := func(i int, token string) {
		account := &tokenstore.Account{
			Meta: tokenstore.Meta{ID: fmt.Sprintf("account-%02d", i)}, State: tokenstore.StateActive, Provider: "okta", UserID: fmt.Sprintf("user-%d", i), AccessToken: token,
			IDToken: string(make([]byte, 700)), Obtained: time.UnixMilli(1), Expires: time.UnixMilli(2),
		}
		if err := v.Commit(t.Context(), tokenstore.Save(account)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range f.accounts + 2 {
		save(i, tokenOf(i))
	}
	var size int64
	err = s.view(func(tx *bolt.Tx) error {
		size = tx.Size()
		return nil
	})
	f.pageSize = s.db.Info().PageSize
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if f.whole, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	f.whole = f.whole[:size]
	return f
}

// kindsOfFlips choose the byte of which a bit is flipped.
var kindsOfFlips = []struct {
	name  string
	where func(r *rand.Rand, f *flipped) int
}{
	{"anywhere", func(r *rand.Rand, f *flipped) int { return r.IntN(len(f.whole)) }},
	{"in the first pages", func(r *rand.Rand, f *flipped) int { return r.IntN(2)*f.pageSize + r.IntN(80) }},
	{"in the header of a page", func(r *rand.Rand, f *flipped) int { return r.IntN(len(f.whole)/f.pageSize)*f.pageSize + r.IntN(16) }},
	{"where a page says what is in it", func(r *rand.Rand, f *flipped) int {
		return r.IntN(len(f.whole)/f.pageSize)*f.pageSize + 16 + r.IntN(240)
	}},
}

// flip flips so many bits, one in each copy of the file, and uses what is left: what is answered must be right, or an error. It returns how many did damage.
func (f *flipped) flip(t *testing.T, n int) (noticed int) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d, %d flips in a file of %d bytes", seed, n, len(f.whole))
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	for i := range n {
		path := filepath.Join(dir, fmt.Sprint(i)) // one that was given up stays locked
		kind := kindsOfFlips[i%len(kindsOfFlips)]
		at, bit := kind.where(r, f), r.IntN(8)
		file := slices.Clone(f.whole)
		file[at] ^= 1 << bit
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		// bbolt counts to the number of pages that one claims to have, and keeps each, when it frees that page: such a file is only read.
		write := at%f.pageSize < 12 || at%f.pageSize >= 16
		used := make(chan bool, 1)
		go func() { used <- f.use(t, path, write, write && i%32 < len(kindsOfFlips)) }()
		select {
		case damaged := <-used:
			if damaged {
				noticed++
			}
		case <-time.After(time.Minute):
			t.Fatalf("bit %d of byte %d (%s) hangs", bit, at, kind.name)
		}
		if t.Failed() {
			t.Fatalf("bit %d of byte %d, %s", bit, at, kind.name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	return noticed
}

// use reads everything through a vault, and may write and compact, and reports whether any of it failed.
func (f *flipped) use(t *testing.T, path string, write, compact bool) (failed bool) {
	check := func(what string, err error) {
		if err == nil {
			return
		}
		failed = true
		for _, known := range []error{tokenstore.ErrUnavailable, tokenstore.ErrNotFound, tokenstore.ErrTampered, tokenstore.ErrConflict} {
			if errors.Is(err, known) {
				return
			}
		}
		t.Errorf("%s = %v; want an error of the contract", what, err)
	}
	s, err := Open(path, time.Second)
	if err != nil {
		if strings.Contains(err.Error(), "is locked") {
			t.Errorf("Open = %v: somebody has the file open still", err)
		}
		return true
	}
	defer func() {
		if err := s.Close(); err != nil {
			check("Close", err)
		}
	}()
	s.db.NoSync, s.db.NoGrowSync = true, true // no disk is tested here
	v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{f.key}})
	if err != nil {
		return true
	}
	read := func() {
		for i := range f.accounts {
			account, err := v.Account(t.Context(), fmt.Sprintf("account-%02d", i))
			check("Account", err)
			if err == nil && account.AccessToken != tokenOf(i) {
				t.Errorf("account %d has the token %q", i, account.AccessToken)
			}
		}
	}
	read()
	_, err = s.List(t.Context(), tokenstore.KindAccount, tokenstore.Query{Limit: 1000})
	check("List", err)
	_, err = s.Count(t.Context(), tokenstore.KindAccount, "user:1")
	check("Count", err)
	if !write {
		return failed
	}
	check("Commit", v.Commit(t.Context(), tokenstore.Save(&tokenstore.Account{Meta: tokenstore.Meta{ID: "new"}, State: tokenstore.StateActive, Provider: "okta", UserID: "user-1"})))
	read()
	if compact && replaceable {
		if _, _, err := s.Compact(t.Context(), nil); err != nil && !errors.Is(err, ErrCompact) {
			check("Compact", err)
		} else {
			failed = failed || err != nil
		}
		read()
	}
	return failed
}

func TestFlippedBitsAreErrorsOrNothing(t *testing.T) {
	t.Parallel()
	f := newFlipped(t)
	if n := f.flip(t, 100); n == 0 {
		t.Error("no flip was noticed: the test flips nothing")
	}
}

func TestTruncatedFileIsAnErrorOrRight(t *testing.T) {
	t.Parallel()
	f := newFlipped(t)
	dir := t.TempDir()
	for size := f.pageSize / 2; size < len(f.whole); size += len(f.whole)/40 + 512 {
		path := filepath.Join(dir, fmt.Sprint(size))
		if err := os.WriteFile(path, f.whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if failed := f.use(t, path, true, false); !failed && size < len(f.whole)/2 {
			t.Errorf("nobody noticed that %d bytes of %d are left", size, len(f.whole))
		}
	}
}
