package authserver_test

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

const sessions = "/api/v1/oauth"

// startSession begins as a script does, and returns the callback that the provider would lead to.
func (w *world) startSession() (callback, state string) {
	w.t.Helper()
	a := w.postForm(sessions+"/authorize/idp", nil, func(r *http.Request) { r.Header.Del("Content-Type") })
	data, _ := a.json(w.t)["data"].(map[string]any)
	if a.status != http.StatusOK || a.json(w.t)["success"] != true || data["auth_url"] != data["authorization_url"] {
		w.t.Fatalf("start: %d %s", a.status, a.body)
	}
	target, err := url.Parse(data["authorization_url"].(string))
	if err != nil || target.Query().Get("state") != data["state"] || target.Query().Get("code_challenge_method") != "S256" {
		w.t.Fatalf("authorization URL: %s, %v", target, err)
	}
	state = data["state"].(string)
	return w.url + sessions + "/callback?" + url.Values{"code": {"provider-code"}, "state": {state}}.Encode(), state
}

func acceptJSON(r *http.Request) { r.Header.Set("Accept", "application/json") }

func (w *world) fetch(target string, edit ...func(*http.Request)) answer {
	w.t.Helper()
	return (&browser{w, noRedirect()}).get(target, edit...)
}

// session logs a script's user in, and returns the answer's data.
func (w *world) scriptSession() map[string]any {
	w.t.Helper()
	callback, _ := w.startSession()
	a := w.fetch(callback, acceptJSON)
	data, _ := a.json(w.t)["data"].(map[string]any)
	if a.status != http.StatusOK || data["session_token"] == nil {
		w.t.Fatalf("callback: %d %s", a.status, a.body)
	}
	return data
}

func (w *world) post(path, token string) answer {
	w.t.Helper()
	return w.postJSON(sessions+path, `{"session_token":"`+token+`"}`)
}

// The way of scripts: they print a URL, a person logs in anywhere, and the script fetches the callback itself.
func TestScriptGetsASessionTokenAndKeepsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.provider.user["name"] = "Ålice ? > ~ 🐇"
	data := w.scriptSession()
	token := data["session_token"].(string)
	if data["user_email"] != "alice@example.com" || data["user_name"] == "" || data["expires_at"] == nil {
		t.Errorf("data: %v", data)
	}
	payload := strings.Split(token, ".")[1]
	raw, err := base64.RawStdEncoding.DecodeString(payload) // the wrong alphabet, as scripts have it
	if err != nil {
		t.Fatalf("payload %q: %v", payload, err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil || claims["email"] != "alice@example.com" || claims["username"] == "" || claims["name"] != "Ålice ? > ~ 🐇" || claims["sub"] == "" {
		t.Errorf("claims: %s, %v", raw, err)
	}
	for _, proxy := range []string{"a", "b"} {
		if _, _, err := w.server.Authenticate(t.Context(), token, proxy); err != nil {
			t.Errorf("proxy %s: %v", proxy, err)
		}
	}
	m := w.post("/validate", token).json(t)
	inner, _ := m["data"].(map[string]any)
	if m["valid"] != true || inner["valid"] != true || m["user_email"] != "alice@example.com" || m["user_identity"] == nil || m["user_name"] == nil || m["expires_at"] == nil {
		t.Errorf("validate: %v", m)
	}
	w.turn(50 * time.Minute)
	next := w.post("/refresh", token).json(t)["data"].(map[string]any)["session_token"].(string)
	w.turn(20 * time.Minute)
	if _, _, err := w.server.Authenticate(t.Context(), token, "a"); err == nil {
		t.Error("the first token outlives its hour")
	}
	if _, _, err := w.server.Authenticate(t.Context(), next, "a"); err != nil {
		t.Errorf("the refreshed token: %v", err)
	}
	if a := w.post("/refresh", token); a.status != http.StatusUnauthorized {
		t.Errorf("refresh of an expired token: %d", a.status)
	}
	if a := w.post("/logout", next); a.status != http.StatusOK || a.json(t)["success"] != true {
		t.Errorf("logout: %d %s", a.status, a.body)
	}
	if _, _, err := w.server.Authenticate(t.Context(), next, "a"); err == nil {
		t.Error("the token works after logout")
	}
	if m := w.post("/validate", next).json(t); m["valid"] != false || m["user_email"] != nil {
		t.Errorf("validate after logout: %v", m)
	}
	if a := w.post("/logout", next); a.status != http.StatusOK {
		t.Errorf("logout twice: %d", a.status)
	}
}

func TestSessionCallbackIsAPageForPeople(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	callback, _ := w.startSession()
	a := w.fetch(callback)
	token := shownToken(t, a)
	if !strings.Contains(a.body, "alice@example.com") || !strings.Contains(a.body, "Copy") {
		t.Fatalf("page: %d %s", a.status, a.body)
	}
	if _, _, err := w.server.Authenticate(t.Context(), token, "a"); err != nil {
		t.Errorf("the token of the page: %v", err)
	}
	csp := a.header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "script-src 'sha256-") || strings.Contains(csp, "unsafe") || a.header.Get("Cache-Control") != "no-store" || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("headers: %v", a.header)
	}
	if b := w.fetch(callback + "&format=json"); b.json(t)["data"] == nil {
		t.Errorf("the same as JSON: %s", b.body)
	}
}

