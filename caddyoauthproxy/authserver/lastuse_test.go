package authserver_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func (w *world) grantOf(access string) *tokenstore.Grant {
	w.t.Helper()
	g, _, err := w.server.Authenticate(w.t.Context(), access, "a")
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

func TestLastUseIsWrittenDownOnceAnHour(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.Lifetimes.AccessToken = 24 * time.Hour })
	_, got := w.session()
	g := w.grantOf(got.access)
	if !g.Used.IsZero() {
		t.Fatal("used before it was")
	}
	version := g.Version
	var requests sync.WaitGroup
	for range 8 {
		requests.Go(func() {
			for range 50 {
				w.works(got.access)
			}
		})
	}
	requests.Wait()
	if g := w.grantOf(got.access); g.Version != version {
		t.Error("a request writes")
	}
	w.maintain()
	if g = w.grantOf(got.access); g.Version != version+1 || w.vault.Now().Sub(g.Used) > time.Minute {
		t.Errorf("version %d after %d, used %s", g.Version, version, g.Used)
	}
	for range 11 {
		w.turn(5 * time.Minute)
		w.works(got.access)
		w.maintain()
	}
	if again := w.grantOf(got.access); again.Version != g.Version || !again.Used.Equal(g.Used) {
		t.Error("a use within the hour is written down")
	}
	w.turn(6 * time.Minute)
	w.works(got.access)
	w.maintain()
	if again := w.grantOf(got.access); again.Version != g.Version+1 || again.Used.Sub(g.Used) < time.Hour {
		t.Errorf("used again after an hour: version %d after %d, used %s after %s", again.Version, g.Version, again.Used, g.Used)
	}
	if shown := w.info(g.ID).Used; !shown.After(g.Used) {
		t.Errorf("shown is %s", shown)
	}
}

func TestLastUseIsLeftToTheNextTimeWhereSomebodyElseWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	_, other := w.session()
	gone, ended := w.grantOf(got.access), w.grantOf(other.access)
	kept := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	w.works(kept.access)
	if err := w.vault.Commit(t.Context(), tokenstore.Delete(gone)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.server.EndGrant(t.Context(), ended.ID, ""); err != nil {
		t.Fatal(err)
	}
	w.maintain()
	if _, err := w.vault.Grant(t.Context(), gone.ID); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("a grant that was deleted is %v", err)
	}
	if g, err := w.vault.Grant(t.Context(), ended.ID); err != nil || !g.Used.IsZero() || g.State != tokenstore.StateRevoked {
		t.Errorf("a grant that was ended is %+v, %v", g, err)
	}
	if w.grantOf(kept.access).Used.IsZero() {
		t.Error("the use of the one that is left is not written down")
	}
}

func TestLastUseIsWrittenDownWhenTheServerCloses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, got := w.session()
	id := w.grantOf(got.access).ID
	if err := w.server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g, err := w.vault.Grant(t.Context(), id); err != nil || g.Used.IsZero() {
		t.Errorf("grant %+v, %v", g, err)
	}
}
