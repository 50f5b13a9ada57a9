package mcpfilter

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// maxBody is how much of a request body is kept in memory: to see what it asks for, and to repeat the request after the
// upstream's 401.
const maxBody = 4 << 20

// bodyVar is the variable of a request's context under which its body is kept, once it was read.
const bodyVar = "mcp_body"

// body is a request's body, as far as it was read into memory.
type body struct {
	// bytes are all of it when it is complete. They are never changed.
	bytes    []byte
	complete bool

	// reader is what took the place of the request's body, and gives the same bytes. The first one is that of a body that is complete.
	reader io.ReadCloser
	first  memoryBody

	// said is what it says, once somebody has asked, and read what was read of it then.
	said *contents
	read contents
}

// memoryBody is a body in memory. The server closes its own.
type memoryBody struct{ bytes.Reader }

func (*memoryBody) Close() error { return nil }

// again is the body for another request. The HTTP transport knows what it is, and sends it together with the header.
func (b *body) again() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.bytes)), nil }

// captureBody reads a JSON body of at most maxBody bytes into memory, and leaves r a body of the same bytes. Whoever asks again
// gets the same.
// A body that cannot be read could not be sent on either: its error is for the client.
func captureBody(r *http.Request) (*body, error) {
	if b, ok := caddyhttp.GetVar(r.Context(), bodyVar).(*body); ok && b.reader == r.Body {
		return b, nil
	}
	if r.Method != http.MethodPost {
		settleBody(r)
	}
	b := &body{reader: r.Body}
	switch {
	case !hasBody(r):
		b.complete = true
		return b, nil
	case !isJSON(r.Header):
		return b, nil
	}
	var err error
	if b.bytes, err = readUpTo(r.Body, maxBody+1, r.ContentLength); err != nil {
		return nil, caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("read request body: %w", err))
	}
	b.complete = len(b.bytes) <= maxBody
	if b.complete {
		b.first.Reset(b.bytes)
		b.reader = &b.first
	} else {
		b.reader = readCloser{io.MultiReader(bytes.NewReader(b.bytes), r.Body), r.Body}
	}
	if foreignCharset(r.Header) {
		b.read.unclear = errCharset
		b.said = &b.read
	}
	r.Body = b.reader
	caddyhttp.SetVar(r.Context(), bodyVar, b)
	return b, nil
}

// maxAnnounced is how much memory a body gets because it says that it is long, in bytes.
const maxAnnounced = 64 << 10

// readUpTo reads a body to its end, or to so many bytes of it. Its length, where that is known, is what it says itself.
func readUpTo(from io.Reader, most int, length int64) ([]byte, error) {
	size := int64(bytes.MinRead)
	if length > 0 {
		size = min(length, maxAnnounced) + 1 // one more to see the end
	}
	read := make([]byte, 0, size)
	for len(read) < most {
		if len(read) == cap(read) {
			read = slices.Grow(read, len(read))
		}
		n, err := from.Read(read[len(read):min(cap(read), most)])
		read = read[:len(read)+n]
		switch err {
		case nil:
		case io.EOF:
			return read, nil
		default:
			return nil, err
		}
	}
	return read, nil
}

// contents is what a body says, which is looked at once.
func (b *body) contents() *contents {
	switch {
	case b.said != nil:
	case !b.complete:
		b.read.unclear = errIncomplete
		b.said = &b.read
	default:
		b.read.readAll(b.bytes)
		b.said = &b.read
	}
	return b.said
}

// settleBody finds out whether there is anything in a body of unknown length. Over HTTP/2 and HTTP/3, requests need not say that they have none.
func settleBody(r *http.Request) {
	if !hasBody(r) || r.ContentLength > 0 {
		return
	}
	first := make([]byte, 1)
	switch n, err := io.ReadFull(r.Body, first); {
	case n > 0:
		r.Body = readCloser{io.MultiReader(bytes.NewReader(first), r.Body), r.Body}
	case err == io.EOF:
		r.Body, r.ContentLength = http.NoBody, 0
	}
}

// maxPadding is how much space at the beginning of a body is skipped to see what begins there, in bytes.
const maxPadding = 512

// padding is what parsers skip in front of JSON, in any of Unicode's encodings. The last one stands for bytes that are no UTF-8.
const padding = " \t\r\n\x00\ufeff\ufffd"

// beginsAsJSON reports whether a body may be a JSON-RPC message, for servers that do not look at its Content-Type. It leaves r a body of the same bytes.
func beginsAsJSON(r *http.Request) (bool, error) {
	var head, text []byte
	var err error
	for len(text) == 0 && len(head) < maxPadding && err == nil {
		var n int
		head = slices.Grow(head, maxPadding-len(head))
		n, err = r.Body.Read(head[len(head):maxPadding])
		head = head[:len(head)+n]
		text = bytes.TrimLeft(head, padding)
	}
	if err != nil && err != io.EOF {
		return false, caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("read request body: %w", err))
	}
	r.Body = readCloser{io.MultiReader(bytes.NewReader(head), r.Body), r.Body}
	return len(text) > 0 && (text[0] == '{' || text[0] == '[') || len(text) == 0 && len(head) == maxPadding, nil
}

func hasBody(req *http.Request) bool {
	return req.Body != nil && req.Body != http.NoBody && req.ContentLength != 0
}

// readCloser reads from one thing and closes another.
type readCloser struct {
	io.Reader
	io.Closer
}
