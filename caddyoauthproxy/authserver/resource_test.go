package authserver

import (
	"net/url"
	"slices"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func testProxy(t *testing.T, id, resource string) *Proxy {
	t.Helper()
	u, err := url.Parse(resource)
	if err != nil {
		t.Fatal(err)
	}
	return &Proxy{ID: id, Name: id, Resource: resource, ResourceURL: u, Scopes: []string{"mcp", "admin"}}
}

func TestT47ResourceSelectsExactlyOneProxy(t *testing.T) {
	t.Parallel()
	a, b := testProxy(t, "a", "https://gw.test/mcp/a"), testProxy(t, "b", "https://gw.test/mcp/b")
	two := &Server{order: []*Proxy{a, b}, proxies: map[string]*Proxy{"a": a, "b": b}}
	one := &Server{order: []*Proxy{a}, proxies: map[string]*Proxy{"a": a}}
	atB := &tokenstore.Client{Proxy: "b"}
	for _, c := range []struct {
		name     string
		server   *Server
		pinned   *Proxy
		resource string
		client   *tokenstore.Client
		want     *Proxy
	}{
		{"named", two, nil, "https://gw.test/mcp/a", nil, a},
		{"upper case host, default port, slash", two, nil, "HTTPS://GW.TEST:443/mcp/a/", nil, a},
		{"pinned", two, a, "", nil, a},
		{"pinned and the same", two, a, "https://gw.test/mcp/a", nil, a},
		{"pinned and another", two, a, "https://gw.test/mcp/b", nil, nil},
		{"where the client registered", two, nil, "", atB, b},
		{"named against where the client registered", two, nil, "https://gw.test/mcp/a", atB, a},
		{"nothing said", two, nil, "", nil, nil},
		{"nothing said, only one", one, nil, "", nil, a},
		{"unknown", one, nil, "https://gw.test/mcp/c", nil, nil},
		{"dot segments", two, nil, "https://gw.test/mcp/a/../b", nil, nil},
		{"fragment", two, nil, "https://gw.test/mcp/a#x", nil, nil},
		{"user information", two, nil, "https://x@gw.test/mcp/a", nil, nil},
		{"path case", two, nil, "https://gw.test/MCP/a", nil, nil},
		{"below", two, nil, "https://gw.test/mcp/a/b", nil, nil},
		{"query", two, nil, "https://gw.test/mcp/a?x", nil, nil},
		{"not a URL", two, nil, "mcp", nil, nil},
	} {
		got, err := c.server.selectProxy(c.pinned, c.resource, c.client)
		if got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
		if c.want == nil && (err == nil || err.Code != "invalid_target") {
			t.Errorf("%s: got error %v, want invalid_target", c.name, err)
		}
	}
}

func TestScopesAreThoseAskedForOrAll(t *testing.T) {
	t.Parallel()
	p := testProxy(t, "a", "https://gw.test/mcp/a")
	for requested, want := range map[string][]string{
		"":                      {"mcp", "admin"},
		"read:jira offline":     {"mcp", "admin"},
		"admin":                 {"admin"},
		"admin mcp mcp unknown": {"mcp", "admin"},
	} {
		if got := grantScopes(p, requested); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", requested, got, want)
		}
	}
}

func FuzzCanonicalResource(f *testing.F) {
	f.Add("https://gw.test/mcp")
	f.Add("HTTP://X:80/a/")
	f.Fuzz(func(t *testing.T, raw string) {
		c, ok := canonicalResource(raw)
		if !ok {
			return
		}
		if again, ok := canonicalResource(c); !ok || again != c {
			t.Fatalf("%q became %q, which becomes %q", raw, c, again)
		}
	})
}
