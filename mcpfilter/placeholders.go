package mcpfilter

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// placeholders are what the placeholders of a request stand for, those of the exchange once there is one. They are asked for when somebody uses them.
type placeholders struct {
	method, name, version, session string
	target                         Target
	x                              *exchange

	// found says that placeholders are being looked for, and p found is enough.
	found bool
}

// placeholdersVar is the variable of a request's context under which they are kept.
const placeholdersVar = "mcp_placeholders"

// userPlaceholders is how the placeholders begin that tell of the user.
const userPlaceholders = "http.auth.user."

// The placeholders that tell what a request is, and whose it is.
var (
	requestPlaceholders  = []string{"mcp.method", "mcp.target", "mcp.name", "mcp.protocol_version", "mcp.session"}
	identityPlaceholders = []string{
		userPlaceholders + "id", userPlaceholders + "email", userPlaceholders + "login", userPlaceholders + "name", userPlaceholders + "provider",
		"mcp.proxy", "mcp.client_id", "mcp.client_name", "mcp.grant",
	}
)

// describe sets the placeholders that tell of a request what it is, for whom it is not yet known. said is nil where there is no message.
func describe(r *http.Request, said *contents) *placeholders {
	method, target, name := aboutRequest(r.Header, said)
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	p, _ := caddyhttp.GetVar(r.Context(), placeholdersVar).(*placeholders)
	if p == nil {
		p = new(placeholders)
		if repl != nil {
			repl.Map(p.answer)
			caddyhttp.SetVar(r.Context(), placeholdersVar, p)
		}
	}
	*p = placeholders{
		method: method, target: target, name: name, version: r.Header.Get("Mcp-Protocol-Version"), session: r.Header.Get(sessionHeader), x: p.x,
	}
	p.prevail(repl, requestPlaceholders)
	return p
}

// prevail sets the placeholders that somebody else would answer first. What a handler in front of us found is of somebody else, and what Caddy's map makes may be
// what the client wants.
func (p *placeholders) prevail(repl *caddy.Replacer, keys []string) {
	if repl == nil {
		return
	}
	for _, key := range keys {
		p.found = true
		answer, _ := repl.Get(key)
		p.found = false
		if answer != any(p) {
			value, _ := p.value(key)
			repl.Set(key, value)
		}
	}
}

// answer is what the replacer asks.
func (p *placeholders) answer(key string) (any, bool) {
	if p.found {
		return p, true
	}
	return p.value(key)
}

// value is that of a placeholder.
func (p *placeholders) value(key string) (any, bool) {
	if !strings.HasPrefix(key, "mcp.") && !strings.HasPrefix(key, userPlaceholders) {
		return nil, false
	}
	switch key {
	case "mcp.method":
		return p.method, true
	case "mcp.target":
		return string(p.target), true
	case "mcp.name":
		return p.name, true
	case "mcp.protocol_version":
		return p.version, true
	case "mcp.session":
		return p.session, true
	}
	if p.x == nil {
		return nil, false
	}
	switch key {
	case userPlaceholders + "id":
		return p.x.session.Grant.UserID, true
	case userPlaceholders + "email":
		return p.x.session.Grant.User.VerifiedEmail(), true
	case userPlaceholders + "login":
		return p.x.session.Grant.User.Login, true
	case userPlaceholders + "name":
		return p.x.session.Grant.User.Name, true
	case userPlaceholders + "provider":
		return p.x.session.Grant.User.Provider, true
	case "mcp.proxy":
		return p.x.proxy.ID, true
	case "mcp.client_id":
		return p.x.session.Grant.ClientID, true
	case "mcp.client_name":
		return p.x.session.Grant.Client, true
	case "mcp.grant":
		return p.x.session.Grant.ID, true
	}
	return nil, false
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
