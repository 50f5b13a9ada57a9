//go:build linux && !race

package bbolt

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestProcessWithLittleAddressSpaceOpensTheFile: what is set aside for a file is more than some processes may have.
func TestProcessWithLittleAddressSpaceOpensTheFile(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: 32 << 30, Max: 32 << 30}); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, newPath(t))
	for i := range 5 {
		mustApply(t, s, insert(string(rune('a'+i)), make([]byte, 1<<20)))
	}
	mustCompact(t, s)
	if rows := wantWhole(t, s); rows != 5 {
		t.Errorf("%d rows", rows)
	}
}
