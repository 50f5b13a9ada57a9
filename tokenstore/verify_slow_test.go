//go:build slow

package tokenstore_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// However many grants there are, a verification has a page of them in memory.
func TestSlowVerifyNeedsLittleMemory(t *testing.T) {
	peaks := make(map[int]uint64)
	for _, n := range []int{10_000, 100_000} {
		path, key := closedVault(t, n)
		v := openVault(t, openFile(t, path), key)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		runtime.GC()
		before, peak, last := heap(), uint64(0), time.Time{}
		began := time.Now()
		r, err := v.Verify(t.Context(), func(p tokenstore.Progress) {
			if time.Since(last) < 50*time.Millisecond {
				return
			}
			last = time.Now()
			peak = max(peak, heap()-min(before, heap()))
		})
		if err != nil || !r.Whole() || foundOf(t, r, tokenstore.KindGrant).Rows != n {
			t.Fatalf("%+v, %v", r, err)
		}
		peaks[n] = peak
		t.Logf("%d grants: %s, at most %d KiB more in memory", n, time.Since(began).Round(10*time.Millisecond), peak>>10)
	}
	if peaks[100_000] > peaks[10_000]+16<<20 {
		t.Errorf("ten times the grants need %d KiB more", (peaks[100_000]-peaks[10_000])>>10)
	}
}
