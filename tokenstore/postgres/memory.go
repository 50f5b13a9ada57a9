package postgres

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What the memory holds at most. A row of a usual grant has one to three kilobytes.
const (
	maxRemembered      = 64 << 10 // rows
	maxRememberedBytes = 64 << 20 // of their sealed values
	shards             = 64
	maxShardRows       = maxRemembered / shards
	maxShardBytes      = maxRememberedBytes / shards
	maxRowBytes        = maxShardBytes / 8 // of a row that is worth its place
)

// recalled says which kinds every request asks for.
func recalled(kind tokenstore.Kind) bool {
	return kind == tokenstore.KindGrant || kind == tokenstore.KindAccount || kind == tokenstore.KindAPIKey
}

// rowKey names a row.
type rowKey struct {
	kind tokenstore.Kind
	id   string
}

// memory holds rows as they were read. Whether they may be believed is for others to say; it sees to it that no row is in it that was read before it was last forgotten.
// It is cut into shards, each with a lock that few requests want at a time.
type memory struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu      sync.RWMutex
	rows    map[rowKey]*remembered
	bytes   int
	filling map[rowKey]*fill
	hits    atomic.Uint64
	misses  atomic.Uint64
	_       [64]byte // no two locks in one cache line
}

// remembered is a row that nobody changes.
type remembered struct {
	row  tokenstore.Row
	used atomic.Bool // since the shard last looked for one to drop
}

// fill is a read of a row that may enter the memory. Forgetting the row takes it out of the shard, and then it may not.
type fill struct {
	done chan struct{}
}

func newMemory() *memory {
	m := &memory{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].rows, m.shards[i].filling = make(map[rowKey]*remembered), make(map[rowKey]*fill)
	}
	return m
}

func (m *memory) shard(k rowKey) *shard {
	return &m.shards[maphash.String(m.seed, k.id)%shards]
}

// get returns a copy of the row.
func (m *memory) get(k rowKey) (tokenstore.Row, bool) {
	s := m.shard(k)
	s.mu.RLock()
	r := s.rows[k]
	s.mu.RUnlock()
	if r == nil {
		return tokenstore.Row{}, false
	}
	s.hits.Add(1)
	if !r.used.Load() { // a write for every reader would make the line travel between processors
		r.used.Store(true)
	}
	return copyOf(r.row), true
}

// has says whether get would find the row. It counts as nothing.
func (m *memory) has(k rowKey) bool {
	s := m.shard(k)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.rows[k] != nil
}

// missed counts a row that had to be read.
func (m *memory) missed(k rowKey) { m.shard(k).misses.Add(1) }

func copyOf(row tokenstore.Row) tokenstore.Row {
	row.Refs, row.Sealed = slices.Clone(row.Refs), bytes.Clone(row.Sealed)
	return row
}

// begin is called before a row is read. The first of several that read it at the same time may fill the memory, with end; the others get its fill to wait for.
func (m *memory) begin(k rowKey) (f *fill, first bool) {
	s := m.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.filling[k]; f != nil {
		return f, false
	}
	f = &fill{done: make(chan struct{})}
	s.filling[k] = f
	return f, true
}

// end is called by the first after its read, with what it read, or not ok. What was forgotten in between is not remembered.
func (m *memory) end(k rowKey, f *fill, row tokenstore.Row, ok bool) {
	defer close(f.done)
	if ok && len(row.Sealed) <= maxRowBytes {
		row = copyOf(row)
	} else {
		ok = false
	}
	s := m.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filling[k] != f {
		return
	}
	delete(s.filling, k)
	if !ok {
		return
	}
	s.drop(k)
	s.rows[k] = &remembered{row: row}
	s.bytes += len(row.Sealed)
	for len(s.rows) > maxShardRows || s.bytes > maxShardBytes {
		s.dropOne(k)
	}
}

func (s *shard) drop(k rowKey) {
	if r := s.rows[k]; r != nil {
		s.bytes -= len(r.row.Sealed)
		delete(s.rows, k)
	}
}

// dropOne drops a row other than the one that was just added: of a few at random, one that nobody asked for since the last time.
func (s *shard) dropOne(added rowKey) {
	const looks = 8
	victim, looked := added, 0
	for k, r := range s.rows { // which begins anywhere
		if k == added {
			continue
		}
		victim = k
		if looked++; looked == looks || !r.used.Swap(false) {
			break
		}
	}
	s.drop(victim)
}

// forget drops a row. Reads of it that have begun do not fill the memory.
func (m *memory) forget(k rowKey) {
	s := m.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(k)
	delete(s.filling, k)
}

// forgetKind drops all rows of a kind; forgetAll all that there are.
func (m *memory) forgetKind(kind tokenstore.Kind) {
	m.forgetIf(func(k rowKey) bool { return k.kind == kind })
}
func (m *memory) forgetAll() { m.forgetIf(func(rowKey) bool { return true }) }

func (m *memory) forgetIf(which func(rowKey) bool) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for k := range s.rows {
			if which(k) {
				s.drop(k)
			}
		}
		for k := range s.filling {
			if which(k) {
				delete(s.filling, k)
			}
		}
		s.mu.Unlock()
	}
}

// stat counts rows, and what was asked for so far: found here, and read.
func (m *memory) stat() (rows int, hits, misses uint64) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.RLock()
		rows += len(s.rows)
		s.mu.RUnlock()
		hits, misses = hits+s.hits.Load(), misses+s.misses.Load()
	}
	return rows, hits, misses
}
