//go:build slow && !race

package e2e

import (
	"testing"
	"time"
)

// Ten thousand streams at once, and a minute for what Caddy keeps of each. The race detector cannot follow so many goroutines; the default run has it
// watch a thousand.
func TestSlowTenThousandStreamsLeaveNothingBehind(t *testing.T) {
	manyStreams(t, 10_000, 1, 65*time.Second)
}
