// Package memory keeps what was made of rows that every request asks for, until they change. Stores answer Recall from it.
package memory

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What a memory holds at most. What is made of a usual grant has half a kilobyte.
const (
	MaxRows  = 64 << 10
	MaxBytes = 40 << 20 // of what was made of rows, as OpenRow tells, and of what is around it

	shards        = 64
	maxShardRows  = MaxRows / shards
	maxShardBytes = MaxBytes / shards
	maxRowBytes   = maxShardBytes / 8 // of a row that is worth its place
	overhead      = 192               // bytes of a row's key, and of its places in maps
)

// Keeps says which kinds every request asks for.
func Keeps(kind tokenstore.Kind) bool {
	return kind == tokenstore.KindGrant || kind == tokenstore.KindAccount || kind == tokenstore.KindAPIKey
}

// Key names a row.
type Key struct {
	Kind tokenstore.Kind
	ID   string
}

// Memory holds what was made of rows as they were read. Whether it may be believed is for others to say; it sees to it that nothing is in it of a row that was read before it
// was last forgotten. It is cut into shards, each with a lock that few requests want at a time. Use New.
type Memory struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu      sync.RWMutex
	rows    map[uint64]*remembered // by a hash of their keys: the garbage collector has less to look at than with keys of texts
	bytes   int
	filling map[Key]*Fill
	hits    atomic.Uint64
	misses  atomic.Uint64
	_       [64]byte // no two locks in one cache line
}

// remembered is what was made of a row, which nobody changes.
type remembered struct {
	key    Key
	opened any
	bytes  int
	used   atomic.Bool // since the shard last looked for one to drop
}

// Fill is a read of a row that may enter the memory. Forgetting the row takes it out of the shard, and then it may not.
type Fill struct {
	done chan struct{}
}

// Done is closed when the read has ended.
func (f *Fill) Done() <-chan struct{} { return f.done }

// New makes a memory with nothing in it.
func New() *Memory {
	m := &Memory{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].rows, m.shards[i].filling = make(map[uint64]*remembered), make(map[Key]*Fill)
	}
	return m
}

// place is the shard of a row, and where it is there: by its id, and its kind as far as that has another length. A row that happens to have the place of another takes it over.
func (m *Memory) place(k Key) (s *shard, at uint64) {
	at = maphash.String(m.seed, k.ID)
	return &m.shards[at%shards], at ^ uint64(len(k.Kind))
}

// Get returns what was made of the row, which others share.
func (m *Memory) Get(k Key) (opened any, ok bool) {
	s, at := m.place(k)
	s.mu.RLock()
	r := s.rows[at]
	s.mu.RUnlock()
	if r == nil || r.key != k {
		return nil, false
	}
	s.hits.Add(1)
	if !r.used.Load() { // a write for every reader would make the line travel between processors
		r.used.Store(true)
	}
	return r.opened, true
}

// Has says whether Get would find the row. It counts as nothing.
func (m *Memory) Has(k Key) bool {
	s, at := m.place(k)
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.rows[at]
	return r != nil && r.key == k
}

// Missed counts a row that had to be read.
func (m *Memory) Missed(k Key) {
	s, _ := m.place(k)
	s.misses.Add(1)
}

// Begin is called before a row is read. The first of several that read it at the same time may fill the memory, and must call End; the others get its fill to wait for.
func (m *Memory) Begin(k Key) (f *Fill, first bool) {
	s, _ := m.place(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.filling[k]; f != nil {
		return f, false
	}
	f = &Fill{done: make(chan struct{})}
	s.filling[k] = f
	return f, true
}

// End is called by the first after its read, with what was made of the row and how many bytes that takes, or not ok. What was forgotten in between is not remembered.
func (m *Memory) End(k Key, f *Fill, opened any, bytes int, ok bool) {
	defer close(f.done)
	bytes += overhead
	s, at := m.place(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filling[k] != f {
		return
	}
	delete(s.filling, k)
	if !ok || bytes > maxRowBytes {
		return
	}
	s.drop(at)
	s.rows[at] = &remembered{key: k, opened: opened, bytes: bytes}
	s.bytes += bytes
	for len(s.rows) > maxShardRows || s.bytes > maxShardBytes {
		s.dropOne(at)
	}
}

func (s *shard) drop(at uint64) {
	if r := s.rows[at]; r != nil {
		s.bytes -= r.bytes
		delete(s.rows, at)
	}
}

// dropOne drops a row other than the one that was just added: of a few at random, one that nobody asked for since the last time.
func (s *shard) dropOne(added uint64) {
	const looks = 8
	victim, looked := added, 0
	for at, r := range s.rows { // which begins anywhere
		if at == added {
			continue
		}
		victim = at
		if looked++; looked == looks || !r.used.Swap(false) {
			break
		}
	}
	s.drop(victim)
}

// Forget drops a row. Reads of it that have begun do not fill the memory.
func (m *Memory) Forget(k Key) {
	s, at := m.place(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(at)
	delete(s.filling, k)
}

// ForgetKind drops all rows of a kind.
func (m *Memory) ForgetKind(kind tokenstore.Kind) {
	m.forgetIf(func(k Key) bool { return k.Kind == kind })
}

// ForgetAll drops all rows.
func (m *Memory) ForgetAll() { m.forgetIf(func(Key) bool { return true }) }

func (m *Memory) forgetIf(which func(Key) bool) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for at, r := range s.rows {
			if which(r.key) {
				s.drop(at)
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

// Stat counts rows, and what was asked for so far: found by Get, and Missed.
func (m *Memory) Stat() (stat tokenstore.Recalls) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.RLock()
		stat.Rows += len(s.rows)
		s.mu.RUnlock()
		stat.Hits, stat.Misses = stat.Hits+s.hits.Load(), stat.Misses+s.misses.Load()
	}
	return stat
}
