package mcpfilter

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// judgeRequest says why a request may not go to the MCP server: its headers contradict its body, or the proxy's policy.
func (f *Filter) judgeRequest(r *http.Request, x *exchange) *refusal {
	var said *contents
	if r.Method == http.MethodPost {
		said = x.body.contents()
	}
	if said != nil && mirrors(r.Header) && !said.batch && said.unclear == nil {
		m := &said.messages[0]
		if header := mirrorsBody(r.Header, m); header != "" {
			return &refusal{
				status: http.StatusBadRequest, code: "invalid_request", text: header + " contradicts the body",
				rpc: newRPCError(m.id, rpcHeaderMismatch, "header mismatch: "+header+" says something else than the body"),
			}
		}
	}
	if len(f.proxy.Policy.Rules) == 0 {
		return nil
	}
	if no := f.legible(r, said); no != nil {
		return no
	}
	if said == nil {
		return nil
	}
	return f.judgeContents(said, x)
}

// legible refuses what the rules cannot be applied to. What is not understood does not pass.
func (f *Filter) legible(r *http.Request, said *contents) *refusal {
	unread := func(status int, text string) *refusal {
		return &refusal{status: status, code: "invalid_request", text: text, rpc: newRPCError(nil, rpcInvalidRequest, text)}
	}
	switch r.Method {
	case http.MethodPost:
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions:
		if hasBody(r) {
			return unread(http.StatusBadRequest, "this method takes no body")
		}
		return nil
	default:
		return unread(http.StatusMethodNotAllowed, "this method is not for MCP servers")
	}
	switch {
	case !hasBody(r):
		return unread(http.StatusBadRequest, "the body is missing")
	case !isJSON(r.Header):
		return unread(http.StatusUnsupportedMediaType, "send a JSON-RPC message with Content-Type: application/json")
	case len(r.Header["Content-Encoding"]) > 0:
		return unread(http.StatusUnsupportedMediaType, "send the body without Content-Encoding")
	case errors.Is(said.unclear, errIncomplete):
		return unread(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d MiB", maxBody>>20))
	case said.unclear != nil:
		return unread(http.StatusBadRequest, "the message is unclear: "+said.unclear.Error())
	}
	for i := range said.messages {
		m := &said.messages[i]
		if m.unclear != nil && f.proxy.Policy.concerns(m) {
			return &refusal{
				status: http.StatusBadRequest, code: "invalid_request", text: "the message is unclear",
				rpc: newRPCError(m.id, rpcInvalidParams, "unclear: "+m.unclear.Error()), cause: m.unclear,
			}
		}
	}
	return nil
}

// concerns reports whether there are rules for what a message is about. One that does not say clearly what it is about may be about anything.
func (p *Policy) concerns(m *message) bool {
	return m.target == "" || p.restricts(m.target)
}

// judgeContents judges all messages of a body. One that may not pass keeps all others of its batch back.
func (f *Filter) judgeContents(said *contents, x *exchange) *refusal {
	policy := &f.proxy.Policy
	var all verdict
	verdicts := make([]verdict, len(said.messages))
	for i := range said.messages {
		m := &said.messages[i]
		for _, name := range m.names {
			verdicts[i] = verdicts[i].and(policy.judge(x.session, m.target, name))
		}
		all = all.and(verdicts[i])
	}
	switch {
	case all.allowed():
		return nil
	case !all.denied:
		scopes := slices.Clone(x.session.Scopes)
		for _, scope := range all.needed {
			if !slices.Contains(scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
		return insufficientScope(scopes, "this call needs the user to allow more")
	case !said.batch:
		m := &said.messages[0]
		return denied(m.id != nil, newRPCError(m.id, rpcInvalidParams, deniedText(m)))
	}
	answers := make([]rpcError, 0, len(said.messages))
	for i := range said.messages {
		m := &said.messages[i]
		if m.id == nil || m.method == "" {
			continue
		}
		text := "not done, because of another message of the batch"
		if verdicts[i].denied {
			text = deniedText(m)
		}
		answers = append(answers, newRPCError(m.id, rpcInvalidParams, text))
	}
	return denied(len(answers) > 0, answers)
}

func deniedText(m *message) string {
	if len(m.names) > 1 {
		return fmt.Sprintf("this gateway does not let you use each %s that is named", m.target)
	}
	return fmt.Sprintf("this gateway does not let you use the %s %q", m.target, m.name())
}

// denied is an answer to requests, or where there are none, an error of HTTP's.
func denied(answers bool, rpc any) *refusal {
	no := &refusal{status: http.StatusForbidden, code: codeDenied, text: "the proxy's policy does not allow this", rpc: rpc}
	if answers {
		no.status = http.StatusOK
	}
	return no
}
