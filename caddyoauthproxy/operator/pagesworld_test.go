package operator_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// site is a gateway's site over HTTP, below the path /base, with one proxy at one provider. Whoever logs in there is the user of the moment.
type site struct {
	t      *testing.T
	url    string // the issuer
	host   string
	vault  *tokenstore.Vault
	server *authserver.Server
	user   atomic.Value // the subject at the provider
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t}
	s.user.Store("alice")
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer := map[string]any{"access_token": "up", "token_type": "Bearer", "expires_in": 3600}
		if r.URL.Path == "/userinfo" {
			user := s.user.Load().(string)
			answer = map[string]any{"sub": user, "email": user + "@example.com", "email_verified": true}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(idp.Close)
	store, err := bbolt.Open(filepath.Join(t.TempDir(), "vault.db"), time.Second)
	must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	s.vault, err = tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}})
	must(t, err)
	provider, err := upstream.New("idp", upstream.Config{
		Type: "oauth2", ClientID: "gateway", ClientSecret: "x", AuthorizationURL: idp.URL + "/authorize", TokenURL: idp.URL + "/token", UserinfoURL: idp.URL + "/userinfo", Retries: -1,
	}, nil)
	must(t, err)
	providers := map[string]*upstream.Provider{"idp": provider}
	accounts := upstream.NewAccounts(upstream.AccountsOptions{Vault: s.vault, Providers: providers, Logger: zap.NewNop()})
	pages, err := console.New(console.Options{})
	must(t, err)
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	s.host, s.url = srv.URL, srv.URL+"/base"
	issuer, _ := url.Parse(s.url)
	resource, _ := url.Parse(srv.URL + "/mcp")
	proxy := &authserver.Proxy{ID: "jira", Name: "Company Jira", Resource: resource.String(), ResourceURL: resource, Scopes: []string{"read", "write"},
		ScopeTexts: map[string]string{"read": "read issues"}, Provider: provider}
	free := authserver.Rate{Events: 10_000, Window: time.Second}
	s.server, err = authserver.New(t.Context(), authserver.Options{
		Issuer: issuer, Vault: s.vault, Accounts: accounts, Pages: pages, Logger: zap.NewNop(), Proxies: []*authserver.Proxy{proxy},
		Limits: authserver.Limits{Login: free, Authorize: free},
	})
	must(t, err)
	o, err := operator.New(operator.Options{Issuer: issuer, Gateway: s.server, Vault: s.vault, Providers: providers, Proxies: []*authserver.Proxy{proxy}, SignedIn: s.server.SignedIn, Pages: pages, Logger: zap.NewNop()})
	must(t, err)
	handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.server.Handles(r):
			s.server.ServeHTTP(w, r)
		case o.Handles(r):
			o.ServeHTTP(w, r)
		default:
			http.NotFound(w, r)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		must(t, s.server.Close(ctx))
		must(t, accounts.Close(ctx))
	})
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// person is somebody with a browser, which follows nothing by itself.
type person struct {
	s      *site
	client *http.Client
}

// connections are the tests' own: httptest closes those of the default transport that are idle whenever a test's server ends, also as another test takes one up.
var connections = new(http.Transport)

func (s *site) person() *person {
	jar, _ := cookiejar.New(nil)
	return &person{s, &http.Client{Transport: connections, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

type page struct {
	status int
	header http.Header
	body   string
}

func (p *person) send(method, target string, form url.Values, edit ...func(*http.Request)) page {
	p.s.t.Helper()
	req, err := http.NewRequestWithContext(p.s.t.Context(), method, target, strings.NewReader(form.Encode()))
	must(p.s.t, err)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, f := range edit {
		f(req)
	}
	resp, err := p.client.Do(req)
	must(p.s.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(p.s.t, err)
	return page{resp.StatusCode, resp.Header, string(body)}
}

func (p *person) get(path string) page {
	p.s.t.Helper()
	return p.send(http.MethodGet, p.s.url+path, nil)
}

func (p *person) post(path string, form url.Values, edit ...func(*http.Request)) page {
	p.s.t.Helper()
	return p.send(http.MethodPost, p.s.url+path, form, edit...)
}

// signIn signs somebody in, and says who they are.
func (p *person) signIn(subject string) *authserver.SignIn {
	p.s.t.Helper()
	p.s.user.Store(subject)
	to, err := url.Parse(p.get("/oauth/signin").header.Get("Location"))
	must(p.s.t, err)
	callback := to.Query().Get("redirect_uri") + "?" + url.Values{"code": {"c"}, "state": {to.Query().Get("state")}}.Encode()
	if a := p.send(http.MethodGet, callback, nil); a.status != http.StatusSeeOther || a.header.Get("Location") != p.s.url+"/connections" {
		p.s.t.Fatalf("sign-in: %d %v %s", a.status, a.header, a.body)
	}
	return p.signedIn()
}

func (p *person) signedIn() *authserver.SignIn {
	p.s.t.Helper()
	req, err := http.NewRequestWithContext(p.s.t.Context(), http.MethodGet, p.s.url+"/connections", nil)
	must(p.s.t, err)
	for _, c := range p.client.Jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	signIn, err := p.s.server.SignedIn(req)
	if err != nil {
		return nil
	}
	return signIn
}

// grant stores a living grant of a user, with an account whose owner is the same for all with the same name.
func (s *site) grant(of *authserver.SignIn, id, clientID, client, owner string) *tokenstore.Grant {
	s.t.Helper()
	now := s.vault.Now()
	a := &tokenstore.Account{Meta: tokenstore.Meta{ID: "account-" + id}, State: tokenstore.StateActive, Provider: "idp", UserID: of.UserID, OwnerID: s.vault.Hash("test", owner), Owner: owner,
		AccessToken: "upstream-secret-" + id, Obtained: now}
	g := &tokenstore.Grant{Meta: tokenstore.Meta{ID: id}, State: tokenstore.StateActive, ClientID: clientID, Client: client, Proxy: "jira", Resource: s.host + "/mcp", Provider: "idp", Scopes: []string{"read", "write"},
		UserID: of.UserID, User: of.User, AccountID: a.ID, Created: now, Expires: now.Add(30 * 24 * time.Hour), Ends: now.Add(90 * 24 * time.Hour), Family: tokenstore.RefreshFamily{Generation: 1, Rotated: now}}
	must(s.t, s.vault.Commit(s.t.Context(), tokenstore.Save(a), tokenstore.Save(g)))
	return g
}

// lives reports whether a grant can still be used.
func (s *site) lives(id string) bool {
	s.t.Helper()
	return s.server.CheckGrant(s.t.Context(), id, "jira") == nil
}
