package mcpfilter_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// bothWays runs a test with the token in the header, and in the transport.
func bothWays(t *testing.T, test func(t *testing.T, site string)) {
	for name, site := range map[string]string{"header": viaHeader, "transport": viaProxy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, site)
		})
	}
}

func TestT63HeadersForTheOriginDoNotPass(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		g := newGateway(t)
		up := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
			for name, value := range map[string]string{
				"Set-Cookie": "__Host-gw=evil; Path=/; Secure", "Clear-Site-Data": `"*"`, "Strict-Transport-Security": "max-age=0",
				"Service-Worker-Allowed": "/", "Refresh": "0; url=https://evil.test", "WWW-Authenticate": `Bearer resource_metadata="https://evil.test"`,
				"Access-Control-Allow-Origin": "https://evil.test", "Access-Control-Allow-Credentials": "true", "Alt-Svc": `h3="evil.test:443"`,
				"Nel": "{}", "Surrogate-Control": "max-age=9", "Dpop-Nonce": "n",
			} {
				w.Header().Set(name, value)
			}
			w.Header().Set("Mcp-Session-Id", "s-1")
			w.Header().Set("X-Accel-Buffering", "no")
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0"}`)
		}}
		s := startCaddy(t, g, resource, "\theader Strict-Transport-Security max-age=31536000\n"+site, up)
		plain := s.post(t, "/jira/mcp", nil)
		if got := plain.Header.Values("Access-Control-Allow-Origin"); len(got) > 0 {
			t.Errorf("the server's Access-Control-Allow-Origin passed: %q", got)
		}
		res := s.post(t, "/jira/mcp", map[string]string{"Origin": "https://gw.test"})
		wantStatus(t, res, http.StatusForbidden)
		if got := bodyOf(t, res); got != `{"jsonrpc":"2.0"}` {
			t.Errorf("body %q", got)
		}
		for _, name := range []string{
			"Set-Cookie", "Clear-Site-Data", "Service-Worker-Allowed", "Refresh", "WWW-Authenticate",
			"Access-Control-Allow-Credentials", "Alt-Svc", "Nel", "Surrogate-Control", "Dpop-Nonce",
		} {
			if got := res.Header.Values(name); len(got) != 0 {
				t.Errorf("%s passed: %q", name, got)
			}
		}
		for name, want := range map[string]string{
			"Strict-Transport-Security":   "max-age=31536000", // the operator's own
			"Access-Control-Allow-Origin": "*", "Mcp-Session-Id": g.tagged("s-1"), "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff",
		} {
			if got := res.Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if got := res.Header.Get("Access-Control-Expose-Headers"); !strings.Contains(got, "Mcp-Session-Id") || !strings.Contains(got, "MCP-Protocol-Version") {
			t.Errorf("exposed: %q", got)
		}
	})
}

func TestT69OnlyDataRunsOnOurOrigin(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
		if ct := r.URL.Query()["ct"]; ct != nil {
			w.Header()["Content-Type"] = ct
		}
		_, _ = io.WriteString(w, "<script>alert(1)</script>")
	}}
	s := startCaddy(t, g, resource, viaHeader, up)
	for query, sandboxed := range map[string]bool{
		"?ct=text/html": true, "?ct=image/svg%2Bxml": true, "": true, "?ct=nonsense": true, "?ct=application/json&ct=text/html": true,
		"?ct=application/json": false, "?ct=Application/JSON%3Bcharset=utf-8": false, "?ct=text/event-stream": false, "?ct=application/problem%2Bjson": false,
	} {
		res := s.request(t, http.MethodGet, "/jira/mcp"+query, nil, "")
		csp := res.Header.Get("Content-Security-Policy")
		if (csp == "sandbox; default-src 'none'") != sandboxed {
			t.Errorf("%s: Content-Security-Policy %q", query, csp)
		}
		if res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: sniffing is possible", query)
		}
	}
}

func TestT68ResponsesStayOutOfSharedCaches(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("ct"))
		if cc := r.URL.Query()["cc"]; cc != nil {
			w.Header()["Cache-Control"] = cc
		}
	}}
	s := startCaddy(t, g, resource, viaHeader, up)
	for query, want := range map[string]string{
		"?ct=application/json":                                     "no-store",
		"?ct=application/json&cc=public,+max-age%3D60":             "max-age=60, private",
		"?ct=application/json&cc=max-age%3D60&cc=S-MaxAge%3D600":   "max-age=60, private",
		"?ct=application/json&cc=private,+max-age%3D60":            "max-age=60, private",
		"?ct=application/json&cc=private%3D%22x-a%22,+max-age%3D9": "no-store",
		"?ct=application/json&cc=no-store":                         "no-store, private",
		"?ct=text/event-stream":                                    "no-store, no-transform",
		"?ct=text/event-stream&cc=no-cache,+no-transform":          "no-cache, no-transform, private",
	} {
		res := s.request(t, http.MethodGet, "/jira/mcp"+query, nil, "")
		if got := res.Header.Values("Cache-Control"); len(got) != 1 || got[0] != want {
			t.Errorf("%s: Cache-Control %q, want %q", query, got, want)
		}
		if got := res.Header.Get("Vary"); !strings.Contains(got, "Authorization") || !strings.Contains(got, "Origin") {
			t.Errorf("%s: Vary %q", query, got)
		}
	}
}

