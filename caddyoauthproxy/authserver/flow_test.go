package authserver_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// The way that chatbots take which know nothing but the endpoints of one proxy: no resource, no discovery.
func TestPlainChatbotRegistersLogsInAndRefreshes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["http://localhost:8888/callback","`+redirectURI+`"],"client_name":"My Bot",
		"client_uri":"https://bot.test","logo_uri":"https://bot.test/logo.png","token_endpoint_auth_method":"client_secret_post",
		"grant_types":["authorization_code","refresh_token"],"response_types":["code"],"scope":"anything at all"}`)
	m := a.json(t)
	if a.status != http.StatusCreated {
		t.Fatalf("register: %d %s", a.status, a.body)
	}
	for member, want := range map[string]any{
		"client_secret_expires_at": 0.0,
		"authorization_url":        w.url + endpoints + "/a/authorize",
		"token_url":                w.url + endpoints + "/a/token",
		"revocation_url":           w.url + endpoints + "/a/revoke",
		"introspection_url":        w.url + endpoints + "/a/introspect",
		"client_name":              "My Bot",
	} {
		if m[member] != want {
			t.Errorf("%s: got %v, want %v", member, m[member], want)
		}
	}
	if uris := m["redirect_uris"].([]any); len(uris) != 2 || uris[0] != "http://localhost:8888/callback" || uris[1] != redirectURI {
		t.Errorf("redirect URIs are not in the order sent: %v", uris)
	}
	b := bot{m["client_id"].(string), m["client_secret"].(string)}
	if !strings.HasPrefix(b.id, "gateway_") || !strings.HasPrefix(b.secret, "gw_secret_") {
		t.Errorf("client_id %q, client_secret %q", b.id, b.secret)
	}

	br := w.browser()
	back := location(t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b))))))
	q := back.Query()
	if back.Host != "bot.test" || q.Get("state") != "bot-state" || q.Get("iss") != w.url || q.Get("code") == "" {
		t.Fatalf("back at the client: %s", back)
	}
	first := w.postForm(endpoints+"/a/token", codeForm(b, q.Get("code")))
	if first.json(t)["expires_in"] != 3600.0 && first.json(t)["expires_in"] != 3599.0 || first.json(t)["token_type"] != "Bearer" {
		t.Errorf("token answer: %s", first.body)
	}
	if first.header.Get("Cache-Control") != "no-store" {
		t.Errorf("Cache-Control: %q", first.header.Get("Cache-Control"))
	}
	got := w.tokens(first)
	if !w.works(got.access) {
		t.Error("the access token does not work")
	}
	next := w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	if next.refresh == got.refresh || !w.works(next.access) {
		t.Error("the refresh token was not rotated, or the new access token does not work")
	}
	if p := w.provider.requests[0]; p.Get("code_verifier") == "" || p.Get("code") != "provider-code" || p.Get("redirect_uri") != w.url+"/api/v1/oauth/callback" {
		t.Errorf("code exchange at the provider: %v", p)
	}
}

func TestAccessTokenIsRFC9068(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	parts := strings.Split(got.access, ".")
	var header, claims map[string]any
	for i, dst := range []*map[string]any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, dst); err != nil {
			t.Fatal(err)
		}
		// Chatbots decode the payload with the other base64 alphabet too.
		if strings.ContainsAny(parts[i], "-_") && i == 1 {
			t.Errorf("the payload does not decode with the standard alphabet: %s", raw)
		}
	}
	if header["typ"] != "at+jwt" || header["alg"] != "ES256" || header["kid"] == "" || len(header) != 3 {
		t.Errorf("header: %v", header)
	}
	for claim, want := range map[string]any{"iss": w.url, "aud": w.url + "/mcp/a", "client_id": b.id, "scope": "mcp"} {
		if claims[claim] != want {
			t.Errorf("%s: got %v, want %v", claim, claims[claim], want)
		}
	}
	for _, claim := range []string{"sub", "jti", "sid", "iat", "exp"} {
		if claims[claim] == nil || claims[claim] == "" {
			t.Errorf("%s is missing", claim)
		}
	}
	jwks := w.get("/.well-known/jwks.json")
	keys := jwks.json(t)["keys"].([]any)
	key := keys[0].(map[string]any)
	if len(keys) != 1 || key["kid"] != header["kid"] || key["use"] != "sig" {
		t.Errorf("JWKS: %s", jwks.body)
	}
	for _, private := range []string{"d", "p", "q", "k", "dp", "dq", "qi"} {
		if key[private] != nil {
			t.Errorf("JWKS shows %s", private)
		}
	}
}

func TestT01T26NothingReachesTheProviderBeforeAllow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	br := w.browser()
	page := br.authorize(authorizeParams(b))
	if page.status != http.StatusOK || page.header.Get("Location") != "" {
		t.Fatalf("no consent page: %d %v", page.status, page.header)
	}
	for _, c := range page.header.Values("Set-Cookie") {
		if strings.Contains(c, "_login_") {
			t.Errorf("a login cookie before consent: %s", c)
		}
	}
	denied := form(t, page)
	denied.Set("decision", "deny")
	back := location(t, br.post(w.url+endpoints+"/consent", denied))
	if back.Query().Get("error") != "access_denied" || back.Query().Get("iss") != w.url || back.Query().Get("state") != "bot-state" {
		t.Errorf("after Deny: %s", back)
	}
	if n := w.provider.tokenRequests(); n != 0 {
		t.Errorf("%d requests at the provider", n)
	}
}

func TestT02CallbackInAnotherBrowserEndsTheLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	attacker, victim := w.browser(), w.browser()
	callback := w.callbackURL(attacker.allow(attacker.authorize(authorizeParams(b))))
	if a := victim.get(callback); a.status != http.StatusForbidden || a.header.Get("Location") != "" {
		t.Errorf("in the victim's browser: %d %v", a.status, a.header)
	}
	if a := attacker.get(callback); a.status != http.StatusBadRequest {
		t.Errorf("afterwards in the attacker's browser: %d", a.status)
	}
	if n := w.provider.tokenRequests(); n != 0 {
		t.Errorf("%d requests at the provider", n)
	}
}

func TestT03ConsentIsAcceptedOnlyFromItsOwnPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	attacker, victim := w.browser(), w.browser()
	stolen := form(t, attacker.authorize(authorizeParams(b)))
	consent := w.url + endpoints + "/consent"
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	if a := victim.post(consent, stolen, header("Origin", "https://evil.test")); a.status != http.StatusForbidden {
		t.Errorf("from another origin: %d", a.status)
	}
	if a := victim.post(consent, stolen, header("Sec-Fetch-Site", "cross-site")); a.status != http.StatusForbidden {
		t.Errorf("cross-site: %d", a.status)
	}
	if a := victim.post(consent, stolen); a.status != http.StatusForbidden {
		t.Errorf("without a cookie: %d", a.status)
	}
	own := form(t, victim.authorize(authorizeParams(b)))
	mixed := url.Values{"request": {stolen.Get("request")}, "csrf": {own.Get("csrf")}, "decision": {"allow"}}
	if a := victim.post(consent, mixed); a.status != http.StatusForbidden {
		t.Errorf("with the token of another page: %d", a.status)
	}
	if a := attacker.post(consent, stolen, header("Origin", w.url), header("Sec-Fetch-Site", "same-origin")); a.status != http.StatusSeeOther {
		t.Errorf("from the page itself: %d %s", a.status, a.body)
	}
}

func TestT10DoubleNavigationLeadsToTheSamePlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	br := w.browser()
	params := authorizeParams(w.register(""))
	first, second := br.authorize(params), br.authorize(params)
	once, twice := br.allow(first), br.allow(first)
	if location(t, once).String() != location(t, twice).String() {
		t.Errorf("pressed twice:\n%s\n%s", once.header.Get("Location"), twice.header.Get("Location"))
	}
	if a := br.allow(second); a.status != http.StatusSeeOther {
		t.Errorf("the page that was fetched again: %d", a.status)
	}
}

func TestT11ManyLoginsKeepTheCookiesSmall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	br := w.browser()
	params := authorizeParams(w.register(""))
	var newest answer
	for range 30 {
		newest = br.allow(br.authorize(params))
		w.turn(time.Second)
	}
	u, _ := url.Parse(w.url)
	size := 0
	for _, c := range br.client.Jar.Cookies(u) {
		size += len(c.Name) + len(c.Value) + 3
	}
	if size > 2048 {
		t.Errorf("cookies take %d bytes", size)
	}
	if back := location(t, br.get(w.callbackURL(newest))); back.Query().Get("code") == "" {
		t.Errorf("the newest login failed: %s", back)
	}
}

func TestT13T17ErrorsRedirectOnlyToRegisteredURIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	for name, c := range map[string]struct {
		edit  func(url.Values)
		error string // empty: a page, no redirect
	}{
		"unknown client":          {func(v url.Values) { v.Set("client_id", "gateway_0000000000000000") }, ""},
		"no client":               {func(v url.Values) { v.Del("client_id") }, ""},
		"two clients":             {func(v url.Values) { v.Add("client_id", "x") }, ""},
		"other redirect URI":      {func(v url.Values) { v.Set("redirect_uri", "https://evil.test/cb") }, ""},
		"two redirect URIs":       {func(v url.Values) { v.Add("redirect_uri", redirectURI) }, ""},
		"token response":          {func(v url.Values) { v.Set("response_type", "token") }, "unsupported_response_type"},
		"no response type":        {func(v url.Values) { v.Del("response_type") }, "unsupported_response_type"},
		"no challenge":            {func(v url.Values) { v.Del("code_challenge") }, "invalid_request"},
		"plain challenge":         {func(v url.Values) { v.Set("code_challenge_method", "plain") }, "invalid_request"},
		"challenge, no method":    {func(v url.Values) { v.Del("code_challenge_method") }, "invalid_request"},
		"short challenge":         {func(v url.Values) { v.Set("code_challenge", "short") }, "invalid_request"},
		"other resource":          {func(v url.Values) { v.Set("resource", w.url+"/mcp/b") }, "invalid_target"},
		"unknown resource":        {func(v url.Values) { v.Set("resource", "https://else.test/mcp") }, "invalid_target"},
		"two resources":           {func(v url.Values) { v["resource"] = []string{w.url + "/mcp/a", w.url + "/mcp/b"} }, "invalid_target"},
		"request object":          {func(v url.Values) { v.Set("request", "x") }, "request_not_supported"},
		"fragment response mode":  {func(v url.Values) { v.Set("response_mode", "fragment") }, "invalid_request"},
		"repeated code challenge": {func(v url.Values) { v.Add("code_challenge", challenge()) }, "invalid_request"},
	} {
		params := authorizeParams(b)
		c.edit(params)
		a := w.browser().authorize(params)
		if c.error == "" {
			if a.status != http.StatusBadRequest || a.header.Get("Location") != "" || !strings.Contains(a.header.Get("Content-Type"), "text/html") {
				t.Errorf("%s: got %d %v", name, a.status, a.header)
			}
			continue
		}
		q := location(t, a).Query()
		if q.Get("error") != c.error || q.Get("iss") != w.url || q.Get("state") != "bot-state" || q.Get("error_description") == "" {
			t.Errorf("%s: got %v, want %s", name, q, c.error)
		}
	}
	if a := w.browser().get(w.url + endpoints + "/nowhere/authorize?" + authorizeParams(b).Encode()); a.status != http.StatusNotFound {
		t.Errorf("unknown proxy: %d", a.status)
	}
	without := authorizeParams(b)
	without.Del("redirect_uri")
	if a := w.browser().authorize(without); a.status != http.StatusOK {
		t.Errorf("the only registered redirect URI may be left out: %d", a.status)
	}
}

func TestT26StateMustBeOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	br := w.browser()
	b := w.register("")
	callback := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
	u, _ := url.Parse(callback)
	q := u.Query()
	state := q.Get("state")
	flipped := "A" + state[1:]
	if state[0] == 'A' {
		flipped = "B" + state[1:]
	}
	for name, other := range map[string]string{"absent": "", "truncated": state[:20], "altered": flipped, "longer": state + "A"} {
		q.Set("state", other)
		if a := br.get(w.url + "/oauth/callback?" + q.Encode()); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, a.status)
		}
	}
	w.turn(6 * time.Minute)
	if a := br.get(callback); a.status != http.StatusBadRequest {
		t.Errorf("too late: %d", a.status)
	}
	if n := w.provider.tokenRequests(); n != 0 {
		t.Errorf("%d requests at the provider", n)
	}
}

func TestT31HeadRequestTakesNoStepOfALogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, consentMode(authserver.ConsentOff))
	b, br := w.register(""), w.browser()
	callback := w.callbackURL(br.authorize(authorizeParams(b)))
	script, _ := w.startSession()
	head := func(r *http.Request) { r.Method = http.MethodHead }
	for name, target := range map[string]string{
		"authorize": w.url + endpoints + "/a/authorize?" + authorizeParams(b).Encode(), "connect": w.url + "/oauth/authorize/a", "consent": w.url + endpoints + "/consent",
		"callback": callback, "callback of a script": script, "the other callback": strings.Replace(callback, "/api/v1/", "/", 1),
	} {
		if a := br.get(target, head); a.status != http.StatusMethodNotAllowed || len(a.header["Set-Cookie"]) > 0 {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
	}
	if n := w.provider.tokenRequests(); n != 0 {
		t.Errorf("the provider's code was redeemed %d times", n)
	}
	if location(t, br.get(callback)).Query().Get("code") == "" {
		t.Error("the login did not survive")
	}
	for _, path := range []string{"/oauth/", "/.well-known/oauth-authorization-server"} {
		if a := w.fetch(w.url+path, head); a.status != http.StatusOK {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}

func TestT31RepeatedCallbackGetsTheSameAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	br := w.browser()
	callback := w.callbackURL(br.allow(br.authorize(authorizeParams(w.register("")))))
	w.provider.delay = 50 * time.Millisecond
	if a := br.get(callback, func(r *http.Request) { r.Header.Set("Sec-Purpose", "prefetch") }); a.status != http.StatusNoContent {
		t.Errorf("prefetch: %d", a.status)
	}
	answers := make([]answer, 4)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = br.get(callback) })
	}
	wg.Wait()
	for _, a := range append([]answer{br.get(callback)}, answers...) {
		if location(t, a).String() != location(t, answers[0]).String() || location(t, a).Query().Get("code") == "" {
			t.Errorf("got %s and %s", a.header.Get("Location"), answers[0].header.Get("Location"))
		}
	}
	if n := w.provider.tokenRequests(); n != 1 {
		t.Errorf("%d exchanges at the provider, want 1", n)
	}
	w.turn(2 * time.Minute)
	if a := br.get(callback); a.status != http.StatusBadRequest {
		t.Errorf("much later: %d", a.status)
	}
}

func TestProviderErrorsGoBackToTheClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	br := w.browser()
	u, _ := url.Parse(w.callbackURL(br.allow(br.authorize(authorizeParams(b)))))
	q := url.Values{"state": {u.Query().Get("state")}, "error": {"access_denied"}, "error_description": {"<script>alert(1)</script>"}}
	back := location(t, br.get(w.url+"/oauth/callback?"+q.Encode())).Query()
	if back.Get("error") != "access_denied" || strings.Contains(back.Get("error_description"), "script") || back.Get("iss") != w.url {
		t.Errorf("user said no at the provider: %v", back)
	}
	w.provider.failToken = http.StatusServiceUnavailable
	back = location(t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b)))))).Query()
	if back.Get("error") != "temporarily_unavailable" {
		t.Errorf("provider down: %v", back)
	}
}
