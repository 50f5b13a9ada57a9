package mcpfilter_test

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

const (
	resource = "https://gw.test/jira/mcp"

	viaHeader = `
	mcp_filter PROXY
	reverse_proxy UPSTREAM`

	viaProxy = `
	mcp_proxy PROXY UPSTREAM/v1/mcp`
)

func TestRequestGoesUpstreamWithTheUsersToken(t *testing.T) {
	t.Parallel()
	for name, site := range map[string]string{"header": viaHeader, "transport": viaProxy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			s := startCaddy(t, g, resource, site, up)
			res := s.post(t, "/jira/mcp", map[string]string{
				"Mcp-Session-Id": g.tagged("s-1"), "Mcp-Name": "x", "MCP-Protocol-Version": "2025-11-25",
				"Accept": "application/json, text/event-stream", "Last-Event-ID": "7", "Traceparent": "00-1-2-01",
			})
			wantStatus(t, res, http.StatusOK)
			if got := bodyOf(t, res); !strings.Contains(got, `"result"`) {
				t.Errorf("body %q", got)
			}
			r := up.last(t)
			if got := r.Header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer upstream-1" {
				t.Errorf("Authorization upstream: %q", got)
			}
			for name, want := range map[string]string{
				"Mcp-Session-Id": "s-1", "Mcp-Name": "x", "MCP-Protocol-Version": "2025-11-25",
				"Accept": "application/json, text/event-stream", "Last-Event-ID": "7", "Traceparent": "00-1-2-01",
			} {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s upstream: %q, want %q", name, got, want)
				}
			}
			if up.bodies[0] != listTools {
				t.Errorf("body upstream: %q", up.bodies[0])
			}
			if n := g.entered.Load(); n != 0 {
				t.Errorf("%d requests hold the vault open", n)
			}
		})
	}
}

func TestMissingCredentialIsChallengedWithoutError(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaProxy, up)
	res := s.post(t, "/jira/mcp", map[string]string{"Authorization": ""})
	wantStatus(t, res, http.StatusUnauthorized)
	want := `Bearer resource_metadata="https://gw.test/.well-known/oauth-protected-resource/jira/mcp", scope="read:jira write:jira"`
	if got := res.Header.Get("WWW-Authenticate"); got != want {
		t.Errorf("challenge\n got %s\nwant %s", got, want)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store",
		"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := res.Header.Get("Access-Control-Expose-Headers"); !strings.Contains(got, "WWW-Authenticate") {
		t.Errorf("exposed: %q", got)
	}
	var body struct{ Error, Error_description string }
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || body.Error == "" || body.Error_description == "" {
		t.Errorf("body %+v, %v", body, err)
	}
	if up.count() != 0 {
		t.Error("the MCP server saw the request")
	}
}

