package authserver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// meddledStore is a store in which somebody else is faster: before is called once, in the way of an Apply with a change of a kind.
type meddledStore struct {
	tokenstore.Store
	kind   tokenstore.Kind
	before atomic.Pointer[func()]
	refuse atomic.Bool // such an Apply
}

func (s *meddledStore) Apply(ctx context.Context, changes ...tokenstore.Change) error {
	before := s.before.Load()
	if before != nil && slices.ContainsFunc(changes, func(c tokenstore.Change) bool { return c.Row.Kind == s.kind }) && s.before.CompareAndSwap(before, nil) {
		(*before)()
	}
	if s.refuse.Load() && slices.ContainsFunc(changes, func(c tokenstore.Change) bool { return c.Row.Kind == s.kind }) {
		return tokenstore.ErrUnavailable
	}
	return s.Store.Apply(ctx, changes...)
}

// meddle has f called before the next Apply with a change of a kind.
func (s *meddledStore) meddle(kind tokenstore.Kind, f func()) {
	s.kind = kind
	s.before.Store(&f)
}

func meddledWorld(t *testing.T, options ...option) (*world, *meddledStore) {
	t.Helper()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "meddled.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	s := &meddledStore{Store: file}
	var vault *tokenstore.Vault
	on := func(o *authserver.Options) {
		vault, err = tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}, Now: o.Vault.Now})
		if err != nil {
			t.Fatal(err)
		}
		o.Vault = vault
		o.Accounts = upstream.NewAccounts(upstream.AccountsOptions{Vault: vault, Providers: map[string]*upstream.Provider{"idp": o.Proxies[0].Provider}, Logger: zap.NewNop()})
	}
	w := newWorld(t, append([]option{on}, options...)...)
	w.vault, w.store = vault, s
	return w, s
}

// The gateway itself saves grants and accounts beside their clients' requests: their health turns, their use is written down, they are indexed. None
// of that is a reason to refuse a code, whose client could only send its user to log in again.
func TestCodeIsRedeemedWhoeverSavesItsGrantMeanwhile(t *testing.T) {
	t.Parallel()
	w, s := meddledWorld(t)
	b := w.register("")
	code := w.login(b)
	s.meddle(tokenstore.KindCode, func() {
		grants, err := w.vault.Grants(t.Context(), tokenstore.GrantQuery{ClientID: b.id})
		if err != nil || len(grants) != 1 {
			t.Errorf("%d grants, %v", len(grants), err)
			return
		}
		if err := w.vault.Commit(t.Context(), tokenstore.Save(grants[0])); err != nil {
			t.Error(err)
		}
	})
	got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, code)))
	if !w.works(got.access) {
		t.Error("the token is no good")
	}
	if a := w.postForm(endpoints+"/a/token", codeForm(b, code)); a.status != http.StatusBadRequest {
		t.Errorf("the code is good twice: %d", a.status)
	}
}

// An order, or the user on /connections, forgets a consent that a login is about to remember anew.
func TestLoginIsFinishedWhoeverForgetsItsConsentMeanwhile(t *testing.T) {
	t.Parallel()
	w, s := meddledWorld(t, consentMode(authserver.ConsentRemember))
	b := w.register("")
	remember := func() string {
		br := w.browser()
		page := br.authorizeFrom(authorizeParams(b), "none")
		target := br.agree(page, url.Values{"remember": {"1"}})
		return target.Query().Get("code")
	}
	if remember() == "" {
		t.Fatal("no code")
	}
	user := w.grants(authserver.GrantFilter{}).Grants[0].User.ID
	s.meddle(tokenstore.KindConsent, func() {
		consents, err := w.vault.Consents(t.Context(), user)
		if err != nil || len(consents) != 1 {
			t.Errorf("%d consents, %v", len(consents), err)
			return
		}
		if err := w.vault.Commit(t.Context(), tokenstore.Delete(consents[0])); err != nil {
			t.Error(err)
		}
	})
	w.offset.Add(int64(time.Minute))
	if remember() == "" {
		t.Error("the second login has no code")
	}
	if n := len(w.grants(authserver.GrantFilter{}).Grants); n != 2 {
		t.Errorf("%d grants", n)
	}
}

// One grant that cannot be read keeps no other from being found by its health, nor from being ended: there may be thousands in one hour.
func TestGrantThatDoesNotOpenHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, got := w.session()
	model := w.grantOf(got.access)
	const n = 1100
	var writes []tokenstore.Write
	for i := range n {
		g := *model
		g.Meta = tokenstore.Meta{ID: fmt.Sprintf("copy-%04d", i), DeleteAfter: model.DeleteAfter}
		if i == 0 {
			g.Expires = g.Expires.Add(-time.Minute) // due first
		}
		writes = append(writes, tokenstore.Save(&g))
	}
	if err := w.vault.Commit(t.Context(), writes...); err != nil {
		t.Fatal(err)
	}
	row, err := w.store.Get(t.Context(), tokenstore.KindGrant, "copy-0000")
	if err != nil {
		t.Fatal(err)
	}
	row.Kind, row.ID, row.State, row.Version = tokenstore.KindGrant, "copy-0000", "revoked", row.Version+1
	if err := w.store.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: row}); err != nil {
		t.Fatal(err)
	}
	w.turn(model.Expires.Sub(w.vault.Now()) + time.Second)
	if err := w.server.Maintain(t.Context()); err != nil && !errors.Is(err, tokenstore.ErrTampered) {
		t.Fatal(err)
	}
	if expired, err := w.vault.CountGrants(t.Context(), tokenstore.HealthExpired); err != nil || expired != n { // all but the damaged one, and the model
		t.Errorf("%d are found as expired, %v", expired, err)
	}
}

// A client that deletes its registration may be cut off before all of its grants are ended. It can do it again, and until then nothing says that it was done.
func TestClientThatIsCutOffCanBeDeletedAgain(t *testing.T) {
	t.Parallel()
	w, s := meddledWorld(t)
	m := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"],"token_endpoint_auth_method":"client_secret_post"}`).json(t)
	b := bot{m["client_id"].(string), m["client_secret"].(string)}
	uri, token := m["registration_client_uri"].(string), m["registration_access_token"].(string)
	got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	s.kind = tokenstore.KindGrant
	s.refuse.Store(true)
	if a := w.manage(http.MethodDelete, uri, token, ""); a.status < http.StatusInternalServerError {
		t.Fatalf("while the vault takes no grant: %d %s", a.status, a.body)
	}
	s.refuse.Store(false)
	if !w.works(got.access) {
		t.Fatal("the grant has ended: nothing is shown")
	}
	if a := w.manage(http.MethodDelete, uri, token, ""); a.status != http.StatusNoContent {
		t.Fatalf("once more: %d %s", a.status, a.body)
	}
	if w.works(got.access) {
		t.Error("the grant outlives its client")
	}
}
