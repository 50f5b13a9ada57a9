package authserver_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// Defects that other gateways had, each shown to be absent.

func TestDefectVerifierMayNotBeOmitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	form := codeForm(b, w.login(b))
	for name, change := range map[string]func(url.Values){
		"absent": func(v url.Values) { v.Del("code_verifier") },
		"empty":  func(v url.Values) { v.Set("code_verifier", "") },
		"wrong":  func(v url.Values) { v.Set("code_verifier", strings.Repeat("x", 43)) },
		"short":  func(v url.Values) { v.Set("code_verifier", "x") },
	} {
		v, _ := url.ParseQuery(form.Encode())
		change(v)
		if a := w.postForm(endpoints+"/a/token", v); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	w.tokens(w.postForm(endpoints+"/a/token", form))
}

func TestDefectOnlyAdvertisedChallengeMethodsAreAccepted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	advertised, _ := w.get("/.well-known/oauth-authorization-server").json(t)["code_challenge_methods_supported"].([]any)
	for _, method := range []string{"S256", "plain", "", "s256", "S512"} {
		p := authorizeParams(b)
		p.Set("code_challenge_method", method)
		accepted := w.browser().authorize(p).status == http.StatusOK
		if accepted != slices.Contains(advertised, any(method)) {
			t.Errorf("method %q: accepted %v, advertised %v", method, accepted, advertised)
		}
	}
}

func TestDefectRefreshLeavesOtherGrantsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	var logins []tokens
	for range 3 {
		logins = append(logins, w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b)))))
	}
	next := w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, logins[1].refresh)))
	w.turn(2 * time.Minute)
	w.postForm(endpoints+"/a/token", refreshForm(b, logins[1].refresh)) // reuse: ends this one
	if w.works(next.access) {
		t.Error("reuse ended nothing")
	}
	for _, i := range []int{0, 2} {
		if !w.works(logins[i].access) {
			t.Errorf("login %d ended with another", i)
		}
		w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, logins[i].refresh)))
	}
}

func TestDefectRefreshTokenIsNeitherReusableNorEverlasting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	w.turn(2 * time.Minute)
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("a second use: %s", a.body)
	}
	b, got = w.session()
	w.turn(31 * 24 * time.Hour)
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" && a.oauthError(t) != "invalid_client" {
		t.Errorf("after a month of silence: %s", a.body)
	}
}

func TestDefectClientCannotRevokeAnothersToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, got := w.session()
	other := w.register("")
	for _, token := range []string{got.access, got.refresh} {
		if a := w.postForm(endpoints+"/a/revoke", url.Values{"token": {token}, "client_id": {other.id}, "client_secret": {other.secret}}); a.status != http.StatusOK {
			t.Errorf("the answer tells that the token exists: %d", a.status)
		}
	}
	if !w.works(got.access) {
		t.Error("one client ended another's grant")
	}
}

func TestDefectCodeIsConsumedAtomically(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.node()
	b := w.register("")
	form := codeForm(b, w.login(b))
	var mu sync.Mutex
	var won []tokens
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if i == 20 {
				w.serving.Store(other) // the second half meets another node
			}
			a := w.postForm(endpoints+"/a/token", form)
			if a.status == http.StatusOK {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, w.tokens(a))
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || !w.works(won[0].access) {
		t.Errorf("%d of 40 redemptions succeeded", len(won))
	}
}

func TestDefectBasicSecretIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"]}`).json(t) // client_secret_basic, the default
	b := bot{a["client_id"].(string), a["client_secret"].(string)}
	got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {got.refresh}}
	for secret, want := range map[string]int{"wrong": 401, "": 401, b.secret: 200} {
		if a := w.postForm(endpoints+"/a/token", form, func(r *http.Request) { r.SetBasicAuth(b.id, secret) }); a.status != want {
			t.Errorf("secret %q: %d", secret, a.status)
		}
	}
}

func TestDefectEveryAdvertisedEndpointIsRouted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, query := range []string{"", "?proxy_id=a"} {
		for name, v := range w.get("/.well-known/oauth-authorization-server" + query).json(t) {
			address, ok := v.(string)
			if !ok || name == "issuer" || !strings.HasPrefix(address, "http") {
				continue
			}
			if a := w.get(strings.TrimPrefix(address, w.url)); a.status == http.StatusNotFound {
				t.Errorf("%s %s is not there", name, address)
			}
		}
	}
}

func TestDefectCORSNeverAllowsCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	origin := func(r *http.Request) { r.Header.Set("Origin", "https://evil.test") }
	for path, open := range map[string]bool{
		endpoints + "/a/token": true, endpoints + "/a/register": true, "/.well-known/oauth-authorization-server": true, "/.well-known/jwks.json": true,
		endpoints + "/a/authorize": false, endpoints + "/consent": false, "/oauth/callback": false, "/oauth/authorize/a": false, sessions + "/validate": false,
	} {
		a := w.fetch(w.url+path, origin)
		if a.header.Get("Access-Control-Allow-Credentials") != "" || (a.header.Get("Access-Control-Allow-Origin") == "*") != open {
			t.Errorf("%s: %v", path, a.header)
		}
		if open && !strings.Contains(a.header.Get("Access-Control-Expose-Headers"), "WWW-Authenticate") {
			t.Errorf("%s hides the challenge", path)
		}
	}
}