// Scripts have been told of the shorter address.
func TestCallbackAnswersAtItsAlias(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	callback, _ := w.startSession()
	a := w.fetch(strings.Replace(callback, sessions+"/callback", "/oauth/callback", 1), acceptJSON)
	if data, _ := a.json(t)["data"].(map[string]any); a.status != http.StatusOK || data["session_token"] == nil {
		t.Errorf("callback: %d %s", a.status, a.body)
	}
}

func TestProvidersAreToldTheCallbackPathThatIsConfigured(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.Callback = "/oauth/callback" })
	want := url.Values{"redirect_uri": {w.url + "/oauth/callback"}}.Encode()
	if a := w.postForm(sessions+"/authorize/idp", nil); !strings.Contains(a.body, want) {
		t.Errorf("want %s in %s", want, a.body)
	}
	for _, path := range []string{"/oauth/callback", sessions + "/callback"} { // a code is exchanged with what was told, wherever it arrives
		callback, _ := w.startSession()
		if a := w.fetch(strings.Replace(callback, sessions+"/callback", path, 1), acceptJSON); a.status != http.StatusOK {
			t.Errorf("callback: %d %s", a.status, a.body)
		}
		if q := w.provider.requests[len(w.provider.requests)-1]; !strings.Contains(q.Encode(), want) {
			t.Errorf("token request: %v", q)
		}
	}
}

func TestSessionRefusesWhatIsNotOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, got := w.session()
	for _, path := range []string{"/refresh", "/validate", "/logout"} {
		for name, body := range map[string]string{"empty": "", "not JSON": "x", "no token": "{}", "a number": `{"session_token":1}`} {
			if a := w.postJSON(sessions+path, body); a.status != http.StatusBadRequest || a.json(t)["success"] != false || a.json(t)["message"] == nil {
				t.Errorf("%s, %s: %d %s", path, name, a.status, a.body)
			}
		}
	}
	for name, token := range map[string]string{"access token": got.access, "refresh token": got.refresh, "nonsense": "x.y.z"} {
		if a := w.post("/refresh", token); a.status != http.StatusUnauthorized {
			t.Errorf("refresh with %s: %d", name, a.status)
		}
		if m := w.post("/validate", token).json(t); m["valid"] != false {
			t.Errorf("validate %s: %v", name, m)
		}
		w.post("/logout", token)
	}
	if !w.works(got.access) {
		t.Error("logout ended a client's grant")
	}
	if a := w.postForm(sessions+"/authorize/nobody", nil); a.status != http.StatusNotFound || a.json(t)["success"] != false {
		t.Errorf("unknown provider: %d %s", a.status, a.body)
	}
	callback, _ := w.startSession()
	w.turn(6 * time.Minute)
	if a := w.fetch(callback, acceptJSON); a.status != http.StatusBadRequest || a.json(t)["success"] != false {
		t.Errorf("late callback: %d %s", a.status, a.body)
	}
	_, state := w.startSession()
	denied := w.url + sessions + "/callback?" + url.Values{"error": {"access_denied"}, "state": {state}}.Encode()
	if a := w.fetch(denied, acceptJSON); a.status != http.StatusBadRequest || a.json(t)["error"] != "access_denied" {
		t.Errorf("user said no at the provider: %d %s", a.status, a.body)
	}
	if a := w.fetch(denied); a.status != http.StatusBadRequest || !strings.Contains(a.body, "Not connected") {
		t.Errorf("the same as a page: %d %s", a.status, a.body)
	}
}

