package caddyoauthproxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// watchedStore is a store that can be out of order, and lose its connection.
type watchedStore struct {
	tokenstore.Store
	failed  atomic.Pointer[error]
	reads   atomic.Int64
	changed func(id string)
}

func (s *watchedStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	s.reads.Add(1)
	if err := s.failed.Load(); err != nil {
		return tokenstore.Row{}, *err
	}
	return s.Store.Get(ctx, kind, id)
}

func (s *watchedStore) Recall(ctx context.Context, kind tokenstore.Kind, id string, open tokenstore.OpenRow) (any, error) {
	return tokenstore.GetOpened(ctx, s, kind, id, open)
}

func (s *watchedStore) Watch(kind tokenstore.Kind, changed func(id string)) func() {
	s.changed = changed
	return s.Store.Watch(kind, changed)
}

// watchWorld is a watched vault, and the store under it.
func watchWorld(t *testing.T) (*grantWatch, *tokenstore.Vault, *watchedStore) {
	t.Helper()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "vault.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &watchedStore{Store: file}
	v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}})
	if err != nil {
		t.Fatal(err)
	}
	h := newHold(func() {})
	ended := func(ctx context.Context, id string) bool {
		g, err := v.RecallGrant(ctx, id)
		return errors.Is(err, tokenstore.ErrNotFound) || err == nil && g.State != tokenstore.StateActive
	}
	w := watchGrants(v, ended, func() (func(), error) {
		if !h.enter() {
			return nil, errClosed
		}
		return h.leave, nil
	})
	t.Cleanup(w.stop)
	return w, v, s
}

func newGrant() *tokenstore.Grant {
	return &tokenstore.Grant{
		Meta: tokenstore.Meta{ID: rand.Text()}, State: tokenstore.StateActive, ClientID: "client", UserID: "user", AccountID: "account",
		Created: time.Now(), Expires: time.Now().Add(time.Hour), Ends: time.Now().Add(time.Hour),
	}
}

func save(t *testing.T, v *tokenstore.Vault, g *tokenstore.Grant, state tokenstore.State) {
	t.Helper()
	g.State = state
	if err := v.Commit(t.Context(), tokenstore.Save(g)); err != nil {
		t.Fatal(err)
	}
}

// waitFor waits for a grant's end with a channel that receives then.
func waitFor(t *testing.T, w *grantWatch, grant string) (ended <-chan struct{}, done func()) {
	t.Helper()
	c, told := toldBy()
	return c, w.wait(t.Context(), grant, told)
}

// toldBy returns what makes a channel receive, once if nobody has looked since the last time.
func toldBy() (ended <-chan struct{}, told func()) {
	c := make(chan struct{}, 1)
	return c, func() {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// wantTold waits for what is to come within a second, for longer only because the machine may be busy.
func wantTold(t *testing.T, what string, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatalf("%s: nothing was told", what)
	}
}

// settled waits until every change was looked at.
func settled(t *testing.T, w *grantWatch) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		looking := w.looking
		w.mu.Unlock()
		if !looking {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the changes are not looked at")
		}
	}
}

// passed waits until the watch was told of everything before: of a grant that ends, which it is told of last.
func passed(t *testing.T, w *grantWatch, v *tokenstore.Vault) {
	t.Helper()
	last := newGrant()
	save(t, v, last, tokenstore.StateActive)
	ended, done := waitFor(t, w, last.ID)
	defer done()
	save(t, v, last, tokenstore.StateRevoked)
	wantTold(t, "the last change", ended)
	settled(t, w)
}

func TestT58GrantsEndIsToldToThoseWhoWaitForIt(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, v *tokenstore.Vault, g *tokenstore.Grant){
		"revoked": func(t *testing.T, v *tokenstore.Vault, g *tokenstore.Grant) { save(t, v, g, tokenstore.StateRevoked) },
		"needs reauth": func(t *testing.T, v *tokenstore.Vault, g *tokenstore.Grant) {
			save(t, v, g, tokenstore.StateNeedsReauth)
		},
		"deleted": func(t *testing.T, v *tokenstore.Vault, g *tokenstore.Grant) {
			if err := v.Commit(t.Context(), tokenstore.Delete(g)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, v, _ := watchWorld(t)
			mine, other := newGrant(), newGrant()
			save(t, v, mine, tokenstore.StateActive)
			save(t, v, other, tokenstore.StateActive)
			first, firstDone := waitFor(t, w, mine.ID)
			second, secondDone := waitFor(t, w, mine.ID)
			others, othersDone := waitFor(t, w, other.ID)
			end(t, v, mine)
			wantTold(t, "one", first)
			wantTold(t, "the other", second)
			late, lateDone := waitFor(t, w, mine.ID)
			wantTold(t, "who comes late", late)
			if len(others) != 0 {
				t.Error("told of another grant's end")
			}
			for _, done := range []func(){firstDone, secondDone, othersDone, lateDone} {
				done()
			}
			if len(w.waiting) != 0 {
				t.Errorf("%d grants are kept", len(w.waiting))
			}
		})
	}
}

// Ten thousand responses of one grant are not disturbed when it is refreshed, and the vault is read about once for each refresh. Their
// grant's end reaches all of them.
func TestRefreshesOfAGrantDisturbNoneOfItsResponses(t *testing.T) {
	t.Parallel()
	const responses, refreshes = 10_000, 20
	w, v, s := watchWorld(t)
	g := newGrant()
	save(t, v, g, tokenstore.StateActive)
	var ended []<-chan struct{}
	for range responses {
		c, told := toldBy()
		w.add(g.ID, &waiter{told})
		ended = append(ended, c)
	}
	reads := s.reads.Load()
	for range refreshes {
		save(t, v, g, tokenstore.StateActive)
	}
	passed(t, w, v)
	if n := s.reads.Load() - reads; n > 2*refreshes {
		t.Errorf("%d reads of the vault for %d refreshes", n, refreshes)
	}
	for _, c := range ended {
		if len(c) != 0 {
			t.Fatal("a refresh was told as the grant's end")
		}
	}
	start := time.Now()
	save(t, v, g, tokenstore.StateRevoked)
	for _, c := range ended {
		wantTold(t, "the end", c)
	}
	t.Logf("%d were told in %s", responses, time.Since(start))
}

