package postgres

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// countStacks counts goroutines, other than of tests and their proxies, in whose stack is one of the texts.
func countStacks(stacks string, texts []string) (n int) {
	for stack := range strings.SplitSeq(stacks, "\n\n") {
		if !strings.Contains(stack, "testing.tRunner") && !strings.Contains(stack, "(*proxy)") && slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(stack, text) }) {
			n++
		}
	}
	return n
}

// told notes when a watcher was last told of an id, or that it may have missed something.
type told struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func watchGrants(t *testing.T, s *Store) *told {
	t.Helper()
	w := &told{last: make(map[string]time.Time)}
	t.Cleanup(s.Watch(tokenstore.KindGrant, func(id string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.last[id] = time.Now()
	}))
	return w
}

// since says whether the watcher was told of the id, or of all, after the time.
func (w *told) since(id string, after time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[id].After(after) || w.last[""].After(after)
}

// wantTold has others change something, waits until it is told, and says when that took too long.
func wantTold(t *testing.T, w *told, id string, change func()) {
	t.Helper()
	before := time.Now()
	change()
	changed := time.Now()
	eventually(t, "told of "+id, func() bool { return w.since(id, before) })
	if took := time.Since(changed); took > bound+busy/4 {
		t.Errorf("a change was told after %s", took)
	}
}

func TestWatchersAreToldOfWhatOthersChange(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	here, there := openStore(t, Options{Connection: connection}), openStore(t, Options{Connection: connection})
	wantListening(t, here)
	w := watchGrants(t, here)
	time.Sleep(2 * blind) // a heart beat would be told of by now
	if w.since("", time.Now().Add(-blind)) {
		t.Error("told of changes that may have been missed, while nothing was")
	}
	expiring := insertGrant("swept")
	expiring.Row.DeleteAfter = time.UnixMilli(1000)
	for _, step := range []struct {
		id   string
		make func()
	}{
		{"a", func() { mustApply(t, there, insertGrant("a"), expiring) }},
		{"a", func() { mustApply(t, there, updateGrant("a", 2)) }},
		{"swept", func() {
			wantRecall(t, here, "swept", 1)
			if n, err := there.Sweep(t.Context(), tokenstore.KindGrant, time.UnixMilli(2000), 10); n != 1 || err != nil {
				t.Fatalf("Sweep = %d, %v", n, err)
			}
		}},
	} {
		wantTold(t, w, step.id, step.make)
	}
	eventually(t, "swept", func() bool { return recall(here, "swept")() != nil })
}

func TestWatchersAreToldOfWhatWasChangedWhileNobodyListened(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(p *proxy){
		"swallowed":                          func(p *proxy) { p.swallow(false) },
		"swallowed, new connections as well": func(p *proxy) { p.swallow(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connection := testpg.Database(t)
			p := newProxy(t, testpg.Shared(t).Address())
			here := openStore(t, Options{Connection: connection, Listen: p.through(t, connection)})
			there := openStore(t, Options{Connection: connection})
			mustApply(t, there, insertGrant("a"))
			wantListening(t, here)
			w := watchGrants(t, here)
			fault(p)
			version := uint64(2)
			for end := time.Now().Add(4 * time.Second); time.Now().Before(end); version++ {
				wantTold(t, w, "a", func() { mustApply(t, there, updateGrant("a", version)) })
			}
			p.restore()
			wantListening(t, here)
			wantTold(t, w, "a", func() { mustApply(t, there, updateGrant("a", version)) })
		})
	}
}

func TestListenOff(t *testing.T) {
	t.Parallel()
	connection := testpg.Database(t)
	here, there := openStore(t, Options{Connection: connection, ListenOff: true}), openStore(t, Options{Connection: connection})
	w := watchGrants(t, here)
	for version := uint64(1); version < 5; version++ {
		change := insertGrant("a")
		if version > 1 {
			change = updateGrant("a", version)
		}
		wantTold(t, w, "a", func() { mustApply(t, there, change) })
		wantRecall(t, here, "a", version)
	}
	if st := here.Status(); st.Listening || !st.Reachable {
		t.Errorf("status = %+v", st)
	}
	if r := here.Recalls(); r.Rows != 0 || r.Hits != 0 || r.Misses != 4 { // what may never be believed is not kept
		t.Errorf("recalls = %+v", r)
	}
	if d := time.Since(here.Now()).Abs(); d > time.Second { // both clocks are this machine's
		t.Errorf("the clock is %s off", d)
	}
}
