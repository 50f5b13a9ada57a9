package authserver_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

func signing(s authserver.Signing) option {
	return func(o *authserver.Options) { o.Signing = s }
}

// header is the JOSE header of a token.
func header(t *testing.T, token string) jose.Header {
	t.Helper()
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return jws.Signatures[0].Header
}

// published are the ids of the keys that others verify with.
func (w *world) published() map[string]bool {
	w.t.Helper()
	ids := make(map[string]bool)
	for _, key := range w.get("/.well-known/jwks.json").json(w.t)["keys"].([]any) {
		m := key.(map[string]any)
		if m["d"] != nil || m["p"] != nil {
			w.t.Error("a private key is published")
		}
		ids[m["kid"].(string)] = true
	}
	return ids
}

func (w *world) maintain() {
	w.t.Helper()
	if err := w.server.Maintain(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func TestEachSigningAlgorithmMakesTokensThatWork(t *testing.T) {
	t.Parallel()
	for _, algorithm := range authserver.SigningAlgorithms() {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, signing(authserver.Signing{Algorithm: algorithm}))
			_, got := w.session()
			if h := header(t, got.access); h.Algorithm != algorithm || h.ExtraHeaders["typ"] != "at+jwt" || !w.published()[h.KeyID] {
				t.Errorf("header: %+v", h)
			}
			if !w.works(got.access) {
				t.Error("the token does not work")
			}
		})
	}
}

func TestSigningKeysRotateWithOverlapAndNobodyNotices(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signing(authserver.Signing{RotateAfter: 24 * time.Hour}))
	b, got := w.session()
	first := header(t, got.access).KeyID
	refresh := func() string {
		t.Helper()
		got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
		if !w.works(got.access) {
			t.Error("a token does not work")
		}
		return header(t, got.access).KeyID
	}
	w.turn(23 * time.Hour)
	w.maintain()
	if len(w.published()) != 1 {
		t.Error("rotated before its time")
	}
	w.turn(51 * time.Minute)
	w.maintain()
	if n := len(w.published()); n != 2 || refresh() != first {
		t.Errorf("%d keys are published ahead, want 2; and the new one must not sign yet", n)
	}
	w.turn(11 * time.Minute)
	before := got.access
	second := refresh()
	if second == first || !w.published()[second] || !w.works(before) {
		t.Error("the new key does not sign, or the old token ended with it")
	}
	w.turn(26 * time.Hour)
	w.maintain()
	if keys := w.published(); keys[first] {
		t.Errorf("the first key is still published: %v", keys)
	}
	refresh()
}

func TestSigningKeyRotatesByCommandOnceAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, got := w.session()
	for range 3 {
		if err := w.server.RotateSigningKey(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	keys := w.server.SigningKeys()
	if len(keys) != 2 || keys[0].Active || !keys[1].Active || keys[1].ID != header(t, got.access).KeyID {
		t.Errorf("keys after three commands: %+v", keys)
	}
	if !w.works(got.access) {
		t.Error("a token ended")
	}
}

func TestCompromisedSigningKeyEndsEveryTokenAndClientsRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	if !w.works(got.access) { // and is known to, from now on
		t.Fatal("the token does not work")
	}
	if err := w.server.RotateSigningKey(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if w.works(got.access) || w.published()[header(t, got.access).KeyID] {
		t.Error("the compromised key still verifies")
	}
	if next := w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh))); !w.works(next.access) {
		t.Error("the refreshed token does not work")
	}
}

func TestNodesSeeEachOthersKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.node()
	if err := w.server.RotateSigningKey(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := other.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.turn(11 * time.Minute)
	_, got := w.session()
	if _, _, err := other.Authenticate(t.Context(), got.access, "a"); err != nil {
		t.Errorf("another node does not know the new key: %v", err)
	}
}

func TestChangedAlgorithmTakesOverAsARotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	w.reload(signing(authserver.Signing{Algorithm: "EdDSA"}))
	if !w.works(got.access) {
		t.Error("a token ended with the change")
	}
	got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	if header(t, got.access).Algorithm != "ES256" {
		t.Error("the new key signs before others could know it")
	}
	w.turn(11 * time.Minute)
	got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	if header(t, got.access).Algorithm != "EdDSA" || !w.works(got.access) {
		t.Error("the new algorithm did not take over")
	}
}

// slowKeys is a store whose next answer about the signing keys can be held back.
type slowKeys struct {
	tokenstore.Store
	next atomic.Pointer[heldAnswer]
}

type heldAnswer struct{ read, deliver chan struct{} }

func (s *slowKeys) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	row, err := s.Store.Get(ctx, kind, id)
	if kind != tokenstore.KindSigningKeys {
		return row, err
	}
	if held := s.next.Swap(nil); held != nil {
		close(held.read)
		<-held.deliver
	}
	return row, err
}

func TestCompromisedKeyDoesNotComeBackWithAnAnswerThatWasLate(t *testing.T) {
	t.Parallel()
	inner, err := bbolt.Open(filepath.Join(t.TempDir(), "vault.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inner.Close() })
	store := &slowKeys{Store: inner}
	vault, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *authserver.Options) { o.Vault = vault })
	old := w.server.SigningKeys()[0].ID
	held := &heldAnswer{make(chan struct{}), make(chan struct{})}
	store.next.Store(held)
	done := make(chan error)
	go func() { done <- w.server.Maintain(t.Context()) }()
	<-held.read
	if err := w.server.RotateSigningKey(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	close(held.deliver)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, k := range w.server.SigningKeys() {
		if k.ID == old {
			t.Errorf("the compromised key %s is back; it signs: %v", k.ID, k.Active)
		}
	}
}
