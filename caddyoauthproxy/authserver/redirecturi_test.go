package authserver

import (
	"net/url"
	"strings"
	"testing"
)

func TestT14T15RedirectURIMatchesOnlyItselfAndOtherLoopbackPorts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		registered, requested string
		want                  bool
	}{
		{"https://c.test/cb", "https://c.test/cb", true},
		{"https://c.test/cb", "https://c.test/CB", false},
		{"https://c.test/cb", "https://c.test/cb/", false},
		{"https://c.test/cb", "https://c.test/cb?x=1", false},
		{"https://c.test/cb", "https://c.test/cb#f", false},
		{"https://c.test/cb", "https://c.test/x/../cb", false},
		{"https://c.test/cb", "https://c.test/%63b", false},
		{"https://c.test/cb", "https://c.test/cb%2f..%2fsteal", false},
		{"https://c.test/cb", "https://c.test@evil.test/cb", false},
		{"https://c.test/cb", `https://c.test\@evil.test/cb`, false},
		{"https://c.test/cb", "https://c.test:443/cb", false},
		{"https://c.test/cb", "https://c.test.evil.test/cb", false},
		{"https://c.test/cb", "HTTPS://c.test/cb", false},
		{"https://c.test/cb", "", false},
		{"http://localhost/cb", "http://localhost:49152/cb", true},
		{"http://localhost:1/cb", "http://localhost:2/cb", true},
		{"http://localhost:1/cb", "http://localhost/cb", true},
		{"http://127.0.0.1/cb", "http://127.0.0.1:49152/cb", true},
		{"http://[::1]/cb", "http://[::1]:49152/cb", true},
		{"http://[::1]:3/cb", "http://[::1]/cb", true},
		{"http://localhost/cb", "http://127.0.0.1:49152/cb", false},
		{"http://localhost/cb", "http://localhost.evil.test:1/cb", false},
		{"http://localhost/cb", "http://localhost:1/other", false},
		{"http://localhost/cb", "http://localhost:1/cb?x=1", false},
		{"http://localhost/cb?x=1", "http://localhost:1/cb?x=1", true},
		{"http://localhost/cb", "https://localhost:1/cb", false},
		{"http://localhost/cb", "http://localhost:1@evil.test/cb", false},
		{"http://LOCALHOST/cb", "http://localhost:1/cb", false},
		{"https://localhost/cb", "https://localhost:1/cb", false},
		{"http://c.test/cb", "http://c.test:1/cb", false},
		{"http://127.0.0.2/cb", "http://127.0.0.2:1/cb", false},
	} {
		if got := sameRedirectURI(c.registered, c.requested); got != c.want {
			t.Errorf("registered %q, requested %q: got %v, want %v", c.registered, c.requested, got, c.want)
		}
	}
}

func TestT16OnlySafeRedirectURIsCanBeRegistered(t *testing.T) {
	t.Parallel()
	listed := []string{"cursor://anysphere.cursor-mcp/oauth/callback", "javascript:alert(1)"}
	for uri, ok := range map[string]bool{
		"https://c.test/cb":                               true,
		"https://c.test":                                  true,
		"https://c.test:8443/cb?a=b":                      true,
		"http://localhost:8888/callback":                  true,
		"http://127.0.0.1:6276/oauth/callback":            true,
		"http://[::1]/cb":                                 true,
		"com.example.app:/cb":                             true,
		"cursor://anysphere.cursor-mcp/oauth/callback":    true, // listed
		"cursor://anysphere.cursor-mcp/oauth/callback/2":  false,
		"vscode://x/cb":                                   false,
		"javascript:alert(1)":                             false, // never, even listed
		"JaVaScRiPt:alert(1)":                             false,
		"\tjavascript:alert(1)":                           false,
		"data:text/html,x":                                false,
		"vbscript:x":                                      false,
		"file:///etc/passwd":                              false,
		"blob:https://c.test/x":                           false,
		"about:blank":                                     false,
		"http://evil.test/cb":                             false,
		"http://localhost.evil.test/cb":                   false,
		"https://c.test/cb#frag":                          false,
		"https://c.test/cb#":                              false,
		"https://user@c.test/cb":                          false,
		`https://c.test\@evil.test/cb`:                    false,
		"https://c.test/a/../cb":                          false,
		"https://c.test/a/%2e%2e/cb":                      false,
		"https://c.test/a%2fcb":                           false,
		"https://c.test/*":                                false,
		"https://c.test/ä":                                false,
		"https://c.test/a b":                              false,
		"https:///cb":                                     false,
		"//c.test/cb":                                     false,
		"/cb":                                             false,
		"":                                                false,
		"https://c.test/" + strings.Repeat("a", 2048):     false,
		"https://c.test/cb\nLocation: https://evil.test/": false,
	} {
		if err := validRedirectURI(uri, listed); (err == nil) != ok {
			t.Errorf("%q: got %v, want allowed %v", uri, err, ok)
		}
	}
}

