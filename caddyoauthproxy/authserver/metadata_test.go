package authserver_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

func TestMetadataNamesEndpointsThatExist(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		a := w.get(path)
		m := a.json(t)
		if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" || m["issuer"] != w.url {
			t.Fatalf("%s: %d %v %s", path, a.status, a.header, a.body)
		}
		if supported, _ := m["authorization_response_iss_parameter_supported"].(bool); !supported {
			t.Errorf("%s: iss is not advertised", path)
		}
		if methods := m["code_challenge_methods_supported"].([]any); len(methods) != 1 || methods[0] != "S256" {
			t.Errorf("%s: code challenge methods %v", path, methods)
		}
		for _, member := range []string{"authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint", "introspection_endpoint", "jwks_uri"} {
			at, _ := m[member].(string)
			if a := w.get(strings.TrimPrefix(at, w.url)); !strings.HasPrefix(at, w.url) || a.status == http.StatusNotFound {
				t.Errorf("%s: %s is %q and answers %d", path, member, at, a.status)
			}
		}
	}
	pinned := w.get("/.well-known/oauth-authorization-server?proxy_id=b").json(t)
	if pinned["issuer"] != w.url || pinned["token_endpoint"] != w.url+endpoints+"/b/token" || pinned["registration_endpoint"] != w.url+endpoints+"/b/register" {
		t.Errorf("pinned: %v", pinned)
	}
	if a := w.get("/.well-known/oauth-authorization-server?proxy_id=nowhere"); a.status != http.StatusNotFound {
		t.Errorf("unknown proxy: %d", a.status)
	}
}

func TestResourceMetadataIsPerPathAndExact(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, id := range []string{"a", "b"} {
		a := w.get("/.well-known/oauth-protected-resource/mcp/" + id)
		m := a.json(t)
		if m["resource"] != w.url+"/mcp/"+id || m["authorization_servers"].([]any)[0] != w.url || m["scopes_supported"].([]any)[0] != "mcp" {
			t.Errorf("%s: %s", id, a.body)
		}
		if strings.Contains(a.body, "offline_access") || strings.Contains(a.body, "null") || strings.Contains(a.body, `""`) {
			t.Errorf("%s: members that should not be there: %s", id, a.body)
		}
	}
	for _, path := range []string{"", "/", "/mcp", "/mcp/c", "/mcp/a/b", "/MCP/a", "x"} {
		if a := w.get("/.well-known/oauth-protected-resource" + path); a.status != http.StatusNotFound {
			t.Errorf("%q: %d %s", path, a.status, a.body)
		}
	}
	one := newWorld(t, func(o *authserver.Options) { o.Proxies = o.Proxies[:1] })
	if m := one.get("/.well-known/oauth-protected-resource").json(t); m["resource"] != one.url+"/mcp/a" {
		t.Errorf("root, with one proxy: %v", m)
	}
}

func TestIssuerMayHaveAPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		u := *o.Issuer
		u.Path = "/auth"
		o.Issuer = &u
	})
	for _, path := range []string{"/.well-known/oauth-authorization-server/auth", "/auth/.well-known/openid-configuration", "/.well-known/openid-configuration/auth"} {
		if m := w.get(path).json(t); m["issuer"] != w.url+"/auth" || m["token_endpoint"] != w.url+"/auth"+endpoints+"/token" {
			t.Errorf("%s: %v", path, m)
		}
	}
	if a := w.postJSON("/auth"+endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"]}`); a.status != http.StatusCreated {
		t.Errorf("register: %d", a.status)
	}
	if a := w.get("/auth/.well-known/jwks.json"); a.status != http.StatusOK {
		t.Errorf("JWKS: %d", a.status)
	}
}

func TestT35NothingComesFromRequestHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource/mcp/a", endpoints + "/a/authorize", "/oauth/"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.test"
		req.Header.Set("X-Forwarded-Host", "evil.test")
		req.Header.Set("X-Forwarded-Proto", "gopher")
		req.Header.Set("Forwarded", "host=evil.test;proto=gopher")
		a := do(t, noRedirect(), req)
		all := a.body
		for k, v := range a.header {
			all += k + strings.Join(v, "")
		}
		if strings.Contains(all, "evil.test") || strings.Contains(all, "gopher") {
			t.Errorf("%s: %s", path, all)
		}
	}
}

func TestT48CachingAndCORS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	br := w.browser()
	page := br.authorize(authorizeParams(b))
	private := map[string]answer{
		"authorize":       page,
		"authorize error": w.browser().authorize(url.Values{}),
		"consent":         br.allow(page),
		"consent error":   w.postForm(endpoints+"/consent", url.Values{}),
		"callback error":  w.get("/api/v1/oauth/callback?state=x"),
		"alias error":     w.get("/oauth/callback?state=x"),
		"wrong method":    w.postForm(endpoints+"/a/authorize", url.Values{}),
	}
	for name, a := range private {
		if a.header.Get("Cache-Control") != "no-store" || a.header.Get("Referrer-Policy") != "no-referrer" || a.header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
		if a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s is readable from other origins", name)
		}
	}
	public := map[string]answer{
		"token":          w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)),
		"token error":    w.postForm(endpoints+"/a/token", url.Values{}),
		"register":       w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"]}`),
		"register error": w.postJSON(endpoints+"/a/register", `{}`),
		"revoke":         w.postForm(endpoints+"/a/revoke", url.Values{"token": {"x"}, "client_id": {b.id}, "client_secret": {b.secret}}),
	}
	for name, a := range public {
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control %q", name, a.header.Get("Cache-Control"))
		}
		if a.header.Get("Access-Control-Allow-Origin") != "*" || a.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: %v", name, a.header)
		}
	}
	for path, open := range map[string]bool{
		"/.well-known/oauth-authorization-server": true, "/.well-known/jwks.json": true, endpoints + "/token": true, endpoints + "/a/register": true,
		endpoints + "/authorize": false, endpoints + "/consent": false, "/oauth/callback": false,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, w.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", "https://evil.test")
		req.Header.Set("Access-Control-Request-Method", "POST")
		a := do(t, noRedirect(), req)
		if allowed := a.header.Get("Access-Control-Allow-Origin") == "*"; allowed != open || open && a.status != http.StatusNoContent {
			t.Errorf("preflight of %s: %d %v", path, a.status, a.header)
		}
		if open && !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "MCP-Protocol-Version") {
			t.Errorf("preflight of %s: %v", path, a.header)
		}
	}
}

func TestOtherPathsAreNotTheServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for path, want := range map[string]bool{
		"/": false, "/mcp/a": false, "/oauth": true, "/oauth/x": false, "/.well-known/acme-challenge/x": false,
		"/.well-known/oauth-protected-resourcex": false, "/oauth/": true, endpoints + "/token": true, endpoints + "/a/token": true, endpoints + "/a/b/token": false,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.server.Handles(req); got != want && path != "/oauth" {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}
