package authserver

import (
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/wwwauth"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// selectProxy finds the proxy that a request is about: the one of the pinned path, the one whose
// resource is named (RFC 8707), the one where the client registered, or the only one.
// Whatever says something must say the same.
func (s *Server) selectProxy(pinned *Proxy, resource string, c *tokenstore.Client) (*Proxy, *Error) {
	named, err := s.proxyByResource(resource)
	if err != nil {
		return nil, err
	}
	switch {
	case pinned != nil && named != nil && pinned != named:
		return nil, refuse("invalid_target", "resource is not the one of this proxy's endpoint")
	case pinned != nil:
		return pinned, nil
	case named != nil:
		return named, nil
	case c != nil && s.proxies[c.Proxy] != nil:
		return s.proxies[c.Proxy], nil
	case len(s.order) == 1:
		return s.order[0], nil
	default:
		return nil, refuse("invalid_target", "this gateway has several MCP servers: name one with the resource parameter (RFC 8707), or use the endpoints of its proxy")
	}
}

// proxyByResource finds the proxy of a resource indicator; none for an empty one.
func (s *Server) proxyByResource(resource string) (*Proxy, *Error) {
	if resource == "" {
		return nil, nil
	}
	want, ok := canonicalResource(resource)
	if ok {
		for _, p := range s.order {
			if have, _ := canonicalResource(p.Resource); have == want {
				return p, nil
			}
		}
	}
	return nil, refuse("invalid_target", "resource is not an MCP server of this gateway")
}

// canonicalResource brings a resource URI into the form in which two are compared: scheme
// and host in lower case, no default port, no slash at the end (MCP, canonical server URI).
// Anything that could be read in two ways is refused.
func canonicalResource(raw string) (string, bool) {
	if len(raw) > maxRedirectURI || strings.ContainsAny(raw, "#\\") {
		return "", false
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" || dotSegment(u.EscapedPath()) ||
		strings.Contains(u.EscapedPath(), "//") {
		return "", false
	}
	host := strings.ToLower(u.Host)
	host = strings.TrimSuffix(host, map[string]string{"https": ":443", "http": ":80"}[u.Scheme])
	c := u.Scheme + "://" + host + strings.TrimSuffix(u.EscapedPath(), "/")
	if u.RawQuery != "" {
		c += "?" + u.RawQuery
	}
	return c, true
}

// ValidResource says whether a configured resource URL can serve as a resource identifier, and gives its
// canonical form, by which two configured resources are the same.
func ValidResource(raw string) (canonical string, ok bool) { return canonicalResource(raw) }

// grantScopes is what a request gets: the scopes it asks for that the proxy has, or all of them when it
// asks for none of those. Chatbots in the field send any scope string or none, and
// RFC 6749 §3.3 lets the server answer with its own.
func grantScopes(p *Proxy, requested string) []string {
	var granted []string
	for _, have := range p.Scopes {
		for want := range strings.FieldsSeq(requested) {
			if want == have {
				granted = append(granted, have)
				break
			}
		}
	}
	if len(granted) == 0 {
		granted = slices.Clone(p.Scopes)
	}
	if !p.AsksForMore {
		return granted
	}
	var more []string
	for want := range strings.FieldsSeq(requested) {
		name, is := strings.CutPrefix(want, UpstreamScope)
		if is && upstream.ValidScope(name) && !slices.Contains(more, want) && wwwauth.Fits(append(more, want)) {
			more = append(more, want)
		}
	}
	return append(granted, more...)
}

// UpstreamScope stands before a scope that the MCP server's own authorization server is to be asked for. The filter names such scopes when the
// server demands more than it was given, and a client that asks for them has the user asked again.
const UpstreamScope = "upstream:"

// scopesToAsk are the scopes that the provider is asked for: those that the user was told of, and those of it that the client has asked for. Nil
// leaves it to the provider: where the user was told of none, and where only who they are is asked for.
func scopesToAsk(req *tokenstore.AuthRequest, identify bool) []string {
	if identify || req.Asked == nil {
		return nil
	}
	scopes := slices.Clone(req.Asked)
	for _, scope := range upstreamScopes(req.Scopes) {
		if !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// upstreamScopes are those of a request's scopes that are for the provider, as it knows them.
func upstreamScopes(scopes []string) []string {
	var found []string
	for _, scope := range scopes {
		if name, is := strings.CutPrefix(scope, UpstreamScope); is {
			found = append(found, name)
		}
	}
	return found
}