// A browser, and the user who reads the consent page, would each take such a host for another one.
func TestT08HostOfARedirectURIHasOneReading(t *testing.T) {
	t.Parallel()
	for uri, ok := range map[string]bool{
		"https://claude.ai%E3%80%82evil.test/cb":   false, // an ideographic full stop
		"https://claude.ai%EF%BC%8Fx.evil.test/cb": false, // a wide slash
		"https://claude.ai%E2%80%AE.evil.test/cb":  false, // right to left
		"https://cl%D0%B0ude.ai/cb":                false, // a Cyrillic letter
		"https://claude.ai%2eevil.test/cb":         false,
		"https://%ff/cb":                           false,
		"https://[fe80::1%25eth0]/cb":              false,
		"com.example.app://cl%D0%B0ude.ai/cb":      false,
		"https://xn--clude-3ve.ai/cb":              true,
		"https://claude.ai/cb%E3%80%82?x=%D0%B0":   true, // not in the host
	} {
		for what, err := range map[string]error{
			"of a client": validRedirectURI(uri, nil), "of the configuration": ValidRedirectURI(uri), "in a list": ValidAllowedRedirect(uri),
			"of a request": (&Proxy{}).CheckRedirect(uri),
		} {
			if (err == nil) != ok {
				t.Errorf("%s, %s: %v", uri, what, err)
			}
		}
	}
}

func TestT17ClientRedirectKeepsTheQueryAndSetsEachParameterOnce(t *testing.T) {
	t.Parallel()
	s := &Server{issuer: "https://gw.test"}
	for registered, want := range map[string]string{
		"https://c.test/cb?z=1&a=%2F;x&state=x&iss=evil&%73tate=y&code=old": "https://c.test/cb?z=1&a=%2F;x&code=c+d&iss=https%3A%2F%2Fgw.test&state=y%26z",
		"https://c.test/cb":      "https://c.test/cb?code=c+d&iss=https%3A%2F%2Fgw.test&state=y%26z",
		"https://c.test/cb?":     "https://c.test/cb?code=c+d&iss=https%3A%2F%2Fgw.test&state=y%26z",
		"com.example.app:/cb":    "com.example.app:/cb?code=c+d&iss=https%3A%2F%2Fgw.test&state=y%26z",
		"cursor://app/cb?mode=1": "cursor://app/cb?mode=1&code=c+d&iss=https%3A%2F%2Fgw.test&state=y%26z",
	} {
		got, err := s.clientRedirect(registered, "y&z", url.Values{"code": {"c d"}})
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s\ngot  %s\nwant %s", registered, got, want)
		}
	}
	if got, err := s.clientRedirect("https://c.test/cb", "", url.Values{"error": {"x"}}); err != nil || strings.Contains(got, "state") {
		t.Errorf("without a state: %s, %v", got, err)
	}
}