func TestT56EveryCauseHasItsStatus(t *testing.T) {
	t.Parallel()
	outage := errors.New("disk full at /secret/path")
	for name, c := range map[string]struct {
		arrange    func(g *testGateway)
		token      string
		status     int
		challenge  string
		retryAfter string
	}{
		"unknown token":    {token: "other", status: 401, challenge: `error="invalid_token"`},
		"provider says no": {arrange: func(g *testGateway) { g.tokenErr = mcpfilter.ErrNeedsReauth }, status: 401, challenge: `error="invalid_token"`},
		"provider says why": {arrange: func(g *testGateway) {
			g.tokenErr = &mcpfilter.ReauthError{Reason: "the provider refused the refresh token", Err: outage}
		}, status: 401, challenge: `has ended (the provider refused the refresh token); log in again"`},
		"vault down":    {arrange: func(g *testGateway) { g.authErr = outage }, status: 503, retryAfter: "5"},
		"shutting down": {arrange: func(g *testGateway) { g.enterErr = outage }, status: 503, retryAfter: "5"},
		"provider down": {arrange: func(g *testGateway) {
			g.tokenErr = &mcpfilter.UnavailableError{RetryAfter: 90 * time.Second, Err: outage}
		}, status: 503, retryAfter: "90"},
		"provider throttles": {arrange: func(g *testGateway) {
			g.tokenErr = &mcpfilter.UnavailableError{RetryAfter: 10 * time.Millisecond, Err: outage}
		}, status: 503, retryAfter: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			if c.arrange != nil {
				c.arrange(g)
			}
			s := startCaddy(t, g, resource, viaProxy, up)
			res := s.post(t, "/jira/mcp", map[string]string{"Authorization": "Bearer " + cmpOr(c.token, "good-token")})
			wantStatus(t, res, c.status)
			challenge := res.Header.Get("WWW-Authenticate")
			if c.challenge == "" && challenge != "" || !strings.Contains(challenge, c.challenge) {
				t.Errorf("challenge %q, want %q in it", challenge, c.challenge)
			}
			if got := res.Header.Get("Retry-After"); got != c.retryAfter {
				t.Errorf("Retry-After %q, want %q", got, c.retryAfter)
			}
			if body := bodyOf(t, res); strings.Contains(body, "secret") {
				t.Errorf("the cause is public: %s", body)
			}
			if up.count() != 0 {
				t.Error("the MCP server saw the request")
			}
		})
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestT62ExactlyOneCredential(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaHeader, up)
	for name, c := range map[string]struct {
		header http.Header
		query  string
		status int
	}{
		"lower-case scheme":           {header: http.Header{"Authorization": {"bearer good-token"}}, status: 200},
		"session token":               {header: http.Header{"X-Session-Token": {"good-token"}}, status: 200},
		"two Authorization lines":     {header: http.Header{"Authorization": {"Bearer good-token", "Bearer other"}}, status: 400},
		"two lines, other order":      {header: http.Header{"Authorization": {"Bearer other", "Bearer good-token"}}, status: 400},
		"two in one line":             {header: http.Header{"Authorization": {"Bearer good-token, Bearer other"}}, status: 400},
		"bearer and session token":    {header: http.Header{"Authorization": {"Bearer good-token"}, "X-Session-Token": {"other"}}, status: 400},
		"same token twice":            {header: http.Header{"Authorization": {"Bearer good-token"}, "X-Session-Token": {"good-token"}}, status: 400},
		"query alone":                 {query: "?access_token=good-token", status: 400},
		"query encoded":               {query: "?a=1&access%5ftoken=good-token", status: 400},
		"query behind semicolon":      {query: "?a=1;ACCESS_TOKEN=good-token", status: 400},
		"query and header":            {header: http.Header{"Authorization": {"Bearer good-token"}}, query: "?access_token=good-token", status: 400},
		"basic":                       {header: http.Header{"Authorization": {"Basic YTpi"}}, status: 401},
		"empty bearer":                {header: http.Header{"Authorization": {"Bearer "}}, status: 401},
		"no scheme":                   {header: http.Header{"Authorization": {"good-token"}}, status: 401},
		"API key of no one":           {header: http.Header{"X-Api-Key": {"good-token"}}, status: 401},
		"longer than any token":       {header: http.Header{"Authorization": {"Bearer " + strings.Repeat("a", 5000)}}, status: 401},
		"not a token":                 {header: http.Header{"Authorization": {"Bearer good token"}}, status: 400},
		"control characters in token": {header: http.Header{"Authorization": {"Bearer good\ttoken"}}, status: 400},
	} {
		t.Run(name, func(t *testing.T) {
			before := up.count()
			req := s.newRequest(t, http.MethodPost, "/jira/mcp"+c.query, map[string]string{"Authorization": ""}, listTools)
			maps.Copy(req.Header, c.header)
			res, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			wantStatus(t, res, c.status)
			if seen := up.count() - before; (c.status == 200) != (seen == 1) {
				t.Errorf("the MCP server saw %d requests", seen)
			}
			if res.StatusCode != http.StatusOK && res.Header.Get("WWW-Authenticate") == "" {
				t.Error("no challenge")
			}
		})
	}
}

func TestWellKnownDocumentsAreAnsweredWithoutToken(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaProxy, up)
	for _, path := range []string{"/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/jira/mcp"} {
		res := s.request(t, http.MethodGet, path, map[string]string{"Authorization": ""}, "")
		wantStatus(t, res, http.StatusOK)
		if got := bodyOf(t, res); !strings.Contains(got, resource) {
			t.Errorf("%s: %s", path, got)
		}
	}
	res := s.request(t, http.MethodGet, "/.well-known/openid-configuration", map[string]string{"Authorization": ""}, "")
	wantStatus(t, res, http.StatusNotFound)
}

func TestPreflightIsAnsweredBeforeAuthentication(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaProxy, up)
	res := s.request(t, http.MethodOptions, "/jira/mcp", map[string]string{
		"Authorization": "", "Origin": "https://gw.test", "Access-Control-Request-Method": "POST",
		"Access-Control-Request-Headers": "authorization, mcp-param-tenant, x-evil, mcp-session-id",
	}, "")
	wantStatus(t, res, http.StatusNoContent)
	allowed := strings.ToLower(res.Header.Get("Access-Control-Allow-Headers"))
	for _, name := range []string{
		"authorization", "content-type", "accept", "mcp-protocol-version", "mcp-method", "mcp-name",
		"mcp-param-tenant", "mcp-session-id", "last-event-id", "x-session-token", "x-api-key",
	} {
		if !strings.Contains(allowed, name) {
			t.Errorf("%s is not allowed: %s", name, allowed)
		}
	}
	if strings.Contains(allowed, "x-evil") {
		t.Errorf("x-evil is allowed: %s", allowed)
	}
	if got := res.Header.Get("Access-Control-Allow-Methods"); got != "GET, POST, DELETE, OPTIONS" {
		t.Errorf("methods %q", got)
	}
	if got := res.Header.Get("Access-Control-Allow-Credentials"); got != "" {
		t.Errorf("credentials %q", got)
	}
	if up.count() != 0 {
		t.Error("the MCP server saw the preflight")
	}
	// Without the preflight's own header OPTIONS is a request like any other.
	wantStatus(t, s.request(t, http.MethodOptions, "/jira/mcp", map[string]string{"Authorization": ""}, ""), http.StatusUnauthorized)
}

