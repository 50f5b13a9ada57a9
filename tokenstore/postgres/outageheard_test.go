package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"
)

// What listens may reach the database before the next try of the outage: from then on the memory is empty, and calls must not be told that the database is gone.
func TestCallsGoThroughOnceTheDatabaseHasAnsweredAnybody(t *testing.T) {
	t.Parallel()
	fails := func(context.Context) error { return errors.New("not here") }
	o := newOutage(time.Nanosecond, time.Now, zap.NewNop(), fails, func() {})
	t.Cleanup(o.close)
	o.lose(errors.New("gone"))
	if err := o.await(t.Context(), true); !errors.Is(err, errGone) {
		t.Fatalf("while it is gone: %v", err)
	}
	o.answered()
	if err := o.await(t.Context(), true); err != nil {
		t.Errorf("once it has answered: %v", err)
	}
	o.lose(errors.New("gone again"))
	if err := o.await(t.Context(), true); !errors.Is(err, errGone) {
		t.Errorf("gone again: %v", err)
	}
}
