package authserver_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

const (
	redirectURI = "https://bot.test/cb"
	verifier    = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
	endpoints   = "/api/v1/oauth-proxy"
)

// world is an authorization server over HTTP with two proxies, a and b, at one provider, and a clock that tests turn.
type world struct {
	t        testing.TB
	url      string
	store    tokenstore.Store
	vault    *tokenstore.Vault
	server   *authserver.Server
	options  authserver.Options
	serving  atomic.Pointer[authserver.Server]
	route    func() *authserver.Server // who answers the next request; the one that serves when nil
	front    http.HandlerFunc          // stands in front of all of them, if set
	provider *fakeProvider
	config   upstream.Config // of the gateway's provider
	offset   atomic.Int64
	events   recordedEvents
}

// recordedEvents are the events of the audit trail, in the order in which they were recorded.
type recordedEvents struct {
	mu     sync.Mutex
	events []*tokenstore.Event
}

func (r *recordedEvents) add(e *tokenstore.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// of are those of a type, all with an empty one.
func (r *recordedEvents) of(eventType string) (found []*tokenstore.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if eventType == "" || e.Type == eventType {
			found = append(found, e)
		}
	}
	return found
}

// text is all of them, as they are kept.
func (r *recordedEvents) text() string {
	text, err := json.Marshal(r.of(""))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// fakeProvider is a plain OAuth 2 provider: it answers every code with tokens for the user that is logged in.
type fakeProvider struct {
	mu        sync.Mutex
	user      map[string]any
	requests  []url.Values // of the token endpoint
	revoked   []string
	failToken int    // status that the token endpoint answers, if not zero
	tokens    string // the token endpoint's answer, if not empty
	delay     time.Duration
	begun     atomic.Int64 // token requests that arrived
}

func (p *fakeProvider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	if r.URL.Path == "/token" {
		p.begun.Add(1)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/token":
		p.requests = append(p.requests, r.PostForm)
		time.Sleep(p.delay)
		if p.failToken != 0 {
			w.WriteHeader(p.failToken)
			return
		}
		if p.tokens != "" {
			_, _ = io.WriteString(w, p.tokens)
			return
		}
		n := len(p.requests)
		fmt.Fprintf(w, `{"access_token":"up-access-%d","refresh_token":"up-refresh-%d","token_type":"Bearer","expires_in":3600}`, n, n)
	case "/userinfo":
		_ = json.NewEncoder(w).Encode(p.user)
	case "/revoke":
		p.revoked = append(p.revoked, r.PostForm.Get("token"))
	default:
		http.NotFound(w, r)
	}
}

func (p *fakeProvider) tokenRequests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.requests)
}

type option func(*authserver.Options)

func newWorld(t testing.TB, options ...option) *world {
	t.Helper()
	return newAuditedWorld(t, tokenstore.AuditOptions{}, options...)
}

