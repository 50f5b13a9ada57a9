package mcpfilter_test

import (
	"net/http"
	"strings"
	"testing"
)

func TestT59T60T61UpstreamSeesOnlyItsOwnCredential(t *testing.T) {
	t.Parallel()
	for name, site := range map[string]string{
		"header": `
	mcp_filter PROXY
	reverse_proxy UPSTREAM {
		header_up X-Who {http.auth.user.email}
	}`,
		"transport": `
	mcp_proxy PROXY UPSTREAM {
		header_up X-Who {http.auth.user.email}
	}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			s := startCaddy(t, g, resource, site, up)
			res := s.raw(t, "GET", "/jira/mcp",
				"authorization: bearer good-token", "Connection: close, authorization, x-who, x-forwarded-for, content-type",
				"Proxy-Authorization: Basic eDp5", "Cookie: __Host-gw=1", "DPoP: abc", "X-API-Key: key",
				"X-Forwarded-User: mallory", "x-gateway-user: mallory", "X-Auth-Request-Email: mallory", "Remote-User: mallory", "X-Who: mallory")
			wantStatus(t, res, http.StatusOK)
			h := up.last(t).Header
			if got := h.Values("Authorization"); len(got) != 1 || got[0] != "Bearer upstream-1" {
				t.Errorf("Authorization: %q", got)
			}
			if got := h.Values("X-Who"); len(got) != 1 || got[0] != "ada@example.com" {
				t.Errorf("X-Who: %q", got)
			}
			if got := h.Get("X-Forwarded-For"); got != "127.0.0.1" {
				t.Errorf("X-Forwarded-For: %q", got)
			}
			for field, values := range h {
				for _, v := range values {
					if strings.Contains(v, "mallory") || strings.Contains(v, "good-token") || field == "Cookie" || field == "Dpop" || field == "X-Api-Key" || field == "Proxy-Authorization" {
						t.Errorf("upstream got %s: %s", field, v)
					}
				}
			}
		})
	}
}

func TestT59SessionTokenStaysHere(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaProxy, up)
	wantStatus(t, s.post(t, "/jira/mcp", map[string]string{"Authorization": "", "X-Session-Token": "good-token"}), http.StatusOK)
	h := up.last(t).Header
	if h.Get("X-Session-Token") != "" || h.Get("Authorization") != "Bearer upstream-1" {
		t.Errorf("header upstream: %v", h)
	}
}

func TestNoMethodReflectsTheUpstreamToken(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaProxy, up)
	for _, method := range []string{"TRACE", "TRACK"} {
		wantStatus(t, s.raw(t, method, "/jira/mcp", "Authorization: Bearer good-token"), http.StatusBadRequest)
	}
	if up.count() != 0 {
		t.Error("the MCP server saw the request")
	}
}
