package authserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// persistent sends each request until it is answered with anything but 503, as clients and people do, and insists that the 503 is a good one. With the first of
// them the fault is over. Each attempt is another node's.
func (w *nodes) persistent(store *faultyStore) {
	next := w.world.route
	w.faulty = store
	w.world.front = func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.t.Error(err)
			return
		}
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			ctx, leave := r.Context(), context.CancelFunc(func() {})
			if store.waits() { // as long as the fault lasts, whoever asks gives up
				ctx, leave = context.WithTimeout(ctx, 100*time.Millisecond)
			}
			again := r.Clone(ctx)
			again.Body = io.NopCloser(bytes.NewReader(body))
			rec := httptest.NewRecorder()
			next().ServeHTTP(rec, again)
			left := ctx.Err() != nil
			leave()
			if rec.Code != http.StatusServiceUnavailable && !left {
				if rec.Code >= 500 {
					w.t.Errorf("%s %s: %d %s", r.Method, r.URL.Path, rec.Code, rec.Body)
				}
				maps.Copy(rw.Header(), rec.Header())
				rw.WriteHeader(rec.Code)
				_, _ = rw.Write(rec.Body.Bytes())
				return
			}
			if !left {
				w.checkUnavailable(r, rec)
			}
			store.heal()
			if time.Now().After(deadline) {
				w.t.Errorf("%s %s: %d for half a minute after the fault: %s", r.Method, r.URL.Path, rec.Code, rec.Body)
				rw.WriteHeader(rec.Code)
				return
			}
		}
	}
}

// checkUnavailable insists that a 503 tells when to come back, in the form that whoever asks can read.
func (w *nodes) checkUnavailable(r *http.Request, rec *httptest.ResponseRecorder) {
	if rec.Header().Get("Retry-After") == "" {
		w.t.Errorf("%s %s: 503 without Retry-After", r.Method, r.URL.Path)
	}
	page := strings.HasPrefix(rec.Header().Get("Content-Type"), "text/html")
	var answer struct{ Error string }
	parsed := json.Unmarshal(rec.Body.Bytes(), &answer) == nil
	if !page && (!parsed || answer.Error != "temporarily_unavailable") {
		w.t.Errorf("%s %s: 503 with %s", r.Method, r.URL.Path, rec.Body)
	}
}

// waits reports whether the fault is one that lasts for as long as somebody waits.
func (s *faultyStore) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at > 0 && s.form == hangs
}

