package authserver_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// allowScopes presses Allow with choices checked.
func (b *browser) allowScopes(page answer, scopes ...string) answer {
	b.w.t.Helper()
	v := form(b.w.t, page)
	for _, s := range scopes {
		v.Set("scope."+s, "1")
	}
	return b.post(b.w.url+endpoints+"/consent", v)
}

// mcpServer is an MCP server and its authorization server.
type mcpServer struct {
	base   string
	mu     sync.Mutex
	delay  time.Duration
	n      int
	scopes []string
	as     string   // another authorization server
	codes  []string // that the token endpoint was sent
	down   bool
}

func (s *mcpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	s.mu.Lock()
	delay, down, as, scopes := s.delay, s.down, cmp.Or(s.as, s.base), s.scopes
	s.n++
	n := s.n
	s.mu.Unlock()
	time.Sleep(delay)
	if down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	switch r.URL.Path {
	case "/mcp":
		w.WriteHeader(http.StatusUnauthorized)
	case "/.well-known/oauth-protected-resource/mcp":
		reply(200, map[string]any{"resource": s.base + "/mcp", "authorization_servers": []string{as}, "scopes_supported": scopes})
	case "/.well-known/oauth-authorization-server":
		reply(200, map[string]any{"issuer": s.base, "authorization_endpoint": s.base + "/authorize", "token_endpoint": s.base + "/token", "registration_endpoint": s.base + "/register",
			"code_challenge_methods_supported": []string{"S256"}})
	case "/register":
		reply(201, map[string]any{"client_id": "c", "client_secret": "s"})
	case "/token":
		_ = r.ParseForm()
		s.mu.Lock()
		s.codes = append(s.codes, r.PostForm.Get("code"))
		s.mu.Unlock()
		reply(200, map[string]any{"access_token": fmt.Sprint("at-", n), "refresh_token": "rt", "expires_in": 3600})
	default:
		http.NotFound(w, r)
	}
}

