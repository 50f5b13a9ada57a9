package authserver_test

import (
	"encoding/json"
	"errors"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const signInCookie = "oauth_proxy_signin"

// signInCallback begins a sign-in, and returns the callback that the provider would lead to.
func (b *browser) signInCallback(query string) string {
	b.w.t.Helper()
	return b.w.callbackURL(b.get(b.w.url + "/oauth/signin" + query))
}

// signIn signs the provider's user in, and returns where that leads to.
func (b *browser) signIn(query string) string {
	b.w.t.Helper()
	return location(b.w.t, b.get(b.signInCallback(query))).String()
}

// signedIn is who the server says is signed in with the browser's cookies.
func (b *browser) signedIn(edit ...func(*http.Request)) (*authserver.SignIn, error) {
	b.w.t.Helper()
	req, err := http.NewRequestWithContext(b.w.t.Context(), http.MethodGet, b.w.url+"/connections", nil)
	if err != nil {
		b.w.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	for _, f := range edit {
		f(req)
	}
	return b.w.server.SignedIn(req)
}

func (b *browser) cookieValue(name string) string {
	u, _ := url.Parse(b.w.url)
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// admins lets an e-mail address operate the gateway.
func admins(emails ...string) option {
	return func(o *authserver.Options) {
		o.Admins = &authserver.Admins{Provider: o.Proxies[0].Provider, Allow: authserver.Policy{Emails: emails}}
	}
}

func TestUserSignsInAndOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.browser()
	if _, err := b.signedIn(); !errors.Is(err, authserver.ErrNotSignedIn) {
		t.Errorf("before: %v", err)
	}
	toProvider := b.get(w.url + "/oauth/signin?return_to=/connections")
	q := location(t, toProvider).Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || len(q.Get("state")) != 43 {
		t.Errorf("to the provider: %v", q)
	}
	finished := b.get(w.callbackURL(toProvider))
	if to := location(t, finished).String(); to != w.url+"/connections" {
		t.Errorf("it leads to %s", to)
	}
	cookie, err := http.ParseSetCookie(finished.header.Get("Set-Cookie"))
	if err != nil || cookie.Name != signInCookie || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Domain != "" || cookie.MaxAge != 8*3600 {
		t.Errorf("cookie: %+v, %v", cookie, err)
	}
	s, err := b.signedIn()
	if err != nil || s.User.Email != "alice@example.com" || s.UserID == "" || s.Admin || s.CSRF == "" || s.ID == "" || !s.Expires.Equal(s.Created.Add(8*time.Hour)) || s.Address != "127.0.0.1" {
		t.Fatalf("signed in: %+v, %v", s, err)
	}
	// Nothing else came of it: no grant, no account, and the provider's tokens are ended.
	if grants, err := w.vault.Grants(t.Context(), tokenstore.GrantQuery{}); len(grants) != 0 || err != nil {
		t.Errorf("grants: %v, %v", grants, err)
	}
	if err := w.server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(w.provider.revoked, "up-access-1") {
		t.Errorf("revoked at the provider: %v", w.provider.revoked)
	}
	out := b.post(w.url+"/oauth/signout", url.Values{"csrf": {s.CSRF}}, sameOrigin)
	if out.status != http.StatusOK || !strings.Contains(out.body, "You are signed out") || b.cookieValue(signInCookie) != "" {
		t.Errorf("signed out: %d, cookie %q", out.status, b.cookieValue(signInCookie))
	}
	if _, err := b.signedIn(func(r *http.Request) { r.AddCookie(&http.Cookie{Name: signInCookie, Value: cookie.Value}) }); !errors.Is(err, authserver.ErrNotSignedIn) {
		t.Errorf("the old cookie after that: %v", err)
	}
}

func sameOrigin(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") }

func TestSignInAsksOnlyWhoTheUserIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.reload(func(o *authserver.Options) {
		w.config.Scopes = []string{"read:jira", "offline_access"}
		p, err := upstream.New("idp", w.config, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Proxies = []*authserver.Proxy{proxy(t, "a", w.url+"/mcp/a", p)}
	})
	if scope := location(t, w.browser().get(w.url+"/oauth/signin")).Query().Get("scope"); strings.Contains(scope, "offline_access") {
		t.Errorf("asks for a refresh token: %s", scope)
	}
}

// Providers that take all of a user's tokens with one, such as Google's, must not end the user's chatbots because the user has signed in.
func TestSignInEndsNoTokenOfTheUsersChatbots(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, tokens := w.session()
	w.browser().signIn("")
	if err := w.server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.provider.revoked) != 0 || !w.works(tokens.access) {
		t.Errorf("revoked at the provider: %v", w.provider.revoked)
	}
}

// Somebody who signs in must be who presses the buttons at the provider, in the same browser.
func TestT12SignInCannotBeFinishedInAnotherBrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	attacker, victim := w.browser(), w.browser()
	callback := attacker.signInCallback("")
	if a := victim.get(callback); a.status != http.StatusForbidden || victim.cookieValue(signInCookie) != "" {
		t.Errorf("the attacker's login in the victim's browser: %d %v", a.status, a.header)
	}
	if a := attacker.get(callback); a.status == http.StatusSeeOther {
		t.Errorf("the login goes on after that: %d", a.status)
	}
	// A finished one is of no use in another browser, either.
	callback = attacker.signInCallback("")
	if a := attacker.get(callback); a.status != http.StatusSeeOther {
		t.Fatalf("own browser: %d %s", a.status, a.body)
	}
	if a := victim.get(callback); a.status == http.StatusSeeOther || victim.cookieValue(signInCookie) != "" {
		t.Errorf("replayed in the victim's browser: %d %v", a.status, a.header)
	}
}

func TestT12EverySignInHasACookieOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.browser()
	u, _ := url.Parse(w.url)
	chosen := strings.Repeat("A", 43)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: signInCookie, Value: chosen, Path: "/"}})
	b.signIn("")
	first := b.cookieValue(signInCookie)
	if first == chosen || first == "" {
		t.Fatalf("a cookie that was planted is kept: %q", first)
	}
	b.signIn("")
	if second := b.cookieValue(signInCookie); second == first {
		t.Error("the second sign-in has the cookie of the first")
	}
	if _, err := w.browser().signedIn(func(r *http.Request) { r.AddCookie(&http.Cookie{Name: signInCookie, Value: first}) }); !errors.Is(err, authserver.ErrNotSignedIn) {
		t.Errorf("the cookie of the sign-in before: %v", err)
	}
	if all, err := w.server.SignIns(t.Context()); len(all) != 1 || err != nil {
		t.Errorf("sign-ins: %v, %v", all, err)
	}
}

