package mcpfilter_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
)

// auditOf reads the lines of the audit trail so far.
func auditOf(t *testing.T, s *caddyServer) []map[string]any {
	t.Helper()
	var entries []map[string]any
	for line := range strings.Lines(s.log.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["logger"] == "http.handlers.mcp_filter.audit" {
			entries = append(entries, entry)
		}
	}
	return entries
}

func TestEachRequestHasALineInTheAuditTrail(t *testing.T) {
	t.Parallel()
	g := policyGateway(t)
	g.auditArguments = []string{"project", "much"}
	up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("X-Answer") {
		case "stream":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {}\n\n")
		case "500":
			w.WriteHeader(http.StatusInternalServerError)
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
		}
	}}
	s := startCaddy(t, g, resource, viaProxy, up)
	call := func(token, name string, header map[string]string) {
		h := map[string]string{"Authorization": "Bearer " + token}
		maps.Copy(h, header)
		bodyOf(t, s.request(t, http.MethodPost, "/jira/mcp?secret=in-query", h,
			`{"id":1,"method":"tools/call","params":{"name":"`+name+`","arguments":{"project":"P1","text":"private words","much":"`+strings.Repeat("m", 1000)+`"}}}`))
	}
	type fields = map[string]any
	for name, c := range map[string]struct {
		do   func()
		want fields
	}{
		"allowed": {func() { call("reader", "get_issue", nil) }, fields{
			"decision": "allowed", "user": "reader", "user_id": "user-reader", "client_id": "bot", "grant": "grant-reader", "jti": "jti-reader", "method": "POST", "path": "/jira/mcp",
			"mcp_method": "tools/call", "mcp_target": "tool", "mcp_name": "get_issue", "status": 200., "upstream_status": 200., "bytes": 36.,
		}},
		"an event stream":  {func() { call("reader", "get_issue", map[string]string{"X-Answer": "stream"}) }, fields{"decision": "allowed", "status": 200., "bytes": 10.}},
		"a server's error": {func() { call("reader", "get_issue", map[string]string{"X-Answer": "500"}) }, fields{"decision": "allowed", "status": 500., "upstream_status": 500.}},
		"denied":           {func() { call("reader", "drop_table", nil) }, fields{"decision": "denied", "status": 200., "user": "reader", "mcp_name": "drop_table", "upstream_status": nil}},
		"to step up":       {func() { call("reader", "create_issue", nil) }, fields{"decision": "insufficient_scope", "status": 403., "user": "reader", "mcp_name": "create_issue"}},
		"unauthenticated":  {func() { call("wrong-token", "get_issue", nil) }, fields{"decision": "unauthenticated", "status": 401., "user": nil}},
		"another origin":   {func() { call("reader", "get_issue", map[string]string{"Origin": "https://evil.test"}) }, fields{"decision": "refused", "status": 403., "user": nil}},
		"a session token": {func() {
			call("", "get_issue", map[string]string{"Authorization": "", "X-Session-Token": "reader"})
		}, fields{"decision": "allowed", "status": 200., "user": "reader"}},
	} {
		before := len(auditOf(t, s))
		c.do()
		eventually(t, name+": a line", func() bool { return len(auditOf(t, s)) == before+1 })
		entry := auditOf(t, s)[before]
		for field, want := range c.want {
			if entry[field] != want {
				t.Errorf("%s: %s is %v, want %v", name, field, entry[field], want)
			}
		}
		if _, ok := entry["duration"].(float64); !ok || entry["msg"] != "mcp request" {
			t.Errorf("%s: %v", name, entry)
		}
		if entry["user"] != nil {
			arguments, _ := entry["arguments"].(map[string]any)
			if much, _ := arguments["much"].(string); arguments["project"] != `"P1"` || len(much) != 256 || len(arguments) != 2 {
				t.Errorf("%s: arguments %v", name, arguments)
			}
		}
	}
	before := len(auditOf(t, s))
	s.request(t, http.MethodOptions, "/jira/mcp", map[string]string{"Authorization": "", "Access-Control-Request-Method": "POST"}, "")
	if n := len(auditOf(t, s)); n != before {
		t.Error("a preflight is no request of the user's")
	}
	for _, secret := range []string{"private words", "in-query", "wrong-token"} {
		for _, entry := range auditOf(t, s) {
			if text, _ := json.Marshal(entry); strings.Contains(string(text), secret) {
				t.Errorf("the audit trail has %q: %s", secret, text)
			}
		}
	}
}

