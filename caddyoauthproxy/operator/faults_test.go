package operator_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// faultyStore is a store of which one call fails.
type faultyStore struct {
	tokenstore.Store
	mu        sync.Mutex
	calls, at int
}

func (s *faultyStore) arm(at int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.at = 0, at
}

// failed reports whether the call came, and was failed.
func (s *faultyStore) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at > 0 && s.calls >= s.at
}

func (s *faultyStore) fails() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls++; s.calls == s.at {
		return tokenstore.ErrUnavailable
	}
	return nil
}

func (s *faultyStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	if err := s.fails(); err != nil {
		return tokenstore.Row{}, err
	}
	return s.Store.Get(ctx, kind, id)
}

func (s *faultyStore) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	if err := s.fails(); err != nil {
		return err
	}
	return s.Store.Apply(ctx, changes...)
}

func (s *faultyStore) List(ctx context.Context, kind tokenstore.Kind, q tokenstore.Query) ([]tokenstore.Row, error) {
	if err := s.fails(); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, kind, q)
}

func (s *faultyStore) Count(ctx context.Context, kind tokenstore.Kind, refs ...string) (int, error) {
	if err := s.fails(); err != nil {
		return 0, err
	}
	return s.Store.Count(ctx, kind, refs...)
}

// Whichever of its calls the vault fails at, operators are told to come back: with 503 and Retry-After, as JSON or as a page.
func TestVaultThatFailsAnOperatorIs503(t *testing.T) {
	t.Parallel()
	var store *faultyStore
	w := newWorldOn(t, func(s tokenstore.Store) tokenstore.Store {
		store = &faultyStore{Store: s}
		return store
	})
	w.fill(3)
	var keys []struct{ ID string }
	w.ask(http.MethodGet, "/api_keys", "").decode(t, &keys)
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/grants", ""}, {"GET", "/grants?sort=user", ""}, {"GET", "/grants/grant-0000", ""}, {"DELETE", "/grants/grant-0000", ""},
		{"GET", "/clients", ""}, {"GET", "/clients/gateway_0001", ""}, {"DELETE", "/clients/gateway_0001", ""},
		{"POST", "/revocations", `{"filter":{"user_id":"user-0002"},"dry_run":true}`}, {"GET", "/revocations", ""},
		{"GET", "/sessions", ""}, {"DELETE", "/sessions/signin-0000", ""}, {"GET", "/api_keys", ""}, {"POST", "/api_keys", `{"name":"x","proxies":["wiki"]}`},
		{"DELETE", "/api_keys/" + keys[0].ID, ""}, {"POST", "/signing_keys/rotate", ""}, {"GET", "/audit", ""}, {"GET", "/audit/verify", ""}, {"GET", "/audit/export", ""},
		{"GET", "/stats", ""}, {"GET", "/proxies", ""}, {"GET", "/providers", ""}, {"GET", "/vault", ""},
	} {
		for at := 1; ; at++ {
			store.arm(at)
			a := w.ask(c.method, c.path, c.body)
			failed := store.failed()
			store.arm(0)
			var answer struct{ Error string }
			switch {
			case a.status == http.StatusServiceUnavailable:
				if json.Unmarshal([]byte(a.body), &answer) != nil || answer.Error != "temporarily_unavailable" || a.header.Get("Retry-After") == "" {
					t.Errorf("%s %s, call %d: %v %s", c.method, c.path, at, a.header, a.body)
				}
			case a.status >= 300:
				t.Errorf("%s %s, call %d: %d %s", c.method, c.path, at, a.status, a.body)
			}
			if !failed || a.status < 300 && c.method != http.MethodGet { // done all the same
				break
			}
		}
	}
	for _, path := range []string{
		"/", "/grants", "/grants/grant-0002", "/grants/grant-0002/revoke", "/revoke?user_id=user-0002", "/revocations", "/clients", "/client?client_id=gateway_0002", "/sessions", "/keys",
		"/audit", "/audit/verify", "/providers",
	} {
		for at := 1; ; at++ {
			store.arm(at)
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, w.issuer.JoinPath("admin").String()+path, nil)
			r.Header.Set("X-Test-Cookie", "admin")
			rec := httptest.NewRecorder()
			w.pages.ServeHTTP(rec, r)
			failed := store.failed()
			store.arm(0)
			switch {
			case rec.Code == http.StatusServiceUnavailable:
				if rec.Header().Get("Retry-After") == "" || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/html") {
					t.Errorf("%s, call %d: %v", path, at, rec.Header())
				}
			case rec.Code >= 300:
				t.Errorf("%s, call %d: %d", path, at, rec.Code)
			}
			if !failed {
				break
			}
		}
	}
	for at := 1; ; at++ {
		store.arm(at)
		a := w.send(http.MethodGet, w.issuer.JoinPath("connections").String(), "", header("X-Test-Cookie", "bob"))
		failed := store.failed()
		store.arm(0)
		if a.status != http.StatusOK && (a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "") {
			t.Errorf("connections, call %d: %d", at, a.status)
		}
		if !failed {
			break
		}
	}
}
