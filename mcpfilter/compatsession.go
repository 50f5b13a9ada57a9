package mcpfilter

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// openLimit is how long opening a session may take, and endLimit ending one.
const (
	openLimit = 30 * time.Second
	endLimit  = 5 * time.Second
)

// The messages that open a session (MCP 2025-06-18, lifecycle). The version is one that nearly every server with sessions knows. The client cannot be
// asked anything, so it has no capabilities.
const (
	openingID   = "0"
	opening     = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"caddy-oauth-proxy","version":"1"}}}`
	initialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
)

// session is an MCP session that the gateway opened for a client (MCP 2025-11-25, session management).
type session struct {
	key         sessionKey
	id, version string

	// farewell is the request that ends it, but for the token, and proxy says how that travels.
	farewell *http.Request
	proxy    *Proxy

	// ids counts requests. Simple clients often send the same id in each, and a server must not mix up two of them.
	ids atomic.Int64

	// These are guarded by sessions.mu: how many requests use the session, when the last one was done, what ends it when no other comes, whether the
	// server has forgotten it, and the upstream token as it was last known.
	users int
	used  time.Time
	idle  *time.Timer
	lost  bool
	token string
}

// rest stops the session's time from running out.
func (s *session) rest() {
	if s.idle != nil {
		s.idle.Stop()
	}
}

// nextID is the id of the session's next request.
func (s *session) nextID() json.RawMessage {
	return strconv.AppendInt(nil, s.ids.Add(1), 10)
}

// sign puts the session on a request.
func (s *session) sign(h http.Header) {
	h.Set("Mcp-Session-Id", s.id)
	h.Set("Mcp-Protocol-Version", s.version)
}

// errSessionRefused says that the MCP server answered 401 while a session was opened.
var errSessionRefused = errors.New("the MCP server does not accept the upstream token")

// openSession opens a session at the MCP server that req goes to, for the same user. There is none, and no error, when the server has its own reasons to give none.
func (t *Transport) openSession(req *http.Request, x *exchange) (*session, error) {
	ctx, cancel := context.WithTimeout(req.Context(), openLimit)
	defer cancel()
	req = req.Clone(ctx)
	maps.DeleteFunc(req.Header, func(name string, _ []string) bool { return hasPrefixFold(name, "Mcp-") })
	req.Header.Set("Content-Type", mediaJSON)
	req.Header.Set("Accept", bothMediaTypes)
	req.Header.Set("Accept-Encoding", "identity")

	none := func(why string, res *http.Response) (*session, error) {
		t.log.Debug("the MCP server opens no session", zap.String("proxy", x.proxy.ID), zap.String("reason", why), zap.Int("status", res.StatusCode))
		if res.StatusCode == http.StatusUnauthorized {
			return nil, errSessionRefused
		}
		return nil, nil
	}
	res, err := t.deliver(withBody(req, []byte(opening)), x)
	if err != nil {
		return nil, err
	}
	if isEventStream(res.Header) {
		if err := plainAnswer(ctx, res, json.RawMessage(openingID)); err != nil {
			return nil, err
		}
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	_ = res.Body.Close()
	if err != nil {
		return nil, err
	}
	var opened struct {
		Result struct {
			ProtocolVersion string `json:"protocolVersion"`
		} `json:"result"`
	}
	if res.StatusCode != http.StatusOK || json.Unmarshal(answer, &opened) != nil || !visible(opened.Result.ProtocolVersion) {
		return none("initialize failed", res)
	}
	s := &session{id: res.Header.Get("Mcp-Session-Id"), version: opened.Result.ProtocolVersion, proxy: x.proxy, token: x.token}
	if !visible(s.id) {
		return none("it has no id", res)
	}
	s.sign(req.Header)
	s.farewell = farewell(req)

	res, err = t.deliver(withBody(req, []byte(initialized)), x)
	if err == nil {
		_ = res.Body.Close()
		s.token = x.token
	}
	if err != nil || res.StatusCode >= http.StatusMultipleChoices {
		t.sessions.endAll([]*session{s})
		if err != nil {
			return nil, err
		}
		return none("notifications/initialized failed", res)
	}
	t.log.Debug("session opened", zap.String("proxy", x.proxy.ID), zap.String("version", s.version))
	return s, nil
}

// visible says whether a session id or a version can stand in a header (MCP 2025-11-25, session management: visible ASCII).
func visible(s string) bool {
	return s != "" && len(s) <= maxSessionID && !strings.ContainsFunc(s, func(c rune) bool { return c < '!' || c > '~' })
}

// transportPlaceholders are those that an HTTP transport may need to reach the MCP server.
var transportPlaceholders = []string{
	"http.request.host", "http.reverse_proxy.upstream.address", "http.reverse_proxy.upstream.host", "http.reverse_proxy.upstream.hostport", "http.reverse_proxy.upstream.port",
}

// farewell makes the request that ends the session of req. It outlives req, of whose context it keeps nothing but how the MCP server is found: not its
// body, nor a table of variables that is not to be read while req is still handled.
func farewell(req *http.Request) *http.Request {
	ctx, known := context.Background(), caddy.NewReplacer()
	if repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		for _, name := range transportPlaceholders {
			if value, ok := repl.Get(name); ok {
				known.Set(name, value)
			}
		}
	}
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, known)
	if vars, ok := req.Context().Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		vars = maps.Clone(vars)
		delete(vars, bodyVar)
		ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, vars)
	}
	out := req.Clone(ctx)
	out.Method, out.Body, out.GetBody, out.ContentLength = http.MethodDelete, nil, nil, 0
	out.Header.Del("Content-Type")
	return out
}

// endSession tells the MCP server that a session has ended.
func (t *Transport) endSession(s *session) {
	ctx, cancel := context.WithTimeout(s.farewell.Context(), endLimit)
	defer cancel()
	req := s.farewell.Clone(ctx)
	s.proxy.inject(req.Header, s.token)
	res, err := t.HTTPTransport.RoundTrip(req)
	if err != nil {
		t.log.Debug("session not ended", zap.String("proxy", s.proxy.ID), zap.Error(err))
		return
	}
	_ = res.Body.Close()
	t.log.Debug("session ended", zap.String("proxy", s.proxy.ID), zap.Int("status", res.StatusCode))
}
