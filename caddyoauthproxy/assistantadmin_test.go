package caddyoauthproxy

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestAssistantCallsTheAdminEndpointAsItWantsToBeCalled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		address, tells          string
		url, host, origin, fail string
	}{
		"the usual one":                {url: "http://" + caddy.DefaultAdminListen},
		"another port":                 {address: "localhost:2020", url: "http://localhost:2020"},
		"one with a wildcard":          {address: ":2020", url: "http://127.0.0.1:2020"},
		"one on all interfaces":        {address: "0.0.0.0:2020", url: "http://127.0.0.1:2020"},
		"one on all IPv6 interfaces":   {address: "[::]:2020", url: "http://[::1]:2020"},
		"a unix socket":                {address: "unix//run/caddy.sock|0220", url: "http://127.0.0.1"},
		"one with origins":             {address: "10.0.0.1:2020", tells: "caddy.test", url: "http://10.0.0.1:2020", host: "caddy.test", origin: "http://caddy.test"},
		"one that names schemes":       {address: ":2020", tells: "https://caddy.test:8443", url: "http://127.0.0.1:2020", host: "caddy.test:8443", origin: "https://caddy.test:8443"},
		"a file descriptor":            {address: "fd/3", fail: "none that can be called"},
		"a variable that is not there": {address: "{env.NOT_SET_ANYWHERE}", fail: "not set"},
		"a range":                      {address: "localhost:2019-2030", fail: "none that can be called"},
		"no port":                      {address: "localhost", fail: "none that can be called"},
		"a URL":                        {address: "http://localhost:2019/", fail: "none that can be called"},
		"an origin with a path":        {tells: "https://caddy.test/x", fail: "is no origin"},
		"an origin with a name":        {tells: "https://root@caddy.test", fail: "is no origin"},
		"no origin":                    {tells: "a b", fail: "is no origin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := (&Admin{ApplyConfig: true, AdminAddress: c.address, AdminOrigin: c.tells}).adminEndpoint()
			if c.fail != "" {
				if err == nil || !strings.Contains(err.Error(), c.fail) {
					t.Errorf("got %v, want %q", err, c.fail)
				}
				return
			}
			if err != nil || e.URL != c.url || e.Host != c.host || e.Origin != c.origin {
				t.Errorf("got %+v, %v", e, err)
			}
		})
	}
}

func TestAssistantReachesAnAdminEndpointOnASocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	server.Listener = l
	server.Start()
	defer server.Close()
	e, err := (&Admin{ApplyConfig: true, AdminAddress: "unix/" + path + "|0200"}).adminEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := e.Client.Get(e.URL + "/config/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusTeapot {
		t.Errorf("got %s", resp.Status)
	}
}
