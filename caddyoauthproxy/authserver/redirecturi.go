package authserver

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// This file is the one place where redirect URIs are judged and compared.

// maxRedirectURI bounds the length of a redirect URI in bytes.
const maxRedirectURI = 2048

// neverSchemes run code or read files in the user's browser. No operator setting allows them.
var neverSchemes = []string{"javascript", "data", "vbscript", "file", "blob", "about", "filesystem", "view-source", "ws", "wss", "ftp"}

// validRedirectURI says whether a redirect URI may be registered at all. Allowed are https, http on
// loopback hosts (RFC 8252 §7.3), and private-use schemes that contain a dot (RFC 8252 §7.1) or
// that the operator lists. Refused is everything that two parsers might read differently.
func validRedirectURI(raw string, listed []string) error {
	if raw == "" || len(raw) > maxRedirectURI {
		return fmt.Errorf("must have 1 to %d characters", maxRedirectURI)
	}
	for _, c := range []byte(raw) {
		if c <= ' ' || c >= 0x7f || c == '\\' || c == '*' || c == '"' || c == '<' || c == '>' {
			return errors.New("contains a character that no redirect URI needs (space, control, non-ASCII, backslash, asterisk, quote or angle bracket)")
		}
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return errors.New("is not an absolute URI")
	}
	if strings.Contains(raw, "#") {
		return errors.New("must not have a fragment")
	}
	if u.User != nil {
		return errors.New("must not have user information before the host")
	}
	if strings.IndexFunc(u.Host, func(c rune) bool { return c == '%' || c >= 0x7f }) >= 0 {
		// Browsers map such a host to another than it spells: https://claude.ai%E3%80%82evil.test leads to claude.ai.evil.test.
		return errors.New("has a percent sign in its host; write an internationalized name in its ASCII form, xn--…")
	}
	if dotSegment(u.EscapedPath()) {
		return errors.New("must not have dot segments in its path")
	}
	switch {
	case slices.Contains(neverSchemes, u.Scheme):
		return fmt.Errorf("uses the scheme %q, which is never allowed", u.Scheme)
	case u.Scheme == "https":
		if u.Hostname() == "" {
			return errors.New("has no host")
		}
	case u.Scheme == "http":
		if !isLoopback(u.Hostname()) {
			return errors.New("uses http on a host that is not loopback; use https")
		}
	case slices.Contains(listed, raw):
	case !strings.Contains(u.Scheme, "."):
		return fmt.Errorf("uses the scheme %q; a private-use scheme needs a dot (RFC 8252 §7.1) or must be listed in the proxy's allowed_redirects", u.Scheme)
	}
	return nil
}

// ValidRedirectURI says whether an operator may register the redirect URI for a client. Private-use schemes need no dot there.
func ValidRedirectURI(raw string) error { return validRedirectURI(raw, []string{raw}) }

// redirectPresets are redirect URIs of chatbots by a name that operators write into allowed_redirects. All are entries
// as operators could write them. Sources are the vendors' documentation and the registrations that their clients send.
var redirectPresets = map[string][]string{
	"claude": {
		"https://claude.ai/api/mcp/auth_callback", "https://claude.com/api/mcp/auth_callback",
		"http://localhost/callback", // Claude Code, at any port
	},
	"chatgpt": {"https://chatgpt.com/connector/oauth/*", "https://chatgpt.com/connector_platform_oauth_redirect"},
	"vscode": {
		"https://vscode.dev/redirect", "https://insiders.vscode.dev/redirect",
		"http://127.0.0.1", "http://127.0.0.1/", "http://localhost", "http://localhost/",
	},
	"cursor": {
		"cursor://anysphere.cursor-mcp/oauth/callback", "cursor://oauth-callback",
		"https://www.cursor.com/agents/mcp/oauth/callback",
		"http://localhost/callback",
	},
	"inspector": {
		"http://localhost/oauth/callback", "http://localhost/oauth/callback/debug",
		"http://127.0.0.1/oauth/callback", "http://127.0.0.1/oauth/callback/debug",
	},
	"loopback": {"http://localhost/**", "http://127.0.0.1/**", "http://[::1]/**", "http://localhost", "http://127.0.0.1", "http://[::1]"},
}

// RedirectPresets names the presets that allowed_redirects knows.
func RedirectPresets() []string { return slices.Sorted(maps.Keys(redirectPresets)) }

// expandRedirects puts presets in the place of their names.
func expandRedirects(entries []string) []string {
	var all []string
	for _, entry := range entries {
		if preset, ok := redirectPresets[entry]; ok {
			all = append(all, preset...)
		} else {
			all = append(all, entry)
		}
	}
	return all
}

// knownSchemes are the private-use redirect URIs of well-known chatbots whose scheme has no dot. They are what a proxy
// without a list of its own allows beside the rules for everybody.
var knownSchemes = func() []string {
	return slices.DeleteFunc(expandRedirects(RedirectPresets()), func(uri string) bool { return strings.HasPrefix(uri, "http") })
}()

