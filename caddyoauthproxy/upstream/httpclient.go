package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
)

const (
	// maxBody is how much of an answer is read, decompressed.
	maxBody = 1 << 20

	// maxRetryAfter is the longest wait that a provider can ask for.
	maxRetryAfter = time.Hour
)

// answer is a complete answer of a provider.
type answer struct {
	status     int
	mediaType  string
	retryAfter time.Duration
	date       time.Time // by the provider's clock; zero when it does not say
	challenges []string  // WWW-Authenticate
	body       []byte
}

// do makes one request and reads its answer. Its errors are of class Unreachable or Malformed.
func (p *Provider) do(ctx context.Context, req *http.Request) (*answer, error) {
	return p.doUpTo(ctx, req, maxBody)
}

// doHead makes one request and reads the head of its answer; the body may never end.
func (p *Provider) doHead(ctx context.Context, req *http.Request) (*answer, error) {
	return p.doUpTo(ctx, req, 0)
}

func (p *Provider) doUpTo(ctx context.Context, req *http.Request, limit int) (*answer, error) {
	f := fenceOf(req)
	if err := f.begin(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	var connected atomic.Bool
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	}))
	req.Header.Set("User-Agent", outbound.UserAgent)
	resp, err := p.client.Do(req)
	if err != nil && !f.wasSent() {
		if err := f.begin(); err != nil {
			return nil, err
		}
	}
	if err != nil {
		sent := connected.Load() && f.wasSent()
		return nil, &Error{Class: Unreachable, Unknown: sent, Cut: sent && isCut(ctx, err), Unsent: !sent, Err: withoutURL(err)}
	}
	defer resp.Body.Close()
	var body []byte
	if limit > 0 {
		body, err = io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	}
	switch {
	case err != nil:
		return nil, &Error{Class: Unreachable, Unknown: true, Cut: isCut(ctx, err), Status: resp.StatusCode, Err: fmt.Errorf("read answer: %w", withoutURL(err))}
	case len(body) > limit:
		return nil, &Error{Class: Malformed, Status: resp.StatusCode, Err: fmt.Errorf("answer is longer than %d bytes", limit)}
	}
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	now := p.now()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		date = time.Time{}
	} else {
		now = date // a Retry-After that is a date is by the same clock
	}
	return &answer{
		date:       date,
		status:     resp.StatusCode,
		mediaType:  strings.ToLower(strings.TrimSpace(mediaType)),
		retryAfter: parseRetryAfter(resp.Header.Get("Retry-After"), now),
		body:       body,
		challenges: resp.Header.Values("WWW-Authenticate"),
	}, nil
}

// isCut reports whether a request failed because its connection ended, and not for want of time.
func isCut(ctx context.Context, err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ctx.Err() == nil && (!ok || !timeout.Timeout())
}

// getJSON gets a document. Answers other than 200 are errors.
func (p *Provider) getJSON(ctx context.Context, address, bearer string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	return p.readJSON(ctx, req, bearer)
}

// readJSON sends a request for a document.
func (p *Provider) readJSON(ctx context.Context, req *http.Request, bearer string) ([]byte, error) {
	req.Header.Set("Accept", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	a, err := p.do(ctx, req)
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, &Error{Class: statusClass(a.status), Status: a.status, RetryAfter: a.retryAfter, Err: errors.New("answer is not 200")}
	}
	return a.body, nil
}

// statusClass is the class of an answer without an OAuth error code.
func statusClass(status int) Class {
	switch {
	case status == http.StatusTooManyRequests:
		return Throttled
	case status < 400:
		return Malformed
	default:
		return Unreachable
	}
}

// withoutURL strips the address from an error of net/http.
func withoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// parseRetryAfter reads a Retry-After header (RFC 9110 §10.2.3): seconds or a date. now is by the clock of who wrote it, where that is known.
func parseRetryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if n, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}
