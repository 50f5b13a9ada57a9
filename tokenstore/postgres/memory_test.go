package postgres

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func grantKey(id string) rowKey { return rowKey{tokenstore.KindGrant, id} }

func grantRow(id string, version uint64) tokenstore.Row {
	return tokenstore.Row{Kind: tokenstore.KindGrant, ID: id, Version: version, Refs: []string{"user:1"}, Sealed: []byte("sealed " + id)}
}

// remember fills the memory with a row of a grant.
func remember(t testing.TB, m *memory, row tokenstore.Row) {
	t.Helper()
	k := rowKey{row.Kind, row.ID}
	f, first := m.begin(k)
	if !first {
		t.Fatalf("somebody else reads %v", k)
	}
	m.end(k, f, row, true)
}

func TestMemoryForgetsWhatChangesWhileItIsRead(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(*memory){
		"the row":  func(m *memory) { m.forget(grantKey("a")) },
		"the kind": func(m *memory) { m.forgetKind(tokenstore.KindGrant) },
		"all":      func(m *memory) { m.forgetAll() },
	} {
		m := newMemory()
		remember(t, m, grantRow("a", 1))
		f, _ := m.begin(grantKey("a"))
		forget(m)
		if _, ok := m.get(grantKey("a")); ok {
			t.Errorf("%s: the row is still known", name)
		}
		later, first := m.begin(grantKey("a"))
		if !first {
			t.Errorf("%s: a read that began later takes part in one that began before", name)
		}
		m.end(grantKey("a"), f, grantRow("a", 1), true)
		if _, ok := m.get(grantKey("a")); ok {
			t.Errorf("%s: what was read before is remembered", name)
		}
		m.end(grantKey("a"), later, grantRow("a", 2), true)
		if row, ok := m.get(grantKey("a")); !ok || row.Version != 2 {
			t.Errorf("%s: what was read afterwards is not remembered: %v, %v", name, row, ok)
		}
	}
}

func TestMemoryForgetsNoOtherKind(t *testing.T) {
	t.Parallel()
	m := newMemory()
	account := grantRow("a", 1)
	account.Kind = tokenstore.KindAccount
	remember(t, m, account)
	remember(t, m, grantRow("a", 2))
	m.forgetKind(tokenstore.KindGrant)
	if row, ok := m.get(rowKey{tokenstore.KindAccount, "a"}); !ok || row.Version != 1 {
		t.Errorf("the account is %v, %v", row, ok)
	}
}

func TestMemoryRemembersNoFailedRead(t *testing.T) {
	t.Parallel()
	m := newMemory()
	f, _ := m.begin(grantKey("a"))
	other, first := m.begin(grantKey("a"))
	if first || other != f {
		t.Error("two read the row at once")
	}
	m.end(grantKey("a"), f, tokenstore.Row{}, false)
	<-other.done
	if _, ok := m.get(grantKey("a")); ok {
		t.Error("a read that failed is remembered")
	}
	if _, first := m.begin(grantKey("a")); !first {
		t.Error("nobody may read the row again")
	}
}

func TestMemorysRowsBelongToTheCaller(t *testing.T) {
	t.Parallel()
	m := newMemory()
	row := grantRow("a", 1)
	remember(t, m, row)
	row.Sealed[0], row.Refs[0] = 'X', "X"
	for range 2 {
		got, _ := m.get(grantKey("a"))
		if string(got.Sealed) != "sealed a" || !slices.Equal(got.Refs, []string{"user:1"}) {
			t.Fatalf("the memory has %v", got)
		}
		got.Sealed[0], got.Refs[0] = 'Y', "Y"
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := newMemory()
	for i := range maxRemembered + maxRemembered/2 {
		remember(t, m, grantRow(fmt.Sprint(i), 1))
	}
	if rows, _, _ := m.stat(); rows > maxRemembered || rows < maxRemembered/2 {
		t.Errorf("%d rows are kept of more than %d", rows, maxRemembered)
	}
	m = newMemory()
	large := grantRow("", 1)
	large.Sealed = make([]byte, maxRowBytes)
	for i := range 4 * maxRememberedBytes / maxRowBytes {
		large.ID = fmt.Sprint("large", i)
		remember(t, m, large)
	}
	total := 0
	for i := range m.shards {
		total += m.shards[i].bytes
	}
	if rows, _, _ := m.stat(); total > maxRememberedBytes || rows*maxRowBytes != total {
		t.Errorf("%d rows hold %d bytes; want at most %d", rows, total, maxRememberedBytes)
	}
	large.Sealed = make([]byte, maxRowBytes+1)
	large.ID = "too large"
	remember(t, m, large)
	if _, ok := m.get(grantKey("too large")); ok {
		t.Error("a row that takes the place of many is kept")
	}
}

func TestMemoryKeepsWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	m := newMemory()
	remember(t, m, grantRow("wanted", 1))
	lost := 0
	for i := range 4 * maxRemembered {
		remember(t, m, grantRow(fmt.Sprint(i), 1))
		if i%16 == 0 {
			if _, ok := m.get(grantKey("wanted")); !ok {
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
	m := newMemory()
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
				row, ok := m.get(k)
				if !ok {
					f, first := m.begin(k)
					if !first {
						<-f.done
						continue
					}
					row = grantRow("a", stored.Load())
					m.end(k, f, row, true)
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
		m.forget(k)
		announced.Store(version)
	}
	close(stop)
	wg.Wait()
}

func BenchmarkMemory(b *testing.B) {
	m := newMemory()
	row := grantRow("a", 1)
	row.Sealed = make([]byte, 2000)
	remember(b, m, row)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := m.get(grantKey("a")); !ok {
				b.Fatal("forgotten")
			}
		}
	})
}
