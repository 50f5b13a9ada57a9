package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/storetest"
)

// busy is what the machine may take longer than the code.
const busy = 2 * time.Second

// wantUnavailable makes a call that must fail, and returns how long it took.
func wantUnavailable(t testing.TB, what string, call func() error) time.Duration {
	t.Helper()
	start := time.Now()
	if err := call(); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Fatalf("%s = %v; want ErrUnavailable", what, err)
	}
	return time.Since(start)
}

func recall(s *Store, id string) func() error {
	return func() error {
		_, err := storetest.Recalling(s)(context.Background(), tokenstore.KindGrant, id)
		return err
	}
}

func get(s *Store, id string) func() error {
	return func() error {
		_, err := s.Get(context.Background(), tokenstore.KindGrant, id)
		return err
	}
}

func TestDatabaseThatIsGone(t *testing.T) {
	t.Parallel()
	const wait, maxStale = 2 * time.Second, 6 * time.Second
	server := testpg.Start(t)
	s := openStore(t, Options{Connection: server.Connection(), Wait: wait, MaxStale: maxStale})
	strict := openStore(t, Options{Connection: server.Connection(), Wait: wait})
	mustApply(t, s, insertGrant("known"), insertGrant("unknown"))
	for _, store := range []*Store{s, strict} {
		remembers(t, store, "known", 1)
		if st := store.Status(); !st.Reachable || store.Recalls().Rows != 1 {
			t.Errorf("status = %+v", st)
		}
	}
	steady := s.Steady()
	if steady.After(s.Now()) || s.Now().Sub(steady) > time.Minute {
		t.Errorf("steady since %v; it is %v", steady, s.Now())
	}

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		server.Stop(t)
	}()
	eventually(t, "gone", func() bool { return s.outage.gone() && strict.outage.gone() })
	gone := time.Now()
	wantRecall(t, s, "known", 1)
	if took := time.Since(gone); took > wait/2 {
		t.Errorf("a row that was known took %s", took)
	}
	if took := wantUnavailable(t, "Get", get(s, "known")); took < wait/4 || took > wait+busy {
		t.Errorf("the first Get failed after %s; want %s", took, wait)
	}
	<-stopped
	time.Sleep(time.Until(gone.Add(wait)))
	for what, call := range map[string]func() error{
		"Get":                     get(s, "known"),
		"Recall of another":       recall(s, "unknown"),
		"Recall without MaxStale": recall(strict, "known"),
		"Apply":                   func() error { return s.Apply(context.Background(), updateGrant("unknown", 2)) },
		"List": func() error {
			_, err := s.List(context.Background(), tokenstore.KindGrant, tokenstore.Query{})
			return err
		},
		"Take": func() error { _, err := s.Take(context.Background(), "key", time.Second, time.Minute); return err },
	} {
		eventually(t, what+" at once", func() bool { return wantUnavailable(t, what, call) < wait/4 })
	}
	if took := time.Since(gone); took < maxStale-busy {
		wantRecall(t, s, "known", 1)
	}
	if st := s.Status(); st.Reachable || st.Listening || time.Since(st.Since) > time.Since(gone)+wait {
		t.Errorf("status = %+v", st)
	}
	time.Sleep(time.Until(gone.Add(maxStale)))
	wantUnavailable(t, "Recall of what was known for too long", recall(s, "known"))

	server.Restart(t)
	back := time.Now()
	for get(s, "known")() != nil {
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(back); took > bound+busy {
		t.Errorf("it was found back after %s", took)
	}
	mustApply(t, s, updateGrant("known", 2))
	wantRecall(t, s, "known", 2)
	if again := s.Steady(); !again.After(steady) || s.Now().Sub(again) > time.Minute {
		t.Errorf("steady since %v; want since the database is back, later than %v", again, steady)
	}
	wantListening(t, s)
	wantListening(t, strict)
	eventually(t, "back for the other", func() bool { return get(strict, "known")() == nil })
	wantRecall(t, strict, "known", 2)
}

// A restart costs waiting, not errors.
func TestCallsSurviveRestarts(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	s := openStore(t, Options{Connection: server.Connection(), Wait: 20 * time.Second})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var calls atomic.Int64
	for i := range 4 {
		id := fmt.Sprint("grant-", i)
		mustApply(t, s, insertGrant(id))
		wg.Go(func() {
			for version := uint64(2); ; version++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.Apply(context.Background(), updateGrant(id, version)); err != nil {
					t.Errorf("Apply: %v", err)
					return
				}
				if row, err := storetest.Recalling(s)(context.Background(), tokenstore.KindGrant, id); err != nil || row.Version != version {
					t.Errorf("Recall = version %d, %v; want %d", row.Version, err, version)
					return
				}
				calls.Add(1)
			}
		})
	}
	for range 3 {
		before := calls.Load()
		eventually(t, "calls", func() bool { return calls.Load() > before+20 })
		server.Restart(t)
	}
	before := calls.Load()
	eventually(t, "calls after the last restart", func() bool { return calls.Load() > before+20 })
	close(stop)
	wg.Wait()
}

