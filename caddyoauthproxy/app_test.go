package caddyoauthproxy

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

func provisioned(t *testing.T, path string) *App {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	vault, err := json.Marshal(map[string]string{"module": "bbolt", "path": path})
	if err != nil {
		t.Fatal(err)
	}
	app := &App{
		alone:     true,
		Issuer:    "https://gw.test",
		VaultRaw:  vault,
		Providers: map[string]*Provider{"idp": {Type: "oidc", Issuer: "https://idp.test", ClientID: "gateway", TokenEndpointAuthMethod: "none"}},
		Proxies:   map[string]*Proxy{"a": {Resource: "https://gw.test/a"}},
	}
	if err := app.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return app
}

// Caddy starts apps in no particular order, so the HTTP app may pass on requests before this one was started.
func TestRequestBeforeStartOpensTheVaultItself(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	app := provisioned(t, path)
	h := &Handler{app: app, log: app.log}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			r := httptest.NewRequest(http.MethodGet, "/.well-known/jwks.json", nil)
			r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, make(map[string]any)))
			w := httptest.NewRecorder()
			if err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })); err != nil || w.Code != http.StatusOK {
				t.Errorf("%d %s, %v", w.Code, w.Body, err)
			}
		})
	}
	wg.Go(func() {
		if err := app.Start(); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if n, _ := bboltFiles.References(path); n != 1 {
		t.Errorf("%d references to the vault", n)
	}
	if err := app.Cleanup(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(lateRequests + 10*time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, open := bboltFiles.References(path); !open {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the vault stays open")
		}
	}
	store, err := bbolt.Open(path, time.Second)
	if err != nil {
		t.Fatalf("the vault's file is still locked: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

// Cleanup runs for every config, also for one that never came as far as opening anything.
func TestCleanupReleasesOnlyWhatThisConfigHolds(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vault.db")
	live := provisioned(t, path)
	if err := live.Start(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := provisioned(t, path).Cleanup(); err != nil {
			t.Error(err)
		}
		if err := new(App).Cleanup(); err != nil {
			t.Error(err)
		}
	}
	if n, _ := bboltFiles.References(path); n != 1 {
		t.Errorf("%d references to the vault", n)
	}
	leave, err := (&proxyGateway{app: live, proxy: live.config.proxy("a")}).Enter()
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if err := live.Cleanup(); err != nil {
		t.Error(err)
	}
}

// A gateway that cannot open its vault takes its own paths along, and not the rest of the site.
func TestUnopenedGatewayAnswersOnlyItsOwnPaths(t *testing.T) {
	t.Parallel()
	app := provisioned(t, filepath.Join(t.TempDir(), "vault.db"))
	app.openErr = errClosed
	h := &Handler{app: app, log: app.log}
	for path, want := range map[string]int{
		"/": http.StatusTeapot, "/shop": http.StatusTeapot, "/oauth/": http.StatusServiceUnavailable,
		"/api/v1/oauth-proxy/token": http.StatusServiceUnavailable, "/.well-known/oauth-authorization-server": http.StatusServiceUnavailable,
	} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, make(map[string]any)))
		w := httptest.NewRecorder()
		err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusTeapot)
			return nil
		}))
		if err != nil || w.Code != want {
			t.Errorf("%s: %d, %v, want %d", path, w.Code, err, want)
		}
	}
}
