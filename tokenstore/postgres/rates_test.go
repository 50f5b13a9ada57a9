package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func mustTake(t testing.TB, s *Store, key string, interval, window time.Duration) time.Duration {
	t.Helper()
	wait, err := s.Take(t.Context(), key, interval, window)
	if err != nil {
		t.Fatalf("Take: %v", err)
	}
	return wait
}

func TestRatesAreSharedByNodes(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	nodes := []*Store{openStore(t, Options{Connection: connection}), openStore(t, Options{Connection: connection}), openStore(t, Options{Connection: connection})}
	const events, interval = 20, time.Minute
	var taken, refused atomic.Int64
	var wg sync.WaitGroup
	for _, s := range nodes {
		for range events {
			wg.Go(func() {
				wait, err := s.Take(t.Context(), "key", interval, events*interval)
				switch {
				case err != nil:
					t.Errorf("Take: %v", err)
				case wait == 0:
					taken.Add(1)
				case wait > interval:
					t.Errorf("the next event is to wait %s; want at most %s", wait, interval)
				default:
					refused.Add(1)
				}
			})
		}
	}
	wg.Wait()
	if taken.Load() != events || refused.Load() != 2*events {
		t.Errorf("%d events were taken and %d refused; want %d and %d", taken.Load(), refused.Load(), events, 2*events)
	}
	if wait := mustTake(t, nodes[0], "other", interval, interval); wait != 0 {
		t.Errorf("another key waits %s", wait)
	}
	if err := nodes[1].GiveBack(t.Context(), "key", interval); err != nil {
		t.Fatal(err)
	}
	if err := nodes[1].GiveBack(t.Context(), "unknown", interval); err != nil {
		t.Errorf("GiveBack of a key that nobody has taken from: %v", err)
	}
	if wait := mustTake(t, nodes[2], "key", interval, events*interval); wait != 0 {
		t.Errorf("an event that was given back waits %s", wait)
	}
	if wait := mustTake(t, nodes[2], "key", interval, events*interval); wait <= 0 {
		t.Error("it was given back twice")
	}
}

func TestRatesGoOn(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t)})
	const interval = 200 * time.Millisecond
	if wait := mustTake(t, s, "key", interval, interval); wait != 0 {
		t.Fatalf("the first event waits %s", wait)
	}
	wait := mustTake(t, s, "key", interval, interval)
	if wait <= 0 || wait > interval {
		t.Fatalf("the second event waits %s", wait)
	}
	time.Sleep(wait + 5*time.Millisecond)
	if wait := mustTake(t, s, "key", interval, interval); wait != 0 {
		t.Errorf("after it has waited it waits %s more", wait)
	}
}

func TestEmptyRatesAreDeleted(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t)})
	for i := range 50 {
		mustTake(t, s, fmt.Sprint("short-", i), time.Millisecond, time.Second)
	}
	mustTake(t, s, "long", time.Minute, time.Minute)
	total := int64(0)
	eventually(t, "empty", func() bool {
		n, err := s.deleteEmpty(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		total += n
		return total >= 50
	})
	n, err := do(t.Context(), s, func(ctx context.Context, c *pgxpool.Conn) (n int, err error) {
		err = c.QueryRow(ctx, "SELECT count(*) FROM "+s.schema+".rates").Scan(&n)
		return n, err
	})
	if total != 50 || n != 1 || err != nil {
		t.Errorf("%d were deleted, %d are left, %v; want 50 and 1", total, n, err)
	}
	if wait := mustTake(t, s, "long", time.Minute, time.Minute); wait <= 0 {
		t.Error("what was not empty is forgotten")
	}
}

func TestRatesRefuseWhatIsNone(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t)})
	for _, c := range []struct {
		key              string
		interval, window time.Duration
	}{
		{"", time.Second, time.Minute},
		{"with space", time.Second, time.Minute},
		{strings.Repeat("x", 129), time.Second, time.Minute},
		{"key", 0, time.Minute},
		{"key", -time.Second, time.Minute},
		{"key", time.Second, 0},
		{"key", time.Second, 1 << 62},
	} {
		if _, err := s.Take(t.Context(), c.key, c.interval, c.window); !errors.Is(err, tokenstore.ErrInvalid) {
			t.Errorf("Take(%.20q, %s, %s) = %v; want ErrInvalid", c.key, c.interval, c.window, err)
		}
	}
	if err := s.GiveBack(t.Context(), "", time.Second); !errors.Is(err, tokenstore.ErrInvalid) {
		t.Errorf("GiveBack = %v; want ErrInvalid", err)
	}
	if wait := mustTake(t, s, "key", time.Minute, time.Second); wait <= 0 {
		t.Error("an event was let in that fits into no window")
	}
}

// Whoever counts does not wait as long as others do.
func TestRatesDoNotWaitForADatabaseThatIsGone(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	s := openStore(t, Options{Connection: server.Connection(), Wait: time.Minute})
	mustTake(t, s, "key", time.Second, time.Minute)
	server.Stop(t)
	take := func() error { _, err := s.Take(context.Background(), "key", time.Second, time.Minute); return err }
	if took := wantUnavailable(t, "Take", take); took > rateWait+busy {
		t.Errorf("Take failed after %s", took)
	}
	eventually(t, "gone", s.outage.gone)
	if took := wantUnavailable(t, "Take", take); took > rateWait/2 {
		t.Errorf("Take failed after %s", took)
	}
}