func TestBoundedNumberOfCallsWaits(t *testing.T) {
	t.Parallel()
	const wait = 3 * time.Second
	server := testpg.Start(t)
	s := openStore(t, Options{Connection: server.Connection(), Wait: wait})
	server.Stop(t)
	eventually(t, "gone", s.outage.gone)
	start := time.Now()
	var wg sync.WaitGroup
	var refused, late atomic.Int64
	for range 2 * maxCalls {
		wg.Go(func() {
			if took := wantUnavailable(t, "Get", get(s, "a")); took < wait/3 {
				refused.Add(1)
			} else if took > wait+busy {
				late.Add(1)
			}
		})
	}
	wg.Wait()
	if refused.Load() == 0 || late.Load() > 0 || time.Since(start) > wait+2*busy {
		t.Errorf("%d calls were refused at once, %d waited for too long, and all took %s", refused.Load(), late.Load(), time.Since(start))
	}
	if n := s.Status().Calls; n != 0 {
		t.Errorf("%d calls are counted as running", n)
	}
}

// While the database is gone few connections are tried, and when it is back not all at once.
func TestGoneDatabaseIsNotStormed(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	p := newProxy(t, testpg.Shared(t).Address())
	s := openStore(t, Options{Connection: p.through(t, connection), Wait: time.Second})
	p.swallow(true)
	eventually(t, "gone", s.outage.gone)
	before := p.opened()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					_ = get(s, "a")() // fails
				}
			}
		})
	}
	const length = 4 * time.Second
	time.Sleep(length)
	if n := p.opened() - before; n > 30 {
		t.Errorf("%d connections were made in %s", n, length)
	}
	p.restore()
	eventually(t, "back", func() bool { return errors.Is(get(s, "a")(), tokenstore.ErrNotFound) })
	time.Sleep(bound)
	close(stop)
	wg.Wait()
	if n := int(s.pool.Stat().TotalConns()); n > DefaultMaxConns {
		t.Errorf("the pool has %d connections", n)
	}
}

// The network swallows all that passes, and nobody is told.
func TestSwallowedNetwork(t *testing.T) {
	t.Parallel()
	const wait = 3 * time.Second
	connection := testpg.Database(t)
	p := newProxy(t, testpg.Shared(t).Address())
	s := openStore(t, Options{Connection: p.through(t, connection), Wait: wait, MaxStale: 20 * time.Second})
	mustApply(t, s, insertGrant("a"))
	remembers(t, s, "a", 1)
	p.swallow(true)
	start := time.Now()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if took := wantUnavailable(t, "Get", get(s, "a")); took > wait+busy {
				t.Errorf("a call took %s", took)
			}
		})
		wg.Go(func() { wantRecall(t, s, "a", 1) })
	}
	wg.Wait()
	if took := time.Since(start); took > wait+2*busy {
		t.Errorf("all calls took %s", took)
	}
	p.restore()
	back := time.Now()
	eventually(t, "back", func() bool { return get(s, "a")() == nil })
	if took := time.Since(back); took > 2*bound+busy {
		t.Errorf("it was found back after %s", took)
	}
	wantListening(t, s)
	for range 30 {
		start := time.Now()
		if err := get(s, "a")(); err != nil || time.Since(start) > busy {
			t.Errorf("a call after that = %v, in %s: dead connections are left", err, time.Since(start))
		}
	}
	wantRecall(t, s, "a", 1)
}

// A Recall that has begun on a connection that is dead does not wait for that when the database is found gone.
func TestRecallAnswersAsSoonAsTheDatabaseIsGone(t *testing.T) {
	t.Parallel()
	const wait = 30 * time.Second
	connection := testpg.Database(t)
	p := newProxy(t, testpg.Shared(t).Address())
	s := openStore(t, Options{Connection: p.through(t, connection), Wait: wait, MaxStale: time.Minute})
	mustApply(t, s, insertGrant("a"))
	remembers(t, s, "a", 1)
	p.swallow(true)
	eventually(t, "deaf", func() bool { return !s.Status().Listening })
	start := time.Now()
	wantRecall(t, s, "a", 1)
	if took := time.Since(start); took > deadline+2*quickTry+busy {
		t.Errorf("Recall took %s", took)
	}
}

// Only the connections that there are were swallowed, as by a firewall that has forgotten them.
func TestConnectionsThatDiedInSilenceAreLeft(t *testing.T) {
	t.Parallel()
	const wait = 4 * time.Second
	connection := testpg.Database(t)
	p := newProxy(t, testpg.Shared(t).Address())
	s := openStore(t, Options{Connection: p.through(t, connection), Wait: wait})
	mustApply(t, s, insertGrant("a"))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _ = get(s, "a")() })
	}
	wg.Wait()
	p.swallow(false)
	for range 20 {
		wg.Go(func() {
			start := time.Now()
			if err := get(s, "a")(); err != nil || time.Since(start) > wait+busy {
				t.Errorf("Get = %v after %s", err, time.Since(start))
			}
		})
	}
	wg.Wait()
	start := time.Now()
	for range 30 {
		if err := get(s, "a")(); err != nil {
			t.Errorf("Get after that: %v", err)
		}
	}
	if took := time.Since(start); took > busy {
		t.Errorf("30 calls after that took %s", took)
	}
	mustApply(t, s, updateGrant("a", 2))
}

func TestListenMustLeadSomewhere(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	u, err := url.Parse(connection)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/nowhere"
	if _, err := Open(t.Context(), Options{Connection: connection, Listen: u.String()}); err == nil {
		t.Error("a listener without a database is let in")
	} else {
		t.Log(err)
	}
	if _, err := Open(t.Context(), Options{Connection: connection, Listen: "postgres://a b"}); err == nil {
		t.Error("a listener with a bad connection string is let in")
	} else {
		t.Log(err)
	}
}
