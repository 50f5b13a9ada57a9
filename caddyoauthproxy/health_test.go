package caddyoauthproxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// asked sends a request to the site's handler. A path that is not the gateway's is answered 418.
func asked(t *testing.T, app *App, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, make(map[string]any)))
	w := httptest.NewRecorder()
	h := &Handler{app: app, log: app.log}
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(http.StatusTeapot); return nil })
	if err := h.ServeHTTP(w, r, next); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestHealthRoutesAnswerInPlainText(t *testing.T) {
	t.Parallel()
	app := provisioned(t, filepath.Join(t.TempDir(), "vault.db"))
	t.Cleanup(func() { _ = app.Cleanup() })
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{http.MethodGet, "/oauth/live", http.StatusOK, "live\n"},
		{http.MethodHead, "/oauth/live", http.StatusOK, ""},
		{http.MethodGet, "/oauth/ready", http.StatusOK, "ready\n"},
		{http.MethodHead, "/oauth/ready", http.StatusOK, ""},
		{http.MethodGet, "/oauth/ready?x=1", http.StatusOK, "ready\n"},
		{http.MethodPost, "/oauth/ready", http.StatusMethodNotAllowed, "only GET and HEAD\n"},
		{http.MethodGet, "/oauth/ready/", http.StatusTeapot, ""},
		{http.MethodGet, "/x/oauth/ready", http.StatusTeapot, ""},
	} {
		w := asked(t, app, c.method, c.path)
		if w.Code != c.status || c.status != http.StatusTeapot && w.Body.String() != c.body {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, w.Code, w.Body, c.status, c.body)
		}
		if c.status != http.StatusTeapot && (w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "text/plain; charset=utf-8") {
			t.Errorf("%s %s: %v", c.method, c.path, w.Header())
		}
	}
}

func TestProcessIsLiveButNotReadyWhileItsVaultCannotBeOpened(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	app := provisioned(t, path)
	app.openErr = tokenstore.ErrUnavailable
	if w := asked(t, app, http.MethodGet, "/oauth/live"); w.Code != http.StatusOK {
		t.Errorf("live: %d %q", w.Code, w.Body)
	}
	if w := asked(t, app, http.MethodGet, "/oauth/ready"); w.Code != http.StatusServiceUnavailable || w.Body.String() != "the vault is not open\n" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("ready: %d %q %v", w.Code, w.Body, w.Header())
	}
}

// countedStore counts reads.
type countedStore struct {
	tokenstore.Store
	reads atomic.Int64
	gone  atomic.Bool
}

func (s *countedStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	s.reads.Add(1)
	if s.gone.Load() {
		return tokenstore.Row{}, tokenstore.ErrUnavailable
	}
	return s.Store.Get(ctx, kind, id)
}

func TestVaultIsAskedOnceInAWhileHoweverManyAskWhetherTheProcessIsReady(t *testing.T) {
	t.Parallel()
	app := provisioned(t, filepath.Join(t.TempDir(), "vault.db"))
	g, err := app.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Cleanup() })
	store := &countedStore{Store: g.store}
	g.store = store
	began := time.Now()
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for range 200 {
				if w := asked(t, app, http.MethodGet, "/oauth/ready"); w.Code != http.StatusOK {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			}
		})
	}
	work.Wait()
	if most := 1 + int64(time.Since(began)/askAgain); store.reads.Load() > most {
		t.Errorf("the vault was read %d times in %s", store.reads.Load(), time.Since(began))
	}
	// What it says is true, soon.
	for _, want := range []int{http.StatusServiceUnavailable, http.StatusOK} {
		store.gone.Store(want != http.StatusOK)
		for late := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			w := asked(t, app, http.MethodGet, "/oauth/ready")
			if w.Code == want {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("%d %s, want %d", w.Code, w.Body, want)
			}
		}
	}
}

// slowStore is a store in a database that is there, and answers after a while.
type slowStore struct {
	tokenstore.Store
	slow atomic.Bool
}

func (*slowStore) Status() postgres.Status {
	return postgres.Status{Reachable: true, Since: time.Now().Add(-time.Hour), Contact: time.Now()}
}

func (s *slowStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	if s.slow.Load() {
		<-ctx.Done()
		return tokenstore.Row{}, ctx.Err()
	}
	return s.Store.Get(ctx, kind, id)
}

// All nodes share the database. Were none of them ready as soon as it is slow, a balancer would have nobody to ask, though most requests are answered from memory.
func TestProcessIsReadyWhileItsDatabaseIsSlowForLessThanMaxStale(t *testing.T) {
	t.Parallel()
	app := provisioned(t, filepath.Join(t.TempDir(), "vault.db"))
	g, err := app.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.hold.leave)
	store, stale := &slowStore{Store: g.store}, 3*time.Second
	g.store, app.vault = store, &PostgresVault{options: postgresOptions{maxStale: stale}}
	began := time.Now()
	if w := asked(t, app, http.MethodGet, "/oauth/ready"); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	store.slow.Store(true)
	for {
		w := asked(t, app, http.MethodGet, "/oauth/ready")
		took := time.Since(began)
		if w.Code != http.StatusOK && took < stale {
			t.Fatalf("after %s: %d %s", took, w.Code, w.Body)
		}
		if w.Code != http.StatusOK {
			break
		}
		if took > stale+5*time.Second {
			t.Fatal("it is ready for ever")
		}
		time.Sleep(20 * time.Millisecond)
	}
}
