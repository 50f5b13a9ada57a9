package authserver_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// restarted is a world whose vault is in a file of its own, and what puts a gateway in its place that knows nothing but this file.
func restarted(t *testing.T) (w *world, restart func()) {
	t.Helper()
	key := tokenstore.NewRootKey()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "restarted.db"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	anew := func(o *authserver.Options) {
		if o.Vault, err = tokenstore.Open(t.Context(), file, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: o.Vault.Now}); err != nil {
			t.Fatal(err)
		}
		providers := map[string]*upstream.Provider{"idp": o.Proxies[0].Provider}
		o.Accounts = upstream.NewAccounts(upstream.AccountsOptions{Vault: o.Vault, Providers: providers, Logger: zap.NewNop()})
	}
	w = newWorld(t, anew)
	return w, func() { w.reload(anew) }
}

// unanswered sends a token request whose answer is lost with the process that made it.
func (w *world) unanswered(send func() answer) {
	w.t.Helper()
	w.front = func(rw http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		w.serving.Load().ServeHTTP(rec, r)
		if rec.Code != http.StatusOK {
			w.t.Errorf("the lost answer was %d %s", rec.Code, rec.Body)
		}
		rw.WriteHeader(http.StatusBadGateway)
	}
	send()
	w.front = nil
}

func TestR04RotationWhoseAnswerDiedWithItsProcessIsAnsweredAgain(t *testing.T) {
	t.Parallel()
	w, restart := restarted(t)
	b, got := w.session()
	refresh := func(token string) answer { return w.postForm(endpoints+"/a/token", refreshForm(b, token)) }
	for range 3 {
		w.unanswered(func() answer { return refresh(got.refresh) })
		restart()
		first := w.tokens(refresh(got.refresh))
		if again := w.tokens(refresh(got.refresh)); again.refresh != first.refresh {
			t.Error("the second time the successor is another")
		}
		if !w.works(first.access) {
			t.Error("the token does not work")
		}
		got = first
	}
	w.unanswered(func() answer { return refresh(got.refresh) })
	restart()
	w.turn(2 * time.Minute)
	if a := refresh(got.refresh); a.oauthError(t) != "invalid_grant" {
		t.Errorf("after the grace: %d %s", a.status, a.body)
	}
}

func TestR04CodeWhoseAnswerDiedWithItsProcessIsGoodNoMore(t *testing.T) {
	t.Parallel()
	w, restart := restarted(t)
	b := w.register("")
	code := w.login(b)
	redeem := func() answer { return w.postForm(endpoints+"/a/token", codeForm(b, code)) }
	w.unanswered(redeem)
	restart()
	for _, later := range []time.Duration{0, 11 * time.Second} {
		w.turn(later)
		if a := redeem(); a.oauthError(t) != "invalid_grant" {
			t.Errorf("%v later: %d %s", later, a.status, a.body)
		}
	}
	// Nobody has the tokens that were lost, and after the second try they are ended, too.
	grants, err := w.options.Vault.Grants(t.Context(), tokenstore.GrantQuery{})
	if err != nil || len(grants) != 1 || grants[0].State != tokenstore.StateRevoked {
		t.Errorf("grants %+v, %v", grants, err)
	}
	if a := w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))); a.status != http.StatusOK {
		t.Errorf("a new login: %d %s", a.status, a.body)
	}
}
