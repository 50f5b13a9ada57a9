//go:build slow

package tokenstore_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// However many grants there are, the verification of a backup has a page of them in memory, and few places of the file.
func TestSlowVerificationOfABackupNeedsLittleMemory(t *testing.T) {
	peaks := make(map[int]uint64)
	for _, n := range []int{10_000, 100_000} {
		path, key := closedVault(t, n)
		s := openFile(t, path)
		f, err := os.Create(filepath.Join(t.TempDir(), "vault.backup"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // it is thrown away
		if _, err := openVault(t, s, key).WriteBackup(t.Context(), s.(tokenstore.Movable), f, nil); err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		runtime.GC()
		before, peak, last := heap(), uint64(0), time.Time{}
		began := time.Now()
		_, r, err := tokenstore.VerifyBackup(t.Context(), f, info.Size(), []tokenstore.RootKey{key}, func(tokenstore.Progress) {
			if time.Since(last) < 50*time.Millisecond {
				return
			}
			last = time.Now()
			now := heap()
			peak = max(peak, now-min(before, now))
		})
		if err != nil || !r.Whole() || foundOf(t, r, tokenstore.KindGrant).Rows != n {
			t.Fatalf("%+v, %v", r, err)
		}
		peaks[n] = peak
		t.Logf("%d grants, %d MiB: %s, at most %d KiB more in memory", n, info.Size()>>20, time.Since(began).Round(10*time.Millisecond), peak>>10)
	}
	if peaks[100_000] > peaks[10_000]+16<<20 {
		t.Errorf("ten times the grants need %d KiB more", (peaks[100_000]-peaks[10_000])>>10)
	}
}
