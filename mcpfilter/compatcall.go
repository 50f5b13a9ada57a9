package mcpfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
)

// maxComplaint is how much of a response is looked at to find out whether the MCP server demands a session.
const maxComplaint = 16 << 10

// deliverSimple is deliver for simple clients: it answers with JSON where they cannot read event streams, and keeps sessions for them.
func (t *Transport) deliverSimple(req *http.Request, x *exchange) (*http.Response, error) {
	call := x.simple
	if !call.sessionless {
		return t.ask(req, x, nil)
	}
	key := keyOf(req, x)
	s := t.sessions.take(key)
	if s != nil && call.method == "notifications/cancelled" {
		// It names a request by the client's id, and in the session that may be another request's. Receivers need not heed it (MCP, cancellation).
		t.leave(s, x, nil)
		return accepted(req), nil
	}
	res, err := t.ask(req, x, s)
	if err != nil {
		t.leave(s, x, nil)
		return nil, err
	}
	if !call.demandsSession(res, s != nil) {
		t.leave(s, x, res)
		return res, nil
	}
	if s != nil {
		t.sessions.drop(s)
	}
	s, err = t.sessions.open(req.Context(), key, func() (*session, error) { return t.openSession(req, x) })
	var no *notAuthorizedError
	switch {
	case errors.As(err, &no):
		discard(res)
		return no.res, nil // which is answered as everywhere
	case err != nil:
		_ = res.Body.Close()
		return nil, err
	case s == nil: // the server wanted something else
		return res, nil
	}
	discard(res)
	res, err = t.ask(req, x, s)
	t.leave(s, x, res)
	return res, err
}

// accepted is the answer to a notification.
func accepted(req *http.Request) *http.Response {
	return &http.Response{
		StatusCode: http.StatusAccepted, Status: "202 Accepted", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: http.NoBody, Request: req,
	}
}

// leave gives back a session after its request. A server that answers 401 in it may mean that it does not know it.
func (t *Transport) leave(s *session, x *exchange, res *http.Response) {
	switch {
	case s == nil:
	case res != nil && res.StatusCode == http.StatusUnauthorized:
		t.sessions.drop(s)
	default:
		t.sessions.giveBack(s, x.token)
	}
}

// ask sends a request, in a session if there is one.
func (t *Transport) ask(req *http.Request, x *exchange, s *session) (*http.Response, error) {
	call := x.simple
	if s == nil && call.readsEvents {
		return t.deliver(req, x)
	}
	id, out := call.id, req.Clone(req.Context())
	if s != nil {
		if call.id != nil {
			id = s.nextID()
		}
		out = withBody(out, call.with(id))
		s.sign(out.Header)
	}
	out.Header.Set("Accept-Encoding", "identity") // what is read here must be readable
	res, err := t.deliver(out, x)
	if err != nil {
		return nil, err
	}
	if isEventStream(res.Header) && id != nil {
		if err := plainAnswer(req.Context(), res, id); err != nil {
			return nil, err
		}
	}
	if s == nil {
		return res, nil
	}
	res.Header.Del("Mcp-Session-Id")
	if id != nil && isJSON(res.Header) {
		err = restoreID(res, id, call.id)
	}
	return res, err
}

// restoreID gives an answer the id by which the client knows its request.
func restoreID(res *http.Response, sent, id json.RawMessage) error {
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	_ = res.Body.Close()
	switch found, at, ok := member(answer, "id"); {
	case err != nil:
		return err
	case len(answer) > maxAnswer:
		setError(res, http.StatusBadGateway, id, errAnswerTooLong.Error())
	case ok && sameID(found, sent):
		setBody(res, written{body: answer, id: found, idAt: at}.with(id))
	default:
		setBody(res, answer)
	}
	return nil
}

// demandsSession says whether an MCP server refused a request because it wants a session, or another one. Servers should answer 400 for want of a
// session and 404 when it has ended (MCP 2025-11-25, session management). Some answer 422 for the first, many 400 for both, and the official Go
// SDK answers the first with a JSON-RPC error.
func (call *simpleCall) demandsSession(res *http.Response, had bool) bool {
	switch res.StatusCode {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		if !had {
			return true
		}
		text := strings.ToLower(string(peek(res)))
		return strings.Contains(text, "session") || strings.Contains(text, "initializ")
	case http.StatusNotFound:
		return had
	case http.StatusOK:
		var answer struct {
			Error struct {
				Message string `json:"message"`
			} `json:"error"`
		}
		return !had && isJSON(res.Header) && json.Unmarshal(peek(res), &answer) == nil &&
			strings.Contains(answer.Error.Message, "is invalid during session initialization")
	}
	return false
}

// peek returns the beginning of a response's body, and leaves the response whole.
func peek(res *http.Response) []byte {
	head, _ := io.ReadAll(io.LimitReader(res.Body, maxComplaint)) // an error comes again when the rest is read
	res.Body = readCloser{io.MultiReader(bytes.NewReader(head), res.Body), res.Body}
	return head
}
