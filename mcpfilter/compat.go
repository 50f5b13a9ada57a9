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
	message

	// readsEvents says that the client accepts event streams.
	readsEvents bool

	// sessionless says that the client neither has a session nor opens one, and names no version of the protocol.
	sessionless bool
}

// message is a JSON-RPC message in a request's body.
type message struct {
	body   []byte
	method string

	// id is the request's id as it stands in the body, from idAt on; a notification has none.
	id   json.RawMessage
	idAt int
}

// message returns the request's one JSON-RPC request or notification, if every parser finds the same.
func (x *exchange) message() (message, bool) {
	method := jsonrpcMethod(x.body, x.complete)
	switch method {
	case methodBatch, methodResponse, methodUnknown:
		return message{}, false
	}
	id, at, ok := member(x.body, "id")
	if !ok || id != nil && !isID(id) {
		return message{}, false
	}
	return message{x.body, method, id, at}, true
}

// with returns the message with another id.
func (m message) with(id json.RawMessage) []byte {
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
	dec := json.NewDecoder(bytes.NewReader(object))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return nil, 0, false
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, 0, false
		}
		if key, _ := key.(string); !strings.EqualFold(key, name) {
			if dec.Decode(&skipped{}) != nil {
				return nil, 0, false
			}
			continue
		}
		if key != name || value != nil || dec.Decode(&value) != nil {
			return nil, 0, false
		}
		at = int(dec.InputOffset()) - len(value)
	}
	_, err := dec.Token() // the closing brace
	return value, at, err == nil
}

// simplify recognizes the request of a simple client and puts right what the MCP server would not understand of it. Requests of capable clients are
// left alone: those that accept both media types, and have a session or a protocol of their own. One that accepts both
// and has neither, as in MCP 2025-03-26 without sessions, is only helped when the server demands a session.
func (f *Filter) simplify(r *http.Request, x *exchange) {
	if !f.proxy.Compat || r.Method != http.MethodPost {
		return
	}
	m, ok := x.message()
	if !ok {
		return
	}
	call := &simpleCall{
		message:     m,
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
