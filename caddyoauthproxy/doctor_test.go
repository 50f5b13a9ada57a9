package caddyoauthproxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

func TestDoctorTellsTheGatewaysAnswersFromThoseOfOthers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status          int
		challenge, text string
		served, guarded upstream.Level
	}{
		"ready":                   {200, "", "ready\n", upstream.Fine, upstream.Problem},
		"nothing":                 {200, "", "", upstream.Problem, upstream.Problem},
		"a page":                  {200, "", "<p>ready\n", upstream.Problem, upstream.Problem},
		"moved":                   {308, "", "", upstream.Problem, upstream.Problem},
		"not there":               {404, "", "ready\n", upstream.Problem, upstream.Problem},
		"not ready":               {503, "", "the vault is not open\n", upstream.Warning, upstream.Warning},
		"the filter":              {401, `Bearer resource_metadata="{BASE}/.well-known/oauth-protected-resource/mcp", scope="mcp"`, "", upstream.Problem, upstream.Fine},
		"the MCP server itself":   {401, `Bearer resource_metadata="https://mcp.test/.well-known/oauth-protected-resource"`, "", upstream.Problem, upstream.Problem},
		"somebody else's refusal": {401, `Basic realm="site"`, "", upstream.Problem, upstream.Problem},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.challenge != "" {
					w.Header().Set("WWW-Authenticate", strings.ReplaceAll(c.challenge, "{BASE}", "http://"+r.Host))
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.text)
			}))
			t.Cleanup(server.Close)
			resource, err := url.Parse(server.URL + "/mcp")
			if err != nil {
				t.Fatal(err)
			}
			client := outbound.New(time.Minute, 1)
			app := &App{config: &resolved{issuer: resource}}
			if f := app.served(t.Context(), client, server.URL+readyPath); f.Level != c.served {
				t.Errorf("%s, want %s: %s", f.Level, c.served, f.What)
			}
			p := &authserver.Proxy{ID: "jira", Resource: resource.String(), ResourceURL: resource}
			if f := guarded(t.Context(), client, p); f.Level != c.guarded {
				t.Errorf("%s, want %s: %s", f.Level, c.guarded, f.What)
			}
		})
	}
}
