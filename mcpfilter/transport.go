package mcpfilter

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(Transport{})
}

// Transport is Caddy's HTTP transport with an upstream token. It takes every option of
// the `http` transport, and adds to each request the token that the `mcp_filter`
// in front of its `reverse_proxy` obtained:
//
//   - The token is put on a copy of the request, so no handler and no log sees it, and with it the identity assertion where
//     the proxy has one.
//   - A request that the MCP server refuses with 401 is repeated once with a renewed token, if it
//     has no body or a JSON body of at most 4 MiB. Other bodies are not repeated: the token is
//     renewed, and the client gets a challenge and tries again.
//   - An event stream that the filter ends, ends cleanly for the client.
//   - What lists name that the proxy's policy does not let the caller use is taken from them.
//   - For the clients that a proxy's `compat` helps, answers become JSON, and MCP sessions are opened and kept.
//   - What a client says of the encodings that it takes, and how the server encodes its answer, is between those two: unless
//     `compression` is set, nothing is asked for or unpacked on the way.
//   - A connection reads into 3 KiB and writes from as much, where `http` has 4 KiB for each, unless `read_buffer` and `write_buffer` are set: each open event stream holds both.
//
// A request that did not come through an `mcp_filter` is not sent (502). Active health checks are
// sent without a token.
type Transport struct {
	reverseproxy.HTTPTransport

	sessions *sessions
	log      *zap.Logger
}

// errNoFilter is what a request gets that nobody authenticated.
var errNoFilter = errors.New("transport mcp: the request did not pass an mcp_filter: put one in front of this reverse_proxy, or use mcp_proxy")

// maxDrain is how much of the rest of a body is read, and drainTime for how long, so that its connection can be used again. Most servers send it
// together with what came before.
const (
	maxDrain  = 64 << 10
	drainTime = 20 * time.Millisecond
)

// readBuffer and writeBuffer are how many bytes are gathered before they are read from or written to an HTTP/1 connection. A connection has both as long as it is open, which with an idle
// event stream is as long as that: net/http's own 4 KiB each would be more than all that the gateway itself holds for it. Most messages fit, with their headers; what is longer takes another
// call of the system, and trailers must fit.
const (
	readBuffer  = 3 << 10
	writeBuffer = 3 << 10
)

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.mcp",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision sets up the transport. The default of `compression`, which in the `http` transport is on, is off, and buffers are smaller.
func (t *Transport) Provision(ctx caddy.Context) error {
	t.log = ctx.Logger()
	t.sessions = newSessions(t.endSession)
	if t.Compression == nil {
		t.Compression = new(bool)
	}
	if t.ReadBufferSize == 0 {
		t.ReadBufferSize = readBuffer
	}
	if t.WriteBufferSize == 0 {
		t.WriteBufferSize = writeBuffer
	}
	return t.HTTPTransport.Provision(ctx)
}

// lateConnections is when connections are closed that were still busy when their config was replaced.
const lateConnections = 10 * time.Second

// lastFarewells is how long the process may stay to end sessions at MCP servers.
const lastFarewells = 2 * time.Second

// Cleanup closes idle connections, and again a little later those that the last requests of this config left behind:
// otherwise they would stay for their keep-alive time after every reload. The sessions that it keeps end, in the background.
func (t *Transport) Cleanup() error {
	if t.sessions != nil {
		ended := t.sessions.close()
		if caddy.Exiting() {
			select {
			case <-ended:
			case <-time.After(lastFarewells):
			}
		}
	}
	if pool := t.Transport; pool != nil && !caddy.Exiting() {
		time.AfterFunc(lateConnections, pool.CloseIdleConnections)
	}
	return t.HTTPTransport.Cleanup()
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		if served := req.Context().Value(caddyhttp.VarsCtxKey) != nil; served {
			return nil, errNoFilter
		}
		return t.HTTPTransport.RoundTrip(req) // no client's request but an active health check
	}
	x.upstreamHost, x.upstreamStatus = req.Host, 0
	deliver := t.deliver
	if x.simple != nil {
		deliver = t.deliverSimple
	}
	res, err := deliver(req, x)
	if err != nil {
		return nil, err
	}
	switch {
	case res.StatusCode == http.StatusUnauthorized:
		discard(res)
	case isEventStream(res.Header):
		res.Body = &streamBody{ReadCloser: res.Body, x: x}
	}
	return res, nil
}

// deliver sends a request with the upstream token, and once more when the MCP server refuses that.
func (t *Transport) deliver(req *http.Request, x *exchange) (*http.Response, error) {
	res, err := t.HTTPTransport.RoundTrip(x.authorized(req))
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusUnauthorized && !x.reported {
		// A 401 says that the request was not processed, so repeating it is safe. What the
		// gateway could not renew, the guard tells the client.
		if err := x.report(req.Context()); err == nil && x.repeatable(req) {
			discard(res)
			if res, err = t.HTTPTransport.RoundTrip(x.authorized(req)); err != nil {
				return nil, err
			}
		}
	}
	x.upstreamStatus = res.StatusCode
	if err := x.prune(req.Method, res); err != nil {
		_ = res.Body.Close() // what is left of it is not wanted
		return nil, err
	}
	return res, nil
}

// discard drops the body of a response that the client will not see.
func discard(res *http.Response) {
	drain(res.Body)
	res.Body = http.NoBody
	res.ContentLength = 0
	res.Header.Del("Content-Length")
}

// drain reads the rest of a body that nobody wants, as far as that is soon done, and closes it.
func drain(body io.ReadCloser) {
	late := time.AfterFunc(drainTime, func() { _ = body.Close() })
	_, _ = io.CopyN(io.Discard, body, maxDrain) // an error costs the connection
	late.Stop()
	_ = body.Close()
}

// Interface guards
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ caddyfile.Unmarshaler                            = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
)
