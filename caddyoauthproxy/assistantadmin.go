package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
)

// runningAdmin is what a config says about the admin endpoint, with Caddy's default where it says nothing. Caddy gives plugins no way to ask, so
// this reads the field of its context that holds the config; where there is none of that name, the default is as good a guess as any, and
// whoever answers there must show this gateway's config before anything is changed.
func runningAdmin(ctx caddy.Context) caddy.AdminConfig {
	found := caddy.AdminConfig{Listen: caddy.DefaultAdminListen}
	config := reflect.Indirect(reflect.ValueOf(ctx).FieldByName("cfg"))
	if config.Kind() != reflect.Struct {
		return found
	}
	admin := reflect.Indirect(config.FieldByName("Admin"))
	if admin.Kind() != reflect.Struct {
		return found
	}
	if v := admin.FieldByName("Listen"); v.Kind() == reflect.String && v.String() != "" {
		found.Listen = v.String()
	}
	if v := admin.FieldByName("Disabled"); v.Kind() == reflect.Bool {
		found.Disabled = v.Bool()
	}
	if v := admin.FieldByName("EnforceOrigin"); v.Kind() == reflect.Bool {
		found.EnforceOrigin = v.Bool()
	}
	if v := admin.FieldByName("Origins"); v.Kind() == reflect.Slice && !v.IsNil() {
		found.Origins = make([]string, 0, v.Len())
		for i := range v.Len() {
			found.Origins = append(found.Origins, v.Index(i).String())
		}
	}
	return found
}

// adminEndpoint says how to get to the admin endpoint that a config describes, or why nobody can.
func adminEndpoint(admin caddy.AdminConfig) (*operator.AdminEndpoint, error) {
	if admin.Disabled {
		return nil, errors.New("the admin endpoint of this Caddy is off, so the running config cannot be changed: add the block to the Caddyfile, and restart")
	}
	listen, err := caddy.NewReplacer().ReplaceOrErr(admin.Listen, true, true)
	if err != nil {
		return nil, fmt.Errorf("the address of Caddy's admin endpoint: %s is not set or cannot be read", admin.Listen)
	}
	address, err := caddy.ParseNetworkAddress(listen)
	if err != nil || address.PortRangeSize() != 1 {
		return nil, fmt.Errorf("the address of Caddy's admin endpoint, %q, is none that can be called", listen)
	}
	e := &operator.AdminEndpoint{URL: "http://127.0.0.1"}
	own := "" // what the endpoint takes for its own host, where origins are not configured
	checksHost := false
	switch {
	case address.IsFdNetwork():
		return nil, errors.New("the admin endpoint of this Caddy listens on a file descriptor, which nobody can call: add the block to the Caddyfile")
	case address.IsUnixNetwork():
		address.Host, _, _ = strings.Cut(address.Host, "|") // without the permissions of the socket
	default:
		ip, _ := netip.ParseAddr(address.Host)
		own, checksHost = address.JoinHostPort(0), address.Host != "" && !ip.IsUnspecified()
		switch {
		case address.Host == "", ip.Is4() && ip.IsUnspecified():
			address.Host = "127.0.0.1"
		case ip.IsUnspecified():
			address.Host = "::1"
		}
		e.URL = "http://" + address.JoinHostPort(0)
	}
	if e.Host, e.Origin, err = adminHost(admin, own, checksHost); err != nil {
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

// adminHost chooses the Host and Origin headers: the first of the configured origins, else the endpoint's own host.
func adminHost(admin caddy.AdminConfig, own string, checksHost bool) (host, origin string, err error) {
	switch {
	case len(admin.Origins) > 0:
		own = admin.Origins[0]
	case (checksHost || admin.EnforceOrigin) && (admin.Origins != nil || own == ""):
		return "", "", errors.New("the admin endpoint of this Caddy accepts no origin, so nobody can call it: write origins in the global option admin")
	}
	host, origin = own, "http://"+own
	if strings.Contains(own, "://") {
		u, err := url.Parse(own)
		if err != nil {
			return "", "", fmt.Errorf("the first of the origins of Caddy's admin endpoint, %q, is none", own)
		}
		host, origin = u.Host, u.Scheme+"://"+u.Host
	}
	if !checksHost {
		host = ""
	}
	if !admin.EnforceOrigin {
		origin = ""
	}
	return host, origin, nil
}
