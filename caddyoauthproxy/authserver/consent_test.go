package authserver_test

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

func consentMode(mode authserver.ConsentMode) option {
	return func(o *authserver.Options) {
		for _, p := range o.Proxies {
			p.Consent = mode
		}
	}
}

func scopes(list ...string) option {
	return func(o *authserver.Options) {
		o.Proxies[0].Scopes = list
		o.Proxies[0].ScopeTexts = map[string]string{"write": "change issues"}
	}
}

// site is what a browser says about who began a request.
func site(v string) func(*http.Request) {
	return func(r *http.Request) {
		if v != "" {
			r.Header.Set("Sec-Fetch-Site", v)
		}
	}
}

// agree answers a consent page with further fields, and goes on until the browser is back at the client.
func (b *browser) agree(page answer, fields url.Values) *url.URL {
	b.w.t.Helper()
	f := form(b.w.t, page)
	maps.Copy(f, fields)
	return location(b.w.t, b.get(b.w.callbackURL(b.post(b.w.url+endpoints+"/consent", f))))
}

func (b *browser) authorizeFrom(params url.Values, begunBy string) answer {
	b.w.t.Helper()
	return b.get(b.w.url+endpoints+"/a/authorize?"+params.Encode(), site(begunBy))
}

func TestT04RememberedConsentCountsOnlyWhenTheUserBegan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, consentMode(authserver.ConsentRemember))
	b := w.register("")
	br := w.browser()
	first := br.authorizeFrom(authorizeParams(b), "none")
	if !strings.Contains(first.body, `name="remember"`) {
		t.Fatalf("no offer to remember: %s", first.body)
	}
	br.agree(first, url.Values{"remember": {"1"}})
	for begunBy, asked := range map[string]bool{"none": false, "same-origin": false, "same-site": true, "cross-site": true, "": true, "odd": true} {
		a := br.authorizeFrom(authorizeParams(b), begunBy)
		if asked != (a.status == http.StatusOK) {
			t.Errorf("begun by %q: %d", begunBy, a.status)
		}
		if !asked && location(t, br.get(w.callbackURL(a))).Query().Get("code") == "" {
			t.Errorf("begun by %q: no code", begunBy)
		}
	}
	again := authorizeParams(b)
	again.Set("prompt", "consent")
	if a := br.authorizeFrom(again, "none"); a.status != http.StatusOK {
		t.Errorf("prompt=consent: %d", a.status)
	}
	if a := w.browser().authorizeFrom(authorizeParams(b), "none"); a.status != http.StatusOK {
		t.Errorf("another browser: %d", a.status)
	}
	w.turn(91 * 24 * time.Hour)
	if a := br.authorizeFrom(authorizeParams(w.register("")), "none"); a.status != http.StatusOK {
		t.Errorf("months later: %d", a.status)
	}
}

func TestT04ConsentIsRememberedOnlyOnRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, consentMode(authserver.ConsentRemember))
	b := w.register("")
	br := w.browser()
	br.agree(br.authorizeFrom(authorizeParams(b), "none"), nil)
	if a := br.authorizeFrom(authorizeParams(b), "none"); a.status != http.StatusOK {
		t.Errorf("remembered unasked: %d", a.status)
	}
	always := newWorld(t)
	b = always.register("")
	br = always.browser()
	page := br.authorizeFrom(authorizeParams(b), "none")
	br.agree(page, url.Values{"remember": {"1"}})
	if a := br.authorizeFrom(authorizeParams(b), "none"); a.status != http.StatusOK || strings.Contains(page.body, `name="remember"`) {
		t.Errorf("mode always remembers: %d", a.status)
	}
}