func TestRequestThatBreaksOffHasItsLine(t *testing.T) {
	t.Parallel()
	begin := func(w http.ResponseWriter, mediaType, body string) {
		w.Header().Set("Content-Type", mediaType)
		_, _ = io.WriteString(w, body)
		_ = http.NewResponseController(w).Flush()
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   map[string]any
	}{
		"the server dies before its answer": {
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			map[string]any{"status": 502., "upstream_status": nil, "bytes": 0.},
		},
		"the server dies in its answer": {
			func(w http.ResponseWriter, _ *http.Request) {
				begin(w, "application/json", `{"jsonrpc"`)
				panic(http.ErrAbortHandler)
			},
			map[string]any{"status": 200., "upstream_status": 200., "bytes": 10.},
		},
		"the client leaves its event stream": {
			func(w http.ResponseWriter, r *http.Request) {
				begin(w, "text/event-stream", "data: {}\n\n")
				<-r.Context().Done()
			},
			map[string]any{"status": 200., "upstream_status": 200., "bytes": 10.},
		},
		"the client leaves before the answer": {
			func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			map[string]any{"status": 499., "upstream_status": nil, "bytes": 0.},
		},
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, site string) {
				up := &recorder{answer: c.answer}
				s := startCaddy(t, newGateway(t), resource, site, up)
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				client := make(chan struct{})
				go func() {
					defer close(client)
					res, err := s.Client().Transport.RoundTrip(s.newRequest(t, http.MethodPost, "/jira/mcp", nil, listTools).WithContext(ctx))
					if err != nil {
						return
					}
					_, _ = io.ReadFull(res.Body, make([]byte, 10))
					leave()
					_ = res.Body.Close()
				}()
				eventually(t, "a request", func() bool { return up.count() > 0 })
				if c.want["status"] == 499. {
					leave()
				}
				<-client
				eventually(t, "a line", func() bool { return len(auditOf(t, s)) == 1 })
				entry := auditOf(t, s)[0]
				for field, want := range c.want {
					if entry[field] != want {
						t.Errorf("%s is %v, want %v", field, entry[field], want)
					}
				}
				if entry["decision"] != "allowed" || entry["grant"] != "grant-1" || entry["mcp_method"] != "tools/list" {
					t.Errorf("%v", entry)
				}
			})
		})
	}
}

func TestRequestWhoseBodyCannotBeReadIsRefused(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		s := startCaddy(t, newGateway(t), resource, "\trequest_body {\n\t\tmax_size 10\n\t}\n"+site, new(recorder))
		req := s.newRequest(t, http.MethodPost, "/jira/mcp", nil, listTools)
		req.ContentLength = -1
		res, err := s.Client().Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wantStatus(t, res, http.StatusRequestEntityTooLarge)
		eventually(t, "a line", func() bool { return len(auditOf(t, s)) == 1 })
		if entry := auditOf(t, s)[0]; entry["decision"] != "refused" || entry["status"] != 413. || entry["grant"] != "grant-1" || entry["error"] == nil {
			t.Errorf("%v", entry)
		}
	})
}

// What a parser that looks at the case of members does not see, the audit trail must not tell.
func TestArgumentsOfTheAuditTrailAreTheServers(t *testing.T) {
	t.Parallel()
	for _, params := range []string{
		`{"name":"get_issue","arguments":{"project":"real"},"Arguments":{"project":"told"}}`,
		`{"name":"get_issue","ARGUMENTS":{"project":"told"}}`,
		`{"name":"get_issue","arguments":{"project":"told"},"arguments":{"project":"real"}}`,
	} {
		g := newGateway(t)
		g.auditArguments = []string{"project"}
		s := startCaddy(t, g, resource, viaProxy, new(recorder))
		wantStatus(t, s.request(t, http.MethodPost, "/jira/mcp", nil, `{"id":1,"method":"tools/call","params":`+params+`}`), http.StatusOK)
		eventually(t, "a line", func() bool { return len(auditOf(t, s)) == 1 })
		if entry := auditOf(t, s)[0]; entry["arguments"] != nil || entry["mcp_name"] != "" {
			t.Errorf("%s: %v", params, entry)
		}
	}
}

func TestTheAuditTrailDoesNotRepeatWhatIsUnclear(t *testing.T) {
	t.Parallel()
	s := startCaddy(t, policyGateway(t), resource, viaProxy, new(recorder))
	header := map[string]string{"Authorization": "Bearer reader"}
	wantStatus(t, s.request(t, http.MethodPost, "/jira/mcp", header, `{"id":1,"method":"completion/complete","params":{"ref":{"type":"private words"}}}`), http.StatusBadRequest)
	eventually(t, "a line", func() bool { return len(auditOf(t, s)) == 1 })
	if strings.Contains(s.log.String(), "private words") {
		t.Error(s.log.String())
	}
}
