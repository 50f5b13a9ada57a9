package mcpfilter

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Matcher{})
}

// Matcher matches MCP requests by what they ask for. Each field that is given must match; of `tools`, `resources` and `prompts` one is enough. Without
// fields it matches every request that carries a JSON-RPC message.
//
// In patterns, `*` stands for any characters. Case does not count.
//
// The body is read into memory, up to 4 MiB, once for all matchers and handlers, and goes on as it came. A longer one is judged by the headers `Mcp-Method` and
// `Mcp-Name` where its MCP-Protocol-Version makes servers compare them with the body (2026-07-28 and later), and refused (413) otherwise. A JSON body that two servers could
// understand differently is refused (400), so is a batch of which only a part matches, and JSON whose Content-Type is another (415): otherwise what a matcher keeps out of one
// route could slip through another.
//
// The placeholders `{mcp.method}`, `{mcp.target}`, `{mcp.name}`, `{mcp.session}` and `{mcp.protocol_version}` are set wherever the matcher was asked for more than `protocol_versions`.
type Matcher struct {
	// JSON-RPC methods, such as `tools/call` or `resources/*`.
	Methods []string `json:"methods,omitempty"`

	// Names of tools that are called.
	Tools []string `json:"tools,omitempty"`

	// URIs of resources that are read, subscribed to, or completed.
	Resources []string `json:"resources,omitempty"`

	// Names of prompts that are got, or completed.
	Prompts []string `json:"prompts,omitempty"`

	// Values of the header MCP-Protocol-Version, such as `2026-07-28` or `2025-*`. GET and DELETE requests may match by these alone.
	ProtocolVersions []string `json:"protocol_versions,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.mcp",
		New: func() caddy.Module { return new(Matcher) },
	}
}

// MatchWithError implements caddyhttp.RequestMatcherWithError.
func (m *Matcher) MatchWithError(r *http.Request) (bool, error) {
	if len(m.ProtocolVersions) > 0 {
		values := r.Header["Mcp-Protocol-Version"]
		if len(values) != 1 || !MatchAny(m.ProtocolVersions, values[0]) {
			return false, nil
		}
		if len(m.Methods)+len(m.Tools)+len(m.Resources)+len(m.Prompts) == 0 {
			return true, nil
		}
	}
	if !hasBody(r) || r.Method == http.MethodConnect { // what follows CONNECT is no body
		describe(r, nil)
		return false, nil
	}
	if !isJSON(r.Header) {
		describe(r, nil)
		disguised, err := beginsAsJSON(r)
		if err == nil && disguised {
			err = caddyhttp.Error(http.StatusUnsupportedMediaType, fmt.Errorf("mcp matcher: the body looks like JSON, but its Content-Type is another"))
		}
		return false, err
	}
	b, err := captureBody(r)
	if err != nil {
		return false, err
	}
	said := b.contents()
	describe(r, said)
	switch {
	case len(r.Header["Content-Encoding"]) > 0:
		return false, caddyhttp.Error(http.StatusUnsupportedMediaType, fmt.Errorf("mcp matcher: the body has a Content-Encoding"))
	case said.unclear == errIncomplete: //nolint:errorlint // it is never wrapped
		if mirrors(r.Header) {
			if mirror := mirroredMessage(r.Header); mirror != nil {
				return m.matches(mirror), nil
			}
		}
		return false, caddyhttp.Error(http.StatusRequestEntityTooLarge, fmt.Errorf("mcp matcher: %w", said.unclear))
	case said.unclear == errNoMessage: //nolint:errorlint // it is never wrapped
		return false, nil
	case said.unclear != nil:
		return false, caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("mcp matcher: %w", said.unclear))
	}
	matched := 0
	for i := range said.messages {
		msg := &said.messages[i]
		if msg.unclear != nil && len(m.Tools)+len(m.Resources)+len(m.Prompts) > 0 {
			return false, caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("mcp matcher: %w", msg.unclear))
		}
		if m.matches(msg) {
			matched++
		}
	}
	if matched > 0 && matched < len(said.messages) {
		return false, caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("mcp matcher: only a part of the batch matches"))
	}
	return matched > 0, nil
}

// matches judges one message, by all ways in which servers may read its names.
func (m *Matcher) matches(msg *message) bool {
	if len(m.Methods) > 0 && !MatchAny(m.Methods, msg.method) {
		return false
	}
	if len(m.Tools)+len(m.Resources)+len(m.Prompts) == 0 {
		return true
	}
	patterns := map[Target][]string{TargetTool: m.Tools, TargetResource: m.Resources, TargetPrompt: m.Prompts}[msg.target]
	return slices.ContainsFunc(msg.names, func(name string) bool {
		return slices.ContainsFunc(spellings(msg.target, name), func(spelling string) bool { return matchName(msg.target, patterns, spelling) })
	})
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Each option may be repeated:
//
//	mcp {
//	    method           <pattern>...
//	    tool             <pattern>...
//	    resource         <pattern>...
//	    prompt           <pattern>...
//	    protocol_version <pattern>...
//	}
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() {
			return d.Errf("mcp takes a block with method, tool, resource, prompt and protocol_version, not %q", d.Val())
		}
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			var to *[]string
			option := d.Val()
			switch option {
			case "method":
				to = &m.Methods
			case "tool":
				to = &m.Tools
			case "resource":
				to = &m.Resources
			case "prompt":
				to = &m.Prompts
			case "protocol_version":
				to = &m.ProtocolVersions
			default:
				return d.Errf("unknown option %q of the matcher mcp; known are method, prompt, protocol_version, resource, tool", option)
			}
			values := d.RemainingArgs()
			if len(values) == 0 || slices.Contains(values, "") {
				return d.Errf("%s takes one or more patterns", option)
			}
			*to = append(*to, values...)
		}
	}
	return nil
}

// MatchAny reports whether a value has the form of any of the patterns.
func MatchAny(patterns []string, value string) bool {
	folded := fold(value)
	return slices.ContainsFunc(patterns, func(p string) bool { return matchFolded(fold(p), folded) })
}

// Interface guards
var (
	_ caddyhttp.RequestMatcherWithError = (*Matcher)(nil)
	_ caddyfile.Unmarshaler             = (*Matcher)(nil)
)
