package upstream

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// nodeStore is how one node sees a store that it shares with others: it may lose sight of it, and remembers what it has read until it is told of a change.
type nodeStore struct {
	*memStore
	clock func() time.Time

	mu       sync.Mutex
	gone     bool      // for this node
	steady   time.Time // since when it is not
	deaf     bool      // is told of no change
	memory   map[string]any
	forgets  int // how often something was forgotten
	watching map[int]func(string)
	gets     int
	applies  int

	// before and after, where set, judge every Apply: before it is made, and after it was made, which the node then does not know.
	before, after func(changes []tokenstore.Change) error
}

func newNodeStore(t *testing.T, shared *memStore, clock func() time.Time) *nodeStore {
	t.Helper()
	s := &nodeStore{memStore: shared, clock: clock, memory: map[string]any{}, watching: map[int]func(string){}}
	t.Cleanup(shared.Watch(tokenstore.KindAccount, func(id string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.deaf {
			s.forget(id)
		}
	}))
	return s
}

// forget is called with the lock held.
func (s *nodeStore) forget(id string) {
	delete(s.memory, rowKey(tokenstore.KindAccount, id))
	s.forgets++
}

func (s *nodeStore) Now() time.Time { return s.clock() }

func (s *nodeStore) Steady() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.steady
}

func (s *nodeStore) away() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return tokenstore.ErrUnavailable
	}
	return nil
}

func (s *nodeStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	if err := s.away(); err != nil {
		return tokenstore.Row{}, err
	}
	s.mu.Lock()
	s.gets++
	s.mu.Unlock()
	return s.memStore.Get(ctx, kind, id)
}

func (s *nodeStore) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	if err := s.away(); err != nil {
		return nil, err
	}
	return s.memStore.List(ctx, kind, q)
}

func (s *nodeStore) Recall(ctx context.Context, kind tokenstore.Kind, id string, open tokenstore.OpenRow) (any, error) {
	s.mu.Lock()
	opened, ok := s.memory[rowKey(kind, id)]
	forgets := s.forgets
	s.mu.Unlock()
	if ok {
		return opened, nil
	}
	for patience := 5 * time.Second; patience > 0 && s.away() != nil; patience -= 50 * time.Millisecond { // other than the rest, which is harder on who asks
		time.Sleep(50 * time.Millisecond)
	}
	opened, err := tokenstore.GetOpened(ctx, s, kind, id, open)
	if err == nil {
		s.mu.Lock()
		if s.forgets == forgets {
			s.memory[rowKey(kind, id)] = opened
		}
		s.mu.Unlock()
	}
	return opened, err
}

func (s *nodeStore) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	s.mu.Lock()
	s.applies++
	before, after := s.before, s.after
	s.mu.Unlock()
	if err := s.away(); err != nil {
		return err
	}
	if before != nil {
		if err := before(changes); err != nil {
			return err
		}
	}
	if err := s.memStore.Apply(ctx, changes...); err != nil {
		return err
	}
	s.mu.Lock()
	for _, c := range changes {
		s.forget(c.Row.ID)
	}
	s.mu.Unlock()
	if after != nil {
		return after(changes)
	}
	return nil
}

func (s *nodeStore) Watch(kind tokenstore.Kind, changed func(string)) (stop func()) {
	s.mu.Lock()
	n := len(s.watching)
	s.watching[n] = changed
	s.mu.Unlock()
	stopped := s.memStore.Watch(kind, func(id string) {
		s.mu.Lock()
		deaf := s.deaf || s.gone
		s.mu.Unlock()
		if !deaf {
			changed(id)
		}
	})
	return func() {
		s.mu.Lock()
		delete(s.watching, n)
		s.mu.Unlock()
		stopped()
	}
}

// lose makes the store be gone for the node, or come back, and then it is told that it may have missed changes.
func (s *nodeStore) lose(gone bool) {
	s.mu.Lock()
	back := s.gone && !gone
	s.gone = gone
	var watching []func(string)
	if back {
		s.steady = s.clock()
		clear(s.memory)
		s.forgets++
		for _, changed := range s.watching {
			watching = append(watching, changed)
		}
	}
	s.mu.Unlock()
	for _, changed := range watching {
		changed("")
	}
}

func (s *nodeStore) set(change func(s *nodeStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// clusterNode is one process of several on one vault, with its own way to the provider and its own clock.
type clusterNode struct {
	*Accounts
	store     *nodeStore
	vault     *tokenstore.Vault
	transport *inMemory
	logs      *observer.ObservedLogs
}

// cluster is a world of several nodes.
type cluster struct {
	*world
	nodes []*clusterNode
}

// clusterIn makes a cluster of a world. The nodes' own clocks are a minute apart, one from the next.
func clusterIn(w *world, n int) *cluster {
	w.t.Helper()
	c := &cluster{world: w}
	for i := range n {
		node := &clusterNode{store: newNodeStore(w.t, w.store, w.clock.now)}
		vault, err := tokenstore.Open(w.t.Context(), node.store, tokenstore.Options{Keys: []tokenstore.RootKey{w.key}})
		if err != nil {
			w.t.Fatal(err)
		}
		var client *http.Client
		if w.transport != nil {
			node.transport = &inMemory{handler: w.idp}
			client = &http.Client{Transport: node.transport}
		}
		skewed := func() time.Time { return time.Now().Add(time.Duration(i) * time.Minute) }
		core, logs := observer.New(zapcore.DebugLevel)
		node.vault, node.logs = vault, logs
		node.Accounts = NewAccounts(AccountsOptions{Vault: vault, Logger: zap.New(core),
			Providers: map[string]*Provider{"idp": w.idp.providerOver(w.t, client, func(c *Config) { c.Now = skewed })}})
		c.nodes = append(c.nodes, node)
		w.t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = node.Close(ctx)
		})
	}
	return c
}

// kill ends a node at once: it writes and sends nothing more, and hears nothing.
func (n *clusterNode) kill() {
	n.store.lose(true)
	if n.transport != nil {
		n.transport.setRefuse(true)
	}
	dead, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.Close(dead)
}

// outage takes the vault from all nodes.
func (c *cluster) outage(gone bool) {
	for _, node := range c.nodes {
		node.store.lose(gone)
	}
}

// all has every node asked by some requests at once, and insists that all get the token.
func (c *cluster) all(id, want string, each int) {
	c.t.Helper()
	var callers sync.WaitGroup
	for i, node := range c.nodes {
		for range each {
			callers.Go(func() {
				if got, err := node.Token(c.t.Context(), id); err != nil || got != want {
					c.t.Errorf("node %d: got %s, %v, want %s", i, got, err, want)
				}
			})
		}
	}
	callers.Wait()
}

// sound insists that no refresh token came twice, and that the vault has the newest.
func (c *cluster) sound(id string, posts int) {
	c.t.Helper()
	if n := c.idp.tokenPosts(); n != posts {
		c.t.Errorf("%d refreshes, want %d", n, posts)
	}
	if n := c.idp.reused(); n != 0 {
		c.t.Errorf("%d refresh tokens came twice", n)
	}
	c.idp.mu.Lock()
	newest := fmt.Sprintf("rt.%s.%d", id, c.idp.families[id].newest)
	c.idp.mu.Unlock()
	if acc := c.stored(id); acc.State != tokenstore.StateActive || acc.RefreshToken != newest || acc.Lease != (tokenstore.Lease{}) {
		c.t.Errorf("stored %+v, the newest is %s", acc, newest)
	}
}