// mcpWorld is a world whose proxy a is at a provider of type mcp.
func mcpWorld(t *testing.T, options ...option) (*world, *mcpServer) {
	t.Helper()
	s := new(mcpServer)
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.base = srv.URL
	return newWorld(t, append([]option{func(o *authserver.Options) {
		p, err := upstream.New("remote", upstream.Config{Type: "mcp", Server: s.base + "/mcp", RedirectURI: authserver.OwnRedirectURI(o.Issuer, "remote"), ClientName: "x", Retries: -1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Proxies[0].Provider, o.Proxies[0].AsksForMore = p, true
		o.Accounts = upstream.NewAccounts(upstream.AccountsOptions{Vault: o.Vault, Providers: map[string]*upstream.Provider{"remote": p}, Logger: zap.NewNop()})
	}}, options...)...), s
}

func scopeOf(t *testing.T, toProvider answer) string {
	t.Helper()
	u, err := url.Parse(toProvider.header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("scope")
}

func TestUserIsToldWhatTheMCPServerWants(t *testing.T) {
	t.Parallel()
	w, s := mcpWorld(t)
	s.scopes = []string{"delete:everything"}
	b, br := w.register(""), w.browser()
	page := br.authorize(authorizeParams(b))
	if asked := scopeOf(t, br.allow(page)); asked != "delete:everything" || !strings.Contains(page.body, "<code>delete:everything</code>") {
		t.Errorf("asked for %q, and the page says %s", asked, page.body)
	}
	connect := br.get(w.url + "/oauth/authorize/a")
	if asked := scopeOf(t, br.allow(connect)); asked != "delete:everything" || !strings.Contains(connect.body, "<code>delete:everything</code>") {
		t.Errorf("asked for %q, and the page says %s", asked, connect.body)
	}
	s.mu.Lock()
	s.scopes = []string{"delete:everything", "and:more"}
	s.mu.Unlock()
	if asked := scopeOf(t, br.allow(br.authorize(authorizeParams(b)))); asked != "delete:everything" {
		t.Errorf("asked for %q, of which the page of a moment ago cannot have told", asked)
	}
}

func TestClientHasTheUserAskedForMoreOfTheUpstream(t *testing.T) {
	t.Parallel()
	w, s := mcpWorld(t)
	s.scopes = []string{"read"}
	b, br := w.register(""), w.browser()
	q := authorizeParams(b)
	q.Set("scope", `mcp upstream:write upstream:read upstream:write upstream:a"b upstream: write`)
	page := br.authorize(q)
	if !strings.Contains(page.body, `name="scope.upstream:write"`) {
		t.Fatalf("page: %s", page.body)
	}
	if asked := scopeOf(t, br.allowScopes(page, "mcp")); asked != "read" {
		t.Errorf("left out by the user, and asked for: %q", asked)
	}
	toProvider := br.allowScopes(br.authorize(q), "mcp", "upstream:write", "upstream:read")
	if asked := scopeOf(t, toProvider); asked != "read write" {
		t.Errorf("asked for %q", asked)
	}
	code := location(t, br.get(w.callbackURL(toProvider))).Query().Get("code")
	a := w.postForm(endpoints+"/a/token", codeForm(b, code))
	if got := a.json(t)["scope"]; got != "mcp upstream:write upstream:read" {
		t.Errorf("granted %v", got)
	}
	// Elsewhere it means nothing.
	plain := newWorld(t)
	b, br = plain.register(""), plain.browser()
	if page := br.authorize(q2(b, q)); strings.Contains(page.body, "upstream:write") {
		t.Error("asked for where nobody can grant it")
	}
}

func q2(b bot, like url.Values) url.Values {
	q := authorizeParams(b)
	q.Set("scope", like.Get("scope"))
	return q
}

func TestUpstreamScopesAreNotForTheLoginProvider(t *testing.T) {
	t.Parallel()
	w, _ := twoLegs(t, func(o *authserver.Options) { o.Proxies[0].AsksForMore = true })
	b, br := w.register(""), w.browser()
	q := authorizeParams(b)
	q.Set("scope", "mcp upstream:admin:org")
	toWork := br.allowScopes(br.authorize(q), "mcp", "upstream:admin:org")
	if asked := scopeOf(t, toWork); asked != "groups" {
		t.Errorf("the login provider is asked for %q", asked)
	}
	if asked := scopeOf(t, br.get(w.callbackURL(toWork))); asked != "read:jira admin:org" {
		t.Errorf("the account's provider is asked for %q", asked)
	}
}

func TestAccessTokenWithAllThatCanBeAskedForIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.Proxies[0].AsksForMore = true })
	var scopes []string
	for i := range 30 {
		scopes = append(scopes, fmt.Sprintf("upstream:%02d", i)+strings.Repeat("x", 60))
	}
	b, br := w.register(""), w.browser()
	q := authorizeParams(b)
	q.Set("scope", "mcp "+strings.Join(scopes, " "))
	back := location(t, br.get(w.callbackURL(br.allowScopes(br.authorize(q), append(scopes, "mcp")...))))
	if got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, back.Query().Get("code")))); !w.works(got.access) {
		t.Errorf("an access token of %d bytes is refused", len(got.access))
	}
}

// Allow is pressed twice, and the MCP server names another authorization server in between.
func TestT28CodeGoesToTheServerThatTheLoginBeganWith(t *testing.T) {
	t.Parallel()
	w, honest := mcpWorld(t)
	evil := new(mcpServer)
	srv := httptest.NewServer(evil)
	t.Cleanup(srv.Close)
	evil.base = srv.URL
	b, br := w.register(""), w.browser()
	page := br.authorize(authorizeParams(b))
	first := br.allow(page)
	honest.mu.Lock()
	honest.as = evil.base
	honest.mu.Unlock()
	if second := br.allow(page); second.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("the login goes on at %s", second.header.Get("Location"))
	}
	if code := location(t, br.get(w.callbackURL(first))).Query().Get("code"); code == "" || len(evil.codes) != 0 || len(honest.codes) != 1 {
		t.Errorf("honest was sent %v, evil %v", honest.codes, evil.codes)
	}
}

