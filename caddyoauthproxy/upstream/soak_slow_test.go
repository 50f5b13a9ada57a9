//go:build slow

package upstream

import (
	"testing"
	"time"
)

func TestSlowNoUserIsLoggedOutByAFaultThatARetryHeals(t *testing.T) {
	t.Parallel()
	soak(t, 1000, time.Hour)
}
