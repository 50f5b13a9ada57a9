package mcpfilter

import (
	"bytes"
	"cmp"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// bothMediaTypes is what MCP servers want a client to accept (MCP 2025-11-25, Streamable HTTP, sending messages).
const bothMediaTypes = mediaJSON + ", " + mediaEvents

const (
	mediaJSON   = "application/json"
	mediaEvents = "text/event-stream"
)

// simpleCall is a request of a client that compat helps: one that cannot read event streams, or that may need a session and knows of none.
type simpleCall struct {
	written

	// readsEvents says that the client accepts event streams.
	readsEvents bool

	// sessionless says that the client neither has a session nor opens one, and names no version of the protocol.
	sessionless bool
}

// written is a JSON-RPC message as it is written.
type written struct {
	body   []byte
	method string

	// id is the message's as it stands in the body, from idAt on; a notification has none.
	id   json.RawMessage
	idAt int
}

// writtenMessage returns the request's one JSON-RPC request or notification, if every parser finds the same.
func (x *exchange) writtenMessage() (written, bool) {
	said := x.body.contents()
	if said.batch || said.unclear != nil || said.messages[0].method == "" {
		return written{}, false
	}
	id, at, ok := member(x.body.bytes, "id")
	if !ok || id != nil && !isID(id) {
		return written{}, false
	}
	return written{x.body.bytes, said.messages[0].method, id, at}, true
}

// with returns the message with another id.
func (m written) with(id json.RawMessage) []byte {
	return slices.Concat(m.body[:m.idAt], id, m.body[m.idAt+len(m.id):])
}

// isID says whether a JSON value can be the id of a request: a string or a number (MCP, basic protocol).
func isID(value json.RawMessage) bool {
	return len(value) > 0 && (value[0] == '"' || value[0] == '-' || '0' <= value[0] && value[0] <= '9')
}

// sameID says whether two ids are the same, however they are written.
func sameID(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if !isID(a) || !isID(b) || json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	return x == y
}

// member finds a member of a JSON object: its value as it is written, and where. There is none when value is nil; ok is false when there are
// several, or another only in its case, or it is no object.
func member(object []byte, name string) (value json.RawMessage, at int, ok bool) {
	parts, err := membersOf(object)
	if err != nil {
		return nil, 0, false
	}
	for _, p := range parts {
		if !strings.EqualFold(p.name, name) {
			continue
		}
		if p.name != name || value != nil {
			return nil, 0, false
		}
		value, at = p.raw(object), p.start
	}
	return value, at, true
}

// simplify recognizes the request of a simple client and puts right what the MCP server would not understand of it. Requests of capable clients are
// left alone: those that accept both media types, and have a session or a protocol of their own. One that accepts both
// and has neither, as in MCP 2025-03-26 without sessions, is only helped when the server demands a session.
func (f *Filter) simplify(r *http.Request, x *exchange) {
	if !f.proxy.Compat || r.Method != http.MethodPost {
		return
	}
	m, ok := x.writtenMessage()
	if !ok {
		return
	}
	call := &simpleCall{
		written:     m,
		readsEvents: accepts(r.Header, mediaEvents),
		sessionless: m.method != "initialize" && r.Header["Mcp-Session-Id"] == nil && r.Header["Mcp-Protocol-Version"] == nil,
	}
	if !call.readsEvents || !accepts(r.Header, mediaJSON) {
		f.paths.collapse(r, m.method)
		r.Header.Set("Accept", bothMediaTypes)
	} else if !call.sessionless {
		return
	}
	x.simple = call
}

// accepts says whether a request's Accept names the media type itself (RFC 9110 section 12.5.1). A wildcard says nothing
// of what the client can read.
func accepts(h http.Header, want string) bool {
	for element := range strings.SplitSeq(strings.Join(h["Accept"], ","), ",") {
		name, params, err := mime.ParseMediaType(element)
		if err != nil || name != want {
			continue
		}
		if q, err := strconv.ParseFloat(params["q"], 64); err != nil || q > 0 {
			return true
		}
	}
	return false
}

// collapse sends a request to the resource's own path when the method stands behind it, as in /jira/mcp/tools/list.
func (m pathMap) collapse(r *http.Request, method string) {
	rest, ok := m.below(publicPath(r))
	if !ok || rest == "" {
		return
	}
	if decoded, err := url.PathUnescape(rest); err != nil || decoded != "/"+method {
		return
	}
	setPath(r, cmp.Or(m.upstream, strings.TrimSuffix(r.URL.EscapedPath(), rest), "/"))
}