func TestT29SessionIsForWhomTheProxiesAllow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.Proxies[1].Allow.Emails = []string{"bob@example.com"} })
	token := w.scriptSession()["session_token"].(string)
	if _, _, err := w.server.Authenticate(t.Context(), token, "a"); err != nil {
		t.Errorf("proxy a: %v", err)
	}
	if _, _, err := w.server.Authenticate(t.Context(), token, "b"); err == nil {
		t.Error("proxy b lets in whom it does not name")
	}
	w.reload(func(o *authserver.Options) { o.Proxies[0].Allow.Emails = []string{"bob@example.com"} })
	if _, _, err := w.server.Authenticate(t.Context(), token, "a"); err == nil {
		t.Error("proxy a lets in whom it no longer names")
	}
	if a := w.post("/refresh", token); a.status != http.StatusUnauthorized {
		t.Errorf("refresh of a user who may use nothing: %d", a.status)
	}
	callback, _ := w.startSession()
	if a := w.fetch(callback, acceptJSON); a.json(t)["error"] != "access_denied" {
		t.Errorf("login of a user who may use nothing: %s", a.body)
	}
	w.reload(func(o *authserver.Options) { o.Proxies[0].Allow.Emails, o.NoSessions = nil, true })
	if _, _, err := w.server.Authenticate(t.Context(), token, "a"); err == nil {
		t.Error("session tokens work though they are switched off")
	}
	if a := w.postForm(sessions+"/authorize/idp", nil); a.status != http.StatusNotFound {
		t.Errorf("start though switched off: %d", a.status)
	}
}

// Who may choose a login name may choose the digits of somebody else's id.
func TestT29LoginNameIsNoSubject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		o.Proxies[0].Allow.Users, o.Proxies[1].Allow.Users = []string{"583231"}, []string{"583231"}
	})
	w.provider.user = map[string]any{"sub": "99999999", "preferred_username": "583231"}
	b, br := w.register(""), w.browser()
	back := location(t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b))))))
	if back.Query().Get("error") != "access_denied" {
		t.Errorf("a client's login: %s", back)
	}
	callback, _ := w.startSession()
	if a := w.fetch(callback, acceptJSON); a.json(t)["error"] != "access_denied" {
		t.Errorf("a script's login: %s", a.body)
	}
}

func TestT29ConnectTokenIsForWhomTheProxyAllowsNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := shownToken(t, w.connect(w.browser()))
	w.reload(func(o *authserver.Options) { o.Proxies[0].Allow.Emails = []string{"bob@example.com"} })
	if w.works(token) {
		t.Error("the proxy lets in whom it no longer names")
	}
	if a := w.post("/refresh", token); a.status != http.StatusUnauthorized {
		t.Errorf("refresh: %d", a.status)
	}
	if m := w.post("/validate", token).json(t); m["valid"] != false {
		t.Errorf("validate: %v", m)
	}
	w.reload(func(o *authserver.Options) {
		o.Proxies[0].Allow.Emails = nil
		o.Proxies[0].Resource += "/moved"
	})
	if a := w.post("/refresh", token); w.works(token) || a.status != http.StatusUnauthorized {
		t.Errorf("refresh for a server that is elsewhere now: %d", a.status)
	}
}

