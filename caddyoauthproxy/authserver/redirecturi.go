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

// ValidAllowedRedirect says whether an entry of a proxy's allowed_redirects makes sense.
func ValidAllowedRedirect(raw string) error { return validRedirectURI(raw, []string{raw}) }

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
	if validRedirectURI(requested, p.AllowedRedirects) != nil {
		return false
	}
	return matchesAny(registered, requested) && p.allowsRedirect(requested)
}

func matchesAny(list []string, uri string) bool {
	return slices.ContainsFunc(list, func(entry string) bool { return sameRedirectURI(entry, uri) })
}

// allowsRedirect applies the operator's list; an empty one allows every safe URI.
func (p *Proxy) allowsRedirect(uri string) bool {
	return len(p.AllowedRedirects) == 0 || matchesAny(p.AllowedRedirects, uri)
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
