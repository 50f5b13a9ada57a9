package upstream

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// memStore is a Store in memory whose writes can be made to fail.
type memStore struct {
	mu       sync.Mutex
	rows     map[string]tokenstore.Row
	watchers map[*watcher]struct{}

	// onApply, where set, is called before every Apply, which waits for it alone.
	onApply func(changes []tokenstore.Change)

	// failApply, where set, judges every Apply first.
	failApply func(changes []tokenstore.Change) error

	// failAfter, where set, judges every Apply after it was made: the write is there, but the writer does not know.
	failAfter func(changes []tokenstore.Change) error
}

func newMemStore() *memStore {
	return &memStore{rows: map[string]tokenstore.Row{}, watchers: map[*watcher]struct{}{}}
}

func rowKey(kind tokenstore.Kind, id string) string { return string(kind) + "/" + id }

func (s *memStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	if err := ctx.Err(); err != nil {
		return tokenstore.Row{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.rows[rowKey(kind, id)]
	if !ok {
		return tokenstore.Row{}, fmt.Errorf("%s %s: %w", kind, id, tokenstore.ErrNotFound)
	}
	return row, nil
}

func (s *memStore) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	onApply := s.onApply
	s.mu.Unlock()
	if onApply != nil {
		onApply(changes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failApply != nil {
		if err := s.failApply(changes); err != nil {
			return err
		}
	}
	for _, c := range changes {
		old, exists := s.rows[rowKey(c.Row.Kind, c.Row.ID)]
		want := c.Row.Version
		if c.Op == tokenstore.OpUpdate {
			want--
		}
		if c.Op == tokenstore.OpCheck {
			if old.Version != want {
				return fmt.Errorf("%s %s: %w", c.Row.Kind, c.Row.ID, tokenstore.ErrCheckFailed)
			}
			continue
		}
		if (c.Op == tokenstore.OpInsert) == exists || c.Op != tokenstore.OpInsert && old.Version != want {
			return fmt.Errorf("%s %s: %w", c.Row.Kind, c.Row.ID, tokenstore.ErrConflict)
		}
	}
	for _, c := range changes {
		key := rowKey(c.Row.Kind, c.Row.ID)
		if c.Op == tokenstore.OpDelete {
			delete(s.rows, key)
		} else if c.Op != tokenstore.OpCheck {
			s.rows[key] = c.Row
		}
	}
	for w := range s.watchers {
		for _, c := range changes {
			if c.Row.Kind == w.kind && c.Op != tokenstore.OpCheck {
				w.queue <- c.Row.ID
			}
		}
	}
	if s.failAfter != nil {
		return s.failAfter(changes)
	}
	return nil
}

func (s *memStore) List(_ context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := slices.SortedFunc(maps.Values(s.rows), func(a, b tokenstore.Row) int { return cmp.Compare(a.ID, b.ID) })
	rows = slices.DeleteFunc(rows, func(r tokenstore.Row) bool {
		return r.Kind != kind || r.ID <= q.After || slices.ContainsFunc(q.Refs, func(ref string) bool { return !slices.Contains(r.Refs, ref) })
	})
	return rows[:min(len(rows), cmp.Or(q.Limit, 100))], nil
}

func (s *memStore) Sweep(context.Context, tokenstore.Kind, time.Time, int) (int, error) {
	return 0, nil
}

func (s *memStore) Count(context.Context, tokenstore.Kind, ...string) (int, error) { return 0, nil }

// Due finds nothing: accounts are looked at when they are used.
func (s *memStore) Due(context.Context, tokenstore.Kind, time.Time, int) ([]tokenstore.Row, error) {
	return nil, nil
}

// watcher is told of changes one after the other, by a goroutine of its own.
type watcher struct {
	kind  tokenstore.Kind
	queue chan string
}

func (s *memStore) Watch(kind tokenstore.Kind, changed func(string)) (stop func()) {
	w := &watcher{kind: kind, queue: make(chan string, 1<<14)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for id := range w.queue {
			changed(id)
		}
	}()
	s.mu.Lock()
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		delete(s.watchers, w)
		close(w.queue)
		s.mu.Unlock()
		<-done
	})
}

func (s *memStore) Recall(ctx context.Context, kind tokenstore.Kind, id string, open tokenstore.OpenRow) (any, error) {
	return tokenstore.GetOpened(ctx, s, kind, id, open)
}

func (*memStore) Now() time.Time    { return time.Now() }
func (*memStore) Steady() time.Time { return time.Time{} }

func (s *memStore) Close() error { return nil }

func (*memStore) Check(context.Context, func(tokenstore.StoreFault), func(tokenstore.Progress)) error {
	return nil
}

// failWrites makes every Apply fail with err, or none when err is nil.
func (s *memStore) failWrites(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failApply = func([]tokenstore.Change) error { return err }
}

// failOutcomes makes the writes fail that end a refresh, while leases can be taken; nil heals.
func (s *memStore) failOutcomes(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failApply = func(changes []tokenstore.Change) error { return outcomeError(changes, err) }
}

func outcomeError(changes []tokenstore.Change, err error) error {
	if changes[0].Row.Kind == tokenstore.KindAccount && changes[0].Row.State != string(tokenstore.StateRefreshing) {
		return err
	}
	return nil
}

// recordedEvents are the events of the audit trail.
type recordedEvents struct {
	mu     sync.Mutex
	events []*tokenstore.Event
}

func (r *recordedEvents) add(e *tokenstore.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// of are those of a type.
func (r *recordedEvents) of(eventType string) (found []*tokenstore.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Type == eventType {
			found = append(found, e)
		}
	}
	return found
}

// text is all of them, as they are kept.
func (r *recordedEvents) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, err := json.Marshal(r.events)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// clock is a clock that tests can turn.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) ahead() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}

func (c *clock) turn(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

func openVault(t *testing.T, store tokenstore.Store, now func() time.Time) *tokenstore.Vault {
	t.Helper()
	return openRecordedVault(t, store, tokenstore.NewRootKey(), now, nil)
}

func openRecordedVault(t *testing.T, store tokenstore.Store, key tokenstore.RootKey, now func() time.Time, recorded func(*tokenstore.Event)) *tokenstore.Vault {
	t.Helper()
	v, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: now, Recorded: recorded})
	if err != nil {
		t.Fatal(err)
	}
	return v
}