// newAuditedWorld is a world with an audit trail that is kept in its own way.
func newAuditedWorld(t testing.TB, audit tokenstore.AuditOptions, options ...option) *world {
	t.Helper()
	w := &world{t: t, provider: &fakeProvider{user: map[string]any{"sub": "u1", "email": "alice@example.com", "email_verified": true}}}
	idp := httptest.NewServer(w.provider)
	t.Cleanup(idp.Close)
	store, err := bbolt.Open(filepath.Join(t.TempDir(), "vault.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	w.store = store
	now := func() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }
	w.vault, err = tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}, Now: now, Recorded: w.events.add, Audit: audit})
	if err != nil {
		t.Fatal(err)
	}
	w.config = upstream.Config{
		Type: "oauth2", ClientID: "gateway", ClientSecret: "gateway-secret",
		AuthorizationURL: idp.URL + "/authorize", TokenURL: idp.URL + "/token", UserinfoURL: idp.URL + "/userinfo", RevocationURL: idp.URL + "/revoke",
		Scopes: []string{"read:jira"}, Retries: -1,
	}
	provider, err := upstream.New("idp", w.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	accounts := upstream.NewAccounts(upstream.AccountsOptions{
		Vault: w.vault, Providers: map[string]*upstream.Provider{"idp": provider}, Logger: zap.NewNop(),
	})
	pages, err := console.New(console.Options{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.front != nil {
			w.front(rw, r)
			return
		}
		if w.route != nil {
			w.route().ServeHTTP(rw, r)
			return
		}
		w.serving.Load().ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	issuer, _ := url.Parse(srv.URL)
	o := authserver.Options{
		Issuer: issuer, Vault: w.vault, Accounts: accounts, Pages: pages, Logger: zap.NewNop(),
		Limits:  authserver.Limits{Login: authserver.Rate{Events: 1000, Window: time.Second}, Token: authserver.Rate{Events: 10_000, Window: time.Second}},
		Proxies: []*authserver.Proxy{proxy(t, "a", srv.URL+"/mcp/a", provider), proxy(t, "b", srv.URL+"/mcp/b", provider)},
	}
	for _, f := range options {
		f(&o)
	}
	w.options = o
	w.reload()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := accounts.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return w
}

// reload puts a server with changed options in the place of the one before, on the same vault.
func (w *world) reload(options ...option) {
	w.t.Helper()
	for _, f := range options {
		f(&w.options)
	}
	w.server = w.node()
	w.serving.Store(w.server)
}

// node is a further server on the same vault.
func (w *world) node() *authserver.Server {
	w.t.Helper()
	s, err := authserver.New(w.t.Context(), w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			w.t.Error(err)
		}
		s.StopWatching()
	})
	return s
}

func proxy(t testing.TB, id, resource string, p *upstream.Provider) *authserver.Proxy {
	t.Helper()
	u, err := url.Parse(resource)
	if err != nil {
		t.Fatal(err)
	}
	return &authserver.Proxy{ID: id, Name: "Server " + id, Resource: resource, ResourceURL: u, Scopes: []string{"mcp"}, Provider: p}
}

// turn moves the world's clock.
func (w *world) turn(d time.Duration) { w.offset.Add(int64(d)) }

// answer is a response, read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("status %d, not JSON: %q", a.status, a.body)
	}
	return m
}

// oauthError returns the error code of a JSON answer.
func (a answer) oauthError(t testing.TB) string {
	t.Helper()
	code, _ := a.json(t)["error"].(string)
	return code
}

