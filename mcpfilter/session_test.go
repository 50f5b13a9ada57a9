package mcpfilter_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

func TestT67SessionsAreTheirOpeners(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	renewed := policySession("ada", "bot", nil)
	renewed.Grant.ID, renewed.JTI = "grant-other", "jti-other"
	g.sessions = map[string]*mcpfilter.Session{
		"ada": policySession("ada", "bot", nil), "ada-renewed": renewed, "ada-elsewhere": policySession("ada", "another-bot", nil), "bob": policySession("bob", "bot", nil),
	}
	up := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Mcp-Session-Id", "s.1")
		w.Header().Set("Content-Type", "application/json")
	}}
	s := startCaddy(t, g, resource, viaProxy, up)
	opened := s.post(t, "/jira/mcp", map[string]string{"Authorization": "Bearer ada"}).Header.Get("Mcp-Session-Id")
	if !strings.HasPrefix(opened, "s.1.") || len(opened) < 40 {
		t.Fatalf("session id %q", opened)
	}
	for _, c := range []struct {
		name, user, id, version string
		status                  int
		upstream                string // the id that the server sees, where it sees the request
	}{
		{"its opener", "ada", opened, "", 200, "s.1"},
		{"its opener with a later token and grant", "ada-renewed", opened, "2025-11-25", 200, "s.1"},
		{"its opener as a client that registered anew", "ada-elsewhere", opened, "", 200, "s.1"},
		{"another user", "bob", opened, "", 404, ""},
		{"without its tag", "ada", "s.1", "", 404, ""},
		{"with a part of its tag", "ada", opened[:len(opened)-1], "", 404, ""},
		{"with an empty tag", "ada", "s.1.", "", 404, ""},
		{"no id but a tag", "ada", opened[3:], "", 404, ""},
		{"another id", "ada", "x" + opened, "", 404, ""},
		{"empty", "ada", "", "", 200, ""},
		{"of somebody else where there are no sessions any more", "bob", opened, "2026-07-28", 200, ""},
		{"of the opener where there are no sessions any more", "ada", opened, "2026-07-28", 200, "s.1"},
	} {
		before := up.count()
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			body := ""
			if method == http.MethodPost {
				body = `{"jsonrpc":"2.0","id":1,"method":"ping"}`
			}
			res := s.request(t, method, "/jira/mcp", map[string]string{"Authorization": "Bearer " + c.user, "Mcp-Session-Id": c.id, "MCP-Protocol-Version": c.version}, body)
			if res.StatusCode != c.status {
				t.Errorf("%s, %s: %d, want %d", c.name, method, res.StatusCode, c.status)
			}
		}
		switch {
		case c.status == 200 && up.last(t).Header.Get("Mcp-Session-Id") != c.upstream:
			t.Errorf("%s: the server sees %q, want %q", c.name, up.last(t).Header.Get("Mcp-Session-Id"), c.upstream)
		case c.status != 200 && up.count() != before:
			t.Errorf("%s: the request reached the server", c.name)
		}
	}
	req := s.newRequest(t, http.MethodPost, "/jira/mcp", map[string]string{"Authorization": "Bearer ada"}, `{}`)
	req.Header["Mcp-Session-Id"] = []string{opened, opened}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	wantStatus(t, res, http.StatusNotFound)
}

func TestSessionIDsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for _, ids := range [][]string{{"a b"}, {""}, {"a", "b"}, {strings.Repeat("x", 2049)}, {"\x80"}} {
		g := newGateway(t)
		s := startCaddy(t, g, resource, viaProxy, &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Mcp-Session-Id"] = ids
		}})
		res := s.post(t, "/jira/mcp", nil)
		if res.StatusCode != http.StatusBadGateway || len(res.Header["Mcp-Session-Id"]) != 0 {
			t.Errorf("%.20q: %d %q", ids, res.StatusCode, res.Header["Mcp-Session-Id"])
		}
	}
}