func TestDefectTokensNameTheirUserAndAudience(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	claims := func(access string) map[string]any {
		t.Helper()
		var m map[string]any
		raw, err := base64.RawURLEncoding.DecodeString(strings.Split(access, ".")[1])
		if err != nil || json.Unmarshal(raw, &m) != nil {
			t.Fatalf("%q: %v", access, err)
		}
		return m
	}
	_, alice := w.session()
	w.provider.mu.Lock()
	w.provider.user = map[string]any{"sub": "u2", "email": "bob@example.com", "email_verified": true}
	w.provider.mu.Unlock()
	_, bob := w.session()
	a, b := claims(alice.access), claims(bob.access)
	if a["sub"] == b["sub"] || a["sub"] == "" || a["aud"] != w.url+"/mcp/a" || b["aud"] != w.url+"/mcp/a" {
		t.Errorf("alice %v, bob %v", a, b)
	}
}

func TestDefectRevocationSendsTheRefreshTokenToTheProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	w.postForm(endpoints+"/a/revoke", url.Values{"token": {got.access}, "client_id": {b.id}, "client_secret": {b.secret}})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		w.provider.mu.Lock()
		revoked := slices.Clone(w.provider.revoked)
		w.provider.mu.Unlock()
		if len(revoked) > 0 {
			if revoked[0] != "up-refresh-1" {
				t.Errorf("revoked at the provider: %v", revoked)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was revoked at the provider")
		}
	}
}

func TestDefectProviderOutageIsNoInvalidGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	w.provider.mu.Lock()
	w.provider.failToken = http.StatusInternalServerError
	w.provider.mu.Unlock()
	w.turn(2 * time.Hour) // the upstream token has ended, too
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
}

func TestT27PKCEProtectsBothLegs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	br := w.browser()
	toProvider := br.allow(br.authorize(authorizeParams(b)))
	q := location(t, toProvider).Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == challenge() {
		t.Errorf("at the provider: %v", q)
	}
	back := location(t, br.get(w.callbackURL(toProvider)))
	if got := w.provider.requests[0].Get("code_verifier"); oauth2.S256ChallengeFromVerifier(got) != q.Get("code_challenge") {
		t.Error("the verifier that the provider got does not fit its challenge")
	}
	form := codeForm(b, back.Query().Get("code"))
	form.Del("code_verifier")
	if a := w.postForm(endpoints+"/a/token", form); a.status != http.StatusBadRequest {
		t.Errorf("without the client's own verifier: %d", a.status)
	}
}

func TestT36NoParameterSaysWhereToGoNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, target := range []string{"//evil.test", `/\evil.test`, "/%09/evil.test", "https:evil.test", "/;@evil.test", "https://evil.test/x"} {
		for _, path := range []string{"/oauth/", "/oauth/authorize/a", "/oauth/callback", sessions + "/callback", endpoints + "/a/authorize", endpoints + "/consent"} {
			for _, name := range []string{"return_to", "redirect", "next", "rd", "url", "target"} {
				a := w.fetch(w.url + path + "?" + url.Values{name: {target}}.Encode())
				if a.header.Get("Location") != "" || strings.Contains(a.body, "evil.test") {
					t.Errorf("%s?%s=%s: %d %v", path, name, target, a.status, a.header)
				}
			}
		}
	}
}

func TestT40RefusedRequestUsesNothingUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	with := func(form url.Values, name, value string) url.Values {
		v, _ := url.ParseQuery(form.Encode())
		v.Set(name, value)
		return v
	}
	code := codeForm(b, w.login(b))
	for name, c := range map[string]struct{ value, code string }{
		"resource":      {"https://other.test", "invalid_target"},
		"redirect_uri":  {"https://bot.test/other", "invalid_grant"},
		"code_verifier": {strings.Repeat("y", 43), "invalid_grant"},
		"grant_type":    {"password", "unsupported_grant_type"},
	} {
		if a := w.postForm(endpoints+"/a/token", with(code, name, c.value)); a.oauthError(t) != c.code {
			t.Errorf("code with another %s: %s", name, a.body)
		}
	}
	got := w.tokens(w.postForm(endpoints+"/a/token", code))
	refresh := refreshForm(b, got.refresh)
	for name, c := range map[string]struct{ value, code string }{
		"resource": {w.url + "/mcp/b", "invalid_target"}, "scope": {"admin", "invalid_scope"},
	} {
		if a := w.postForm(endpoints+"/a/token", with(refresh, name, c.value)); a.oauthError(t) != c.code {
			t.Errorf("refresh with another %s: %s", name, a.body)
		}
	}
	w.turn(2 * time.Minute) // no grace: the token was not used yet
	w.tokens(w.postForm(endpoints+"/a/token", refresh))
}
