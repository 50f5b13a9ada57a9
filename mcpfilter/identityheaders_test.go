package mcpfilter_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// told are the headers of a request upstream that are, in any spelling, those of the tests, which no client may send for other reasons.
func told(r *http.Request) map[string][]string {
	found := make(map[string][]string)
	for _, part := range []http.Header{r.Header, r.Trailer} {
		for name, values := range part {
			if folded := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name)); strings.HasPrefix(folded, "x-acme-") {
				found[name] = append(found[name], values...)
			}
		}
	}
	return found
}

func TestT60T61ForgedIdentityNeverArrives(t *testing.T) {
	t.Parallel()
	const chunk = "\r\n2\r\n{}\r\n0\r\n" // a body, before its trailers
	for name, c := range map[string]struct {
		server string // options of Caddy's, which drops odd names by itself
		header []string
	}{
		"plain":      {header: []string{"X-Acme-Email: mallory", "X-Acme-Groups: mallory", "X-Acme-Assertion: mallory"}},
		"case":       {header: []string{"x-acme-email: mallory", "X-ACME-GROUPS: mallory", "x-ACME-assertion: mallory"}},
		"twice":      {header: []string{"X-Acme-Email: mallory", "x-acme-email: mallory", "X-Acme-Groups: mallory", "X-Acme-Groups: mallory", "X-Acme-Assertion: mallory", "X-Acme-Assertion: "}},
		"empty":      {header: []string{"X-Acme-Email:", "X-Acme-Groups:", "X-Acme-Assertion:"}},
		"Connection": {header: []string{"Connection: X-Acme-Email, x-acme-groups, X-Acme-Assertion", "X-Acme-Email: mallory"}},
		"underscores": {
			server: "expected_underscore_headers x_acme_* x-acme_email x_witness",
			header: []string{"x_acme_email: mallory", "X_ACME_GROUPS: mallory", "X_Acme_Assertion: mallory", "x-acme_email: mallory", "x_witness: here"},
		},
		"dots": {
			server: "expected_dot_headers x.acme.* x-acme.email x.witness",
			header: []string{"x.acme.email: mallory", "X.ACME.GROUPS: mallory", "X.Acme.Assertion: mallory", "x-acme.email: mallory", "x.witness: here"},
		},
		"trailers": {header: []string{
			"Content-Type: application/json", "Transfer-Encoding: chunked", "Trailer: X-Acme-Email, X-Acme-Groups, X-Acme-Assertion",
			chunk + "X-Acme-Email: mallory", "X-Acme-Groups: mallory", "X-Acme-Assertion: mallory",
		}},
	} {
		for _, credential := range []string{"header", "transport"} {
			for _, known := range []bool{true, false} { // whether there is a value to set
				for _, method := range []string{"POST", "GET", "DELETE"} {
					t.Run(fmt.Sprintf("%s, %s, %v, %s", name, credential, known, method), func(t *testing.T) {
						t.Parallel()
						g, up := newGateway(t), new(recorder)
						g.identityHeaders, g.unverified = map[string]string{"X-Acme-Email": "email", "X-Acme-Groups": "groups"}, !known
						want := make(map[string][]string)
						if known {
							want["X-Acme-Email"] = []string{"ada@example.com"}
						}
						site := viaHeader
						if credential == "transport" {
							site, g.identityAssertion = viaProxy, "X-Acme-Assertion"
							want["X-Acme-Assertion"] = []string{"assertion-of-user-1-jti-1"}
						} else { // which has no assertion
							g.identityHeaders["X-Acme-Assertion"] = "org"
						}
						s := startServer(t, g, c.server, site, up)
						wantStatus(t, s.raw(t, method, "/jira/mcp", append([]string{"Authorization: Bearer good-token"}, c.header...)...), http.StatusOK)
						if got := told(up.last(t)); !maps.EqualFunc(got, want, slices.Equal) {
							t.Errorf("the server is told %q, want %q", got, want)
						}
						for _, witness := range []string{"X_witness", "X.witness"} {
							if strings.Contains(c.server, strings.ToLower(witness)) && up.last(t).Header[witness] == nil {
								t.Error("Caddy drops the header: the test is no good")
							}
						}
					})
				}
			}
		}
	}
}

