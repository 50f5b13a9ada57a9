package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

const kind = tokenstore.KindGrant

func open(t testing.TB, o postgres.Options) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func insert(id string, sealed string) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpInsert, Row: tokenstore.Row{Kind: kind, ID: id, Version: 1, Refs: []string{"all"}, Sealed: []byte(sealed)}}
}

func remove(id string) tokenstore.Change {
	return tokenstore.Change{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: kind, ID: id, Version: 1}}
}

// TestLostConnectionsLeaveNoApplyUnknown has nodes update the same rows and take the same rows away while their connections are lost: what returned nil
// was made, once, and what returned ErrConflict was not.
func TestLostConnectionsLeaveNoApplyUnknown(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, connection string) (through string, begin func()){
		"ended by the server": terminate,
		"cut on their way":    cut,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := testpg.Database(t)
			s := open(t, postgres.Options{Connection: direct})
			through, begin := lose(t, direct)
			l := &load{outcomes: make(map[string]error), taken: make(map[string]int), unknown: make(map[string]bool)}
			for i := range counters {
				if err := s.Apply(t.Context(), insert(fmt.Sprint("counter-", i), "")); err != nil {
					t.Fatal(err)
				}
			}
			nodes := []*postgres.Store{open(t, postgres.Options{Connection: through, MaxConns: 4}), open(t, postgres.Options{Connection: through, MaxConns: 4})}
			begin()
			l.began = time.Now()
			var group sync.WaitGroup
			for node, n := range nodes {
				for worker := range 6 {
					group.Go(func() { l.run(t, n, fmt.Sprintf("%d-%d", node, worker)) })
				}
			}
			group.Wait()
			l.check(t, s)
		})
	}
}

const (
	counters = 3
	loadTime = 4 * time.Second
)

// load is what nodes have done.
type load struct {
	began time.Time

	mutex    sync.Mutex
	outcomes map[string]error // of updates, by the id of the row that each has inserted along
	taken    map[string]int   // how often somebody was told to have deleted a row
	unknown  map[string]bool  // rows of whose deletion somebody was told nothing
}

// run updates rows, and takes away what all workers try to take.
func (l *load) run(t *testing.T, s *postgres.Store, worker string) {
	for i := 0; time.Since(l.began) < loadTime; i++ {
		id := fmt.Sprint("counter-", rand.IntN(counters))
		row, err := s.Get(t.Context(), kind, id)
		if err != nil {
			t.Errorf("Get: %v", err)
			return
		}
		row.Version++
		row.Sealed = []byte(worker)
		trace := fmt.Sprintf("trace-%s-%d", worker, i)
		err = s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: row}, insert(trace, id))
		l.mutex.Lock()
		l.outcomes[trace] = err
		l.mutex.Unlock()

		prize := fmt.Sprint("prize-", time.Since(l.began)/(50*time.Millisecond))
		if err := s.Apply(t.Context(), insert(prize, "")); err != nil && !errors.Is(err, tokenstore.ErrConflict) {
			t.Errorf("insert: %v", err)
		}
		if l.gone(prize) {
			continue
		}
		err = s.Apply(t.Context(), remove(prize))
		l.mutex.Lock()
		if err == nil {
			l.taken[prize]++
		} else if !errors.Is(err, tokenstore.ErrConflict) {
			l.unknown[prize] = true
		}
		l.mutex.Unlock()
	}
}

func (l *load) gone(prize string) bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.taken[prize] > 0
}

func (l *load) check(t *testing.T, s *postgres.Store) {
	t.Helper()
	made, conflicts, unknown := 0, 0, 0
	updates := make(map[string]uint64)
	for trace, err := range l.outcomes {
		row, missing := s.Get(t.Context(), kind, trace)
		switch {
		case missing != nil && !errors.Is(missing, tokenstore.ErrNotFound):
			t.Fatal(missing)
		case err == nil && missing != nil:
			t.Errorf("%s was acknowledged and is not there", trace)
		case errors.Is(err, tokenstore.ErrConflict) && missing == nil:
			t.Errorf("%s was told to conflict, and is there: %v", trace, err)
		}
		if missing == nil {
			updates[string(row.Sealed)]++
		}
		switch {
		case err == nil:
			made++
		case errors.Is(err, tokenstore.ErrConflict):
			conflicts++
		default:
			t.Logf("%s: %v", trace, err)
			unknown++
		}
	}
	for i := range counters {
		id := fmt.Sprint("counter-", i)
		row, err := s.Get(t.Context(), kind, id)
		if err != nil || row.Version != 1+updates[id] {
			t.Errorf("%s is of version %d, %v, after %d updates", id, row.Version, err, updates[id])
		}
	}
	t.Logf("%d updates made, %d conflicts, %d unknown, %d rows taken away", made, conflicts, unknown, len(l.taken))
	if made < 20 || len(l.taken) < 5 {
		t.Error("there was too little to see")
	}
	if unknown > made/20 {
		t.Errorf("%d of %d updates failed", unknown, made)
	}
}

// terminate has the server end connections at random moments.
func terminate(t *testing.T, connection string) (string, func()) {
	c, err := pgx.Connect(t.Context(), testpg.Shared(t).Admin(t, connection))
	if err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() {
		stop()
		ended.Wait()
		_ = c.Close(context.Background())
	})
	return connection, func() {
		ended.Go(func() {
			for ctx.Err() == nil {
				_, _ = c.Exec(context.Background(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1")
				time.Sleep(rand.N(100 * time.Millisecond))
			}
		})
	}
}

// cut puts a proxy before the server that ends each connection after some bytes, in either direction.
func cut(t *testing.T, connection string) (string, func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	upstream := testpg.Shared(t).Address()
	var links sync.WaitGroup
	links.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", upstream)
			if err != nil {
				_ = down.Close()
				continue
			}
			toServer, toClient := int64(1000+rand.IntN(20_000)), int64(1000+rand.IntN(4000)) // logging in takes fewer
			link := func(to, from net.Conn, n int64) {
				_, _ = io.CopyN(to, from, n)
				_ = up.Close()
				_ = down.Close()
			}
			links.Go(func() { link(up, down, toServer) })
			links.Go(func() { link(down, up, toClient) })
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return strings.Replace(connection, upstream, l.Addr().String(), 1), func() {}
}
