package mcpfilter

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// redirect rewrites the Location of a 3xx response so that the client stays on this
// resource: always a path, never a host. Whoever follows sends a bearer token along, so a
// Location that leads anywhere else is refused.
func (g *guard) redirect(h http.Header) *refusal {
	values := h["Location"]
	if len(values) == 0 {
		return nil
	}
	location, err := g.publicLocation(values)
	if err != nil {
		return badUpstream("the MCP server redirects away from itself", err)
	}
	h.Set("Location", location)
	return nil
}

func (g *guard) publicLocation(values []string) (string, error) {
	if len(values) > 1 {
		return "", errors.New("more than one Location")
	}
	target, err := url.Parse(values[0])
	if err != nil {
		return "", errors.New("the Location is no URL")
	}
	if target.Opaque != "" || target.User != nil || target.Scheme != "" && target.Scheme != "http" && target.Scheme != "https" {
		return "", fmt.Errorf("the Location has the scheme %q or user information", target.Scheme)
	}
	if target.Scheme != "" && target.Host == "" {
		return "", errors.New("the Location has a scheme and no host")
	}
	if target.Host != "" && !g.ownHost(target.Host) {
		return "", fmt.Errorf("the Location leads to %q", target.Host)
	}
	// The server resolves a relative reference against the path that it was asked for.
	asked := &url.URL{Path: g.r.URL.Path, RawPath: g.r.URL.RawPath}
	if ambiguousReference(target) {
		return "", errors.New("the path of the Location is ambiguous")
	}
	resolved := asked.ResolveReference(target)
	path := resolved.EscapedPath()
	if path == "" {
		path = "/"
	}
	public, ok := g.filter.paths.public(path)
	if !ok {
		return "", errors.New("the Location is outside of the resource")
	}
	if resolved.RawQuery != "" {
		public += "?" + resolved.RawQuery
	}
	if resolved.Fragment != "" {
		public += "#" + resolved.EscapedFragment()
	}
	return public, nil
}

// ambiguousReference looks at the path before dots are resolved away.
func ambiguousReference(u *url.URL) bool {
	path := u.EscapedPath()
	return path != "" && ambiguous("/"+strings.TrimPrefix(path, "/"))
}

// ownHost says whether a host is the MCP server's, by the name of either side: servers behind
// a proxy redirect to the Host that they were sent, or to their own. The port only counts when it is an unusual one,
// because such servers do not know the public scheme.
func (g *guard) ownHost(host string) bool {
	own := []string{g.r.Host, g.x.upstreamHost}
	if repl, ok := g.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		upstream, _ := repl.GetString("http.reverse_proxy.upstream.hostport")
		own = append(own, upstream)
	}
	for _, o := range own {
		if o != "" && sameHost(o, host) {
			return true
		}
	}
	return false
}

func sameHost(a, b string) bool {
	plain := func(host string) string {
		host = strings.ToLower(host)
		return strings.TrimSuffix(strings.TrimSuffix(host, ":443"), ":80")
	}
	return plain(a) == plain(b)
}
