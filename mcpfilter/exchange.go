package mcpfilter

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"sync/atomic"
)

// exchangeKey is the context key of a request's exchange.
type exchangeKey struct{}

// exchangeContext is the context of a request that has an exchange.
type exchangeContext struct {
	context.Context
	x *exchange
}

// Value is the exchange, or what stands in the request's own context.
func (c *exchangeContext) Value(key any) any {
	if key == (exchangeKey{}) {
		return c.x
	}
	return c.Context.Value(key)
}

// exchange is one request's passage from gateway token to upstream token. The
// filter makes it, the transport uses it, the response guard reads what became of it, one after the other.
type exchange struct {
	gateway      Gateway
	proxy        *Proxy
	session      *Session
	gatewayToken string

	// token is the upstream token to send.
	token string

	// body is the request's, and method, target and name what it asks for.
	body         *body
	method, name string
	target       Target

	// upstreamStatus is that of the MCP server's answer, whatever is made of it; zero without one.
	upstreamStatus int

	// assertion is the identity assertion to send with it, if the proxy has any.
	assertion string

	// simple is what compat has to help with, if anything.
	simple *simpleCall

	// stream says that the response is an event stream, and has begun.
	stream bool

	// upstreamHost is the host that the transport sent the request to, if it was ours.
	upstreamHost string

	// reported says that the gateway was told of the upstream's 401, and rejection what it answered.
	reported  bool
	rejection error

	// cut says that we end the response, so that the reader of an event stream takes the error for the end.
	cut atomic.Bool
}

// endsHere says whether the response is to be ended between handler and client: not every handler looks at its request's context. The
// transport does, and ends an event stream cleanly.
func (x *exchange) endsHere() bool { return x.upstreamHost == "" && x.cut.Load() }

// report tells the gateway, once, that the upstream answered 401, and takes the token it gives instead.
func (x *exchange) report(ctx context.Context) error {
	if x.reported {
		return x.rejection
	}
	x.reported = true
	token, err := x.gateway.UpstreamRejected(ctx, x.session, x.token)
	if err != nil {
		x.rejection = err
		return err
	}
	x.token = token
	return nil
}

// authorized returns req with the upstream token, and the identity assertion if there is one. req itself is left as it is, because it gets logged. The copy shares
// with it what transports only read, values of headers among them.
func (x *exchange) authorized(req *http.Request) *http.Request {
	out := req.WithContext(req.Context())
	target := *req.URL // of which the transport sets the scheme, for the port of this attempt
	out.URL = &target
	out.Header = make(http.Header, len(req.Header)+1) // held as long as the response lasts, and twice as large with a ninth name
	maps.Copy(out.Header, req.Header)
	x.proxy.inject(out.Header, x.token)
	if x.prunes(req.Method) {
		out.Header.Set("Accept-Encoding", "identity")
	}
	if x.assertion != "" {
		out.Header.Set(x.proxy.IdentityAssertion, x.assertion)
	}
	switch {
	case req.GetBody != nil:
		out.Body, _ = req.GetBody()
	case x.repeatable(req) && hasBody(req):
		// With GetBody the HTTP transport itself recovers from a stale idle connection.
		out.ContentLength = int64(len(x.body.bytes))
		out.GetBody = x.body.again
		out.Body, _ = out.GetBody()
	}
	return out
}

// withBody returns req with a body of our own.
func withBody(req *http.Request, body []byte) *http.Request {
	out := req.Clone(req.Context())
	out.ContentLength = int64(len(body))
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, _ = out.GetBody()
	return out
}

// repeatable says whether req can be sent a second time: it has no body, or one that is in memory.
func (x *exchange) repeatable(req *http.Request) bool {
	if !hasBody(req) || req.GetBody != nil {
		return true
	}
	return x.body.complete && (req.ContentLength == -1 || req.ContentLength == int64(len(x.body.bytes)))
}
