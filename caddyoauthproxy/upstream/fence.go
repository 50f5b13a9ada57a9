package upstream

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// errLeaseOver says that a refresh token was not sent, because the lease under which it was to be spent is over.
var errLeaseOver = errors.New("the lease ended before the refresh token was sent")

// fence keeps a refresh token from being sent when the lease for that is over. A process may have been stopped since it took the lease, or have waited
// for a connection: it finds that out where the body of the request is written, and nowhere later. A nil fence lets everything pass.
type fence struct {
	now func() time.Time

	mu    sync.Mutex
	until time.Time
	over  bool // nothing more is to be sent
	sent  bool // the last request's body was given out to be written
}

// extend says that the lease lasts longer.
func (f *fence) extend(until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = until
}

// bar keeps what was not sent yet from being sent, and reports whether nothing is under way.
func (f *fence) bar() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	return !f.sent
}

// begin is called for each request, before it is made: what went before was not processed, else there were no other.
func (f *fence) begin() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = false
	return f.look()
}

// write is called when the request's body is about to be written.
func (f *fence) write() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sent { // the rest of it
		return nil
	}
	err := f.look()
	f.sent = err == nil
	return err
}

// look looks at the clock. The lock is held.
func (f *fence) look() error {
	f.over = f.over || !f.now().Before(f.until)
	if f.over {
		return &Error{Class: Unreachable, Unsent: true, Local: true, Err: errLeaseOver}
	}
	return nil
}

// wasSent reports whether any of the last request's body may have gone out.
func (f *fence) wasSent() bool {
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}

// guard puts the fence around a request's body.
func (f *fence) guard(req *http.Request) {
	if f == nil {
		return
	}
	again := req.GetBody
	req.Body = &fencedBody{req.Body, f}
	req.GetBody = func() (io.ReadCloser, error) { // the request is made again, over another connection
		if err := f.begin(); err != nil {
			return nil, err
		}
		body, err := again()
		return &fencedBody{body, f}, err
	}
}

// fencedBody is a body behind a fence.
type fencedBody struct {
	io.ReadCloser
	fence *fence
}

func (b *fencedBody) Read(p []byte) (int, error) {
	if err := b.fence.write(); err != nil {
		return 0, err
	}
	return b.ReadCloser.Read(p)
}

// fenceOf is the fence around a request's body, nil where there is none.
func fenceOf(req *http.Request) *fence {
	if b, ok := req.Body.(*fencedBody); ok {
		return b.fence
	}
	return nil
}