// An upstream that wants more is asked for more by the client, in the gateway's words.
func TestUpstreamsDemandForScopesBecomesOurs(t *testing.T) {
	t.Parallel()
	many := strings.Repeat("x ", 2) + strings.Join(strings.Split(strings.Repeat("abcdefghijklmnopqrstuvwxyz", 1), ""), " ")
	for name, c := range map[string]struct {
		prefix    string
		challenge string
		want      string // in the challenge; empty for theirs without one
	}{
		"more":                     {"upstream:", `Bearer error="insufficient_scope", scope="files:write files:read", resource_metadata="https://evil.test"`, `scope="mcp upstream:had upstream:files:write upstream:files:read", error="insufficient_scope"`},
		"beside another challenge": {"upstream:", `Basic realm="x", Bearer scope="files:write", error="insufficient_scope"`, `scope="mcp upstream:had upstream:files:write"`},
		"what it has already":      {"upstream:", `Bearer error="insufficient_scope", scope="had"`, ""},
		"nothing":                  {"upstream:", `Bearer error="insufficient_scope"`, ""},
		"another error":            {"upstream:", `Bearer error="invalid_request", scope="files:write"`, ""},
		"what is no scope":         {"upstream:", `Bearer error="insufficient_scope", scope="a\\b"`, ""},
		"more than can be granted": {"upstream:", `Bearer error="insufficient_scope", scope="` + many + `"`, ""},
		"where nobody can grant":   {"", `Bearer error="insufficient_scope", scope="files:write"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			g.upstreamScope, g.scopes = c.prefix, []string{"mcp", "upstream:had"}
			up := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", c.challenge)
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, `{"their":"answer"}`)
			}}
			s := startCaddy(t, g, resource, viaProxy, up)
			res := s.post(t, "/jira/mcp", nil)
			challenge, body := res.Header.Values("WWW-Authenticate"), bodyOf(t, res)
			if res.StatusCode != http.StatusForbidden || strings.Contains(fmt.Sprint(challenge), "evil.test") {
				t.Errorf("%d, %q", res.StatusCode, challenge)
			}
			if c.want == "" {
				if len(challenge) != 0 || !strings.Contains(body, "their") {
					t.Errorf("%q %s", challenge, body)
				}
				return
			}
			if len(challenge) != 1 || !strings.Contains(challenge[0], c.want) || !strings.Contains(challenge[0], "https://gw.test/") || !strings.Contains(body, "insufficient_scope") {
				t.Errorf("%q %s, want %s", challenge, body, c.want)
			}
		})
	}
}

func TestT69UpstreamChallengeBecomesOurs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rejectErr error
		status    int
	}{
		"renewed, still refused": {nil, 401},
		"needs login":            {mcpfilter.ErrNeedsReauth, 401},
		"renewal does not help":  {mcpfilter.ErrStillRejected, 401},
		"provider down":          {&mcpfilter.UnavailableError{RetryAfter: time.Minute, Err: errors.New("timeout")}, 503},
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, site string) {
				g := newGateway(t)
				g.rejectErr = c.rejectErr
				up := &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="https://evil.test"`)
					w.Header().Set("Content-Type", "text/html")
					w.Header().Set("Etag", `"1"`)
					w.WriteHeader(http.StatusUnauthorized)
					_, _ = io.WriteString(w, strings.Repeat("their page ", 1000))
				}}
				s := startCaddy(t, g, resource, site, up)
				res := s.post(t, "/jira/mcp", nil)
				if res.StatusCode != c.status {
					t.Errorf("status %d, want %d", res.StatusCode, c.status)
				}
				body := bodyOf(t, res)
				if strings.Contains(body, "their") || !strings.HasPrefix(body, `{"error":`) {
					t.Errorf("body %.80q", body)
				}
				challenge := res.Header.Values("WWW-Authenticate")
				if c.status == 401 && (len(challenge) != 1 || !strings.Contains(challenge[0], "https://gw.test/") || !strings.Contains(challenge[0], "invalid_token")) {
					t.Errorf("challenge %q", challenge)
				}
				if c.status == 503 && (len(challenge) != 0 || res.Header.Get("Retry-After") != "60") {
					t.Errorf("challenge %q, Retry-After %q", challenge, res.Header.Get("Retry-After"))
				}
				if got := res.Header.Get("Content-Type"); got != "application/json" || res.Header.Get("Etag") != "" {
					t.Errorf("their header remains: %v", res.Header)
				}
				if got := g.rejections(); len(got) != 1 || got[0] != "upstream-1" {
					t.Errorf("the gateway was told of %q", got)
				}
			})
		})
	}
}