func do(t testing.TB, client *http.Client, req *http.Request) answer {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// connections are the tests' own: httptest closes those of the default transport that are idle whenever a test's server ends, also as another test takes one up.
var connections = new(http.Transport)

func noRedirect() *http.Client {
	return &http.Client{Transport: connections, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (w *world) get(path string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return do(w.t, noRedirect(), req)
}

func (w *world) postForm(path string, form url.Values, edit ...func(*http.Request)) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, f := range edit {
		f(req)
	}
	return do(w.t, noRedirect(), req)
}

func (w *world) postJSON(path, body string, edit ...func(*http.Request)) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, f := range edit {
		f(req)
	}
	return do(w.t, noRedirect(), req)
}

// bot is a registered client.
type bot struct{ id, secret string }

func (w *world) register(extra string) bot {
	w.t.Helper()
	a := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"],"client_name":"Bot","token_endpoint_auth_method":"client_secret_post"`+extra+`}`)
	if a.status != http.StatusCreated {
		w.t.Fatalf("register: %d %s", a.status, a.body)
	}
	m := a.json(w.t)
	return bot{m["client_id"].(string), m["client_secret"].(string)}
}

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func authorizeParams(b bot) url.Values {
	return url.Values{
		"response_type": {"code"}, "client_id": {b.id}, "redirect_uri": {redirectURI}, "state": {"bot-state"},
		"code_challenge": {challenge()}, "code_challenge_method": {"S256"},
	}
}

// browser is a user's browser: it keeps cookies and follows nothing by itself.
type browser struct {
	w      *world
	client *http.Client
}

func (w *world) browser() *browser {
	jar, _ := cookiejar.New(nil)
	c := noRedirect()
	c.Jar = jar
	return &browser{w, c}
}

func (b *browser) get(target string, edit ...func(*http.Request)) answer {
	b.w.t.Helper()
	req, err := http.NewRequestWithContext(b.w.t.Context(), http.MethodGet, target, nil)
	if err != nil {
		b.w.t.Fatal(err)
	}
	for _, f := range edit {
		f(req)
	}
	return do(b.w.t, b.client, req)
}

func (b *browser) post(target string, form url.Values, edit ...func(*http.Request)) answer {
	b.w.t.Helper()
	req, err := http.NewRequestWithContext(b.w.t.Context(), http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		b.w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, f := range edit {
		f(req)
	}
	return do(b.w.t, b.client, req)
}

func (b *browser) authorize(params url.Values) answer {
	b.w.t.Helper()
	return b.get(b.w.url + endpoints + "/a/authorize?" + params.Encode())
}

var hidden = regexp.MustCompile(`name="(request|csrf)"[^>]*value="([^"]*)"`)

// form returns the fields of a consent page, with the button Allow pressed.
func form(t testing.TB, page answer) url.Values {
	t.Helper()
	v := url.Values{"decision": {"allow"}}
	for _, m := range hidden.FindAllStringSubmatch(page.body, -1) {
		v.Set(m[1], m[2])
	}
	if page.status != http.StatusOK || !v.Has("request") || !v.Has("csrf") {
		t.Fatalf("no consent page: %d %s", page.status, page.body)
	}
	return v
}

func (b *browser) allow(page answer) answer {
	b.w.t.Helper()
	return b.post(b.w.url+endpoints+"/consent", form(b.w.t, page))
}

// callbackURL is where the provider would send the browser after a login.
func (w *world) callbackURL(toProvider answer) string {
	w.t.Helper()
	u, err := url.Parse(toProvider.header.Get("Location"))
	if err != nil || toProvider.status != http.StatusSeeOther || u.Path != "/authorize" {
		w.t.Fatalf("not sent to the provider: %d %v", toProvider.status, toProvider.header)
	}
	return u.Query().Get("redirect_uri") + "?" + url.Values{"code": {"provider-code"}, "state": {u.Query().Get("state")}}.Encode()
}

// location parses the redirect of an answer.
func location(t testing.TB, a answer) *url.URL {
	t.Helper()
	u, err := url.Parse(a.header.Get("Location"))
	if err != nil || a.status != http.StatusSeeOther {
		t.Fatalf("no redirect: %d %v %s", a.status, a.header, a.body)
	}
	return u
}

// login takes a browser through consent and provider, and returns the code.
func (w *world) login(b bot) string {
	w.t.Helper()
	br := w.browser()
	back := location(w.t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b))))))
	code := back.Query().Get("code")
	if code == "" {
		w.t.Fatalf("no code: %s", back)
	}
	return code
}

func codeForm(b bot, code string) url.Values {
	return url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirectURI},
		"client_id": {b.id}, "client_secret": {b.secret}, "code_verifier": {verifier},
	}
}

func refreshForm(b bot, token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {b.id}, "client_secret": {b.secret}}
}

// tokens are a successful token answer.
type tokens struct{ access, refresh string }

func (w *world) tokens(a answer) tokens {
	w.t.Helper()
	m := a.json(w.t)
	access, _ := m["access_token"].(string)
	refresh, _ := m["refresh_token"].(string)
	if a.status != http.StatusOK || access == "" || refresh == "" {
		w.t.Fatalf("no tokens: %d %s", a.status, a.body)
	}
	return tokens{access, refresh}
}

// session registers a bot and logs it in.
func (w *world) session() (bot, tokens) {
	w.t.Helper()
	b := w.register("")
	return b, w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
}

// works reports whether an access token is accepted for proxy a.
func (w *world) works(access string) bool {
	w.t.Helper()
	_, _, err := w.server.Authenticate(w.t.Context(), access, "a")
	return err == nil
}
