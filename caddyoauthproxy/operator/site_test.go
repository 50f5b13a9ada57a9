package operator_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
)

// sitePath is a route's path on the site, with an id in it.
func sitePath(path string) string {
	return "/gw/admin/oauth" + strings.ReplaceAll(path, "{id}", "0123456789abcdef")
}

// Whatever is added to the API is protected: this walks all that there is.
func TestT80EveryRouteOfTheSiteRefusesWhoIsNoAdminAndEveryWriteWhatAnotherSiteMaySend(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := header("X-Test-Cookie", "admin")
	json := header("Content-Type", "application/json")
	for _, r := range operator.Routes() {
		write := r.Method != http.MethodGet
		body := ""
		if write {
			body = "{}"
		}
		for name, c := range map[string]struct {
			edit   []func(*http.Request)
			status int
			write  bool // only writes are refused
		}{
			"nobody signed in":         {nil, 401, false},
			"a user":                   {[]func(*http.Request){header("X-Test-Cookie", "alice")}, 403, false},
			"another host":             {[]func(*http.Request){admin, header("Host", "evil.test")}, 403, false},
			"the host, another port":   {[]func(*http.Request){admin, header("Host", "127.0.0.1:1")}, 403, false},
			"no host's":                {[]func(*http.Request){admin, header("Host", "evil.test"), header("Sec-Fetch-Site", "same-origin"), header("X-CSRF-Token", csrf)}, 403, false},
			"another site":             {[]func(*http.Request){admin, header("Sec-Fetch-Site", "cross-site")}, 403, true},
			"a sister site":            {[]func(*http.Request){admin, header("Sec-Fetch-Site", "same-site"), header("X-CSRF-Token", csrf)}, 403, true},
			"another origin":           {[]func(*http.Request){admin, header("Origin", "https://evil.test")}, 403, true},
			"no origin":                {[]func(*http.Request){admin, header("Origin", "null"), header("X-CSRF-Token", csrf)}, 403, true},
			"text":                     {[]func(*http.Request){admin, header("Content-Type", "text/plain")}, 403, true},
			"a form":                   {[]func(*http.Request){admin, header("Content-Type", "application/x-www-form-urlencoded"), header("Sec-Fetch-Site", "same-origin")}, 403, true},
			"no type":                  {[]func(*http.Request){admin, func(r *http.Request) { r.Header.Del("Content-Type") }}, 403, true},
			"a wrong CSRF token":       {[]func(*http.Request){admin, json, header("X-CSRF-Token", csrf+"x")}, 403, true},
			"an empty CSRF token":      {[]func(*http.Request){admin, json, header("X-CSRF-Token", "")}, 403, true},
			"two CSRF tokens":          {[]func(*http.Request){admin, json, func(r *http.Request) { r.Header["X-Csrf-Token"] = []string{csrf, csrf} }}, 403, true},
			"a CSRF token in the form": {[]func(*http.Request){admin, header("Content-Type", "text/plain"), func(r *http.Request) { r.URL.RawQuery = "csrf=" + csrf }}, 403, true},
		} {
			if c.write && !write {
				continue
			}
			a := w.send(r.Method, w.site.URL+sitePath(r.Path), body, c.edit...)
			var refused struct{ Error, ErrorDescription string }
			if a.decode(t, &refused); a.status != c.status || refused.Error == "" || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s %s, %s: %d %s %v; want %d", r.Method, r.Path, name, a.status, a.body, a.header, c.status)
			}
			if len(a.header.Values("Access-Control-Allow-Origin")) > 0 {
				t.Errorf("%s %s, %s: CORS", r.Method, r.Path, name)
			}
		}
		// The same request gets past all this with what is asked for: no refusal above is there for another reason.
		for name, edit := range map[string][]func(*http.Request){
			"JSON":                           {admin, json},
			"JSON, by a page of the site":    {admin, json, header("Sec-Fetch-Site", "same-origin"), header("Origin", w.site.URL)},
			"JSON, from an old browser":      {admin, json, header("Origin", w.site.URL)},
			"with the token of the sign-in":  {admin, header("Content-Type", "text/plain"), header("X-CSRF-Token", csrf), header("Sec-Fetch-Site", "same-origin")},
			"JSON, with the sign-in's token": {admin, json, header("X-CSRF-Token", csrf)},
		} {
			if a := w.send(r.Method, w.site.URL+sitePath(r.Path), body, edit...); (a.status == 401 || a.status == 403) && !strings.Contains(a.body, "through Caddy's admin endpoint alone") {
				t.Errorf("%s %s, %s: %d %s", r.Method, r.Path, name, a.status, a.body)
			}
		}
	}
}

func TestUnknownRoutesAndMethodsOfTheSiteAreForAdminsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := header("X-Test-Cookie", "admin")
	for _, path := range []string{"/gw/admin/oauth/nothing", "/gw/admin/oauth/", "/gw/admin/oauth/tokens/../clients"} {
		if a := w.send("GET", w.site.URL+path, ""); a.status != 401 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	if a := w.send("GET", w.site.URL+"/gw/admin/oauth/nothing", "", admin); a.status != 404 || !strings.Contains(a.body, `"not_found"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, method := range []string{"PUT", "PATCH", "OPTIONS", "TRACE", "FOO"} {
		if a := w.send(method, w.site.URL+"/gw/admin/oauth/clients", "", header("Origin", "https://evil.test")); a.status != 401 {
			t.Errorf("%s without a sign-in: %d", method, a.status)
		}
		a := w.send(method, w.site.URL+"/gw/admin/oauth/clients", "", admin, header("Content-Type", "application/json"))
		if allow := a.header.Values("Allow"); a.status != 405 && method != "OPTIONS" && method != "TRACE" || a.status == 405 && !slices.Equal(allow, []string{"GET"}) {
			t.Errorf("%s: %d %v", method, a.status, allow)
		}
	}
	if a := w.send("GET", w.site.URL+"/gw/admin/", "", admin); a.status != 404 {
		t.Errorf("beside the API: %d", a.status)
	}
}
