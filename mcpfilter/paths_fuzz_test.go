package mcpfilter

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
)

// What the filter lets through must be one path to every reader: cleaning it, decoding it, and both, change nothing that matters.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/jira/mcp", "/jira/mcp/", "/jira/mcp/a%20b", "/jira%2fmcp", "/jira/mcp/../x", "//jira/mcp", "/jira/mcp/%252e", "/%6aira/mcp/%", "/jira/mcp\\x"} {
		f.Add(seed)
	}
	upstream := "/v1/mcp"
	m, err := newPathMap("/jira/mcp", true, &upstream)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || u.Scheme != "" {
			return
		}
		public := u.EscapedPath()
		r := &http.Request{URL: u}
		if m.apply(r) != nil {
			return
		}
		if got := r.URL.Path; got != upstream && !strings.HasPrefix(got, upstream+"/") {
			t.Fatalf("%q left the upstream path: %q", target, got)
		}
		if clean := path.Clean(r.URL.Path); clean != strings.TrimSuffix(r.URL.Path, "/") {
			t.Fatalf("%q reads as %q and as %q", target, r.URL.Path, clean)
		}
		back, ok := m.public(r.URL.EscapedPath())
		if !ok {
			t.Fatalf("%q has no way back from %q", target, r.URL.EscapedPath())
		}
		if a, b := unescaped(t, back), unescaped(t, public); a != b {
			t.Fatalf("%q comes back as %q", b, a)
		}
	})
}

func unescaped(t *testing.T, s string) string {
	t.Helper()
	out, err := url.PathUnescape(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
