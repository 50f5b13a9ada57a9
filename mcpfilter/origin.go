package mcpfilter

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// foreignOrigin reports whether a request comes from a web page that has no business with this server (MCP transports, Security Warning): browsers say
// where a script comes from, and a page whose host name was made to point here says its own. Programs that are no browsers send no Origin.
func (f *Filter) foreignOrigin(r *http.Request) bool {
	values := r.Header["Origin"]
	switch len(values) {
	case 0:
		return false
	case 1:
	default:
		return true
	}
	origin := strings.ToLower(values[0])
	return !slices.Contains(f.origins, "*") && !slices.Contains(f.origins, origin) && !localOrigin(origin)
}

// ownOrigins are the origins that a proxy lets in.
func ownOrigins(p *Proxy) []string {
	origins := make([]string, 0, 1+len(p.Origins))
	origins = append(origins, originOf(p.Resource))
	for _, o := range p.Origins {
		if o != "*" {
			o = originOf(o)
		}
		origins = append(origins, o)
	}
	return origins
}

// originOf is a URL's origin as browsers write it (RFC 6454 section 6.2).
func originOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return ""
	}
	host := strings.ToLower(u.Host)
	switch scheme := strings.ToLower(u.Scheme); scheme {
	case "https":
		return scheme + "://" + strings.TrimSuffix(host, ":443")
	default:
		return scheme + "://" + strings.TrimSuffix(host, ":80")
	}
}

// localOrigin reports whether a page is of this user's own machine: no other page can say so.
func localOrigin(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// foreign is the answer to scripts of other origins.
func foreign() *refusal {
	return &refusal{
		status: http.StatusForbidden, code: "invalid_origin", hidden: true,
		text: "pages of this origin may not use the MCP server; the option origins of its proxy names those that may",
	}
}
