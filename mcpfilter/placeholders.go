package mcpfilter

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
)

// describe sets the placeholders that tell of a request what it is, for whom it is not yet known. said is nil where there is no message.
func describe(r *http.Request, said *contents) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	method, target, name := aboutRequest(r.Header, said)
	repl.Set("mcp.method", method)
	repl.Set("mcp.target", string(target))
	repl.Set("mcp.name", name)
	repl.Set("mcp.protocol_version", r.Header.Get("Mcp-Protocol-Version"))
	repl.Set("mcp.session", r.Header.Get(sessionHeader))
}

// aboutRequest tells the method of a request, and the one thing that it is about. Of a body that was not read to its end, the headers are told
// where the MCP server must compare them with it.
func aboutRequest(h http.Header, said *contents) (method string, target Target, name string) {
	switch m := said.one(); {
	case said == nil:
		return "", "", ""
	case m != nil:
		return said.label(), m.target, m.name()
	case said.unclear == errIncomplete && mirrors(h): //nolint:errorlint // it is never wrapped
		if m := mirroredMessage(h); m != nil {
			return m.method, m.target, m.name()
		}
	}
	return said.label(), "", ""
}

// mirroredMessage is the message as the headers tell it, nil where they do not.
func mirroredMessage(h http.Header) *message {
	method, ok := mirrorValue(h, "Mcp-Method")
	if !ok || !plainMethod(method) {
		return nil
	}
	m := &message{method: method}
	switch method {
	case "tools/call":
		m.target = TargetTool
	case "prompts/get":
		m.target = TargetPrompt
	case "resources/read":
		m.target = TargetResource
	default:
		if named[method] != nil { // there is no header that names what it is about
			return nil
		}
		return m
	}
	name, ok := mirrorValue(h, "Mcp-Name")
	if !ok || plainName(m.target, name) != nil {
		return nil
	}
	m.names = []string{name}
	return m
}
