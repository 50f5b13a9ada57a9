package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/storetest"
)

// bound is what one node has written at the latest acts on all others.
const bound = time.Second

func insertGrant(id string) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpInsert, Row: grantRow(id, 1)}
}

func updateGrant(id string, version uint64) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpUpdate, Row: grantRow(id, version)}
}

func grantKey(id string) memory.Key { return memory.Key{Kind: tokenstore.KindGrant, ID: id} }

func grantRow(id string, version uint64) tokenstore.Row {
	return tokenstore.Row{Kind: tokenstore.KindGrant, ID: id, Version: version, Refs: []string{"user:1"}, Sealed: []byte("sealed " + id)}
}

func mustApply(t testing.TB, s *Store, changes ...tokenstore.Change) {
	t.Helper()
	if err := s.Apply(t.Context(), changes...); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

// wantRecall recalls a grant in its version.
func wantRecall(t testing.TB, s *Store, id string, version uint64) {
	t.Helper()
	row, err := storetest.Recalling(s)(t.Context(), tokenstore.KindGrant, id)
	if err != nil || row.Version != version {
		t.Fatalf("Recall(%s) = version %d, %v; want version %d", id, row.Version, err, version)
	}
}

// remembers recalls a grant in its version, after what notifies of its change has come for certain, so that it stays in memory.
func remembers(t testing.TB, s *Store, id string, version uint64) {
	t.Helper()
	wantListening(t, s)
	changed := time.Now()
	eventually(t, "an answer behind all notifications", func() bool { return s.listener.asked.Load().After(changed) })
	wantRecall(t, s, id, version)
}

// admin is a connection of a superuser to the database.
func admin(t testing.TB, server *testpg.Server, connection string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), server.Admin(t, connection))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func TestRecallSeesOthersWithinASecond(t *testing.T) {
	t.Parallel()
	const length = 4 * time.Second
	open := func(t *testing.T, connection, listen string) (writer, reader *Store) {
		t.Helper()
		writer = openStore(t, Options{Connection: connection})
		return writer, openStore(t, Options{Connection: connection, Listen: listen})
	}
	t.Run("when all is well", func(t *testing.T) {
		t.Parallel()
		writer, reader := open(t, testpg.Database(t), "")
		chase(t, writer, reader, length, func(<-chan struct{}) {})
	})
	t.Run("when the listener's connection is ended again and again", func(t *testing.T) {
		t.Parallel()
		connection := testpg.Database(t)
		c := admin(t, testpg.Shared(t), connection)
		writer, reader := open(t, connection, strings.Replace(connection, "?", "?application_name=ears&", 1))
		ended := 0
		chase(t, writer, reader, length, every(300*time.Millisecond, func() {
			tag, err := c.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ears listener'")
			if err != nil {
				t.Error(err)
			}
			ended += int(tag.RowsAffected())
		}))
		if ended < 3 {
			t.Errorf("%d connections were ended", ended)
		}
	})
	t.Run("when the network swallows the listener's connection", func(t *testing.T) {
		t.Parallel()
		connection := testpg.Database(t)
		p := newProxy(t, testpg.Shared(t).Address())
		writer, reader := open(t, connection, p.through(t, connection))
		chase(t, writer, reader, 2*length, every(1500*time.Millisecond, func() { p.swallow(false) }))
		if p.opened() < 3 {
			t.Errorf("%d connections were made", p.opened())
		}
	})
	t.Run("when nobody can listen", func(t *testing.T) {
		t.Parallel()
		connection := testpg.Database(t)
		p := newProxy(t, testpg.Shared(t).Address())
		writer, reader := open(t, connection, p.through(t, connection))
		wantListening(t, reader)
		chase(t, writer, reader, length, func(stop <-chan struct{}) {
			time.Sleep(length / 2)
			p.swallow(true)
			<-stop
		})
	})
	t.Run("when the database is restarted", func(t *testing.T) {
		t.Parallel()
		server := testpg.Start(t)
		writer, reader := open(t, server.Connection(), "")
		chase(t, writer, reader, 2*length, every(2*time.Second, func() { server.Restart(t) }))
	})
	t.Run("when the database crashes", func(t *testing.T) {
		t.Parallel()
		server := testpg.Start(t)
		writer, reader := open(t, server.Connection(), "")
		chase(t, writer, reader, 2*length, every(2*time.Second, func() { server.Kill(t); server.Restart(t) }))
	})
}

func wantListening(t testing.TB, s *Store) {
	t.Helper()
	eventually(t, "listening", func() bool { return s.Status().Listening })
}

// A process that was stopped goes on with the memory that it had.
func TestMemoryIsNotTrustedAfterAPause(t *testing.T) {
	t.Parallel()
	l := &listener{}
	l.hearing.Store(true)
	now := time.Now()
	if l.trusted(now) {
		t.Error("memory is trusted before the database answered")
	}
	l.asked.Store(&now)
	for _, c := range []struct {
		name    string
		at      time.Time
		trusted bool
	}{
		{"at once", now, true},
		{"soon", now.Add(trust - time.Millisecond), true},
		{"later", now.Add(trust), false},
		{"when only the wall clock went on", now.Round(0).Add(time.Minute), false},
		{"when the wall clock was set back", now.Round(0).Add(-time.Minute), false},
	} {
		if got := l.trusted(c.at); got != c.trusted {
			t.Errorf("%s the memory is trusted: %v; want %v", c.name, got, c.trusted)
		}
	}
	l.hearing.Store(false)
	if l.trusted(now) {
		t.Error("memory is trusted though nobody listens")
	}
}