func FuzzSameRedirectURI(f *testing.F) {
	f.Add("https://c.test/cb", "https://c.test/cb")
	f.Add("http://localhost/cb", "http://localhost:1/cb")
	f.Add("http://[::1]/cb", "http://[::1]:1/cb")
	f.Add("http://localhost/cb", "http://localhost:1@evil/cb")
	f.Fuzz(func(t *testing.T, registered, requested string) {
		if !sameRedirectURI(registered, requested) || registered == requested {
			return
		}
		// Whatever matches without being equal is http on the same loopback name with the same path and query.
		a, errA := url.Parse(registered)
		b, errB := url.Parse(requested)
		if errA != nil || errB != nil {
			t.Fatalf("%q matched %q, and one is no URL", registered, requested)
		}
		if a.Scheme != "http" || b.Scheme != "http" || !IsLoopback(b) || a.Hostname() != b.Hostname() ||
			a.EscapedPath() != b.EscapedPath() || a.RawQuery != b.RawQuery || a.Fragment != b.Fragment || a.User.String() != b.User.String() {
			t.Fatalf("%q matched %q", registered, requested)
		}
	})
}

func FuzzValidRedirectURI(f *testing.F) {
	for _, s := range []string{"https://c.test/cb", "javascript:alert(1)", "com.example:/x", "http://127.0.0.1:1/", "https://a\\b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		if validRedirectURI(uri, nil) != nil {
			return
		}
		u, err := url.Parse(uri)
		if err != nil || u.User != nil || u.Fragment != "" || strings.ContainsAny(uri, "\r\n\t \\") {
			t.Fatalf("accepted %q", uri)
		}
		if u.Scheme != "https" && (u.Scheme != "http" || !IsLoopback(u)) && !strings.Contains(u.Scheme, ".") {
			t.Fatalf("accepted %q", uri)
		}
	})
}

func TestT14PatternsLeaveOnlyWholeSegmentsOpen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		entry, uri string
		want       bool
	}{
		{"https://c.test/cb/*", "https://c.test/cb/1", true},
		{"https://c.test/cb/*", "https://c.test/cb/1/2", false},
		{"https://c.test/cb/*", "https://c.test/cb/", false},
		{"https://c.test/cb/*", "https://c.test/cb", false},
		{"https://c.test/cb/*", "https://c.test/cb/1?x=1", false},
		{"https://c.test/cb/*", "https://c.test/cb/1#x", false},
		{"https://c.test/cb/*", "https://c.test:8443/cb/1", false},
		{"https://c.test/cb/*", "https://c.test.evil.test/cb/1", false},
		{"https://c.test/cb/*", "https://evil.test/cb/1", false},
		{"https://c.test/cb/*", "http://c.test/cb/1", false},
		{"https://c.test/cb/*", "https://C.test/cb/1", false},
		{"https://c.test/*/cb", "https://c.test/1/cb", true},
		{"https://c.test/*/cb", "https://c.test/1/2/cb", false},
		{"https://c.test/x/**", "https://c.test/x/1/2/3", true},
		{"https://c.test/x/**", "https://c.test/x/", true},
		{"https://c.test/x/**", "https://c.test/x", false},
		{"https://c.test/x/**", "https://c.test/y/1", false},
		{"http://localhost/**", "http://localhost:3000/cb", true},
		{"http://localhost/**", "http://127.0.0.1:3000/cb", false},
		{"http://localhost/**", "http://localhost.evil.test/cb", false},
	} {
		if got := matchesEntry(c.entry, c.uri); got != c.want {
			t.Errorf("pattern %q, URI %q: got %v, want %v", c.entry, c.uri, got, c.want)
		}
	}
	for entry, ok := range map[string]bool{
		"claude": true, "loopback": true, "https://c.test/*": true, "https://c.test/a/*/b": true, "https://c.test/**": true, "http://localhost/**": true,
		"claud": false, "*": false, "https://*/cb": false, "https://*.c.test/cb": false, "https://c.test/cb*": false, "https://c.test/**/cb": false,
		"https://c.test/***": false, "cursor://x/*": false, "http://c.test/*": false, "https://c.test/*/../x": false, "https://u@c.test/*": false, "https://c.test:*/cb": false,
	} {
		if err := ValidAllowedRedirect(entry); (err == nil) != ok {
			t.Errorf("entry %q: %v", entry, err)
		}
	}
	for preset, entries := range redirectPresets {
		for _, entry := range entries {
			if err := ValidAllowedRedirect(entry); err != nil {
				t.Errorf("preset %s: %q %v", preset, entry, err)
			}
		}
	}
}