func TestSignInCallbackCanBeRepeatedInItsBrowserForAMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.browser()
	callback := b.signInCallback("")
	b.get(callback)
	first := b.cookieValue(signInCookie)
	if a := b.get(callback); a.status != http.StatusSeeOther || b.cookieValue(signInCookie) != first {
		t.Errorf("repeated: %d, %q and %q", a.status, first, b.cookieValue(signInCookie))
	}
	if a := b.get(strings.Replace(callback, "provider-code", "another-code", 1)); a.status != http.StatusBadRequest {
		t.Errorf("with another code: %d", a.status)
	}
	w.turn(2 * time.Minute)
	if a := b.get(callback); a.status != http.StatusBadRequest {
		t.Errorf("later: %d", a.status)
	}
	if n := w.provider.tokenRequests(); n != 1 {
		t.Errorf("%d codes were redeemed", n)
	}
}

func TestT53SignInIsJudgedOnEveryRequest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*world)
		signed bool
		admin  bool
	}{
		"nothing":         {func(*world) {}, true, true},
		"expired":         {func(w *world) { w.turn(8 * time.Hour) }, false, false},
		"not yet expired": {func(w *world) { w.turn(8*time.Hour - time.Second) }, true, true},
		"shorter session_ttl": {func(w *world) {
			w.turn(time.Hour)
			w.reload(func(o *authserver.Options) { o.Lifetimes.SignIn = time.Hour })
		}, false, false},
		"admin list changed":     {func(w *world) { w.reload(admins("bob@example.com")) }, true, false},
		"no admins any more":     {func(w *world) { w.reload(func(o *authserver.Options) { o.Admins = nil }) }, true, false},
		"no page for users":      {func(w *world) { w.reload(admins("bob@example.com"), noConnections) }, false, false},
		"no page for the others": {func(w *world) { w.reload(noConnections) }, true, true},
		"other provider":         {func(w *world) { w.reload(otherProvider(w, "idp"), admins("alice@example.com")) }, false, false},
		"provider renamed":       {func(w *world) { w.reload(otherProvider(w, "sso"), admins("alice@example.com")) }, false, false},
		"ended by an operator": {func(w *world) {
			all, _ := w.server.SignIns(t.Context())
			if err := w.server.EndSignIn(t.Context(), all[0].ID); err != nil {
				t.Error(err)
			}
		}, false, false},
		"all of the user's ended": {func(w *world) {
			all, _ := w.server.SignIns(t.Context())
			if n, err := w.server.EndSignIns(t.Context(), all[0].UserID); n != 1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, admins("alice@example.com"))
			b := w.browser()
			b.signIn("")
			c.change(w)
			s, err := b.signedIn()
			if (err == nil) != c.signed || err != nil && !errors.Is(err, authserver.ErrNotSignedIn) || err == nil && s.Admin != c.admin {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

func noConnections(o *authserver.Options) { o.NoConnections = true }

// otherProvider puts a provider with another token endpoint in the place of the world's.
func otherProvider(w *world, name string) option {
	return func(o *authserver.Options) {
		c := w.config
		if name == "idp" {
			c.TokenURL += "2"
		}
		p, err := upstream.New(name, c, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		var changed []*authserver.Proxy
		for _, have := range o.Proxies {
			proxy := *have
			proxy.Provider = p
			changed = append(changed, &proxy)
		}
		o.Proxies = changed
	}
}

func TestT80ForgedSignInCookiesAreNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, admins("alice@example.com"))
	b := w.browser()
	b.signIn("")
	good := b.cookieValue(signInCookie)
	all, err := w.server.SignIns(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("sign-ins: %v, %v", all, err)
	}
	if raw, _ := json.Marshal(all); strings.Contains(string(raw), good) || all[0].CSRF != "" {
		t.Errorf("the list tells the cookie, or what forms carry: %s", raw)
	}
	flipped := []byte(good)
	flipped[20] ^= 1
	for name, values := range map[string][]string{
		"none": nil, "empty": {""}, "the id that is listed": {all[0].ID}, "the user's id": {all[0].UserID}, "what forms carry": {csrfOf(t, b)},
		"one letter changed": {string(flipped)}, "shorter": {good[:42]}, "longer": {good + "A"}, "twice": {good, good}, "another one first": {"x", good}, "quotes": {`"` + good + `"`}, "not ASCII": {strings.Repeat("é", 43)},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := w.browser().signedIn(func(r *http.Request) {
				for _, v := range values {
					r.Header.Add("Cookie", signInCookie+"="+v)
				}
			})
			if name == "quotes" && err == nil {
				return // RFC 6265 §4.1.1: quotes around a value are none of it
			}
			if s != nil || !errors.Is(err, authserver.ErrNotSignedIn) {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

func csrfOf(t *testing.T, b *browser) string {
	t.Helper()
	s, err := b.signedIn()
	if err != nil {
		t.Fatal(err)
	}
	return s.CSRF
}

func TestT80FormsOfOtherSitesAndSignInsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mine, other := w.browser(), w.browser()
	mine.signIn("")
	other.signIn("")
	token, foreign := csrfOf(t, mine), csrfOf(t, other)
	if token == foreign {
		t.Fatal("two sign-ins share a form token")
	}
	for name, c := range map[string]struct {
		csrf string
		edit func(*http.Request)
		want int
	}{
		"no token":                    {"", sameOrigin, http.StatusForbidden},
		"another sign-in's token":     {foreign, sameOrigin, http.StatusForbidden},
		"cross-site":                  {token, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, http.StatusForbidden},
		"same site, other host":       {token, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, http.StatusForbidden},
		"another origin, old browser": {token, func(r *http.Request) { r.Header.Set("Origin", "https://evil.test") }, http.StatusForbidden},
		"plain text": {token, func(r *http.Request) {
			sameOrigin(r)
			r.Header.Set("Content-Type", "text/plain")
		}, http.StatusBadRequest},
		"from its own page": {token, sameOrigin, http.StatusOK},
	} {
		if name == "from its own page" {
			continue
		}
		if a := mine.post(w.url+"/oauth/signout", url.Values{"csrf": {c.csrf}}, c.edit); a.status != c.want {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if _, err := mine.signedIn(); err != nil {
			t.Fatalf("%s: signed out by it: %v", name, err)
		}
	}
	if a := mine.get(w.url + "/oauth/signout"); a.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", a.status)
	}
	if a := w.browser().post(w.url+"/oauth/signout", nil, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }); a.status != http.StatusForbidden {
		t.Errorf("another site signs somebody out: %d", a.status)
	}
}

func TestSignInLeadsOnlyToPagesOfTheGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, admins("alice@example.com"))
	for in, want := range map[string]string{
		"": "/connections", "/connections": "/connections", "/connections/": "/connections/", "/admin/": "/admin/", "/admin/grants?user=a%20b&sort=-used": "/admin/grants?user=a%20b&sort=-used",
		"/connections?x=//evil.test": "/connections?x=//evil.test",
		"//evil.test":                "", "/\\evil.test": "", "\\\\evil.test": "", "https://evil.test": "", "https:evil.test": "", "javascript:alert(1)": "", "evil.test": "", "/": "", "/jira/mcp": "",
		"/connections/../jira": "", "/connections//x": "", "/connections/%2e%2e/jira": "", "/connectionsx": "", "/admin\t/": "", "/admin\r\nSet-Cookie: x=1": "", " /admin/": "", "/admin/#x": "",
		"//gw.test/admin/": "", "///admin/": "", "/.//evil.test": "", "/admin/%5cevil": "", "/%61dmin/%2f%2fevil": "", "/oauth/signin": "", "/admin/\u00e9": "", "/admin/%00": "", "/admin/%zz": "",
		"/admin/" + strings.Repeat("a", 2000): "",
	} {
		b := w.browser()
		a := b.get(w.url + "/oauth/signin?" + url.Values{"return_to": {in}}.Encode())
		if want == "" {
			if a.status != http.StatusBadRequest || !strings.Contains(a.body, "/oauth/signin") {
				t.Errorf("%q: %d %v", in, a.status, a.header)
			}
			continue
		}
		if to := location(t, b.get(w.callbackURL(a))).String(); to != w.url+want {
			t.Errorf("%q leads to %s", in, to)
		}
	}
	if a := w.get("/oauth/signin?return_to=/connections&return_to=/admin/"); a.status != http.StatusBadRequest {
		t.Errorf("two: %d", a.status)
	}
}

func FuzzReturnTo(f *testing.F) {
	w := newWorld(f)
	for _, seed := range []string{"/connections", "//evil", "/\\evil", "/admin/../x", "/admin/%2e%2e/", "http:/connections"} {
		f.Add(seed)
	}
	base, _ := url.Parse(w.url + "/")
	f.Fuzz(func(t *testing.T, text string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/oauth/signin?"+url.Values{"return_to": {text}}.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		a := do(t, noRedirect(), req)
		if a.status != http.StatusSeeOther {
			return
		}
		// What was accepted is a page of the gateway's whether the issuer stands before it or a browser resolves it.
		u, err := base.Parse(text)
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme || text != "" && !strings.HasPrefix(u.Path, "/connections") && !strings.HasPrefix(u.Path, "/admin") {
			t.Errorf("%q was accepted: %v, %v", text, u, err)
		}
	})
}

var link = regexp.MustCompile(`<a class="button" href="([^"]*)"`)

func TestSignInAsksAtWhichProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		remote, err := upstream.New("remote", upstream.Config{Type: "mcp", Server: "https://mcp.test/mcp"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Proxies = append(o.Proxies, proxy(t, "c", "https://gw.test/mcp/c", remote))
	})
	// One that does not say who a user is is not offered.
	if to := location(t, w.browser().get(w.url+"/oauth/signin")); to.Path != "/authorize" {
		t.Errorf("one provider, and still asked: %s", to)
	}
	if a := w.get("/oauth/signin?provider=remote"); a.status != http.StatusNotFound {
		t.Errorf("provider that does not say who a user is: %d", a.status)
	}
	if a := w.get("/oauth/signin?provider=unknown"); a.status != http.StatusNotFound {
		t.Errorf("unknown provider: %d", a.status)
	}
	w.reload(func(o *authserver.Options) {
		p, err := upstream.New("second", w.config, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Proxies = append(o.Proxies, proxy(t, "d", "https://gw.test/mcp/d", p))
	})
	b := w.browser()
	page := b.get(w.url + "/oauth/signin?return_to=/connections?x=1")
	choices := link.FindAllStringSubmatch(page.body, -1)
	if page.status != http.StatusOK || len(choices) != 2 {
		t.Fatalf("page: %d %s", page.status, page.body)
	}
	to := location(t, b.get(w.callbackURL(b.get(html.UnescapeString(choices[1][1])))))
	if s, err := b.signedIn(); err != nil || s.User.Provider != "second" || to.String() != w.url+"/connections?x=1" {
		t.Errorf("%+v, %v, %s", s, err, to)
	}
}

func TestSignInThatFailsEndsInAPageWithAWayBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, admins("bob@example.com"), noConnections)
	b := w.browser()
	for name, c := range map[string]struct {
		callback func() string
		want     int
	}{
		"not on the list": {func() string { return b.signInCallback("") }, http.StatusForbidden},
		"the user said no": {func() string {
			return strings.Replace(b.signInCallback(""), "code=provider-code", "error=access_denied", 1)
		}, http.StatusForbidden},
		"the provider broke": {func() string {
			callback := b.signInCallback("")
			w.provider.mu.Lock()
			defer w.provider.mu.Unlock()
			w.provider.failToken = http.StatusInternalServerError
			return callback
		}, http.StatusBadRequest},
	} {
		a := b.get(c.callback())
		w.provider.mu.Lock()
		w.provider.failToken = 0
		w.provider.mu.Unlock()
		if a.status != c.want || !strings.Contains(a.body, "Sign in again") || !strings.Contains(a.body, "/oauth/signin") || b.cookieValue(signInCookie) != "" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	w.provider.mu.Lock()
	w.provider.user["email"] = "bob@example.com"
	w.provider.mu.Unlock()
	if to := b.signIn(""); to != w.url+"/admin/" {
		t.Errorf("an operator is led to %s", to)
	}
	w.reload(func(o *authserver.Options) { o.Admins = nil })
	if a := w.get("/oauth/signin"); a.status != http.StatusNotFound {
		t.Errorf("nobody may sign in, and still: %d", a.status)
	}
}

