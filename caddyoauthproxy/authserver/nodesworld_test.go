package authserver_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// nodes is a world of several servers that share nothing but a vault: each has a Vault, Accounts and providers of its own. Unless a test says which one is to
// answer, every request goes to another than the one before.
type nodes struct {
	*world
	servers []*authserver.Server
	vaults  []*tokenstore.Vault
	fixed   atomic.Int64 // the one that answers, counted from 1
	asked   atomic.Int64
	faulty  *faultyStore // that of all of them, where there is one
}

// newNodes makes a world of n servers. storeOf gives each node its Store.
func newNodes(t *testing.T, n int, storeOf func(node int) tokenstore.Store, options ...option) *nodes {
	t.Helper()
	key := tokenstore.NewRootKey()
	w := &nodes{}
	node := func(o *authserver.Options, i int, config upstream.Config) {
		t.Helper()
		vault, err := tokenstore.Open(t.Context(), storeOf(i), tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: o.Vault.Now})
		if err != nil {
			t.Fatal(err)
		}
		provider := o.Proxies[0].Provider
		if i > 0 {
			if provider, err = upstream.New("idp", config, nil); err != nil {
				t.Fatal(err)
			}
			var proxies []*authserver.Proxy
			for _, p := range o.Proxies {
				own := *p
				own.Provider = provider
				proxies = append(proxies, &own)
			}
			o.Proxies = proxies
		}
		w.vaults = append(w.vaults, vault)
		o.Vault = vault
		o.Accounts = upstream.NewAccounts(upstream.AccountsOptions{Vault: vault, Providers: map[string]*upstream.Provider{"idp": provider}, Logger: zap.NewNop()})
	}
	w.world = newWorld(t, append([]option{func(o *authserver.Options) { node(o, 0, upstream.Config{}) }}, options...)...)
	w.vault = w.vaults[0]
	w.servers = append(w.servers, w.server)
	first := w.options
	for i := 1; i < n; i++ {
		w.options = first
		node(&w.options, i, w.config)
		w.servers = append(w.servers, w.node())
	}
	w.options = first
	w.world.route = func() *authserver.Server {
		if fixed := w.fixed.Load(); fixed > 0 {
			return w.servers[fixed-1]
		}
		return w.servers[int(w.asked.Add(1))%n]
	}
	return w
}

// at has one node answer what comes.
func (w *nodes) at(node int) { w.fixed.Store(int64(node + 1)) }

// oneFile is a bbolt store that all nodes use.
func oneFile(t *testing.T) func(int) tokenstore.Store {
	t.Helper()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "shared.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return func(int) tokenstore.Store { return file }
}

// fault is how a store fails.
type fault string

const (
	refused fault = "refused"             // nothing was done
	unknown fault = "unknown"             // it was done, and nobody is told
	gone    fault = "gone"                // nothing is done for two seconds
	lost    fault = "unknown and gone"    // it was done, nobody is told, and nothing is done for a second
	hangs   fault = "waited for"          // nothing is done until whoever asks gives up
	twice   fault = "refused three times" // nothing is done, and the first attempts to find out fail as well
)

// faultyStore is a store of which one call fails, or all from there on.
type faultyStore struct {
	tokenstore.Store

	mu    sync.Mutex
	calls int
	at    int // the call that fails; zero for none
	form  fault
	hits  int
	began time.Time     // the fault
	over  chan struct{} // closed when it is over
}

// arm has the given call from now on fail; zero none.
func (s *faultyStore) arm(at int, form fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.at, s.form, s.hits, s.over = 0, at, form, 0, make(chan struct{})
}

// heal ends the fault, and returns how many calls there were and how many of them failed.
func (s *faultyStore) heal() (calls, hits int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at > 0 {
		s.at = 0
		close(s.over)
	}
	return s.calls, s.hits
}

var errGone = errors.Join(tokenstore.ErrUnavailable, errors.New("fault of the test"))

// call makes a call, or has it fail.
func (s *faultyStore) call(ctx context.Context, do func() error) error {
	s.mu.Lock()
	s.calls++
	form, fails := s.form, false
	switch {
	case s.at == 0 || s.calls < s.at:
	case s.calls == s.at:
		fails, s.began = true, time.Now()
	case form == gone && time.Since(s.began) < 2*time.Second, form == lost && time.Since(s.began) < time.Second, form == twice && s.calls < s.at+3:
		fails = true
	}
	first, over := s.calls == s.at, s.over
	if fails {
		s.hits++
	}
	s.mu.Unlock()
	switch {
	case !fails:
		return do()
	case form == unknown, form == lost && first:
		_ = do()
		return errGone
	case form == hangs:
		select {
		case <-ctx.Done():
			return errors.Join(errGone, ctx.Err())
		case <-over:
			return errGone
		}
	default:
		return errGone
	}
}

func (s *faultyStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (row tokenstore.Row, err error) {
	err = s.call(ctx, func() error { row, err = s.Store.Get(ctx, kind, id); return err })
	return row, err
}

func (s *faultyStore) Recall(ctx context.Context, kind tokenstore.Kind, id string, open tokenstore.OpenRow) (opened any, err error) {
	err = s.call(ctx, func() error { opened, err = s.Store.Recall(ctx, kind, id, open); return err })
	return opened, err
}

func (s *faultyStore) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	return s.call(ctx, func() error { return s.Store.Apply(ctx, changes...) })
}

func (s *faultyStore) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) (rows []tokenstore.Row, err error) {
	err = s.call(ctx, func() error { rows, err = s.Store.List(ctx, kind, q); return err })
	return rows, err
}

func (s *faultyStore) Count(ctx context.Context, kind tokenstore.Kind, refs ...string) (n int, err error) {
	err = s.call(ctx, func() error { n, err = s.Store.Count(ctx, kind, refs...); return err })
	return n, err
}

func (s *faultyStore) Due(ctx context.Context, kind tokenstore.Kind, before time.Time, limit int) (rows []tokenstore.Row, err error) {
	err = s.call(ctx, func() error { rows, err = s.Store.Due(ctx, kind, before, limit); return err })
	return rows, err
}

func (s *faultyStore) Sweep(ctx context.Context, kind tokenstore.Kind, before time.Time, limit int) (n int, err error) {
	err = s.call(ctx, func() error { n, err = s.Store.Sweep(ctx, kind, before, limit); return err })
	return n, err
}