func TestT05RememberedConsentCoversNothingElse(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.publish(p.document(map[string]any{"redirect_uris": []string{redirectURI, redirectURI + "2"}}))
	w := newWorld(t, p.accepted, consentMode(authserver.ConsentRemember), scopes("read", "write"))
	b := bot{id: p.id()}
	br := w.browser()
	params := func(changes ...string) url.Values {
		v := authorizeParams(b)
		v.Set("scope", "read")
		for i := 0; i < len(changes); i += 2 {
			v.Set(changes[i], changes[i+1])
		}
		return v
	}
	br.agree(br.authorizeFrom(params(), "none"), url.Values{"remember": {"1"}})
	if a := br.authorizeFrom(params(), "none"); a.status != http.StatusSeeOther {
		t.Fatalf("the same again: %d", a.status)
	}
	for name, target := range map[string]string{
		"more scopes":          endpoints + "/a/authorize?" + params("scope", "read write").Encode(),
		"other scopes":         endpoints + "/a/authorize?" + params("scope", "write").Encode(),
		"another redirect URI": endpoints + "/a/authorize?" + params("redirect_uri", redirectURI+"2").Encode(),
		"another proxy":        endpoints + "/b/authorize?" + params().Encode(),
		"another client":       endpoints + "/a/authorize?" + params("client_id", w.register("").id).Encode(),
	} {
		if a := br.get(w.url+target, site("none")); a.status != http.StatusOK {
			t.Errorf("%s: %d", name, a.status)
		}
	}
	w.turn(2 * time.Hour)
	p.publish(p.document(map[string]any{"client_name": "Another Name", "redirect_uris": []string{redirectURI, redirectURI + "2"}}))
	a := br.authorizeFrom(params(), "none")
	if a.status != http.StatusOK || !strings.Contains(a.body, "Something has changed") {
		t.Errorf("changed document: %d %s", a.status, a.body)
	}
}

func TestT05RememberedConsentIsOfOneUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, consentMode(authserver.ConsentRemember))
	b := w.register("")
	br := w.browser()
	br.agree(br.authorizeFrom(authorizeParams(b), "none"), url.Values{"remember": {"1"}})
	w.provider.mu.Lock()
	w.provider.user = map[string]any{"sub": "u2", "email": "mallory@example.com", "email_verified": true}
	w.provider.mu.Unlock()
	back := location(t, br.get(w.callbackURL(br.authorizeFrom(authorizeParams(b), "none"))))
	if back.Query().Get("error") != "access_denied" {
		t.Errorf("another user logged in behind the first one's consent: %s", back)
	}
	if a := br.authorizeFrom(authorizeParams(b), "none"); a.status != http.StatusOK {
		t.Errorf("the next attempt is not asked about: %d", a.status)
	}
}

func TestT12EveryLoginGivesTheBrowserANewSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, consentMode(authserver.ConsentRemember))
	b := w.register("")
	br := w.browser()
	values := make(map[string]bool)
	for i := range 3 {
		b := b
		if i > 0 {
			b = w.register("")
		}
		page := br.authorizeFrom(authorizeParams(b), "none")
		f := form(t, page)
		f.Set("remember", "1")
		done := br.get(w.callbackURL(br.post(w.url+endpoints+"/consent", f)))
		for _, c := range (&http.Response{Header: done.header}).Cookies() {
			if c.Name == "oauth_proxy_user" {
				values[c.Value] = true
				if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
					t.Errorf("cookie: %v", c)
				}
			}
		}
	}
	if len(values) != 3 {
		t.Errorf("%d different sessions after 3 logins", len(values))
	}
	planted := w.browser()
	a := planted.get(w.url+endpoints+"/a/authorize?"+authorizeParams(b).Encode(), site("none"), func(r *http.Request) {
		r.AddCookie(&http.Cookie{Name: "oauth_proxy_user", Value: "chosen-by-somebody"})
	})
	if a.status != http.StatusOK {
		t.Errorf("a made-up session: %d", a.status)
	}
}

func TestUserMayLeaveScopesOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, scopes("read", "write", "admin"))
	b := w.register("")
	br := w.browser()
	params := authorizeParams(b)
	params.Set("scope", "read write")
	page := br.authorize(params)
	for _, want := range []string{`name="scope.read"`, `name="scope.write"`, "change issues"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if strings.Contains(page.body, `name="scope.admin"`) {
		t.Error("the page offers what was not asked for")
	}
	back := br.agree(page, url.Values{"scope.read": {"1"}, "scope.admin": {"1"}})
	m := w.postForm(endpoints+"/a/token", codeForm(b, back.Query().Get("code"))).json(t)
	if m["scope"] != "read" {
		t.Errorf("granted %v", m["scope"])
	}
	wider := refreshForm(b, m["refresh_token"].(string))
	wider.Set("scope", "write")
	if a := w.postForm(endpoints+"/a/token", wider); a.oauthError(t) != "invalid_scope" {
		t.Errorf("refresh to what was left out: %s", a.body)
	}
	none := br.authorize(params)
	if a := br.post(w.url+endpoints+"/consent", form(t, none)); a.status != http.StatusBadRequest || a.header.Get("Location") != "" {
		t.Errorf("nothing chosen: %d", a.status)
	}
}

