package mcpfilter

import (
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("mcp_filter", parseFilter)
	httpcaddyfile.RegisterDirective("mcp_proxy", parseProxy)

	// The filter stands behind rate limits, forward_auth and encode, in front of routing and everything that
	// responds, so that these can ask who is calling. "Before push" is where "After encode" ends, so that the order among our
	// directives does not hang on which package is initialized first. mcp_proxy stands where reverse_proxy would: what respond, error and
	// abort keep out, must not get to the server before they are asked.
	httpcaddyfile.RegisterDirectiveOrder("mcp_filter", httpcaddyfile.Before, "push")
	httpcaddyfile.RegisterDirectiveOrder("mcp_proxy", httpcaddyfile.Before, "reverse_proxy")
}

func parseFilter(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	f := new(Filter)
	return f, f.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the filter from Caddyfile tokens.
//
//	mcp_filter [<matcher>] <proxy> {
//	    resource_only
//	    upstream_path      <path>
//	    credential         header|transport
//	    stream_recheck     <duration>|off
//	    stream_past_expiry <duration>|off
//	}
func (f *Filter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if !d.AllArgs(&f.Proxy) {
		return d.Err("mcp_filter takes the id of one proxy of the global oauth_proxy block")
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if seen[option] {
			return d.Errf("%s is given twice", option)
		}
		seen[option] = true
		switch option {
		case "resource_only":
			if d.NextArg() {
				return d.ArgErr()
			}
			f.ResourceOnly = true
		case "upstream_path":
			var path string
			if !d.AllArgs(&path) {
				return d.ArgErr()
			}
			if _, err := newPathMap("/", false, &path); err != nil {
				return d.Errf("upstream_path: %v", err)
			}
			f.UpstreamPath = &path
		case "credential":
			if !d.AllArgs(&f.Credential) {
				return d.ArgErr()
			}
			if f.Credential != credentialHeader && f.Credential != credentialTransport {
				return d.Errf("credential %q: use %s or %s", f.Credential, credentialHeader, credentialTransport)
			}
		case "stream_recheck":
			if err := unmarshalLimit(d, &f.StreamRecheck); err != nil {
				return err
			}
		case "stream_past_expiry":
			if err := unmarshalLimit(d, &f.StreamPastExpiry); err != nil {
				return err
			}
		default:
			return d.Errf("unknown option %q of mcp_filter; known are credential, resource_only, stream_past_expiry, stream_recheck, upstream_path", option)
		}
	}
	return nil
}

// unmarshalLimit reads a positive duration, or off.
func unmarshalLimit(d *caddyfile.Dispenser, to *caddy.Duration) error {
	option := d.Val()
	var value string
	if !d.AllArgs(&value) {
		return d.ArgErr()
	}
	if value == "off" {
		*to = -1
		return nil
	}
	dur, err := caddy.ParseDuration(value)
	if err != nil {
		return d.Errf("%s: %v", option, err)
	}
	if dur < time.Millisecond {
		return d.Errf("%s: %s is too short; use a longer duration, or off", option, value)
	}
	*to = caddy.Duration(dur)
	return nil
}
