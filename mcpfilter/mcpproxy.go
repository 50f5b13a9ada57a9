package mcpfilter

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// wellKnownPaths are the documents that clients look for on the resource's own host
// (RFC 9728 section 3, RFC 8414 section 3, OpenID Connect Discovery section 4).
var wellKnownPaths = []string{
	"/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/*",
	"/.well-known/oauth-authorization-server", "/.well-known/oauth-authorization-server/*",
	"/.well-known/openid-configuration", "/.well-known/openid-configuration/*",
}

// parseProxy parses mcp_proxy, an MCP server behind the gateway:
//
//	mcp_proxy <proxy> <upstreams...> {
//	    # anything of reverse_proxy
//	}
//
// It is reverse_proxy, with the syntax of reverse_proxy, behind an mcp_filter. The path
// that it serves is that of the proxy's resource, and everything below; a path of the
// upstream URL takes its place:
//
//	mcp_proxy jira https://mcp.atlassian.com/v1/mcp
//
// with the resource https://gateway.example.com/jira/mcp is equivalent to
//
//	@jira path /jira/mcp /jira/mcp/* /.well-known/oauth-protected-resource ...
//	route @jira {
//	    mcp_filter jira {
//	        resource_only
//	        upstream_path /v1/mcp
//	        credential transport
//	    }
//	    reverse_proxy https://mcp.atlassian.com {
//	        transport mcp
//	    }
//	}
func parseProxy(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	d := h.Dispenser
	if !d.NextArg() {
		return nil, d.Err("mcp_proxy takes the id of a proxy of the global oauth_proxy block, and its upstreams")
	}
	id := d.Val()
	if id == "*" || strings.HasPrefix(id, "/") || strings.HasPrefix(id, "@") {
		return nil, d.Errf("mcp_proxy needs no matcher: it serves the path of the proxy's resource and what lies under it; take %q away (mcp_filter composes with matchers)", id)
	}
	resourcePath, err := configuredResourcePath(h, id)
	if err != nil {
		return nil, d.WrapErr(err)
	}
	upstreamPath, proxy, err := unmarshalProxy(h, d.NextSegment())
	if err != nil {
		return nil, err
	}
	filter := &Filter{Proxy: id, ResourceOnly: true, UpstreamPath: upstreamPath, Credential: credentialTransport}
	return []httpcaddyfile.ConfigValue{{
		Class: "route",
		Value: caddyhttp.Route{
			MatcherSetsRaw: []caddy.ModuleMap{{"path": h.JSON(caddyhttp.MatchPath(proxiedPaths(resourcePath)))}},
			HandlersRaw: []json.RawMessage{
				caddyconfig.JSONModuleObject(filter, "handler", "mcp_filter", nil),
				caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil),
			},
			Terminal: true,
		},
	}}, nil
}

// proxiedPaths are the patterns of the path matcher. They may match more spellings
// than the filter accepts; it refuses the rest.
func proxiedPaths(resourcePath string) []string {
	if resourcePath == "/" {
		return []string{"/*"}
	}
	return append([]string{resourcePath, resourcePath + "/*"}, wellKnownPaths...)
}