// ValidAllowedRedirect says whether an entry of a proxy's allowed_redirects makes sense: the name of a preset, a redirect URI, or
// a pattern, which is a redirect URI with * for one whole segment of its path, or /** for all that follows.
func ValidAllowedRedirect(raw string) error {
	if _, preset := redirectPresets[raw]; preset {
		return nil
	}
	exact := raw
	if strings.Contains(raw, "*") {
		scheme, rest, _ := strings.Cut(raw, "://")
		host, path, _ := strings.Cut(rest, "/")
		switch {
		case scheme != "https" && scheme != "http":
			return errors.New("is a pattern of a private-use scheme; list each of those as it is")
		case strings.Contains(host, "*"):
			return errors.New("has a * in its host; a pattern can only leave whole segments of the path open")
		}
		segments := strings.Split(path, "/")
		for i, segment := range segments {
			if strings.Contains(segment, "*") && segment != "*" && (segment != "**" || i != len(segments)-1) {
				return errors.New("has a * beside other characters; a * stands for one whole segment of the path, and ** for all segments at its end")
			}
		}
		exact = strings.ReplaceAll(raw, "*", "x")
	} else if !strings.Contains(raw, ":") {
		return fmt.Errorf("is neither a URI nor a preset; presets are %s", strings.Join(RedirectPresets(), ", "))
	}
	return validRedirectURI(exact, []string{exact})
}

// matchesEntry compares a redirect URI with one entry of allowed_redirects. A pattern fixes scheme, host and
// number of segments, and what it leaves open is a segment without a query.
func matchesEntry(entry, uri string) bool {
	if !strings.Contains(entry, "*") {
		return sameRedirectURI(entry, uri)
	}
	a, errA := url.Parse(entry)
	b, errB := url.Parse(uri)
	if errA != nil || errB != nil || a.Scheme != b.Scheme || strings.ContainsAny(uri, "?#") {
		return false
	}
	if a.Host != b.Host && !(a.Scheme == "http" && isLoopback(a.Hostname()) && a.Hostname() == b.Hostname()) {
		return false
	}
	want, have := strings.Split(a.EscapedPath(), "/"), strings.Split(b.EscapedPath(), "/")
	for i, segment := range want {
		switch {
		case segment == "**":
			return len(have) > i
		case i >= len(have):
			return false
		case segment != "*" && segment != have[i], segment == "*" && have[i] == "":
			return false
		}
	}
	return len(want) == len(have)
}

// dotSegment finds "." and ".." path segments, also percent-encoded, and encoded slashes that hide them.
func dotSegment(escaped string) bool {
	lower := strings.ToLower(escaped)
	if strings.Contains(lower, "%2f") || strings.Contains(lower, "%5c") || strings.Contains(lower, "%00") {
		return true
	}
	for seg := range strings.SplitSeq(strings.ReplaceAll(lower, "%2e", "."), "/") {
		if seg == "." || seg == ".." {
			return true
		}
	}
	return false
}

// isLoopback reports whether the host is one of the three names of this machine.
func isLoopback(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

// IsLoopback reports whether a URL's host is localhost, 127.0.0.1 or [::1]: the
// only hosts for which http is good enough (RFC 8252 §8.3).
func IsLoopback(u *url.URL) bool { return isLoopback(u.Hostname()) }

// sameRedirectURI compares a requested redirect URI with a registered one, byte for byte.
// The one exception is RFC 8252 §7.3: on http loopback the port may differ,
// because native apps take a free one. That holds for localhost too (Claude Code
// registers it), but localhost and 127.0.0.1 are never taken for each other.
func sameRedirectURI(registered, requested string) bool {
	if registered == requested {
		return true
	}
	a, errA := url.Parse(registered)
	b, errB := url.Parse(requested)
	if errA != nil || errB != nil || a.Scheme != "http" || b.Scheme != "http" {
		return false
	}
	return isLoopback(a.Hostname()) && a.Hostname() == b.Hostname() &&
		withoutPort(registered, a) == withoutPort(requested, b)
}

// withoutPort cuts the port out of the URI's text, so that all the rest is compared byte for byte.
func withoutPort(raw string, u *url.URL) string {
	if u.Port() == "" {
		return raw
	}
	return strings.Replace(raw, "//"+u.Host, "//"+strings.TrimSuffix(u.Host, ":"+u.Port()), 1)
}

// registeredRedirect reports whether a client may use the redirect URI, and
// whether the proxy lets clients use it. It is asked before every redirect.
func registeredRedirect(registered []string, p *Proxy, requested string) bool {
	if p.CheckRedirect(requested) != nil {
		return false
	}
	return slices.ContainsFunc(registered, func(entry string) bool { return sameRedirectURI(entry, requested) })
}

// errNotAllowed says that the operator's list does not have the redirect URI.
var errNotAllowed = errors.New("is not among the proxy's allowed_redirects")

// CheckRedirect says why the proxy lets no client use the redirect URI; an empty list allows every safe one.
func (p *Proxy) CheckRedirect(uri string) error {
	if len(p.AllowedRedirects) == 0 {
		return validRedirectURI(uri, knownSchemes)
	}
	allowed := expandRedirects(p.AllowedRedirects)
	if err := validRedirectURI(uri, allowed); err != nil {
		return err
	}
	if !slices.ContainsFunc(allowed, func(entry string) bool { return matchesEntry(entry, uri) }) {
		return errNotAllowed
	}
	return nil
}

// clientRedirect builds the URI that takes the browser back to the client: its own
// query is kept as it stands, and the response parameters, the client's state and our iss
// (RFC 9207) are there exactly once.
func (s *Server) clientRedirect(redirectURI, state string, params url.Values) (string, error) {
	u, err := url.Parse(redirectURI)
	if err != nil {
		return "", fmt.Errorf("redirect URI: %w", err)
	}
	answer := maps.Clone(params)
	answer.Set("iss", s.issuer)
	if state != "" {
		answer.Set("state", state)
	}
	own := strings.Split(u.RawQuery, "&")
	own = slices.DeleteFunc(own, func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		return err != nil || name == "" || slices.Contains([]string{"code", "state", "iss", "error", "error_description"}, name)
	})
	u.RawQuery = strings.Join(append(own, answer.Encode()), "&")
	return u.String(), nil
}
