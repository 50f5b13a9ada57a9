//go:build slow && race

package e2e

import (
	"testing"
	"time"
)

// Ten thousand streams, as many at a time as the race detector can follow.
func TestSlowTenThousandStreamsLeaveNothingBehind(t *testing.T) {
	manyStreams(t, 1000, 9, 65*time.Second)
}