func TestFirstCallbackTwiceAtOnceLeadsOnTwice(t *testing.T) {
	t.Parallel()
	work := &fakeProvider{user: map[string]any{"sub": "w1"}}
	srv := httptest.NewServer(work)
	t.Cleanup(srv.Close)
	login, err := upstream.New("work", upstream.Config{Type: "oauth2", ClientID: "gateway", ClientSecret: "x", Retries: -1,
		AuthorizationURL: srv.URL + "/authorize", TokenURL: srv.URL + "/token", UserinfoURL: srv.URL + "/userinfo"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w, s := mcpWorld(t, func(o *authserver.Options) { o.Proxies[0].Login = login })
	b, br := w.register(""), w.browser()
	first := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
	s.mu.Lock()
	s.delay = 50 * time.Millisecond
	s.mu.Unlock()
	var wg sync.WaitGroup
	answers := make([]answer, 2)
	for i := range answers {
		wg.Go(func() { answers[i] = br.get(first) })
	}
	wg.Wait()
	for _, a := range answers {
		if a.status != http.StatusSeeOther || !strings.Contains(a.header.Get("Location"), "/authorize?") {
			t.Errorf("%d to %s", a.status, a.header.Get("Location"))
		}
	}
}

func TestMCPServerThatIsDownIsNoReasonForAPage(t *testing.T) {
	t.Parallel()
	w, s := mcpWorld(t)
	s.mu.Lock()
	s.down = true
	s.mu.Unlock()
	b, br := w.register(""), w.browser()
	if q := location(t, br.authorize(authorizeParams(b))).Query(); q.Get("error") != "temporarily_unavailable" {
		t.Errorf("got %v", q)
	}
	if a := br.get(w.url + "/oauth/authorize/a"); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "Not connected") {
		t.Errorf("connect page: %d", a.status)
	}
}

// A hostile authorization server can send the user's browser on to another one's login, with that one's client id and its own state. What comes back
// from there comes to the other's callback, if at all.
func TestT28CodesComeToTheCallbackOfTheirProvider(t *testing.T) {
	t.Parallel()
	w, s := mcpWorld(t)
	b, br := w.register(""), w.browser()
	toProvider := br.allow(br.authorize(authorizeParams(b)))
	own := w.callbackURL(toProvider)
	if !strings.HasPrefix(own, w.url+"/api/v1/oauth/callback/remote?") {
		t.Fatalf("callback %s", own)
	}
	for _, other := range []string{strings.Replace(own, "/callback/remote", "/callback", 1), strings.Replace(own, "/callback/remote", "/callback/other", 1),
		strings.Replace(own, "/api/v1/oauth/callback/remote", "/oauth/callback", 1)} {
		if a := br.get(other); a.status != http.StatusBadRequest || len(s.codes) != 0 {
			t.Errorf("%s: %d, and the server was sent %v", other, a.status, s.codes)
		}
	}
	if code := location(t, br.get(own)).Query().Get("code"); code == "" {
		t.Error("its own callback leads nowhere")
	}
	// And those of others do not come there.
	plain := w.proxyB(b, br)
	if a := br.get(strings.Replace(plain, "/callback?", "/callback/idp?", 1)); a.status != http.StatusBadRequest || w.provider.tokenRequests() != 0 {
		t.Errorf("a provider without a callback of its own: %d", a.status)
	}
}

// proxyB takes the browser to the provider of proxy b, and returns the callback.
func (w *world) proxyB(b bot, br *browser) string {
	w.t.Helper()
	q := authorizeParams(b)
	q.Set("resource", w.url+"/mcp/b")
	return w.callbackURL(br.allow(br.get(w.url + endpoints + "/authorize?" + q.Encode())))
}

func TestGatewayDescribesItselfToEachProviderApart(t *testing.T) {
	t.Parallel()
	w, _ := mcpWorld(t)
	m := w.get("/oauth/client-metadata/remote.json").json(t)
	if m["client_id"] != w.url+"/oauth/client-metadata/remote.json" || fmt.Sprint(m["redirect_uris"]) != "["+w.url+"/api/v1/oauth/callback/remote]" || m["token_endpoint_auth_method"] != "none" {
		t.Errorf("got %v", m)
	}
	for _, path := range []string{"/oauth/client-metadata/idp.json", "/oauth/client-metadata/remote", "/oauth/client-metadata/.json"} {
		if a := w.get(path); a.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}
