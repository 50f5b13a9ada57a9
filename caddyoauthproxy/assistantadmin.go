package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
)

// Caddy does not tell plugins where its admin endpoint listens. So the operator says it, unless it is the usual place; and whoever answers there must show
// this gateway's config before anything is changed.

// checkApply judges what is said about the admin endpoint, as far as there are no placeholders in it.
func (v *Admin) checkApply() error {
	if !v.ApplyConfig && v.AdminAddress+v.AdminOrigin != "" {
		return errors.New("admin_address and admin_origin are for apply_config: set that too, or leave them out")
	}
	if strings.Contains(v.AdminAddress, "{") {
		return nil
	}
	_, err := v.adminEndpoint()
	return err
}

// adminEndpoint says how to get to Caddy's admin endpoint.
func (v *Admin) adminEndpoint() (*operator.AdminEndpoint, error) {
	listen := v.AdminAddress
	if listen == "" {
		listen = caddy.DefaultAdminListen
	}
	replaced, err := caddy.NewReplacer().ReplaceOrErr(listen, true, true)
	if err != nil {
		return nil, fmt.Errorf("the address of Caddy's admin endpoint: %s is not set or cannot be read", listen)
	}
	address, err := caddy.ParseNetworkAddress(replaced)
	if err != nil || address.PortRangeSize() != 1 || address.IsFdNetwork() || !address.IsUnixNetwork() && address.StartPort == 0 {
		return nil, fmt.Errorf("the address of Caddy's admin endpoint, %q, is none that can be called: write it like localhost:2019, or unix//run/caddy.sock", listen)
	}
	e := &operator.AdminEndpoint{URL: "http://127.0.0.1"}
	if address.IsUnixNetwork() {
		address.Host, _, _ = strings.Cut(address.Host, "|") // without the permissions of the socket
	} else {
		switch ip, _ := netip.ParseAddr(address.Host); {
		case address.Host == "", ip.Is4() && ip.IsUnspecified():
			address.Host = "127.0.0.1"
		case ip.IsUnspecified():
			address.Host = "::1"
		}
		e.URL = "http://" + address.JoinHostPort(0)
	}
	if e.Host, e.Origin, err = v.adminHost(); err != nil {
		return nil, err
	}
	network, dial := address.Network, address.JoinHostPort(0)
	e.Client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			// A connection that is kept would hold up the end of the old endpoint, which a reload replaces.
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, dial)
			},
		},
	}
	return e, nil
}

// adminHost is the Host and Origin headers for an endpoint that wants its own: empty where those that follow from its address will do.
func (v *Admin) adminHost() (host, origin string, err error) {
	if v.AdminOrigin == "" {
		return "", "", nil
	}
	origin = v.AdminOrigin
	if !strings.Contains(origin, "://") {
		origin = "http://" + origin
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" || origin != u.Scheme+"://"+u.Host {
		return "", "", fmt.Errorf("%q is no origin of Caddy's admin endpoint: write one of its origins, like localhost:2019 or https://caddy.example.com", v.AdminOrigin)
	}
	return u.Host, origin, nil
}