func TestSessionsSwitchedOffCloseTheConnectPageToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := shownToken(t, w.connect(w.browser()))
	br, late := w.browser(), w.browser()
	begun := form(t, br.get(w.url+"/oauth/authorize/a"))
	callback := w.callbackURL(late.allow(late.get(w.url + "/oauth/authorize/a")))
	script, _ := w.startSession()
	w.reload(func(o *authserver.Options) { o.NoSessions = true })
	if w.works(token) {
		t.Error("the token works")
	}
	if a := w.get("/oauth/authorize/a"); a.status != http.StatusNotFound {
		t.Errorf("page: %d", a.status)
	}
	if a := br.post(w.url+endpoints+"/consent", begun); a.status != http.StatusBadRequest {
		t.Errorf("answer to a page of before: %d %s", a.status, a.header.Get("Location"))
	}
	for _, target := range []string{callback, script} {
		if a := late.get(target); a.status != http.StatusBadRequest || strings.Contains(a.body, "<textarea") {
			t.Errorf("end of a login of before: %d", a.status)
		}
	}
	if n := w.provider.tokenRequests(); n != 1 {
		t.Errorf("%d codes were redeemed at the provider, want that of the first login alone", n)
	}
}

func TestT29UnverifiedEmailIsNoIdentity(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	w := newWorld(t, func(o *authserver.Options) { o.Logger = zap.New(core) })
	w.provider.user = map[string]any{"sub": "u2", "email": "ceo@corp.test", "email_verified": false}
	data := w.scriptSession()
	if data["user_identity"] != "u2" || data["user_email"] != "" {
		t.Errorf("session: %v", data)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(data["session_token"].(string), ".")[1])
	if err != nil || strings.Contains(string(payload), "ceo") {
		t.Errorf("session token: %s, %v", payload, err)
	}
	if a := w.post("/validate", data["session_token"].(string)); a.json(t)["valid"] != true || strings.Contains(a.body, "ceo") {
		t.Errorf("validation: %s", a.body)
	}
	b, got := w.session()
	m := w.postForm(endpoints+"/a/introspect", url.Values{"token": {got.access}, "client_id": {b.id}, "client_secret": {b.secret}}).json(t)
	if m["active"] != true || m["username"] != "u2" {
		t.Errorf("introspection: %v", m)
	}
	for _, line := range logs.All() {
		if user, told := line.ContextMap()["user"]; told && user != "u2" {
			t.Errorf("log: %s %v", line.Message, line.ContextMap())
		}
	}
}

func TestTokensOfARefusedLoginAreEndedAtTheProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		o.Proxies[0].Allow.Emails, o.Proxies[1].Allow.Emails = []string{"bob@example.com"}, []string{"bob@example.com"}
	})
	callback, _ := w.startSession()
	if a := w.fetch(callback, acceptJSON); a.json(t)["error"] != "access_denied" {
		t.Fatalf("login: %s", a.body)
	}
	waitFor(t, "the provider to be told", func() bool {
		w.provider.mu.Lock()
		defer w.provider.mu.Unlock()
		return slices.Contains(w.provider.revoked, "up-refresh-1")
	})
}

// shownToken is the session token that a page shows.
func shownToken(t *testing.T, page answer) string {
	t.Helper()
	m := regexp.MustCompile(`<textarea[^>]*>([^<]+)</textarea>`).FindStringSubmatch(page.body)
	if page.status != http.StatusOK || m == nil {
		t.Fatalf("no token: %d %s", page.status, page.body)
	}
	return html.UnescapeString(m[1])
}

// connect takes a browser from /oauth/authorize/a to the end.
func (w *world) connect(br *browser) answer {
	w.t.Helper()
	page := br.get(w.url + "/oauth/authorize/a")
	if !strings.Contains(page.body, "Connect Server a?") {
		w.t.Fatalf("page: %d %s", page.status, page.body)
	}
	return br.get(w.callbackURL(br.allow(page)))
}

func TestUserConnectsAProxyFromTheBrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.connect(w.browser())
	if a.status != http.StatusOK || !strings.Contains(a.body, "Server a") || !strings.Contains(a.body, "alice@example.com") || !strings.Contains(a.body, `href="`+w.url+`/oauth/"`) {
		t.Fatalf("success page: %d %s", a.status, a.body)
	}
	token := shownToken(t, a)
	if _, _, err := w.server.Authenticate(t.Context(), token, "a"); err != nil {
		t.Errorf("its token: %v", err)
	}
	if _, _, err := w.server.Authenticate(t.Context(), token, "b"); err == nil {
		t.Error("its token is good at another proxy")
	}
	if a := w.get("/oauth/authorize/nothing"); a.status != http.StatusNotFound {
		t.Errorf("unknown proxy: %d", a.status)
	}
}