// An Apply that has returned is seen by every Recall that begins then, whatever other reads of the row are under way.
func TestRecallSeesOwnAppliesAtOnce(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t)})
	mustApply(t, s, insertGrant("a"))
	var applied atomic.Uint64
	applied.Store(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				want := applied.Load()
				row, err := storetest.Recalling(s)(t.Context(), tokenstore.KindGrant, "a")
				if err != nil || row.Version < want {
					t.Errorf("Recall = version %d, %v after version %d was applied", row.Version, err, want)
					return
				}
			}
		})
	}
	for version := uint64(2); version < 200; version++ {
		mustApply(t, s, updateGrant("a", version))
		applied.Store(version)
	}
	close(stop)
	wg.Wait()
	if s.Recalls().Hits == 0 {
		t.Error("no Recall was answered from memory")
	}
}

// A read that was slow, and began before an Apply, ends after it.
func TestSlowReadDoesNotHideAnApply(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t)})
	wantListening(t, s)
	mustApply(t, s, insertGrant("a"))
	k := grantKey("a")
	f, first := s.memory.Begin(k)
	old, err := s.Get(t.Context(), k.Kind, k.ID)
	if !first || err != nil {
		t.Fatal(first, err)
	}
	mustApply(t, s, updateGrant("a", 2))
	s.memory.End(k, f, old, len(old.Sealed), true)
	wantRecall(t, s, "a", 2)
}

func TestRecallAsksTheDatabaseOnce(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	mustApply(t, openStore(t, Options{Connection: connection}), insertGrant("a")) // of which the other one hears nothing: it might come in between
	s := openStore(t, Options{Connection: connection})
	s.fillWait = time.Minute // whatever else the machine does
	wantListening(t, s)
	eventually(t, "memory that was trusted throughout", func() bool {
		s.memory.ForgetAll()
		heard, before := s.listener.asked.Load(), s.Recalls()
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() { wantRecall(t, s, "a", 1) })
		}
		wg.Wait()
		if !s.listener.hearing.Load() || time.Since(*heard) >= trust { // the machine was too busy to hear of changes in time
			return false
		}
		if after := s.Recalls(); after.Misses-before.Misses != 1 || after.Hits-before.Hits != 199 {
			t.Errorf("of 200 Recalls of one row %d read the database, and %d were answered from memory", after.Misses-before.Misses, after.Hits-before.Hits)
		}
		return true
	})
	for _, kind := range []tokenstore.Kind{tokenstore.KindClient, tokenstore.KindEvent} {
		row := grantRow("b", 1)
		row.Kind = kind
		mustApply(t, s, tokenstore.Change{Op: tokenstore.OpInsert, Row: row})
		if _, err := storetest.Recalling(s)(t.Context(), kind, "b"); err != nil {
			t.Fatal(err)
		}
		if s.memory.Has(memory.Key{Kind: kind, ID: "b"}) {
			t.Errorf("a row of the kind %s is kept in memory", kind)
		}
	}
}

func TestNowIsTheDatabasesClock(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t)})
	var before time.Time
	for range 50 {
		low := s.Now()
		there, err := do(t.Context(), s, func(ctx context.Context, c *pgxpool.Conn) (there time.Time, err error) {
			err = c.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&there)
			return there, err
		})
		if err != nil {
			t.Fatal(err)
		}
		const most = 100 * time.Millisecond // half a round trip, on a machine that is busy
		if high := s.Now(); there.Before(low.Add(-most)) || there.After(high.Add(most)) {
			t.Errorf("the database has %v; the store had %v before and %v afterwards", there, low, high)
		}
		if low.Before(before.Add(-most)) {
			t.Errorf("the clock went back from %v to %v", before, low)
		}
		before = low
		time.Sleep(20 * time.Millisecond)
	}
	if s.Now().Location() != time.UTC {
		t.Errorf("the time is of %s", s.Now().Location())
	}
}

func BenchmarkRecall(b *testing.B) {
	s, err := Open(b.Context(), Options{Connection: testpg.Database(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const rows = 100
	for i := range rows {
		c := insertGrant(fmt.Sprint("grant-", i))
		c.Row.Sealed = make([]byte, 2000)
		mustApply(b, s, c)
	}
	wantListening(b, s)
	ids := make([]string, rows)
	for i := range ids {
		ids[i] = fmt.Sprint("grant-", i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := storetest.Recalling(s)(b.Context(), tokenstore.KindGrant, ids[i%rows]); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// What was changed while nobody listened is not in a memory that was filled before.
func TestMemoryBeginsAnewWithTheListener(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	p := newProxy(t, testpg.Shared(t).Address())
	here := openStore(t, Options{Connection: connection, Listen: p.through(t, connection)})
	there := openStore(t, Options{Connection: connection})
	mustApply(t, there, insertGrant("a"))
	remembers(t, here, "a", 1)
	p.swallow(true)
	eventually(t, "deaf", func() bool { return !here.Status().Listening })
	if !here.memory.Has(grantKey("a")) {
		t.Fatal("the row is not in memory, for when the database is gone")
	}
	mustApply(t, there, updateGrant("a", 2))
	p.restore()
	wantListening(t, here)
	wantRecall(t, here, "a", 2)
}
