package caddyoauthproxy

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// It reads what Caddy does not publish. Were it to change there, this fails.
func TestAssistantKnowsTheAdminEndpointOfTheRunningConfig(t *testing.T) {
	t.Parallel()
	want := caddy.AdminConfig{Listen: "unix//run/caddy.sock|0220", EnforceOrigin: true, Origins: []string{"a.test", "b.test"}, Disabled: true}
	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &want, StorageRaw: json.RawMessage(`{"module":"file_system","root":"` + t.TempDir() + `"}`)})
	if err != nil {
		t.Fatal(err)
	}
	got := runningAdmin(ctx)
	if got.Listen != want.Listen || !got.EnforceOrigin || !got.Disabled || strings.Join(got.Origins, " ") != "a.test b.test" {
		t.Errorf("got %+v", got)
	}
	if got := runningAdmin(caddy.Context{Context: context.Background()}); got.Listen != caddy.DefaultAdminListen || got.Origins != nil {
		t.Errorf("without a config: %+v", got)
	}
}

func TestAssistantCallsTheAdminEndpointAsItWantsToBeCalled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		admin                   caddy.AdminConfig
		url, host, origin, fail string
	}{
		"the usual one":                {admin: caddy.AdminConfig{Listen: "localhost:2019"}, url: "http://localhost:2019", host: "localhost:2019"},
		"one with a wildcard":          {admin: caddy.AdminConfig{Listen: ":2020"}, url: "http://127.0.0.1:2020"},
		"one on all IPv6 interfaces":   {admin: caddy.AdminConfig{Listen: "[::]:2020"}, url: "http://[::1]:2020"},
		"a unix socket":                {admin: caddy.AdminConfig{Listen: "unix//run/caddy.sock|0220"}, url: "http://127.0.0.1"},
		"one with origins":             {admin: caddy.AdminConfig{Listen: "10.0.0.1:2020", Origins: []string{"caddy.test"}}, url: "http://10.0.0.1:2020", host: "caddy.test"},
		"one that enforces them":       {admin: caddy.AdminConfig{Listen: "10.0.0.1:2020", EnforceOrigin: true}, url: "http://10.0.0.1:2020", host: "10.0.0.1:2020", origin: "http://10.0.0.1:2020"},
		"one that names schemes":       {admin: caddy.AdminConfig{Listen: ":2020", EnforceOrigin: true, Origins: []string{"https://caddy.test/x"}}, url: "http://127.0.0.1:2020", origin: "https://caddy.test"},
		"none":                         {admin: caddy.AdminConfig{Disabled: true}, fail: "is off"},
		"one that takes nobody":        {admin: caddy.AdminConfig{Listen: "localhost:2019", Origins: []string{}}, fail: "accepts no origin"},
		"a socket that takes nobody":   {admin: caddy.AdminConfig{Listen: "unix//x", EnforceOrigin: true}, fail: "accepts no origin"},
		"a file descriptor":            {admin: caddy.AdminConfig{Listen: "fd/3"}, fail: "file descriptor"},
		"a variable that is not there": {admin: caddy.AdminConfig{Listen: "{env.NOT_SET_ANYWHERE}"}, fail: "not set"},
		"a range":                      {admin: caddy.AdminConfig{Listen: "localhost:2019-2030"}, fail: "none that can be called"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := adminEndpoint(c.admin)
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
	e, err := adminEndpoint(caddy.AdminConfig{Listen: "unix/" + path + "|0200"})
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
