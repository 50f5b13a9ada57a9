package authserver_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// serve answers one request without a network, on behalf of a fuzz target.
func (w *world) serve(r *http.Request) *http.Response {
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	return rec.Result()
}

func FuzzAuthorizeParameters(f *testing.F) {
	w := newWorld(f, unlimited)
	b := w.register("")
	good := authorizeParams(b)
	f.Add(good.Encode())
	f.Add(good.Encode() + "&resource=" + url.QueryEscape(w.url+"/mcp/a") + "&scope=mcp+x&prompt=none")
	f.Add("client_id=" + b.id + "&redirect_uri=" + url.QueryEscape("https://evil.test/cb"))
	f.Add("client_id=" + url.QueryEscape("https://evil.test/client.json"))
	f.Add("client_id[]=x&client_id=%00&state=%zz;x")
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path, r.URL.RawQuery = endpoints+"/a/authorize", query
		if id := r.URL.Query().Get("client_id"); strings.HasPrefix(id, "https://") {
			return // it would be fetched
		}
		resp := w.serve(r)
		if resp.StatusCode >= 500 {
			t.Fatalf("%q: %d", query, resp.StatusCode)
		}
		if resp.Header.Get("X-Frame-Options") != "DENY" || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Fatalf("%q: headers %v", query, resp.Header)
		}
		if target := resp.Header.Get("Location"); target != "" && !strings.HasPrefix(target, redirectURI+"?") {
			t.Fatalf("%q: redirected to %s", query, target)
		}
	})
}

func FuzzTokenParameters(f *testing.F) {
	w := newWorld(f, unlimited)
	b := w.register("")
	f.Add(codeForm(b, strings.Repeat("A", 43)).Encode(), "")
	f.Add(refreshForm(b, "gwr_AAAAAUFB.x").Encode(), "Basic Z2F0ZXdheTp4")
	f.Add("grant_type=client_credentials&client_assertion=x.y.z&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer", "")
	f.Add("grant_type=refresh_token&resource=x&resource=y", "Bearer x")
	f.Fuzz(func(t *testing.T, body, authorization string) {
		for _, path := range []string{"/a/token", "/revoke", "/introspect"} {
			r := httptest.NewRequest(http.MethodPost, endpoints+path, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if authorization != "" {
				r.Header["Authorization"] = []string{authorization}
			}
			if form, err := url.ParseQuery(body); err == nil && strings.HasPrefix(form.Get("client_id"), "https://") {
				return // it would be fetched
			}
			resp := w.serve(r)
			var answer map[string]any
			err := json.NewDecoder(resp.Body).Decode(&answer)
			if resp.StatusCode >= 500 || resp.StatusCode != http.StatusOK && (err != nil || answer["error"] == nil) || answer["access_token"] != nil {
				t.Fatalf("%s %q, %q: %d %v", path, body, authorization, resp.StatusCode, answer)
			}
		}
	})
}

func FuzzCookies(f *testing.F) {
	w := newWorld(f, unlimited)
	b := w.register("")
	br := w.browser()
	callback, err := url.Parse(w.callbackURL(br.allow(br.authorize(authorizeParams(b)))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("oauth_proxy_browser=AAAAAAAAAAAAAAAAAAAAAAAAAA; oauth_proxy_user=x")
	f.Add("oauth_proxy_browser=a; oauth_proxy_browser=b")
	f.Add("oauth_proxy_login_" + strings.Repeat("A", 8) + "=" + strings.Repeat("z", 20) + ".x;;;=;\x00")
	f.Fuzz(func(t *testing.T, cookie string) {
		for _, target := range []string{endpoints + "/a/authorize?" + authorizeParams(b).Encode(), "/oauth/authorize/a", callback.RequestURI()} {
			r := httptest.NewRequest(http.MethodGet, target, nil)
			r.Header["Cookie"] = []string{cookie}
			resp := w.serve(r)
			if resp.StatusCode >= 500 || resp.Header.Get("Location") != "" {
				t.Fatalf("%s with %q: %d %v", target, cookie, resp.StatusCode, resp.Header)
			}
			for _, c := range resp.Cookies() {
				if c.Value != "" && strings.Contains(cookie, c.Value) && len(c.Value) < 26 {
					t.Fatalf("%s with %q: the browser's own %v came back", target, cookie, c)
				}
			}
		}
	})
}

func FuzzSessionBody(f *testing.F) {
	w := newWorld(f, unlimited)
	f.Add(`{"session_token":"x.y.z"}`, "")
	f.Add(`{"session_token":"a","session_token":"b"}`, "x")
	f.Fuzz(func(t *testing.T, body, header string) {
		for _, path := range []string{"/validate", "/refresh", "/logout"} {
			r := httptest.NewRequest(http.MethodPost, sessions+path, strings.NewReader(body))
			r.Header["X-Session-Token"] = []string{header}
			if resp := w.serve(r); resp.StatusCode >= 500 {
				t.Fatalf("%s %q: %d", path, body, resp.StatusCode)
			}
		}
	})
}
