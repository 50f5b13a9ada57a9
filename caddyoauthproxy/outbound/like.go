package outbound

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// NewLike returns a client as New does, for requests to addresses that the server at the given address names. It goes to private and other special
// networks (RFC 6890) only when that server is in one itself, as judged by the address that is about to be connected to. Behind an
// egress proxy that the environment names, the proxy decides.
func NewLike(server string, timeout time.Duration, parallel int) *http.Client {
	client := New(timeout, parallel)
	u, err := url.Parse(server)
	if err != nil {
		return client
	}
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && proxy != nil {
		return client
	}
	guard := ssrf.New(ssrf.WithAnyPort())
	dialer := &net.Dialer{Timeout: min(timeout, 10*time.Second)}
	dialer.ControlContext = func(ctx context.Context, network, address string, conn syscall.RawConn) error {
		err := guard.Safe(network, address, conn)
		if err != nil && isSpecial(ctx, guard, u.Hostname()) {
			return nil
		}
		return err
	}
	client.Transport.(*http.Transport).DialContext = dialer.DialContext
	return client
}

// isSpecial reports whether a host has an address that the guard refuses.
func isSpecial(ctx context.Context, guard *ssrf.Guardian, host string) bool {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false
	}
	for _, a := range addresses {
		network := "tcp4"
		if a = a.Unmap(); a.Is6() {
			network = "tcp6"
		}
		if guard.Safe(network, netip.AddrPortFrom(a, 443).String(), nil) != nil {
			return true
		}
	}
	return false
}
