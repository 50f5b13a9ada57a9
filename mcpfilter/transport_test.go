package mcpfilter_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// An open event stream holds the buffers of its connection to the MCP server for as long as it is silent.
func TestConnectionsHoldSmallBuffersUnlessTheirSizesAreSet(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ read, write, wantRead, wantWrite int }{
		"by default":      {0, 0, 3 << 10, 3 << 10},
		"read_buffer set": {64 << 10, 0, 64 << 10, 3 << 10},
		"both set":        {4 << 10, 16 << 10, 4 << 10, 16 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
			defer cancel()
			transport := &mcpfilter.Transport{HTTPTransport: reverseproxy.HTTPTransport{ReadBufferSize: c.read, WriteBufferSize: c.write}}
			if err := transport.Provision(ctx); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = transport.Cleanup() }()
			if read, write := transport.Transport.ReadBufferSize, transport.Transport.WriteBufferSize; read != c.wantRead || write != c.wantWrite {
				t.Errorf("buffers of %d and %d bytes; want %d and %d", read, write, c.wantRead, c.wantWrite)
			}
		})
	}
}

// onlyToken is an MCP server that accepts one upstream token.
func onlyToken(token string) *recorder {
	return &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "no")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"ok":true}`)
	}}
}

func TestR15RefusedRequestIsRepeatedOnceWithRenewedToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ method, body string }{
		{http.MethodPost, listTools},
		{http.MethodPost, `{"jsonrpc":"2.0","method":"x","params":"` + strings.Repeat("a", 900<<10) + `"}`},
		{http.MethodGet, ""},
		{http.MethodDelete, ""},
	} {
		t.Run(fmt.Sprintf("%s %d bytes", c.method, len(c.body)), func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), onlyToken("upstream-2")
			s := startCaddy(t, g, resource, viaProxy, up)
			res := s.request(t, c.method, "/jira/mcp", nil, c.body)
			wantStatus(t, res, http.StatusOK)
			if got := bodyOf(t, res); got != `{"ok":true}` {
				t.Errorf("body %q", got)
			}
			if up.count() != 2 || up.bodies[0] != c.body || up.bodies[1] != c.body {
				t.Errorf("%d requests upstream, or another body", up.count())
			}
			if got := g.rejections(); len(got) != 1 || got[0] != "upstream-1" {
				t.Errorf("the gateway was told of %q", got)
			}
		})
	}
}

func TestR15ChunkedBodyIsRepeated(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), onlyToken("upstream-2")
	s := startCaddy(t, g, resource, viaProxy, up)
	req := s.newRequest(t, http.MethodPost, "/jira/mcp", nil, listTools)
	req.ContentLength, req.Body = -1, io.NopCloser(struct{ io.Reader }{strings.NewReader(listTools)})
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	wantStatus(t, res, http.StatusOK)
	if up.count() != 2 || up.bodies[1] != listTools {
		t.Errorf("%d requests upstream: %q", up.count(), up.bodies)
	}
}

func TestR15RepeatUsesTheSameConnection(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), onlyToken("upstream-2")
	s := startCaddy(t, g, resource, `
	mcp_proxy PROXY UPSTREAM {
		transport mcp {
			max_conns_per_host 1
		}
	}`, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
	if a, b := up.requests[0].RemoteAddr, up.requests[1].RemoteAddr; a != b {
		t.Errorf("connections from %s and %s", a, b)
	}
}

func TestR15LongBodyIsNotRepeatedButArrivesWhole(t *testing.T) {
	t.Parallel()
	long := `{"method":"x","params":"` + strings.Repeat("0123456789abcdef", 1<<18) + `"}`
	g, up := newGateway(t), onlyToken("upstream-2")
	s := startCaddy(t, g, resource, viaProxy, up)
	res := s.request(t, http.MethodPost, "/jira/mcp", nil, long)
	wantStatus(t, res, http.StatusUnauthorized)
	if got := res.Header.Get("WWW-Authenticate"); !strings.Contains(got, "invalid_token") {
		t.Errorf("challenge %q", got)
	}
	if up.count() != 1 || up.bodies[0] != long {
		t.Fatalf("%d requests upstream, or another body", up.count())
	}
	// The token was renewed all the same, so trying again works.
	wantStatus(t, s.request(t, http.MethodPost, "/jira/mcp", nil, long), http.StatusOK)
	if up.bodies[1] != long {
		t.Error("the body changed on its way")
	}
}

func TestR15LongChunkedBodyArrivesWhole(t *testing.T) {
	t.Parallel()
	long := `{"method":"x","params":"` + strings.Repeat("0123456789abcdef", 1<<18) + `"}`
	g, up := newGateway(t), onlyToken("upstream-2")
	s := startCaddy(t, g, resource, viaProxy, up)
	for i, status := range []int{http.StatusUnauthorized, http.StatusOK} {
		req := s.newRequest(t, http.MethodPost, "/jira/mcp", nil, long)
		req.ContentLength, req.Body = -1, io.NopCloser(struct{ io.Reader }{strings.NewReader(long)})
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wantStatus(t, res, status)
		if up.count() != i+1 || up.bodies[i] != long {
			t.Fatalf("%d requests upstream, or another body", up.count())
		}
	}
}

func TestR15RetriesOfTheProxyDoNotMultiplyRepeats(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), onlyToken("none")
	s := startCaddy(t, g, resource, `
	mcp_proxy PROXY UPSTREAM {
		lb_retries 2
		lb_retry_match {
			expression `+"`{rp.status_code} == 401`"+`
		}
	}`, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusUnauthorized)
	if up.count() != 4 || len(g.rejections()) != 1 {
		t.Errorf("%d requests upstream, want 3 and one repeat; %d renewals", up.count(), len(g.rejections()))
	}
}

func TestTokenOfTheTransportReachesNoLog(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	server := httptest.NewServer(up)
	t.Cleanup(server.Close)
	handler, logs := loadCaddy(t, g.id, "{\n\tauto_https off\n\tservers {\n\t\tlog_credentials\n\t}\n\toauth_proxy {\n\t\tproxy "+g.id+" "+resource+
		"\n\t}\n}\nhttp:// {\n\tlog\n\tmcp_proxy "+g.id+" "+server.URL+"\n}\n")
	front := httptest.NewServer(handler)
	t.Cleanup(front.Close)
	s := &caddyServer{front, logs}
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
	eventually(t, "the request in both logs", func() bool {
		return strings.Contains(logs.String(), "upstream roundtrip") && strings.Contains(logs.String(), "handled request")
	})
	if strings.Contains(logs.String(), "upstream-1") {
		t.Errorf("the log has the upstream token:\n%s", logs.String())
	}
}

func TestR15RequestIsRepeatedAtMostOnce(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), onlyToken("none")
	s := startCaddy(t, g, resource, viaProxy, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusUnauthorized)
	if up.count() != 2 || len(g.rejections()) != 1 {
		t.Errorf("%d requests upstream, %d renewals", up.count(), len(g.rejections()))
	}
}

func TestR15NothingIsRepeatedWithoutAnotherToken(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), onlyToken("upstream-2")
	g.rejectErr = mcpfilter.ErrStillRejected
	s := startCaddy(t, g, resource, viaProxy, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusUnauthorized)
	if up.count() != 1 {
		t.Errorf("%d requests upstream", up.count())
	}
}

func TestTransportWithoutFilterSendsNothing(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, `
	reverse_proxy UPSTREAM {
		transport mcp
	}`, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusBadGateway)
	if up.count() != 0 {
		t.Error("the MCP server saw the request")
	}
	eventually(t, "the reason in the log", func() bool { return strings.Contains(s.log.String(), "did not pass an mcp_filter") })
}

func TestTransportHasTheOptionsOfHTTP(t *testing.T) {
	t.Parallel()
	up := new(recorder)
	tls := httptest.NewTLSServer(up)
	t.Cleanup(tls.Close)
	g := newGateway(t)
	s := startCaddyAt(t, g, resource, `
	mcp_proxy PROXY UPSTREAM/mcp {
		transport mcp {
			tls_insecure_skip_verify
			versions 1.1
			dial_timeout 2s
		}
	}`, tls.URL)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
	r := up.last(t)
	if r.Header.Get("Authorization") != "Bearer upstream-1" || r.Host != strings.TrimPrefix(tls.URL, "https://") {
		t.Errorf("Host %s, header %v", r.Host, r.Header)
	}
}

func TestActiveHealthChecksPassWithoutToken(t *testing.T) {
	t.Parallel()
	var checks atomic.Int64
	// It is not closed: this Caddy goes on asking, and the port would be another test's.
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && r.Header.Get("Authorization") == "" {
			checks.Add(1)
		}
	}))
	g := newGateway(t)
	s := startCaddyAt(t, g, resource, `
	mcp_proxy PROXY UPSTREAM {
		health_uri /health
		health_interval 50ms
	}`, up.URL)
	eventually(t, "health checks", func() bool { return checks.Load() > 2 })
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusOK)
}

func TestR16UpstreamOutageIsNotTheUsersFault(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	s := startCaddyAt(t, g, resource, "\tmcp_proxy PROXY UPSTREAM", "http://127.0.0.1:1")
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusBadGateway)
	if got := g.rejections(); len(got) != 0 {
		t.Errorf("the gateway was told of %q", got)
	}
}

func TestR16BrokenResponseIsNeverACompleteOne(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("ct"))
		_, _ = io.WriteString(w, `data: {"half`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}}
	s := startCaddy(t, g, resource, viaProxy, up)
	for _, ct := range []string{"application/json", "text/event-stream"} {
		res := s.post(t, "/jira/mcp?ct="+ct, nil)
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%s: the client takes half a response for a whole one", ct)
		}
	}
}

func TestR16SlowUpstreamTimesOut(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	up := &recorder{answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}
	s := startCaddy(t, g, resource, `
	mcp_proxy PROXY UPSTREAM {
		transport mcp {
			response_header_timeout 20ms
		}
	}`, up)
	wantStatus(t, s.post(t, "/jira/mcp", nil), http.StatusGatewayTimeout)
}

func TestClientThatLeavesEndsTheUpstreamRequest(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		g := newGateway(t)
		arrived, left := make(chan struct{}), make(chan struct{})
		up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
			close(arrived)
			<-r.Context().Done()
			close(left)
		}}
		s := startCaddy(t, g, resource, site, up)
		res := s.post(t, "/jira/mcp", nil)
		<-arrived
		_ = res.Body.Close()
		select {
		case <-left:
		case <-time.After(10 * time.Second):
			t.Fatal("the MCP server still works for a client that has left")
		}
		eventually(t, "the vault to be let go", func() bool { return g.entered.Load() == 0 })
	})
}