// unmarshalProxy reads the upstreams and the block of mcp_proxy. The first token of the segment is
// not read; it stands where reverse_proxy expects its own name.
func unmarshalProxy(h httpcaddyfile.Helper, segment caddyfile.Segment) (path *string, proxy *reverseproxy.Handler, err error) {
	args := caddyfile.NewDispenser(segment)
	args.Next()
	for i := 1; args.NextArg(); i++ {
		address, p, err := splitUpstream(args.Val())
		if err != nil {
			return nil, nil, args.WrapErr(err)
		}
		if i > 1 && (p == nil) != (path == nil) || p != nil && path != nil && *p != *path {
			return nil, nil, args.Errf("upstream %q: all upstreams must have the same path", args.Val())
		}
		path = p
		segment[i].Text = address
	}

	d := caddyfile.NewDispenser(segment)
	proxy = new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(d); err != nil {
		return nil, nil, err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(h); err != nil {
		return nil, nil, err
	}
	if len(proxy.Upstreams) == 0 && proxy.DynamicUpstreamsRaw == nil {
		return nil, nil, args.Err("mcp_proxy needs an upstream: write the URL of the MCP server after the proxy's id")
	}
	if proxy.TransportRaw, err = mcpTransport(proxy.TransportRaw); err != nil {
		return nil, nil, args.WrapErr(err)
	}
	return path, proxy, nil
}

// splitUpstream takes the path off an upstream URL; nil means that there is none. What is
// no URL (host:port, unix socket, placeholder) is reverse_proxy's business.
func splitUpstream(upstream string) (address string, path *string, err error) {
	scheme, rest, ok := strings.Cut(upstream, "://")
	if !ok {
		return upstream, nil, nil
	}
	if strings.ContainsAny(rest, "?#@") {
		return "", nil, fmt.Errorf("upstream URL has user information, a query or a fragment; take it away (set headers with header_up, a query with rewrite)")
	}
	host, tail, ok := strings.Cut(rest, "/")
	if !ok {
		return upstream, nil, nil
	}
	tail = "/" + tail
	if strings.ContainsAny(tail, "{}") {
		return "", nil, fmt.Errorf("upstream %q: placeholders are not possible in the path", upstream)
	}
	if _, err := newPathMap("/", true, &tail); err != nil {
		return "", nil, fmt.Errorf("upstream %q: %w", upstream, err)
	}
	return scheme + "://" + host, &tail, nil
}

// mcpTransport turns the transport that reverse_proxy would use into one that carries the upstream token.
func mcpTransport(raw json.RawMessage) (json.RawMessage, error) {
	transport := make(map[string]json.RawMessage)
	protocol := "http"
	if raw != nil {
		if err := json.Unmarshal(raw, &transport); err != nil {
			return nil, fmt.Errorf("transport: %w", err)
		}
		if err := json.Unmarshal(transport["protocol"], &protocol); err != nil {
			return nil, fmt.Errorf("transport: protocol: %w", err)
		}
	}
	if protocol != "http" && protocol != "mcp" {
		return nil, fmt.Errorf("transport %q cannot carry the upstream token: use mcp, which has all options of http", protocol)
	}
	transport["protocol"] = json.RawMessage(`"mcp"`)
	return json.Marshal(transport)
}

// configuredResourcePath reads the path of a proxy's resource from the global oauth_proxy block.
func configuredResourcePath(h httpcaddyfile.Helper, id string) (string, error) {
	app, ok := h.Option(AppName).(httpcaddyfile.App)
	if !ok {
		return "", fmt.Errorf("mcp_proxy %s: there is no global oauth_proxy block: add one that declares `proxy %s`", id, id)
	}
	var config struct {
		Proxies map[string]struct {
			Resource string `json:"resource"`
		} `json:"proxies"`
	}
	if err := json.Unmarshal(app.Value, &config); err != nil {
		return "", fmt.Errorf("mcp_proxy %s: read the oauth_proxy block: %w", id, err)
	}
	proxy, ok := config.Proxies[id]
	if !ok {
		return "", fmt.Errorf("mcp_proxy %s: the global oauth_proxy block declares no such proxy (declared are: %s): add `proxy %s { resource https://… }`",
			id, cmp.Or(strings.Join(slices.Sorted(maps.Keys(config.Proxies)), ", "), "none"), id)
	}
	resource, err := url.Parse(proxy.Resource)
	if err != nil || resource.Host == "" {
		return "", fmt.Errorf("mcp_proxy %s: its resource %q is no absolute URL", id, proxy.Resource)
	}
	path := "/" + strings.Trim(resource.Path, "/")
	if strings.ContainsAny(path, "*{}%") {
		return "", fmt.Errorf("mcp_proxy %s: the path of its resource %q has characters that path matchers give a meaning: rename it, or compose with mcp_filter", id, proxy.Resource)
	}
	return path, nil
}
