package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"syscall"
)

// redial sends requests by HTTP/2, and sends one again that went to nobody. Caddy listens anew at each reload, and Linux resets the
// connections that wait in the old listener's queue when it is closed: no server has seen them, and none can help it. They are told by
// that no byte ever came from the other end, where an HTTP/2 server speaks first. Whatever a server has accepted is not forgiven.
type redial struct{ transport *http.Transport }

func newRedial() *redial {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &redial{&http.Transport{Protocols: &p, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &heard{Conn: c}, nil
	}}}
}

// HTTP2 is a way of requests on which those to the gateway go by HTTP/2, and again where they went to nobody, so that a reload fails none. All others go as ever.
func (w *World) HTTP2() http.RoundTripper {
	return byHTTP2{strings.TrimPrefix(w.URL, "http://"), newRedial()}
}

type byHTTP2 struct {
	gateway string
	redial  *redial
}

// RoundTrip implements http.RoundTripper.
func (b byHTTP2) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == b.gateway {
		return b.redial.RoundTrip(r)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// maxRedials bounds how often a request is sent again.
const maxRedials = 5

// RoundTrip implements http.RoundTripper.
func (d *redial) RoundTrip(r *http.Request) (*http.Response, error) {
	for tries := 0; ; tries++ {
		var used *heard
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { used, _ = i.Conn.(*heard) }}
		again := r.WithContext(httptrace.WithClientTrace(r.Context(), trace))
		if tries > 0 && r.GetBody != nil {
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			again.Body = body
		}
		resp, err := d.transport.RoundTrip(again)
		switch {
		case err == nil || !errors.Is(err, syscall.ECONNRESET) || used == nil || tries == maxRedials:
			return resp, err
		case used.spoke.Load():
			return nil, fmt.Errorf("by a server that had spoken: %w", err)
		}
	}
}

// CloseIdleConnections closes connections that nobody uses.
func (d *redial) CloseIdleConnections() { d.transport.CloseIdleConnections() }

// heard is a connection that knows whether the other end has said anything.
type heard struct {
	net.Conn
	spoke atomic.Bool
}

// Read notes that something came.
func (c *heard) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.spoke.Store(true)
	}
	return n, err
}