func TestT02ConnectionIsBoundToItsBrowserAndAsksFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	br := w.browser()
	page := br.get(w.url + "/oauth/authorize/a")
	if n := w.provider.tokenRequests(); n != 0 || page.header.Get("Location") != "" {
		t.Error("a link alone starts a login")
	}
	callback := w.callbackURL(br.allow(page))
	if a := w.fetch(callback); a.status != http.StatusForbidden {
		t.Errorf("callback in another browser: %d", a.status)
	}
	if a := br.get(callback); a.status == http.StatusOK {
		t.Error("the login goes on after that")
	}
	f := form(t, br.get(w.url+"/oauth/authorize/a"))
	if a := br.post(w.url+endpoints+"/consent", f, func(r *http.Request) { r.Header.Set("Origin", "https://evil.test") }); a.status != http.StatusForbidden {
		t.Errorf("answer from another site: %d", a.status)
	}
	f.Set("decision", "deny")
	if a := br.post(w.url+endpoints+"/consent", f); a.status != http.StatusBadRequest || !strings.Contains(a.body, "Not connected") {
		t.Errorf("do not connect: %d %s", a.status, a.body)
	}
	w.provider.failToken = http.StatusServiceUnavailable
	if a := w.connect(w.browser()); a.status != http.StatusBadRequest || !strings.Contains(a.body, "Not connected") {
		t.Errorf("failure page: %d %s", a.status, a.body)
	}
}

// Whoever begins a session login knows its state, and may be somebody else than the one who is lured into finishing it.
func TestT02T26SessionTokenGoesOnlyToWhoBringsTheProvidersCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.provider.delay = 100 * time.Millisecond
	callback, state := w.startSession()
	guesses := []string{
		w.url + sessions + "/callback?" + url.Values{"code": {"guess"}, "state": {state}}.Encode(),
		w.url + sessions + "/callback?" + url.Values{"state": {state}}.Encode(),
		w.url + sessions + "/callback?" + url.Values{"error": {"x"}, "state": {state}}.Encode(),
	}
	done := make(chan answer)
	go func() { done <- w.fetch(callback, acceptJSON) }()
	for deadline := time.Now().Add(10 * time.Second); w.provider.begun.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	for _, guess := range guesses { // while the exchange runs
		if a := w.fetch(guess, acceptJSON); strings.Contains(a.body, "session_token") {
			t.Errorf("%s: %s", guess, a.body)
		}
	}
	if a := <-done; !strings.Contains(a.body, "session_token") {
		t.Errorf("the user's own callback: %d %s", a.status, a.body)
	}
	for _, guess := range guesses { // and afterwards
		if a := w.fetch(guess, acceptJSON); strings.Contains(a.body, "session_token") || a.status == http.StatusOK {
			t.Errorf("%s: %s", guess, a.body)
		}
	}
	if a := w.fetch(callback, acceptJSON); !strings.Contains(a.body, "session_token") {
		t.Errorf("the user's own callback again: %d %s", a.status, a.body)
	}
}

func TestProxyTakesSoManyGrantsAndNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.Proxies[0].MaxGrants = 2 })
	_, first := w.session()
	w.session()
	b, br := w.register(""), w.browser()
	back := location(t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b))))))
	if back.Query().Get("error") != "access_denied" || !strings.Contains(back.Query().Get("error_description"), "as many connections as its operator allows") {
		t.Errorf("a third: %s", back)
	}
	if !w.works(first.access) {
		t.Error("the first gave way")
	}
	w.reload(func(o *authserver.Options) { o.Proxies[0].Allow = authserver.Policy{Users: []string{"somebody-else"}} })
	back = location(t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b))))))
	if back.Query().Get("error") != "access_denied" || strings.Contains(back.Query().Get("error_description"), "connections") {
		t.Errorf("a stranger learns that it is full: %s", back)
	}
	w.reload(func(o *authserver.Options) { o.Proxies[0].Allow = authserver.Policy{} })
	w.turn(31 * 24 * time.Hour) // the first two have been silent for too long
	if _, third := w.session(); !w.works(third.access) {
		t.Error("expired grants count")
	}
}