// flows are what clients, scripts and people do at a gateway, from begin to end.
var flows = map[string]struct {
	options []option
	run     func(w *nodes)
}{
	"client": {run: func(w *nodes) {
		b, got := w.session()
		got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
		got = w.tokens(w.postForm(endpoints+"/token", refreshForm(b, got.refresh)))
		form := url.Values{"token": {got.access}, "client_id": {b.id}, "client_secret": {b.secret}}
		if a := w.postForm(endpoints+"/introspect", form); a.status != http.StatusOK || a.json(w.t)["active"] != true {
			w.t.Fatalf("introspection: %d %s", a.status, a.body)
		}
		if a := w.postForm(endpoints+"/revoke", form); a.status != http.StatusOK {
			w.t.Fatalf("revocation: %d %s", a.status, a.body)
		}
		w.refusedEverywhere(got.access)
	}},
	"remembered consent": {options: []option{consentMode(authserver.ConsentRemember)}, run: func(w *nodes) {
		b, br := w.register(""), w.browser()
		for _, fields := range []url.Values{{"remember": {"on"}}, nil} {
			page := br.authorizeFrom(authorizeParams(b), "none")
			toProvider := page
			if fields != nil {
				all := form(w.t, page)
				all.Set("remember", "on")
				toProvider = br.post(w.url+endpoints+"/consent", all)
			}
			code := location(w.t, br.get(w.callbackURL(toProvider))).Query().Get("code")
			w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, code)))
		}
	}},
	"place for so many": {options: []option{func(o *authserver.Options) { o.Proxies[0].MaxGrants = 1_000_000 }}, run: func(w *nodes) { w.session() }},
	"script": {run: func(w *nodes) {
		token := w.scriptSession()["session_token"].(string)
		next := w.post("/refresh", token)
		data, _ := next.json(w.t)["data"].(map[string]any)
		if next.status != http.StatusOK || data["session_token"] == nil {
			w.t.Fatalf("refresh: %d %s", next.status, next.body)
		}
		if a := w.post("/validate", token); a.json(w.t)["valid"] != true {
			w.t.Fatalf("validation: %d %s", a.status, a.body)
		}
		if a := w.post("/logout", token); a.status != http.StatusOK {
			w.t.Fatalf("logout: %d %s", a.status, a.body)
		}
		w.refusedEverywhere(token)
	}},
	"connect": {run: func(w *nodes) {
		if a := w.connect(w.browser()); a.status != http.StatusOK {
			w.t.Fatalf("connected: %d %s", a.status, a.body)
		}
	}},
	"sign-in": {run: func(w *nodes) {
		br := w.browser()
		if to := br.signIn("?return_to=/connections"); to != w.url+"/connections" {
			w.t.Fatalf("leads to %s", to)
		}
		who := w.signedInWith(br)
		if to := br.signIn("?return_to=/connections"); to != w.url+"/connections" { // once more in the same browser
			w.t.Fatalf("leads to %s", to)
		}
		again := w.signedInWith(br)
		if again.ID == who.ID {
			w.t.Fatal("the second sign-in is the first")
		}
		who = again
		if a := br.post(w.url+"/oauth/signout", url.Values{"csrf": {who.CSRF}}, sameOrigin); a.status != http.StatusOK {
			w.t.Fatalf("signed out: %d %s", a.status, a.body)
		}
	}},
	"registration": {run: func(w *nodes) {
		a := w.postJSON(endpoints+"/a/register", plainRegistration)
		m := a.json(w.t)
		if a.status != http.StatusCreated {
			w.t.Fatalf("register: %d %s", a.status, a.body)
		}
		id, uri, token := m["client_id"].(string), m["registration_client_uri"].(string), m["registration_access_token"].(string)
		if a := w.manage(http.MethodGet, uri, token, ""); a.status != http.StatusOK {
			w.t.Fatalf("read: %d %s", a.status, a.body)
		}
		if a := w.manage(http.MethodPut, uri, token, `{"client_id":"`+id+`",`+plainRegistration[1:]); a.status != http.StatusOK {
			w.t.Fatalf("replace: %d %s", a.status, a.body)
		}
		a = w.manage(http.MethodDelete, uri, token, "")
		if a.status != http.StatusNoContent && a.status != http.StatusUnauthorized { // gone, and nobody was told
			w.t.Fatalf("delete: %d %s", a.status, a.body)
		}
	}},
}

// signedInWith is who is signed in with a browser, asked until the vault answers.
func (w *nodes) signedInWith(br *browser) *authserver.SignIn {
	w.t.Helper()
	if w.faulty != nil && w.faulty.waits() {
		time.AfterFunc(100*time.Millisecond, func() { w.faulty.heal() })
	}
	who, err := br.signedIn()
	for errors.Is(err, tokenstore.ErrUnavailable) {
		w.faulty.heal()
		who, err = br.signedIn()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return who
}

// refusedEverywhere insists that no node takes a token, a second after it has ended.
func (w *nodes) refusedEverywhere(token string) {
	w.t.Helper()
	if w.faulty != nil && w.faulty.waits() {
		time.AfterFunc(100*time.Millisecond, func() { w.faulty.heal() })
	}
	for i, s := range w.servers {
		for late := time.Now().Add(time.Second); ; time.Sleep(5 * time.Millisecond) {
			_, _, err := s.Authenticate(w.t.Context(), token, "a")
			if errors.Is(err, authserver.ErrInvalidToken) {
				break
			}
			if w.faulty != nil {
				w.faulty.heal()
			}
			if time.Now().After(late) {
				w.t.Fatalf("node %d takes an ended token: %v", i, err)
			}
		}
	}
}

// Whatever call of whatever flow the vault fails at, and however: nobody gets another answer than 503, and whoever tries again comes to the end. What is begun is
// on another node's hands then.
func TestR26NoFaultOfTheVaultEndsAFlow(t *testing.T) {
	t.Parallel()
	for name, flow := range flows {
		for _, form := range []fault{refused, unknown, gone, lost, hangs, twice} {
			t.Run(name+", "+string(form), func(t *testing.T) {
				t.Parallel()
				file, err := bbolt.Open(filepath.Join(t.TempDir(), "faulty.db"), time.Second)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = file.Close() })
				store := &faultyStore{Store: file}
				w := newNodes(t, 2, func(int) tokenstore.Store { return store }, append([]option{unlimited}, flow.options...)...)
				w.persistent(store)
				for at := 1; ; at++ {
					store.arm(at, form)
					flow.run(w)
					if calls, hits := store.heal(); hits == 0 {
						t.Logf("%d calls", calls)
						return
					}
					if t.Failed() {
						t.Fatalf("the fault was at call %d", at)
					}
				}
			})
		}
	}
}
