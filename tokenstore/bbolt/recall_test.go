package bbolt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// version makes of a row its version.
func version(row tokenstore.Row) (any, int, error) { return row.Version, 8, nil }

func wantRecall(t testing.TB, s *Store, id string, want uint64) {
	t.Helper()
	if got, err := s.Recall(t.Context(), tokenstore.KindGrant, id, version); err != nil || got != want {
		t.Fatalf("Recall(%s) = version %v, %v; want %d", id, got, err, want)
	}
}

// A read that was slow, and began before an Apply, ends after it.
func TestSlowReadDoesNotHideAnApply(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, s *Store) (want uint64){
		"update": func(t *testing.T, s *Store) uint64 {
			t.Helper()
			mustApply(t, s, update("a", 2, nil))
			return 2
		},
		"deletion": func(t *testing.T, s *Store) uint64 {
			t.Helper()
			mustApply(t, s, tokenstore.Change{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: "a", Version: 1}})
			return 0
		},
		"sweep": func(t *testing.T, s *Store) uint64 {
			t.Helper()
			if n, err := s.Sweep(t.Context(), tokenstore.KindGrant, time.UnixMilli(2000), 10); n != 1 || err != nil {
				t.Fatalf("Sweep = %d, %v", n, err)
			}
			return 0
		},
		"import": func(t *testing.T, s *Store) uint64 {
			t.Helper()
			filling := tokenstore.Freeze{State: tokenstore.FreezeFilling}
			if err := s.Freeze(t.Context(), tokenstore.Freeze{}, filling); err != nil {
				t.Fatal(err)
			}
			if err := s.Import(t.Context(), tokenstore.KindGrant, []tokenstore.Row{update("a", 7, nil).Row}, nil); err != nil {
				t.Fatal(err)
			}
			return 7
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, newPath(t))
			mustApply(t, s, insert("a", nil))
			want := uint64(0)
			slow := func(row tokenstore.Row) (any, int, error) {
				want = change(t, s)
				return version(row)
			}
			if got, err := s.Recall(t.Context(), tokenstore.KindGrant, "a", slow); err != nil || got != uint64(1) {
				t.Fatalf("the slow Recall = version %v, %v", got, err)
			}
			if want == 0 {
				if got, err := s.Recall(t.Context(), tokenstore.KindGrant, "a", version); !errors.Is(err, tokenstore.ErrNotFound) {
					t.Errorf("Recall = version %v, %v; want ErrNotFound", got, err)
				}
				return
			}
			wantRecall(t, s, "a", want)
			if s.Recalls().Rows != 1 {
				t.Error("what was read afterwards is not remembered")
			}
		})
	}
}

// However Recalls, Applies and compactions interleave, a Recall sees every Apply that returned before it began, and most are answered from memory.
func TestRecallSeesEveryApplyThatHasReturned(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	const rows, versions = 4, 300
	var applied [rows]atomic.Uint64
	stop := make(chan struct{})
	var reading, writing sync.WaitGroup
	for range 4 {
		reading.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				row := i % rows
				want := applied[row].Load()
				if want == 0 {
					continue
				}
				got, err := s.Recall(t.Context(), tokenstore.KindGrant, fmt.Sprint(row), version)
				if err != nil || got.(uint64) < want {
					t.Errorf("Recall = version %v, %v, after version %d was applied", got, err, want)
					return
				}
			}
		})
	}
	for row := range rows {
		writing.Go(func() {
			id := fmt.Sprint(row)
			if err := s.Apply(t.Context(), insert(id, nil)); err != nil {
				t.Errorf("Apply: %v", err)
				return
			}
			for v := uint64(1); v < versions && !t.Failed(); v++ {
				applied[row].Store(v)
				if err := s.Apply(t.Context(), update(id, v+1, nil)); err != nil {
					t.Errorf("Apply: %v", err)
					return
				}
				if got, err := s.Recall(t.Context(), tokenstore.KindGrant, id, version); err != nil || got != v+1 {
					t.Errorf("Recall = version %v, %v; want %d, which was just applied", got, err, v+1)
					return
				}
			}
		})
	}
	for range 3 {
		if _, _, err := s.Compact(t.Context(), nil); err != nil && !errors.Is(err, ErrCompact) {
			t.Errorf("Compact: %v", err)
		}
	}
	writing.Wait()
	close(stop)
	reading.Wait()
	if s.Recalls().Hits == 0 {
		t.Error("no Recall was answered from memory")
	}
}

func TestMemoryAnswersForNoStoreThatIsBrokenOrClosed(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		how  func(*Store)
		want error
	}{
		"broken": {func(s *Store) { s.broken.Store(true) }, tokenstore.ErrDamaged},
		"closed": {func(s *Store) { _ = s.Close() }, tokenstore.ErrClosed},
	} {
		path := newPath(t)
		s, err := Open(path, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		mustApply(t, s, insert("a", nil))
		wantRecall(t, s, "a", 1)
		end.how(s)
		if got, err := s.Recall(t.Context(), tokenstore.KindGrant, "a", version); !errors.Is(err, end.want) {
			t.Errorf("%s: Recall = version %v, %v; want %v", name, got, err, end.want)
		}
		_ = s.Close()
	}
}

// A file that is open for reading only is answered for from memory too; what every request does not ask for is not kept.
func TestRecallOfAFileThatIsOnlyRead(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s, err := Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	client := insert("client", nil)
	client.Row.Kind = tokenstore.KindClient
	mustApply(t, s, insert("a", nil), client)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReadOnly(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for range 2 {
		wantRecall(t, r, "a", 1)
		if _, err := r.Recall(t.Context(), tokenstore.KindClient, "client", version); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := r.Recalls(), (tokenstore.Recalls{Rows: 1, Hits: 1, Misses: 1}); got != want {
		t.Errorf("recalls are %+v; want %+v", got, want)
	}
}

// BenchmarkRecall recalls rows that are in memory, and such as are not.
func BenchmarkRecall(b *testing.B) {
	for name, n := range map[string]int{"hit": 1000, "of-100000": 100_000} {
		b.Run(name, func(b *testing.B) {
			s := openStore(b, newPath(b))
			changes := make([]tokenstore.Change, 0, 1000)
			ids := make([]string, n)
			for i := range ids {
				ids[i] = fmt.Sprint("grant-", i)
				if changes = append(changes, insert(ids[i], make([]byte, 1067))); len(changes) == cap(changes) {
					mustApply(b, s, changes...)
					changes = changes[:0]
				}
			}
			open := func(row tokenstore.Row) (any, int, error) { return row.Sealed, len(row.Sealed), nil }
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Recall(b.Context(), tokenstore.KindGrant, ids[rand.IntN(n)], open); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
