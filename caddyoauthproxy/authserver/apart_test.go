package authserver_test

import (
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// A gateway that was copied with its configuration: encryption key, issuer and proxies are the same, the vault is its own.
func TestT57CopyOfAGatewayTakesNoneOfItsTokens(t *testing.T) {
	t.Parallel()
	key := tokenstore.NewRootKey()
	own := func(o *authserver.Options) {
		file, err := bbolt.Open(filepath.Join(t.TempDir(), "own.db"), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		if o.Vault, err = tokenstore.Open(t.Context(), file, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: o.Vault.Now}); err != nil {
			t.Fatal(err)
		}
	}
	keysOf := func(w *world) string { return w.get("/.well-known/jwks.json").body }
	one := newWorld(t, own)
	copied := newWorld(t, own, func(o *authserver.Options) {
		o.Issuer = one.options.Issuer
		for _, p := range o.Proxies {
			p.Resource, p.ResourceURL = one.url+p.ResourceURL.Path, one.options.Issuer.ResolveReference(&url.URL{Path: p.ResourceURL.Path})
		}
	})
	_, got := one.session()
	if !one.works(got.access) || copied.works(got.access) {
		t.Errorf("works here: %v, at the copy: %v", one.works(got.access), copied.works(got.access))
	}
	if keysOf(one) == keysOf(copied) || !strings.Contains(keysOf(copied), `"kid"`) {
		t.Errorf("both publish %s", keysOf(one))
	}
	b := copied.register("")
	if a := copied.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("refresh token at the copy: %d %s", a.status, a.body)
	}
}

// What a browser holds during logins and while somebody is signed in, and what is sent through it, is good for nothing else.
func TestT45NothingThatABrowserHoldsIsAToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, admins("alice@example.com"))
	b, got := w.session()
	br := w.browser()
	br.signIn("?return_to=/connections")
	who, err := br.signedIn()
	if err != nil {
		t.Fatal(err)
	}
	page := br.authorize(authorizeParams(b))
	toProvider := br.allow(page)
	sent, err := url.Parse(toProvider.header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]string{
		"consent request": form(t, page).Get("request"), "form token": form(t, page).Get("csrf"), "form token of the sign-in": who.CSRF, "id of the sign-in": who.ID,
		"state": sent.Query().Get("state"), "challenge": sent.Query().Get("code_challenge"), "upstream access token": "up-access-1", "upstream refresh token": "up-refresh-1",
	}
	for _, c := range br.cookies() {
		held["cookie "+c.Name] = c.Value
	}
	if len(held) < 11 {
		t.Fatalf("the browser holds %v", held)
	}
	for name, v := range held {
		if v == "" {
			t.Errorf("there is no %s", name)
		}
		if w.works(v) {
			t.Errorf("%s works as an access token", name)
		}
		for _, f := range []url.Values{refreshForm(b, v), codeForm(b, v)} {
			if a := w.postForm(endpoints+"/a/token", f); a.oauthError(t) != "invalid_grant" {
				t.Errorf("%s as %s: %s", name, f.Get("grant_type"), a.body)
			}
		}
	}
	stranger := w.browser()
	for _, v := range []string{got.access, got.refresh, held["state"], who.ID, who.CSRF} {
		_, err := stranger.signedIn(func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "oauth_proxy_signin", Value: v}) })
		if err == nil {
			t.Errorf("%.12s… works as the cookie of a sign-in", v)
		}
	}
	if !w.works(got.access) {
		t.Error("the token does not work any more")
	}
}
