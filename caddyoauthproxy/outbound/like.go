package outbound

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"code.dny.dev/ssrf"
)

// NewLike returns a client as New does, for requests to addresses that the server at the given address names. The address that is about to be
// connected to is judged after the name was resolved: private and other special networks (RFC 6890) are closed, unless they are said to be open, or the server
// is written as an address in one or as localhost. A request that the environment sends to an egress proxy is the proxy's to judge.
func NewLike(server string, private bool, timeout time.Duration, parallel int) *http.Client {
	client := New(timeout, parallel)
	guard := ssrf.New(ssrf.WithAnyPort())
	if private || isSpecial(guard, server) {
		return client
	}
	plain := client.Transport.(*http.Transport)
	dialer := &net.Dialer{Timeout: min(timeout, 10*time.Second), Control: guard.Safe}
	direct := plain.Clone()
	direct.Proxy, direct.DialContext = nil, dialer.DialContext
	client.Transport = &egress{proxied: plain, direct: direct}
	return client
}

// IsClosed reports whether err says that a request was not sent because of the network that its address lies in.
func IsClosed(err error) bool { return errors.Is(err, ssrf.ErrProhibitedIP) }

// egress sends requests that have a proxy through it, and all others itself.
type egress struct {
	proxied, direct *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (e *egress) RoundTrip(r *http.Request) (*http.Response, error) {
	if proxy, err := e.proxied.Proxy(r); err == nil && proxy != nil {
		return e.proxied.RoundTrip(r)
	}
	return e.direct.RoundTrip(r)
}

// isSpecial reports whether a server is written as an address that the guard refuses, or as this machine.
func isSpecial(guard *ssrf.Guardian, server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	if ip == nil {
		return u.Hostname() == "localhost"
	}
	network := "tcp6"
	if ip.To4() != nil {
		network = "tcp4"
	}
	return guard.Safe(network, net.JoinHostPort(ip.String(), "443"), nil) != nil
}
