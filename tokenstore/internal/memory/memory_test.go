package memory

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func grantKey(id string) Key { return Key{tokenstore.KindGrant, id} }

func grantRow(id string, version uint64) tokenstore.Row {
	return tokenstore.Row{Kind: tokenstore.KindGrant, ID: id, Version: version, Refs: []string{"user:1"}, Sealed: []byte("sealed " + id)}
}

// get is Get, of a row that nothing was made of.
func get(m *Memory, k Key) (tokenstore.Row, bool) {
	opened, ok := m.Get(k)
	row, _ := opened.(tokenstore.Row)
	return row, ok
}

// remember fills the memory with a row of a grant.
func remember(t testing.TB, m *Memory, row tokenstore.Row) {
	t.Helper()
	k := Key{row.Kind, row.ID}
	f, first := m.Begin(k)
	if !first {
		t.Fatalf("somebody else reads %v", k)
	}
	m.End(k, f, row, len(row.Sealed), true)
}

func TestMemoryForgetsWhatChangesWhileItIsRead(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(*Memory){
		"the row":  func(m *Memory) { m.Forget(grantKey("a")) },
		"the kind": func(m *Memory) { m.ForgetKind(tokenstore.KindGrant) },
		"all":      func(m *Memory) { m.ForgetAll() },
	} {
		m := New()
		remember(t, m, grantRow("a", 1))
		f, _ := m.Begin(grantKey("a"))
		forget(m)
		if _, ok := m.Get(grantKey("a")); ok {
			t.Errorf("%s: the row is still known", name)
		}
		later, first := m.Begin(grantKey("a"))
		if !first {
			t.Errorf("%s: a read that began later takes part in one that began before", name)
		}
		m.End(grantKey("a"), f, grantRow("a", 1), 10, true)
		if _, ok := m.Get(grantKey("a")); ok {
			t.Errorf("%s: what was read before is remembered", name)
		}
		m.End(grantKey("a"), later, grantRow("a", 2), 10, true)
		if row, ok := get(m, grantKey("a")); !ok || row.Version != 2 {
			t.Errorf("%s: what was read afterwards is not remembered: %v, %v", name, row, ok)
		}
	}
}

func TestMemoryForgetsNoOtherKind(t *testing.T) {
	t.Parallel()
	m := New()
	account := grantRow("a", 1)
	account.Kind = tokenstore.KindAccount
	remember(t, m, account)
	remember(t, m, grantRow("a", 2))
	m.ForgetKind(tokenstore.KindGrant)
	if row, ok := get(m, Key{tokenstore.KindAccount, "a"}); !ok || row.Version != 1 {
		t.Errorf("the account is %v, %v", row, ok)
	}
}

func TestMemoryRemembersNoFailedRead(t *testing.T) {
	t.Parallel()
	m := New()
	f, _ := m.Begin(grantKey("a"))
	other, first := m.Begin(grantKey("a"))
	if first || other != f {
		t.Error("two read the row at once")
	}
	m.End(grantKey("a"), f, nil, 0, false)
	<-other.done
	if _, ok := m.Get(grantKey("a")); ok {
		t.Error("a read that failed is remembered")
	}
	if _, first := m.Begin(grantKey("a")); !first {
		t.Error("nobody may read the row again")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := New()
	for i := range MaxRows + MaxRows/2 {
		remember(t, m, grantRow(fmt.Sprint(i), 1))
	}
	if rows := m.Stat().Rows; rows > MaxRows || rows < MaxRows/2 {
		t.Errorf("%d rows are kept of more than %d", rows, MaxRows)
	}
	m = New()
	large := grantRow("", 1)
	large.Sealed = make([]byte, maxRowBytes-overhead)
	for i := range 4 * MaxBytes / maxRowBytes {
		large.ID = fmt.Sprint("large", i)
		remember(t, m, large)
	}
	total := 0
	for i := range m.shards {
		total += m.shards[i].bytes
	}
	if rows := m.Stat().Rows; total > MaxBytes || rows*maxRowBytes != total {
		t.Errorf("%d rows hold %d bytes; want at most %d", rows, total, MaxBytes)
	}
	large.Sealed = make([]byte, maxRowBytes-overhead+1)
	large.ID = "too large"
	remember(t, m, large)
	if _, ok := m.Get(grantKey("too large")); ok {
		t.Error("a row that takes the place of many is kept")
	}
}

func TestMemoryKeepsWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	m := New()
	remember(t, m, grantRow("wanted", 1))
	lost := 0
	for i := range 4 * MaxRows {
		remember(t, m, grantRow(fmt.Sprint(i), 1))
		if i%16 == 0 {
			if _, ok := m.Get(grantKey("wanted")); !ok {
				lost++
				remember(t, m, grantRow("wanted", 1))
			}
		}
	}
	if lost > 20 {
		t.Errorf("a row that is asked for all the time was dropped %d times", lost)
	}
}

// What has been forgotten after a change is never seen again as it was before, however reads, changes and forgetting interleave.
func TestMemoryNeverShowsWhatWasForgotten(t *testing.T) {
	t.Parallel()
	m := New()
	k := grantKey("a")
	var stored, announced atomic.Uint64 // the version in the database, and the last one that was forgotten after it
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				want := announced.Load()
				row, ok := get(m, k)
				if !ok {
					f, first := m.Begin(k)
					if !first {
						<-f.done
						continue
					}
					row = grantRow("a", stored.Load())
					m.End(k, f, row, len(row.Sealed), true)
				}
				if row.Version < want {
					t.Errorf("version %d was seen after %d was announced", row.Version, want)
					return
				}
			}
		})
	}
	for version := range uint64(20000) {
		stored.Store(version)
		m.Forget(k)
		announced.Store(version)
	}
	close(stop)
	wg.Wait()
}

func BenchmarkMemory(b *testing.B) {
	m := New()
	row := grantRow("a", 1)
	row.Sealed = make([]byte, 2000)
	remember(b, m, row)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := m.Get(grantKey("a")); !ok {
				b.Fatal("forgotten")
			}
		}
	})
}
