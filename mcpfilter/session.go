package mcpfilter

import (
	"crypto/subtle"
	"net/http"
	"strings"
)

// Session ids of MCP servers are no credentials, and some servers give everything to whoever knows one (docs/security.md, T67). So clients
// know an id only together with a tag that binds it to the user who opened the session: `<id>.<tag>`.

// sessionHeader is the header that carries the id both ways (MCP 2025-11-25, Session Management).
const sessionHeader = "Mcp-Session-Id"

// maxSessionID is the longest id of a server's that is passed on, in bytes.
const maxSessionID = 2 << 10

// untag puts the server's own session id in the place of the client's. A session of somebody else does not exist. Where there are no sessions any
// more, the header means nothing, and is not passed on if it is foreign.
func (f *Filter) untag(h http.Header, s *Session) *refusal {
	values := h[sessionHeader]
	if len(values) == 0 {
		return nil
	}
	if len(values) == 1 {
		tagged := values[0]
		dot := strings.LastIndexByte(tagged, '.')
		if dot > 0 && len(tagged) <= 2*maxSessionID {
			tag, err := f.gateway.SessionTag(s, tagged[:dot])
			if err != nil {
				return unavailable(err)
			}
			if subtle.ConstantTimeCompare([]byte(tag), []byte(tagged[dot+1:])) == 1 {
				h.Set(sessionHeader, tagged[:dot])
				return nil
			}
		}
	}
	if mirrors(h) {
		h.Del(sessionHeader)
		return nil
	}
	return &refusal{status: http.StatusNotFound, code: "not_found", text: "there is no such MCP session; open a new one"}
}

// tag binds the session id of a response.
func (g *guard) tag(h http.Header) *refusal {
	values := h[sessionHeader]
	if len(values) == 0 {
		return nil
	}
	if len(values) > 1 || !visible(values[0]) {
		return badUpstream("the MCP server's session id is not one", nil)
	}
	tag, err := g.filter.gateway.SessionTag(g.x.session, values[0])
	if err != nil {
		return unavailable(err)
	}
	h.Set(sessionHeader, values[0]+"."+tag)
	return nil
}
