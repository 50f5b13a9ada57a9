package tokenstore

import (
	"context"
	"time"
)

// Rates are counters of events that all nodes of a vault share. A Store that several nodes use implements it.
type Rates interface {
	// Take charges an event under a key, of which there may be one in every interval and so many at once as fit into a window; or it charges nothing, and
	// returns how long to wait for one. The key is as the id of a Row.
	Take(ctx context.Context, key string, interval, window time.Duration) (wait time.Duration, err error)

	// GiveBack takes an event back.
	GiveBack(ctx context.Context, key string, interval time.Duration) error
}
