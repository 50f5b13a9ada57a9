package mcpfilter

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// pathMap says which paths belong to a resource and where they go.
type pathMap struct {
	// resource holds the decoded segments of the resource's path; none for "/".
	resource []string

	// confined refuses every path that is not the resource's or below it.
	confined bool

	// upstream is the escaped path that takes the place of the resource's, or
	// empty to leave paths alone.
	upstream string
}

func newPathMap(resource string, confined bool, upstream *string) (pathMap, error) {
	m := pathMap{confined: confined || upstream != nil}
	if trimmed := strings.Trim(resource, "/"); trimmed != "" {
		m.resource = strings.Split(trimmed, "/")
	}
	if upstream == nil {
		return m, nil
	}
	if ambiguous(*upstream) {
		return m, fmt.Errorf("path %q: use an absolute path without empty or dot segments, backslash, semicolon or encoded slash", *upstream)
	}
	u, err := url.Parse(*upstream)
	if err != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return m, fmt.Errorf("path %q: use a path without query and fragment", *upstream)
	}
	m.upstream = u.EscapedPath()
	return m, nil
}

// apply checks the request's path and maps it onto the upstream's.
//
// The resource is compared with the path that the client sent, not with what handlers
// before us made of it, because the resource URL is what clients know.
func (m pathMap) apply(r *http.Request) *refusal {
	public := publicPath(r)
	if ambiguous(public) || ambiguous(r.URL.EscapedPath()) {
		return badRequest("the path has a spelling that this gateway does not accept")
	}
	if !m.confined {
		return nil
	}
	rest, ok := m.below(public)
	if !ok {
		return notFound()
	}
	if m.upstream == "" {
		return nil
	}
	escaped := m.upstream
	if rest != "" {
		escaped = strings.TrimSuffix(m.upstream, "/") + rest
	}
	if !setPath(r, escaped) {
		return badRequest("the path is not well encoded")
	}
	return nil
}

// publicPath is the escaped path that the client sent.
func publicPath(r *http.Request) string {
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return orig.URL.EscapedPath()
	}
	return r.URL.EscapedPath()
}

// setPath gives a request another escaped path, if it is one.
func setPath(r *http.Request, escaped string) bool {
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return false
	}
	r.URL.Path, r.URL.RawPath = path, escaped
	r.RequestURI = r.URL.RequestURI()
	return true
}

// below returns what of an escaped path follows the resource's path: nothing, or
// a slash and more. Segments are compared decoded (RFC 3986 section 6.2.2).
func (m pathMap) below(escaped string) (rest string, ok bool) {
	rest = escaped
	for _, want := range m.resource {
		tail, found := strings.CutPrefix(rest, "/")
		if !found {
			return "", false
		}
		segment := tail
		if before, _, ok := strings.Cut(tail, "/"); ok {
			segment = before
		}
		if have, err := url.PathUnescape(segment); err != nil || have != want {
			return "", false
		}
		rest = tail[len(segment):]
	}
	if len(m.resource) == 0 && rest == "/" {
		return "", true
	}
	return rest, true
}

// public is the way back: the public path of an escaped upstream path.
func (m pathMap) public(escaped string) (path string, ok bool) {
	if ambiguous(escaped) {
		return "", false
	}
	if m.upstream == "" {
		if !m.confined {
			return escaped, true
		}
		_, ok := m.below(escaped)
		return escaped, ok
	}
	var rest string
	if escaped != m.upstream {
		rest, ok = strings.CutPrefix(escaped, strings.TrimSuffix(m.upstream, "/"))
		if !ok || !strings.HasPrefix(rest, "/") {
			return "", false
		}
	}
	if len(m.resource) == 0 {
		if rest == "" {
			rest = "/"
		}
		return rest, true
	}
	return (&url.URL{Path: "/" + strings.Join(m.resource, "/")}).EscapedPath() + rest, true
}

// ambiguous says whether an escaped path could mean one thing to a route matcher and
// another to the server behind: encoded separators, empty and dot segments, path
// parameters, control characters, and all of these encoded twice.
func ambiguous(escaped string) bool {
	decoded, err := url.PathUnescape(escaped)
	return err != nil || ambiguousLayer(escaped) || decoded != escaped && ambiguousLayer(decoded)
}

func ambiguousLayer(path string) bool {
	if !strings.HasPrefix(path, "/") || strings.Contains(path, "//") || strings.ContainsAny(path, `\;`) {
		return true
	}
	if strings.ContainsFunc(path, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return true
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	if !strings.Contains(path, "%") {
		return false
	}
	lower := strings.ToLower(path)
	return slices.ContainsFunc([]string{"%2f", "%5c", "%3b", "%00", "%2e"}, func(code string) bool {
		return strings.Contains(lower, code)
	})
}