func TestT58GrantsEndInAnOutageIsToldWhenItIsOver(t *testing.T) {
	t.Parallel()
	w, v, s := watchWorld(t)
	grants := []*tokenstore.Grant{newGrant(), newGrant(), newGrant()}
	var ended []<-chan struct{}
	for _, g := range grants {
		save(t, v, g, tokenstore.StateActive)
		c, done := waitFor(t, w, g.ID)
		defer done()
		ended = append(ended, c)
	}
	down := fmt.Errorf("%w: pulled the plug", tokenstore.ErrUnavailable)
	s.failed.Store(&down)
	reads := s.reads.Load()
	save(t, v, grants[1], tokenstore.StateRevoked)
	for deadline := time.Now().Add(10 * time.Second); s.reads.Load() == reads; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the change is not looked at")
		}
	}
	settled(t, w)
	late, done := waitFor(t, w, grants[1].ID)
	defer done()
	for _, c := range append(ended, late) {
		if len(c) != 0 {
			t.Fatal("an outage was told as the grant's end")
		}
	}
	s.failed.Store(nil)
	s.changed("") // as a store does that has its connection again
	wantTold(t, "after the outage", ended[1])
	wantTold(t, "after the outage, again", late)
	passed(t, w, v)
	if len(ended[0]) != 0 || len(ended[2]) != 0 {
		t.Error("told of the end of a grant that lives")
	}
}

// A response that began before a reload is told what the config after it does.
func TestT58GrantsEndIsToldAcrossConfigs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	before, after := provisioned(t, path), provisioned(t, path)
	if err := before.Start(); err != nil {
		t.Fatal(err)
	}
	old := &proxyGateway{app: before, proxy: before.config.proxy("a")}
	leave, err := old.Enter()
	if err != nil {
		t.Fatal(err)
	}
	if err := after.Start(); err != nil {
		t.Fatal(err)
	}
	if err := before.Cleanup(); err != nil {
		t.Error(err)
	}
	g := newGrant()
	save(t, after.gateway.Load().vault, g, tokenstore.StateActive)
	ended, told := toldBy()
	stop := old.Watch(t.Context(), &mcpfilter.Session{Grant: g}, told)
	save(t, after.gateway.Load().vault, g, tokenstore.StateRevoked)
	wantTold(t, "revocation by the next config", ended)
	stop()
	leave()
	if err := after.Cleanup(); err != nil {
		t.Error(err)
	}
}

// A process on its way out tells everybody, whatever becomes of their grants.
func TestR06TheProcessesEndIsToldToAllWhoWait(t *testing.T) {
	t.Parallel()
	app := provisioned(t, filepath.Join(t.TempDir(), "vault.db"))
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	proxy := &proxyGateway{app: app, proxy: app.config.proxy("a")}
	var told []<-chan struct{}
	for range 3 {
		g := newGrant()
		save(t, app.gateway.Load().vault, g, tokenstore.StateActive)
		c, tell := toldBy()
		defer proxy.Watch(t.Context(), &mcpfilter.Session{Grant: g}, tell)()
		told = append(told, c)
	}
	app.endStreams()
	for _, c := range told {
		wantTold(t, "the end", c)
	}
	select {
	case <-proxy.Stopping():
	default:
		t.Error("told before it is so")
	}
	if err := app.Cleanup(); err != nil {
		t.Error(err)
	}
}

// The watch ends with the last who holds the gateway, while grants change and are looked up.
func TestWatchOfGrantsEndsWithItsGateway(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	live := provisioned(t, path)
	if err := live.Start(); err != nil {
		t.Fatal(err)
	}
	v := live.gateway.Load().vault
	g := newGrant()
	save(t, v, g, tokenstore.StateActive)
	var released []*gateway
	for range 5 {
		app := provisioned(t, path)
		if err := app.Start(); err != nil {
			t.Fatal(err)
		}
		gateway := app.gateway.Load()
		_, done := waitFor(t, gateway.grants, g.ID)
		var leaving sync.WaitGroup
		leaving.Go(func() { // as Cleanup does after a while
			close(app.done)
			app.jobs.Wait()
			gateway.hold.leave()
		})
		for range 3 {
			save(t, v, g, tokenstore.StateActive)
		}
		done()
		leaving.Wait()
		released = append(released, gateway)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if n, _ := bboltFiles.References(path); n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a gateway is not released")
		}
	}
	for _, gateway := range released {
		gateway.grants.mu.Lock()
		gateway.grants.looking = false // it may have been told of the last change while it was being released
		clear(gateway.grants.changed)
		gateway.grants.mu.Unlock()
		gateway.grants.add(g.ID, &waiter{func() {}})
	}
	save(t, v, g, tokenstore.StateRevoked)
	passed(t, live.gateway.Load().grants, v)
	for _, gateway := range released {
		gateway.grants.mu.Lock()
		if gateway.grants.looking || len(gateway.grants.changed) != 0 {
			t.Error("a gateway that was released is told of changes")
		}
		gateway.grants.mu.Unlock()
	}
	if err := live.Cleanup(); err != nil {
		t.Error(err)
	}
}