// startServer is startCaddy with options of the server.
func startServer(t *testing.T, g *testGateway, server, directives string, upstream http.Handler) *caddyServer {
	t.Helper()
	up := httptest.NewServer(upstream)
	t.Cleanup(up.Close)
	text := "{\n\tauto_https off\n\tservers {\n\t\t" + server + "\n\t}\n\toauth_proxy {\n\t\tproxy PROXY " + resource + "\n\t}\n}\nhttp:// {\n\tlog\n" + directives + "\n}\n"
	handler, logs := loadCaddy(t, g.id, strings.NewReplacer("PROXY", g.id, "UPSTREAM", up.URL).Replace(text))
	front := httptest.NewServer(handler)
	t.Cleanup(front.Close)
	return &caddyServer{front, logs}
}

var everyField = map[string]string{
	"X-Acme-Id": "user_id", "X-Acme-Email": "email", "X-Acme-Login": "login", "X-Acme-Name": "name", "X-Acme-Groups": "groups", "X-Acme-Org": "org",
	"X-Acme-Provider": "provider", "X-Acme-Client": "client_id", "X-Acme-Client-Name": "client_name", "X-Acme-Scopes": "scopes",
}

func TestIdentityHeadersSayWhoSendsARequest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*tokenstore.Grant)
		scopes []string
		want   map[string]string
	}{
		"user": {
			change: func(g *tokenstore.Grant) { g.User.Groups, g.User.Org = []string{"jira-users", "staff"}, "acme" },
			scopes: []string{"read:jira", "write:jira"},
			want: map[string]string{
				"X-Acme-Id": "user-1", "X-Acme-Email": "ada@example.com", "X-Acme-Login": "ada", "X-Acme-Name": "Ada L", "X-Acme-Groups": "jira-users,staff", "X-Acme-Org": "acme",
				"X-Acme-Provider": "okta", "X-Acme-Client": "gateway_0f", "X-Acme-Client-Name": "Chatbot", "X-Acme-Scopes": "read:jira write:jira",
			},
		},
		"values that are no header's": {
			change: func(g *tokenstore.Grant) {
				g.ClientID, g.Client = "https://bot.test/client.json?a=b", "Bot\r\nX-Acme-Id: root"
				g.User.Email, g.User.Login, g.User.Name, g.User.Org = "ada+mcp@example.com", " ada ", "Ådá  李", "100%25"
				g.User.Groups = []string{"Sales, EMEA", "", "  a  ", "Jira Admins", "Größe"}
			},
			scopes: []string{"a%20b"},
			want: map[string]string{
				"X-Acme-Id": "user-1", "X-Acme-Email": "ada+mcp@example.com", "X-Acme-Login": "%20ada%20", "X-Acme-Name": "%C3%85d%C3%A1  %E6%9D%8E", "X-Acme-Org": "100%2525",
				"X-Acme-Groups": "Sales%2C EMEA,%20 a %20,Jira Admins,Gr%C3%B6%C3%9Fe", "X-Acme-Provider": "okta",
				"X-Acme-Client": "https://bot.test/client.json?a=b", "X-Acme-Client-Name": "Bot%0D%0AX-Acme-Id: root", "X-Acme-Scopes": "a%2520b",
			},
		},
		"client that acts for itself": {
			change: func(g *tokenstore.Grant) {
				g.ClientID, g.Client, g.UserID, g.AccountID = "report-bot", "Report bot", "report-bot", ""
				g.User = tokenstore.User{Subject: "report-bot", Login: "report-bot", Name: "Report bot", Email: "x@example.com", EmailVerified: true, Groups: []string{"x"}, Org: "x"}
			},
			scopes: []string{"mcp"},
			want:   map[string]string{"X-Acme-Client": "report-bot", "X-Acme-Client-Name": "Report bot", "X-Acme-Scopes": "mcp"},
		},
		"nothing known": {
			change: func(g *tokenstore.Grant) {
				g.Client, g.User = "", tokenstore.User{Provider: "remote", Subject: "anonymous", Email: "unverified@example.com"}
			},
			want: map[string]string{"X-Acme-Id": "user-1", "X-Acme-Provider": "remote", "X-Acme-Client": "gateway_0f"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			g.identityHeaders, g.change, g.scopes = everyField, c.change, c.scopes
			s := startCaddy(t, g, resource, viaProxy, up)
			wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
			got := make(map[string]string)
			for header, values := range told(up.last(t)) {
				got[header] = strings.Join(values, " | ")
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("the server is told\n     %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestIdentityThatIsTooLargeIsRefusedWhole(t *testing.T) {
	t.Parallel()
	const most = 8 << 10
	for name, c := range map[string]struct {
		groups    int
		assertion string
		status    int
	}{
		"just fits":            {most - len("X-Acme-Groups"), "", http.StatusOK},
		"one byte more":        {most - len("X-Acme-Groups") + 1, "", http.StatusForbidden},
		"fits with assertion":  {most - len("X-Acme-Groups") - len("X-Acme-Assertion"+"assertion-of-user-1-jti-1"), "X-Acme-Assertion", http.StatusOK},
		"too much with it":     {most - len("X-Acme-Groups"), "X-Acme-Assertion", http.StatusForbidden},
		"far beyond any limit": {5 << 20, "", http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			g.identityHeaders, g.identityAssertion = map[string]string{"X-Acme-Groups": "groups"}, c.assertion
			g.change = func(g *tokenstore.Grant) { g.User.Groups = []string{strings.Repeat("g", c.groups)} }
			s := startCaddy(t, g, resource, viaProxy, up)
			res := s.post(t, "/jira/mcp", nil)
			wantStatus(t, res, c.status)
			if c.status == http.StatusOK {
				return
			}
			if body := bodyOf(t, res); up.count() != 0 || !strings.Contains(body, `"access_denied"`) || res.Header.Get("WWW-Authenticate") != "" {
				t.Errorf("%s, %v; the server saw %d requests", body, res.Header, up.count())
			}
			eventually(t, "a warning for the operator", func() bool {
				return strings.Contains(s.log.String(), "identity is too large for headers") && strings.Contains(s.log.String(), `"user_id":"user-1"`)
			})
			if strings.Contains(s.log.String(), "gggg") {
				t.Error("the log has the groups")
			}
		})
	}
}

func TestAssertionTravelsWithEveryRequestAndRepetition(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), onlyToken("upstream-2")
	g.identityAssertion = "X-Acme-Assertion"
	s := startCaddy(t, g, resource, viaProxy, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
	if up.count() != 2 {
		t.Fatalf("%d requests upstream, want one and its repetition", up.count())
	}
	for _, r := range up.requests {
		if got := told(r); len(got) != 1 || !slices.Equal(got["X-Acme-Assertion"], []string{"assertion-of-user-1-jti-1"}) {
			t.Errorf("the server is told %v", got)
		}
	}
}

func TestAssertionThatCannotBeHadIsAnOutage(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	g.identityAssertion, g.assertErr = "X-Acme-Assertion", &mcpfilter.UnavailableError{Err: errors.New("no key at /secret/path")}
	s := startCaddy(t, g, resource, viaProxy, up)
	res := s.post(t, "/jira/mcp", nil)
	wantStatus(t, res, http.StatusServiceUnavailable)
	if body := bodyOf(t, res); up.count() != 0 || strings.Contains(body, "secret") || res.Header.Get("Retry-After") == "" {
		t.Errorf("%s, %v; the server saw %d requests", body, res.Header, up.count())
	}
}

func TestT78AssertionReachesNoLog(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	g.identityAssertion = "X-Acme-Assertion"
	s := startServer(t, g, "log_credentials", "\tlog_append after {http.request.header.X-Acme-Assertion}"+viaProxy, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
	if told(up.last(t))["X-Acme-Assertion"] == nil {
		t.Fatal("there was no assertion: the test is no good")
	}
	eventually(t, "the request in both logs", func() bool {
		return strings.Contains(s.log.String(), "upstream roundtrip") && strings.Contains(s.log.String(), "handled request")
	})
	if strings.Contains(s.log.String(), "assertion-of") {
		t.Errorf("the log has the assertion:\n%s", s.log.String())
	}
}

func TestT78AssertionNeedsTheTransport(t *testing.T) {
	t.Parallel()
	for credential, want := range map[string]string{
		"header": "use mcp_proxy, or credential transport here and transport mcp", "": "identity_assertion travels as X-Acme-Assertion", "transport": "",
	} {
		g := newGateway(t)
		g.identityAssertion = "X-Acme-Assertion"
		filter := caddyconfig.JSON(map[string]string{"handler": "mcp_filter", "proxy": g.id, "credential": credential}, nil)
		apps := map[string]json.RawMessage{
			"http":        json.RawMessage(`{"servers":{"s":{"listen":[":0"],"automatic_https":{"disable":true},"routes":[{"handle":[` + string(filter) + `]}]}}}`),
			"oauth_proxy": caddyconfig.JSON(testApp{Proxies: map[string]testProxy{g.id: {Resource: resource}}}, nil),
		}
		provisioning.Lock()
		_, err := caddy.ProvisionContext(&caddy.Config{AppsRaw: apps})
		provisioning.Unlock()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("credential %q: %v", credential, err)
		}
	}
}

func TestIdentityHeadersHaveNamesOfTheirOwn(t *testing.T) {
	t.Parallel()
	for header := range everyField {
		if err := mcpfilter.CheckIdentity(map[string]string{header: everyField[header]}, "X-Gateway-Assertion", "X-Service-Key"); err != nil {
			t.Errorf("%s: %v", header, err)
		}
	}
	for _, header := range []string{
		"X-User-Email", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Preferred-Username", "Remote-User", "X-Remote-User", "X-WEBAUTH-USER",
		"X-Auth-Request-User", "Tailscale-User-Login", "Impersonate-User", "X-Scope-OrgID",
	} {
		if err := mcpfilter.CheckIdentity(map[string]string{header: "login"}, "", ""); err != nil {
			t.Errorf("%s: %v", header, err)
		}
	}
	for _, header := range []string{
		"Authorization", "authorization", "Proxy-Authorization", "Cookie", "DPoP", "X-Session-Token", "X-API-Key", "X-Forwarded-Access-Token",
		"Host", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "x-forwarded-proto", "X-Forwarded-Port", "X-Real-IP", "X-Original-URL", "X-HTTP-Method-Override",
		"Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "TE", "Trailer", "Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "Alt-Svc", "Expect",
		"Mcp-Session-Id", "MCP-Protocol-Version", "mcp-name", "Mcp-Param-X", "Last-Event-ID", "Accept", "Accept-Language", "Origin", "If-None-Match", "Sec-Fetch-Site", "Traceparent",
	} {
		for option, err := range map[string]error{
			"identity_header":    mcpfilter.CheckIdentity(map[string]string{header: "login"}, "", ""),
			"identity_assertion": mcpfilter.CheckIdentity(nil, header, ""),
		} {
			if want := option + ": " + header + " carries credentials, or belongs to HTTP or MCP: choose a name of your own"; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v", option, header, err)
			}
		}
	}
	for _, header := range []string{"", "X_User", "X.User", "X User", "X-User:", "Ünser", "-User", "1-User", "{http.x}", strings.Repeat("x", 65), "X-User\r\n"} {
		if err := mcpfilter.CheckIdentity(map[string]string{header: "login"}, "", ""); err == nil || !strings.Contains(err.Error(), "is no name for a header of the gateway's: write letters, digits and - alone") {
			t.Errorf("%q: %v", header, err)
		}
	}
	for name, c := range map[string]struct {
		headers               map[string]string
		assertion, credential string
		want                  string
	}{
		"unknown field":   {map[string]string{"X-User": "mail"}, "", "", `identity_header X-User: "mail" is unknown; known are client_id, client_name, email, groups, login, name, org, provider, scopes, user_id`},
		"no field":        {map[string]string{"X-User": ""}, "", "", `identity_header X-User: "" is unknown`},
		"twice":           {map[string]string{"X-User": "login", "x-USER": "email"}, "", "", `identity_header: x-USER is the header of an identity_header already`},
		"the assertion's": {map[string]string{"X-User": "login"}, "x-user", "", `identity_assertion: x-user is the header of an identity_header already`},
		"the token's":     {map[string]string{"x-service-key": "login"}, "", "X-Service-Key", `identity_header: x-service-key is the header of upstream_token already`},
		"the token's too": {nil, "X-Service-Key", "x-service-key", `identity_assertion: X-Service-Key is the header of upstream_token already`},
	} {
		if err := mcpfilter.CheckIdentity(c.headers, c.assertion, c.credential); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := mcpfilter.CheckIdentity(nil, "", ""); err != nil {
		t.Errorf("nothing: %v", err)
	}
}