func TestIdentityReachesPlaceholdersAndAccessLog(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, `
	mcp_proxy PROXY UPSTREAM {
		header_up X-Seen "{http.auth.user.id} {http.auth.user.email} {http.auth.user.login} {http.auth.user.name} {http.auth.user.provider} {mcp.proxy} {mcp.client_id} {mcp.client_name} {mcp.grant} {mcp.method} {mcp.protocol_version} {mcp.session}"
	}`, up)
	wantStatus(t, s.post(t, "/jira/mcp", map[string]string{"MCP-Protocol-Version": "{env.HOME}", "Mcp-Session-Id": g.tagged("s-9")}), http.StatusOK)
	want := "user-1 ada@example.com ada Ada L okta " + g.id + " gateway_0f Chatbot grant-1 tools/list {env.HOME} s-9"
	if got := up.last(t).Header.Get("X-Seen"); got != want {
		t.Errorf("placeholders\n got %q\nwant %q", got, want)
	}

	var entry map[string]any
	eventually(t, "an access log entry", func() bool {
		for line := range strings.Lines(s.log.String()) {
			if strings.Contains(line, "handled request") {
				return json.Unmarshal([]byte(line), &entry) == nil
			}
		}
		return false
	})
	for field, want := range map[string]string{
		"user_id": "user-1", "user": "ada@example.com", "client_id": "gateway_0f", "grant": "grant-1",
		"jti": "jti-1", "proxy": g.id, "mcp_method": "tools/list",
	} {
		if entry[field] != want {
			t.Errorf("log field %s: %v, want %s", field, entry[field], want)
		}
	}
}

func TestT29UnverifiedEmailIsToldNobody(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	g.unverified = true
	s := startCaddy(t, g, resource, `
	mcp_filter PROXY
	reverse_proxy UPSTREAM {
		header_up X-Seen "[{http.auth.user.email}] {http.auth.user.login}"
	}`, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
	if got := up.last(t).Header.Get("X-Seen"); got != "[] ada" {
		t.Errorf("the MCP server is told %q", got)
	}
	wantStatus(t, s.post(t, "/jira/mcp", map[string]string{"Authorization": "", "X-Session-Token": "good-token"}), http.StatusOK)
	eventually(t, "both requests in the log", func() bool {
		return strings.Count(s.log.String(), "mcp request") == 2 && strings.Contains(s.log.String(), "handled request")
	})
	if log := s.log.String(); strings.Contains(log, "ada@example.com") || strings.Count(log, `"user":"ada"`) != 3 {
		t.Errorf("log:\n%s", log)
	}
}

func TestNoTokenIsLogged(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, viaProxy, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
	wantStatus(t, s.post(t, "/jira/mcp", map[string]string{"Authorization": "Bearer bad-token"}), http.StatusUnauthorized)
	eventually(t, "both requests in the log", func() bool {
		return strings.Count(s.log.String(), "mcp request") == 2 && strings.Contains(s.log.String(), "handled request")
	})
	for _, secret := range []string{"good-token", "bad-token", "upstream-1"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log has %s:\n%s", secret, s.log.String())
		}
	}
}

func TestInjectedTokenIsGoneWhenTheHandlerIsDone(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	s := startCaddyAt(t, g, resource, `
	log_append after "{http.request.header.Authorization}"
	handle_errors {
		respond "[{http.request.header.Authorization}]" 502
	}
`+viaHeader, "http://127.0.0.1:1")
	res := s.post(t, "/jira/mcp", nil)
	wantStatus(t, res, http.StatusBadGateway)
	if got := bodyOf(t, res); got != "[]" {
		t.Errorf("error route saw %s", got)
	}
	if got := res.Header.Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("scripts cannot read the error: %q", got)
	}
	eventually(t, "the request in the log", func() bool { return strings.Contains(s.log.String(), "handled request") })
	if strings.Contains(s.log.String(), "upstream-1") {
		t.Errorf("the log has the token:\n%s", s.log.String())
	}
}
