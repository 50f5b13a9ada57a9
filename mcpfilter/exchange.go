package mcpfilter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// maxBody is how much of a request body is kept in memory: to find the JSON-RPC
// method, and to repeat the request after the upstream's 401.
const maxBody = 1 << 20

// exchangeKey is the context key of a request's exchange.
type exchangeKey struct{}

// exchange is one request's passage from gateway token to upstream token. The
// filter makes it, the transport uses it, the response guard reads what became of it, one after the other.
type exchange struct {
	gateway      Gateway
	proxy        *Proxy
	session      *Session
	gatewayToken string

	// token is the upstream token to send.
	token string

	// body is the request's body when all of it is known; then the request can be repeated.
	body     []byte
	complete bool

	// simple is what compat has to help with, if anything.
	simple *simpleCall

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

// captureBody reads a JSON body of at most maxBody bytes into memory, and leaves r a body of the same bytes.
// A body that cannot be read could not be sent on either: its error is for the client.
func (x *exchange) captureBody(r *http.Request) error {
	if r.Body == nil || r.ContentLength == 0 {
		x.complete = true
		return nil
	}
	if r.Method != http.MethodPost || !isJSON(r.Header) {
		return nil
	}
	var head bytes.Buffer
	if r.ContentLength > 0 {
		head.Grow(int(min(r.ContentLength, maxBody)) + bytes.MinRead)
	}
	if _, err := head.ReadFrom(io.LimitReader(r.Body, maxBody+1)); err != nil {
		return caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("read request body: %w", err))
	}
	x.body = head.Bytes()
	x.complete = len(x.body) <= maxBody
	if x.complete {
		r.Body = io.NopCloser(bytes.NewReader(x.body)) // the server closes its own
	} else {
		r.Body = readCloser{io.MultiReader(bytes.NewReader(x.body), r.Body), r.Body}
	}
	return nil
}

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

// authorized returns req with the upstream token. req itself is left as it is, because it gets logged.
func (x *exchange) authorized(req *http.Request) *http.Request {
	out := req.Clone(req.Context())
	x.proxy.inject(out.Header, x.token)
	switch {
	case req.GetBody != nil:
		out.Body, _ = req.GetBody()
	case x.repeatable(req) && hasBody(req):
		// With GetBody the HTTP transport itself recovers from a stale idle connection.
		out.ContentLength = int64(len(x.body))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(x.body)), nil }
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
	return x.complete && (req.ContentLength == -1 || req.ContentLength == int64(len(x.body)))
}

func hasBody(req *http.Request) bool {
	return req.Body != nil && req.Body != http.NoBody && req.ContentLength != 0
}

// readCloser reads from one thing and closes another.
type readCloser struct {
	io.Reader
	io.Closer
}
