package outbound

import (
	"net"
	"net/http"
	"time"
)

// UserAgent is what the gateway calls itself.
const UserAgent = "caddy-oauth-proxy"

// maxHeaders bounds the header of an answer, in bytes.
const maxHeaders = 64 << 10

// New returns a client for requests to providers. It follows no redirect, because requests carry secrets, and has a
// connection pool of its own with at most parallel idle connections to a host. timeout bounds a whole request.
func New(timeout time.Duration, parallel int) *http.Client {
	dialer := &net.Dialer{Timeout: min(timeout, 10*time.Second)}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: FollowNone,
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         dialer.DialContext,
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: min(timeout, 10*time.Second),
			MaxIdleConns:        64,
			MaxIdleConnsPerHost: parallel,
			// Shorter than servers keep connections: a request on a connection that the server is just
			// closing may or may not have been processed, which costs a refresh token.
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxHeaders,
		},
	}
}

// FollowNone is a redirect policy that follows none.
func FollowNone(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
