package mcpfilter

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestRechecksDriftApart(t *testing.T) {
	t.Parallel()
	f := &Filter{StreamRecheck: caddy.Duration(30 * time.Second)}
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := f.untilRecheck()
		least, most = min(least, d), max(most, d)
	}
	if least < 22500*time.Millisecond || most > 30*time.Second || most-least < 5*time.Second {
		t.Errorf("a thousand streams that began together are rechecked between %s and %s later", least, most)
	}
	f.StreamRecheck = 1 // nanosecond
	if d := f.untilRecheck(); d != 1 {
		t.Errorf("%s", d)
	}
}