func TestT01ConsentSwitchedOffStillBindsTheBrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, consentMode(authserver.ConsentOff))
	b := w.register("")
	br := w.browser()
	callback := w.callbackURL(br.authorize(authorizeParams(b)))
	if a := w.browser().get(callback); a.status != http.StatusForbidden {
		t.Errorf("callback in another browser: %d", a.status)
	}
	br = w.browser()
	if location(t, br.get(w.callbackURL(br.authorize(authorizeParams(b))))).Query().Get("code") == "" {
		t.Error("no code")
	}
	if a := w.browser().get(w.url+endpoints+"/a/authorize?"+authorizeParams(b).Encode(), func(r *http.Request) { r.Header.Set("Sec-Purpose", "prefetch;prerender") }); a.status != http.StatusNoContent {
		t.Errorf("prefetch: %d", a.status)
	}
}

func TestT08PageTellsWhoVouchesForTheClient(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := newWorld(t, p.accepted, configured(configuredClient("known", "", "authorization_code", "refresh_token")))
	local := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["http://localhost/cb","http://127.0.0.1/cb"],"client_name":"Claude","token_endpoint_auth_method":"none"}`).json(t)["client_id"].(string)
	const vouched, unknown, loopback = `class="verified"`, "application’s own claim", "program on your own computer"
	for name, c := range map[string]struct{ id, redirect, want, not string }{
		"published":     {p.id(), redirectURI, vouched, unknown},
		"configured":    {"known", redirectURI, vouched, unknown},
		"registered":    {w.register(`,"client_uri":"https://claude.ai"`).id, redirectURI, unknown, vouched},
		"loopback only": {local, "http://localhost:5000/cb", loopback, vouched},
	} {
		params := authorizeParams(bot{id: c.id})
		params.Set("redirect_uri", c.redirect)
		a := w.browser().authorize(params)
		if !strings.Contains(a.body, c.want) || strings.Contains(a.body, c.not) {
			t.Errorf("%s: %s", name, a.body)
		}
	}
	tricky := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"],"client_name":"Cla\u202Eude\n\n✓ The people who run this gateway"}`).json(t)
	a := w.browser().authorize(authorizeParams(bot{id: tricky["client_id"].(string)}))
	if strings.Contains(a.body, "\u202E") || strings.Contains(a.body, vouched) {
		t.Errorf("tricky name: %s", a.body)
	}
}

func TestT08WarningGoesByTheRedirectURIOfTheRequest(t *testing.T) {
	t.Parallel()
	const local, scheme = "http://localhost/cb", "com.bot.app:/cb"
	p := newPublisher(t)
	p.publish(p.document(map[string]any{"redirect_uris": []string{redirectURI, local, scheme}}))
	known := configuredClient("known", "", "authorization_code", "refresh_token")
	known.RedirectURIs = []string{redirectURI, local, scheme}
	w := newWorld(t, p.accepted, configured(known))
	registered := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`","`+local+`","`+scheme+`"],"client_name":"Bot","token_endpoint_auth_method":"none"}`).json(t)["client_id"].(string)
	for what, id := range map[string]string{"published": p.id(), "configured": "known", "registered": registered} {
		for redirect, want := range map[string]string{
			redirectURI: "", local: "This is a program on your own computer", "http://localhost:4711/cb": "This is a program on your own computer",
			scheme: "This opens a program on your own device",
		} {
			params := authorizeParams(bot{id: id})
			params.Set("redirect_uri", redirect)
			a := w.browser().authorize(params)
			if warned := strings.Contains(a.body, `class="warning"`); a.status != http.StatusOK || warned != (want != "") || !strings.Contains(a.body, want) {
				t.Errorf("%s, %s: %d %s", what, redirect, a.status, a.body)
			}
			if want != "" && strings.Contains(a.body, `class="verified"`) {
				t.Errorf("%s, %s: the page vouches for whatever program answers", what, redirect)
			}
		}
	}
}
