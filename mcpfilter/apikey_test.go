package mcpfilter_test

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestT59T62APIKeyIsTheOneCredentialAndStaysHere(t *testing.T) {
	t.Parallel()
	for name, site := range map[string]string{"header": viaHeader, "transport": viaProxy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			s := startCaddy(t, g, resource, site, up)
			for name, c := range map[string]struct {
				header http.Header
				status int
			}{
				"X-API-Key":                         {http.Header{"X-Api-Key": {"gwk_good"}}, 200},
				"X-API-Key with blanks":             {http.Header{"X-Api-Key": {" gwk_good\t"}}, 200},
				"bearer":                            {http.Header{"Authorization": {"Bearer gwk_good"}}, 200},
				"bearer, and a key of others":       {http.Header{"Authorization": {"Bearer good-token"}, "X-Api-Key": {"other"}}, 200},
				"beside a key of others":            {http.Header{"X-Api-Key": {"other", "gwk_good"}}, 200},
				"session token and a key of others": {http.Header{"X-Session-Token": {"good-token"}, "X-Api-Key": {"other"}}, 200},
				"bearer and X-API-Key":              {http.Header{"Authorization": {"Bearer good-token"}, "X-Api-Key": {"gwk_good"}}, 400},
				"bearer and a wrong X-API-Key":      {http.Header{"Authorization": {"Bearer good-token"}, "X-Api-Key": {"gwk_wrong"}}, 400},
				"wrong bearer and X-API-Key":        {http.Header{"Authorization": {"Bearer other"}, "X-Api-Key": {"gwk_good"}}, 400},
				"basic and X-API-Key":               {http.Header{"Authorization": {"Basic YTpi"}, "X-Api-Key": {"gwk_good"}}, 400},
				"same key twice":                    {http.Header{"Authorization": {"Bearer gwk_good"}, "X-Api-Key": {"gwk_good"}}, 400},
				"session token and X-API-Key":       {http.Header{"X-Session-Token": {"good-token"}, "X-Api-Key": {"gwk_good"}}, 400},
				"two X-API-Key lines":               {http.Header{"X-Api-Key": {"gwk_good", "gwk_good"}}, 400},
				"two in one line":                   {http.Header{"X-Api-Key": {"gwk_good, gwk_good"}}, 400},
				"two in one line, other order":      {http.Header{"X-Api-Key": {"other, gwk_good"}}, 401},
				"wrong":                             {http.Header{"X-Api-Key": {"gwk_wrong"}}, 401},
				"token of another kind":             {http.Header{"X-Api-Key": {"good-token"}}, 401},
				"longer than any key":               {http.Header{"X-Api-Key": {"gwk_" + strings.Repeat("a", 5000)}}, 401},
				"prefix in upper case":              {http.Header{"X-Api-Key": {"GWK_good"}}, 401},
				"another spelling of the header":    {http.Header{"X_Api_Key": {"gwk_good"}}, 401},
				"empty":                             {http.Header{"X-Api-Key": {""}}, 401},
			} {
				t.Run(name, func(t *testing.T) {
					before := up.count()
					req := s.newRequest(t, http.MethodPost, "/jira/mcp", map[string]string{"Authorization": ""}, listTools)
					maps.Copy(req.Header, c.header)
					res, err := s.Client().Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer res.Body.Close()
					wantStatus(t, res, c.status)
					if seen := up.count() - before; (c.status == 200) != (seen == 1) {
						t.Fatalf("the MCP server saw %d requests", seen)
					}
					if c.status != 200 {
						if res.Header.Get("WWW-Authenticate") == "" {
							t.Error("no challenge")
						}
						return
					}
					h := up.last(t).Header
					if got := h["Authorization"]; !slices.Equal(got, []string{"Bearer upstream-1"}) {
						t.Errorf("Authorization %q", got)
					}
					for field, values := range h {
						if strings.EqualFold(field, "X-Api-Key") || strings.Contains(strings.Join(values, " "), "gwk_") {
							t.Errorf("the MCP server saw %s: %q", field, values)
						}
					}
				})
			}
		})
	}
}

func TestT78APIKeyIsInNoLogHoweverItIsSent(t *testing.T) {
	t.Parallel()
	for name, site := range map[string]string{"header": viaHeader, "transport": viaProxy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			s := startCaddy(t, g, resource, site, up)
			send := func(status int, path string, header map[string]string) {
				t.Helper()
				wantStatus(t, s.post(t, path, header), status)
			}
			send(200, "/jira/mcp", map[string]string{"Authorization": "Bearer gwk_good"})
			send(401, "/jira/mcp", map[string]string{"Authorization": "Bearer gwk_wrong"})
			send(200, "/jira/mcp", map[string]string{"Authorization": "", "X-API-Key": "gwk_good"})
			send(401, "/jira/mcp", map[string]string{"Authorization": "", "X-API-Key": "gwk_wrong"})
			send(401, "/jira/mcp", map[string]string{"Authorization": "", "X-API-Key": "Bearer gwk_good"}) // a mistake that people make
			send(400, "/jira/mcp", map[string]string{"X-API-Key": "gwk_good"})
			send(400, "/jira/mcp/a;b", map[string]string{"Authorization": "", "X-API-Key": "gwk_good"})
			send(200, "/.well-known/oauth-protected-resource", map[string]string{"Authorization": "", "X-API-Key": "gwk_good"})
			send(400, "/jira/mcp?api_key=gwk_good", map[string]string{"Authorization": ""})
			send(400, "/jira/mcp?key=gwk_good", nil)
			g.set(func() { g.tokenErr = errors.New("vault is gone") })
			send(503, "/jira/mcp", map[string]string{"Authorization": "", "X-API-Key": "gwk_good"})
			eventually(t, "every request in the log", func() bool { return strings.Count(s.log.String(), `"msg":"mcp request"`) >= 10 })
			if log := s.log.String(); strings.Contains(log, "gwk_") {
				t.Errorf("the log has a key:\n%s", log)
			}
			for _, part := range []string{`"logger":"http.handlers.mcp_filter.audit","msg":"mcp request"`, `"user":"ada@example.com"`} {
				if !strings.Contains(s.log.String(), part) {
					t.Errorf("no line of the audit trail with %s:\n%s", part, s.log.String())
				}
			}
			// What is not the gateway's is logged as before.
			before := strings.Count(s.log.String(), "http.log.access")
			send(503, "/jira/mcp", map[string]string{"X-API-Key": "key-of-others"})
			eventually(t, "Caddy's line", func() bool { return strings.Count(s.log.String(), "http.log.access") == before+1 })
		})
	}
}

func TestT78TokenInTheURLIsInNoLog(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		s := startCaddy(t, newGateway(t), resource, site, new(recorder))
		wantStatus(t, s.post(t, "/jira/mcp?access_token=good-token", map[string]string{"Authorization": ""}), http.StatusBadRequest)
		eventually(t, "a line of the audit trail", func() bool { return len(auditOf(t, s)) == 1 })
		if log := s.log.String(); strings.Contains(log, "good-token") {
			t.Errorf("the log has the token:\n%s", log)
		}
	})
}
