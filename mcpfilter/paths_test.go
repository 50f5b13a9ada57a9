package mcpfilter_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// raw sends a request whose target no URL parser has touched.
func (s *caddyServer) raw(t *testing.T, method, target string, header ...string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	lines := append([]string{method + " " + target + " HTTP/1.1", "Host: gw.test"}, header...)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest(method, "http://gw.test/", nil)
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// oddSpellings are the ways around a path matcher that have been seen.
var oddSpellings = []string{
	"/jira/mcp%2f", "/jira/mcp%2F..", "/jira%2fmcp", "/jira/mcp;x", "/jira/mcp;x=1/y", "/jira/mcp%3bx", "/jira/mcp%00", "/jira/mcp%01",
	"//jira/mcp", "/jira//mcp", "/jira/mcp//", "/./jira/mcp", "/a/../jira/mcp", "/jira/mcp/.", "/jira/mcp/..", "/jira/mcp/%2e%2e/admin",
	"/jira/mcp/.%2e/admin", `/jira/mcp\x`, "/jira/mcp%5c..", "/jira/mcp/%252e%252e/admin", "/jira/mcp%252fadmin",
}

func TestT65OddSpellingsAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		site   string
		status []int
	}{
		"mcp_filter": {viaHeader, []int{400}},
		// Here the route's own matcher may let a spelling fall through, which is as good.
		"mcp_proxy": {viaProxy + "\n\trespond 404", []int{400, 404}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			s := startCaddy(t, g, resource, c.site, up)
			for _, target := range oddSpellings {
				res := s.raw(t, "GET", target, "Authorization: Bearer good-token")
				if !slices.Contains(c.status, res.StatusCode) {
					t.Errorf("%s: status %d", target, res.StatusCode)
				}
			}
			if n := up.count(); n != 0 {
				t.Errorf("the MCP server saw %d requests, the last for %s", n, up.last(t).RequestURI)
			}
		})
	}
}

func TestT65NoMethodAndNoPathGetsAroundTheFilter(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaProxy+"\n\trespond \"site\" 404", up)
	targets := append([]string{"/jira/mcp", "/jira/mcp/", "/jira/mcp/x", "/JIRA/mcp", "/%6aira/mcp", "/jira/mcpx", "http://gw.test/jira/mcp"}, oddSpellings...)
	for _, method := range []string{"GET", "POST", "DELETE", "HEAD", "OPTIONS", "TRACE", "PUT", "FOO"} {
		for _, target := range targets {
			res := s.raw(t, method, target, "Content-Length: 0")
			if res.StatusCode != http.StatusBadRequest && res.StatusCode != http.StatusUnauthorized && res.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s: status %d", method, target, res.StatusCode)
			}
		}
	}
	if n := up.count(); n != 0 {
		t.Errorf("the MCP server saw %d requests without a token", n)
	}
}

func TestResourcePathIsMappedOntoTheUpstreams(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ resource, upstream, path, want string }{
		{"https://gw.test/jira/mcp", "/v1/mcp", "/jira/mcp", "/v1/mcp"},
		{"https://gw.test/jira/mcp", "/v1/mcp", "/jira/mcp/", "/v1/mcp/"},
		{"https://gw.test/jira/mcp", "/v1/mcp", "/jira/mcp/a%20b/c?q=1&r=%2f", "/v1/mcp/a%20b/c?q=1&r=%2f"},
		{"https://gw.test/jira/mcp", "/v1/mcp", "/%6aira/mcp/tools/list", "/v1/mcp/tools/list"},
		{"https://gw.test/jira/mcp", "/", "/jira/mcp", "/"},
		{"https://gw.test/jira/mcp", "/", "/jira/mcp/messages", "/messages"},
		{"https://gw.test/jira/mcp", "/mcp/", "/jira/mcp", "/mcp/"},
		{"https://gw.test/jira/mcp", "/mcp/", "/jira/mcp/x", "/mcp/x"},
		{"https://gw.test/jira/mcp", "", "/jira/mcp/x?y", "/jira/mcp/x?y"},
		{"https://gw.test/jira/mcp/", "/v1", "/jira/mcp", "/v1"},
		{"https://gw.test", "/v1/mcp", "/", "/v1/mcp"},
		{"https://gw.test", "/v1/mcp", "/tools/list", "/v1/mcp/tools/list"},
		{"https://gw.test", "", "/any/thing", "/any/thing"},
		{"https://gw.test/jira/mcp", "/v1/mcp", "/jira", ""},
		{"https://gw.test/jira/mcp", "/v1/mcp", "/jira/mcpx", ""},
		{"https://gw.test/jira/mcp", "/v1/mcp", "/Jira/mcp", ""},
		{"https://gw.test/jira/mcp", "", "/other", ""},
	} {
		t.Run(fmt.Sprintf("%s %s to %s", c.resource, c.path, c.upstream), func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			s := startCaddy(t, g, c.resource, "\tmcp_proxy PROXY UPSTREAM"+c.upstream, up)
			res := s.post(t, c.path, nil)
			if c.want == "" {
				if up.count() != 0 {
					t.Fatalf("the MCP server saw %s", up.last(t).RequestURI)
				}
				return
			}
			wantStatus(t, res, http.StatusOK)
			if got := up.last(t).RequestURI; got != c.want {
				t.Errorf("upstream path %s, want %s", got, c.want)
			}
		})
	}
}

func TestOtherPathsFallThroughToTheSite(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaProxy+"\n\trespond \"site\"", up)
	res := s.request(t, http.MethodGet, "/", map[string]string{"Authorization": ""}, "")
	if got := bodyOf(t, res); got != "site" {
		t.Errorf("body %q", got)
	}
}

func TestFilterAloneProtectsEveryPathOfItsRoute(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaHeader, up)
	wantStatus(t, s.post(t, "/v1/messages", nil), http.StatusOK)
	if got := up.last(t).RequestURI; got != "/v1/messages" {
		t.Errorf("upstream path %s", got)
	}
	wantStatus(t, s.post(t, "/v1/messages", map[string]string{"Authorization": ""}), http.StatusUnauthorized)
}

func TestResourceIsFoundBehindAStrippedPrefix(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, `
	handle_path /jira/* {
		mcp_filter PROXY {
			upstream_path /v1/mcp
		}
		reverse_proxy UPSTREAM
	}`, up)
	wantStatus(t, s.post(t, "/jira/mcp/x", nil), http.StatusOK)
	if got := up.last(t).RequestURI; got != "/v1/mcp/x" {
		t.Errorf("upstream path %s", got)
	}
	wantStatus(t, s.post(t, "/jira/other", nil), http.StatusNotFound)
}