func TestChallengeDoesNotWaitForTheUpstreamsBody(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		g := newGateway(t)
		up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			for r.Context().Err() == nil { // a body without end
				_, _ = w.Write(make([]byte, 4096))
			}
		}}
		s := startCaddy(t, g, resource, site, up)
		res := s.post(t, "/jira/mcp", nil)
		wantStatus(t, res, http.StatusUnauthorized)
		if body := bodyOf(t, res); !strings.Contains(body, "invalid_token") {
			t.Errorf("body %q", body)
		}
	})
}

func TestT64RedirectsStayOnTheResource(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	var self string // set before the first request
	up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", strings.ReplaceAll(r.URL.Query().Get("to"), "SELF", self))
		w.WriteHeader(http.StatusTemporaryRedirect)
	}}
	s := startCaddy(t, g, resource, "\tmcp_proxy PROXY UPSTREAM/v1/mcp", up)
	plain := startCaddy(t, g, resource, "\tmcp_proxy PROXY UPSTREAM", up)
	wantStatus(t, s.post(t, "/jira/mcp?to=/v1/mcp/", nil), http.StatusTemporaryRedirect)
	self = up.last(t).Host

	for to, want := range map[string]string{
		"/v1/mcp/":                     "/jira/mcp/",
		"/v1/mcp/x%3Fq%3D1%23f":        "/jira/mcp/x?q=1#f",
		"mcp/":                         "/jira/mcp/",
		"http://SELF/v1/mcp/":          "/jira/mcp/",
		"https://SELF/v1/mcp/":         "/jira/mcp/",
		"//SELF/v1/mcp/":               "/jira/mcp/",
		"http://evil.test/v1/mcp":      "",
		"//evil.test/v1/mcp":           "",
		"///evil.test/v1/mcp":          "",
		`/\evil.test/v1/mcp`:           "",
		"https:evil.test":              "",
		"http:///v1/mcp":               "",
		"javascript:alert(1)":          "",
		"http://user@SELF/v1/mcp":      "",
		"http://SELF.evil.test/v1/mcp": "",
		"/admin":                       "",
		"/v1/mcpx":                     "",
		"/v1/mcp/../../admin":          "",
		"/v1/mcp/%252e%252e/admin":     "",
		"/v1/mcp//evil.test":           "",
		"http://SELF":                  "",
		"http://SELF/v1/mcp%0d%0aX: y": "",
	} {
		res := s.post(t, "/jira/mcp?to="+strings.NewReplacer("#", "%23", " ", "%20", "\\", "%5c").Replace(to), nil)
		checkRedirect(t, to, res, want)
	}
	for to, want := range map[string]string{"/jira/mcp/": "/jira/mcp/", "/other": "", "http://SELF/jira/mcp/x": ""} {
		checkRedirect(t, to+" (unmapped)", plain.post(t, "/jira/mcp?to="+to, nil), want)
	}
}

func checkRedirect(t *testing.T, to string, res *http.Response, want string) {
	t.Helper()
	location := res.Header.Get("Location")
	switch {
	case want == "" && (res.StatusCode != http.StatusBadGateway || location != ""):
		t.Errorf("%s: status %d, Location %q; want 502", to, res.StatusCode, location)
	case want != "" && (res.StatusCode != http.StatusTemporaryRedirect || location != want):
		t.Errorf("%s: status %d, Location %q; want %q", to, res.StatusCode, location, want)
	}
}

func TestUpstreamErrorsPassWithTheirBody(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		g := newGateway(t)
		up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
			var status int
			_, _ = fmt.Sscan(r.URL.Query().Get("s"), &status)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","error":{"code":-32022}}`)
		}}
		s := startCaddy(t, g, resource, site, up)
		for _, status := range []int{400, 403, 404, 405, 429, 500, 503} {
			res := s.post(t, fmt.Sprintf("/jira/mcp?s=%d", status), nil)
			if body := bodyOf(t, res); res.StatusCode != status || !strings.Contains(body, "-32022") {
				t.Errorf("%d came back as %d %s", status, res.StatusCode, body)
			}
		}
		if got := g.rejections(); len(got) != 0 {
			t.Errorf("the gateway was told of %q", got)
		}
	})
}