func TestSignInBeginsOnlyFromAVisit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, dest := range []string{"image", "iframe", "script", "empty"} {
		if a := w.browser().get(w.url+"/oauth/signin", func(r *http.Request) { r.Header.Set("Sec-Fetch-Dest", dest) }); a.status != http.StatusForbidden {
			t.Errorf("%s: %d", dest, a.status)
		}
	}
	if a := w.browser().get(w.url+"/oauth/signin", func(r *http.Request) { r.Header.Set("Sec-Fetch-Dest", "document") }); a.status != http.StatusSeeOther {
		t.Errorf("document: %d", a.status)
	}
	w.reload(func(o *authserver.Options) { o.Limits.Login = authserver.Rate{Events: 2, Window: time.Minute} })
	w.browser().get(w.url + "/oauth/signin")
	w.browser().get(w.url + "/oauth/signin")
	if a := w.browser().get(w.url + "/oauth/signin"); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
		t.Errorf("the third in a minute: %d", a.status)
	}
}

func TestExpiredSignInsAreSwept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.browser().signIn("")
	w.turn(8*time.Hour + 2*time.Minute)
	if all, err := w.server.SignIns(t.Context()); len(all) != 0 || err != nil {
		t.Errorf("expired and listed: %v, %v", all, err)
	}
	w.turn(2 * time.Hour)
	if _, err := w.vault.Sweep(t.Context(), w.vault.Now(), 1000); err != nil {
		t.Fatal(err)
	}
	if left, err := w.vault.SignIns(t.Context(), ""); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestAdminsMustBeNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	remote, err := upstream.New("remote", upstream.Config{Type: "mcp", Server: "https://mcp.test/mcp"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]*authserver.Admins{
		"nobody named":           {Provider: w.options.Proxies[0].Provider},
		"no provider":            {Allow: authserver.Policy{Users: []string{"u1"}}},
		"provider without users": {Provider: remote, Allow: authserver.Policy{Users: []string{"u1"}}},
	} {
		o := w.options
		o.Admins = a
		if _, err := authserver.New(t.Context(), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
