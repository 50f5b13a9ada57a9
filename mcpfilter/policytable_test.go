package mcpfilter_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// inGroup is a rule's condition.
func inGroup(group string) func(*mcpfilter.Session) bool {
	return func(s *mcpfilter.Session) bool { return slices.Contains(s.Grant.User.Groups, group) }
}

// ofClient is another.
func ofClient(id string) func(*mcpfilter.Session) bool {
	return func(s *mcpfilter.Session) bool { return s.Grant.ClientID == id }
}

// testPolicy has a rule of each sort.
var testPolicy = mcpfilter.Policy{
	Includes: map[string][]string{"admin": {"write"}, "write": {"read"}},
	Rules: []mcpfilter.Rule{
		{Target: mcpfilter.TargetTool, Deny: true, Patterns: []string{"drop_*"}},
		{Target: mcpfilter.TargetTool, Patterns: []string{"delete_*"}, For: inGroup("admins"), Scopes: []string{"admin"}},
		{Target: mcpfilter.TargetTool, Deny: true, Patterns: []string{"delete_*"}},
		{Target: mcpfilter.TargetTool, Patterns: []string{"report_*"}, For: ofClient("report-bot")},
		{Target: mcpfilter.TargetTool, Deny: true, Patterns: []string{"report_*"}},
		{Target: mcpfilter.TargetTool, Patterns: []string{"create_*", "update_*"}, Scopes: []string{"write"}},
		{Target: mcpfilter.TargetTool, Patterns: []string{"get_*"}, Scopes: []string{"read"}},
		{Target: mcpfilter.TargetResource, Patterns: []string{"file:///docs/*", "memo://*"}},
		{Target: mcpfilter.TargetPrompt, Deny: true, Patterns: []string{"secret*"}},
	},
}

// offered is what the test's MCP server has.
var offered = map[string][]string{
	"tools":     {"drop_table", "DROP_table", "delete_issue", "report_daily", "create_issue", "update_issue", "get_issue", "other", "Get_Issue", "get_issue\u200b"},
	"resources": {"file:///docs/a", "file:///docs/../etc/passwd", "file:///docs/%2e%2e/etc", "file:///docs/?/../../etc", "file:///etc/passwd", "memo://a", "MEMO://b", "file:///docs%2fa", "file:////docs/a", `file:///docs/\a`},
	"prompts":   {"secret", "secretive", "greet", "SECRET", "secret ", "greet "},
}

func policySession(id, client string, groups []string, scopes ...string) *mcpfilter.Session {
	return &mcpfilter.Session{
		Grant: &tokenstore.Grant{Meta: tokenstore.Meta{ID: "grant-" + id}, State: tokenstore.StateActive, ClientID: client, UserID: "user-" + id,
			User: tokenstore.User{Provider: "okta", Subject: id, Groups: groups}},
		JTI: "jti-" + id, Scopes: scopes,
	}
}

// policyGateway has users of several kinds under the policy.
func policyGateway(t *testing.T) *testGateway {
	g := newGateway(t)
	g.policy = testPolicy
	g.scopes = []string{"read", "write", "admin"}
	g.sessions = map[string]*mcpfilter.Session{
		"admin":      policySession("admin", "bot", []string{"admins"}, "admin"),
		"lazy-admin": policySession("lazy-admin", "bot", []string{"admins"}, "read"),
		"writer":     policySession("writer", "bot", nil, "write"),
		"reader":     policySession("reader", "bot", []string{"staff"}, "read"),
		"reporter":   policySession("reporter", "report-bot", nil, "read"),
		"nobody":     policySession("nobody", "bot", nil),
	}
	return g
}

// policyServer answers lists with everything, and every call.
func policyServer() *recorder {
	return &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
		var message struct {
			ID     json.RawMessage
			Method string
		}
		body, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(body, &message)
		answer := []byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"done"}]}}`)
		if list, ok := strings.CutSuffix(message.Method, "/list"); ok {
			items := make([]map[string]any, 0, len(offered[list]))
			for _, name := range offered[list] {
				items = append(items, map[string]any{"name": name, "uri": name, "description": "what it does"})
			}
			answer, _ = json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "result": map[string]any{list: items}})
		}
		if r.Header.Get("X-Answer") == "stream" {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprintf(w, ": hello\nid: 1\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\nid: 2\ndata: %s\n\n", answer)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	}}
}

func callBody(method, name string) string {
	member := "name"
	if strings.HasPrefix(method, "resources/") {
		member = "uri"
	}
	params, _ := json.Marshal(map[string]any{member: name, "arguments": map[string]any{"name": "get_issue"}})
	return `{"jsonrpc":"2.0","id":"c-1","method":"` + method + `","params":` + string(params) + `}`
}

// decide sends a request and says in a word what became of it.
func decide(t *testing.T, s *caddyServer, up *recorder, token string, header map[string]string, body string) string {
	t.Helper()
	before := up.count()
	h := map[string]string{"Authorization": "Bearer " + token}
	maps.Copy(h, header)
	res := s.request(t, http.MethodPost, "/jira/mcp", h, body)
	text := bodyOf(t, res)
	passed := up.count() > before
	challenge := res.Header.Get("WWW-Authenticate")
	switch {
	case passed && res.StatusCode == http.StatusOK:
		return "allowed"
	case passed:
		return fmt.Sprintf("passed, but answered %d", res.StatusCode)
	case res.StatusCode == http.StatusForbidden && strings.Contains(challenge, `error="insufficient_scope"`):
		_, after, _ := strings.Cut(challenge, `scope="`)
		scopes, _, _ := strings.Cut(after, `"`)
		return "needs " + scopes
	case res.StatusCode == http.StatusOK && strings.Contains(text, `"code":-32602`):
		return "denied"
	default:
		return fmt.Sprint(res.StatusCode)
	}
}

func TestPolicyDecidesWhoCallsWhat(t *testing.T) {
	t.Parallel()
	g, up := policyGateway(t), policyServer()
	s := startCaddy(t, g, resource, viaProxy, up)
	for _, c := range []struct{ user, method, name, want string }{
		{"admin", "tools/call", "drop_table", "denied"},
		{"admin", "tools/call", "delete_issue", "allowed"},
		{"admin", "tools/call", "DELETE_issue", "allowed"},
		{"lazy-admin", "tools/call", "delete_issue", "needs read admin"},
		{"writer", "tools/call", "delete_issue", "denied"},
		{"writer", "tools/call", "Delete_Issue", "denied"},
		{"admin", "tools/call", "create_issue", "allowed"}, // admin includes write
		{"admin", "tools/call", "get_issue", "allowed"},    // and write read
		{"writer", "tools/call", "create_issue", "allowed"},
		{"reader", "tools/call", "create_issue", "needs read write"},
		{"reader", "tools/call", "get_issue", "allowed"},
		{"nobody", "tools/call", "get_issue", "needs read"},
		{"reporter", "tools/call", "report_daily", "allowed"},
		{"reader", "tools/call", "report_daily", "denied"},
		{"admin", "tools/call", "other", "denied"}, // no rule names it, and others allow
		{"reader", "resources/read", "file:///docs/a", "allowed"},
		{"reader", "resources/read", "FILE:///DOCS/a", "allowed"},
		{"reader", "resources/subscribe", "file:///etc/passwd", "denied"},
		{"reader", "resources/read", "file:///docs/../etc/passwd", "400"},
		{"reader", "resources/read", "file:///docs/%2e%2e/etc/passwd", "400"},
		{"reader", "resources/read", "file:///docs/%252e%252e/etc/passwd", "400"},
		{"reader", "resources/read", "file:///docs/?/../../etc/passwd", "400"},
		{"reader", "resources/read", "file:///docs//a", "400"},
		{"reader", "resources/read", "file:///docs%2fa", "denied"}, // what is written is not below docs
		{"reader", "prompts/get", "greet", "allowed"},
		{"reader", "prompts/get", "secret", "denied"},
		{"reader", "prompts/get", "Secretive", "denied"},
		{"reader", "prompts/get", " secret", "400"},
		{"nobody", "ping", "", "allowed"},
		{"nobody", "tools/list", "", "allowed"},
	} {
		if got := decide(t, s, up, c.user, nil, callBody(c.method, c.name)); got != c.want {
			t.Errorf("%s: %s %s: %s, want %s", c.user, c.method, c.name, got, c.want)
		}
	}
}

// Each of these is a way to say one thing to the policy and another to the server behind.
func TestT66NoTrickPassesThePolicy(t *testing.T) {
	t.Parallel()
	g, up := policyGateway(t), policyServer()
	s := startCaddy(t, g, resource, viaProxy, up)
	denied := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"drop_table"}}`
	modern := map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "get_issue"}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, denied)
	_ = z.Close()
	for name, c := range map[string]struct {
		header map[string]string
		body   string
		want   string
	}{
		"as it is":                              {nil, denied, "denied"},
		"the name in escapes":                   {nil, `{"id":1,"method":"tools/call","params":{"name":"dro\u0070_table"}}`, "denied"},
		"the member in escapes":                 {nil, `{"id":1,"meth\u006fd":"tools/call","params":{"n\u0061me":"drop_table"}}`, "denied"},
		"without an id":                         {nil, `{"jsonrpc":"2.0","method":"tools/call","params":{"name":"drop_table"}}`, "403"},
		"a null id":                             {nil, `{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"drop_table"}}`, "denied"},
		"the name twice":                        {nil, `{"id":1,"method":"tools/call","params":{"name":"get_issue","name":"drop_table"}}`, "400"},
		"the name in two spellings":             {nil, `{"id":1,"method":"tools/call","params":{"name":"get_issue","Name":"drop_table"}}`, "400"},
		"params twice":                          {nil, `{"id":1,"method":"tools/call","params":{"name":"get_issue"},"params":{"name":"drop_table"}}`, "400"},
		"Params":                                {nil, `{"id":1,"method":"tools/call","params":{"name":"get_issue"},"Params":{"name":"drop_table"}}`, "400"},
		"the method twice":                      {nil, `{"id":1,"method":"ping","method":"tools/call","params":{"name":"drop_table"}}`, "400"},
		"Method":                                {nil, `{"id":1,"method":"ping","Method":"tools/call","params":{"name":"drop_table"}}`, "400"},
		"a response with a method":              {nil, `{"id":1,"result":{},"method":"tools/call","params":{"name":"drop_table"}}`, "400"},
		"params as a list":                      {nil, `{"id":1,"method":"tools/call","params":["drop_table"]}`, "400"},
		"no params":                             {nil, `{"id":1,"method":"tools/call"}`, "400"},
		"a name that is no string":              {nil, `{"id":1,"method":"tools/call","params":{"name":["drop_table"]}}`, "400"},
		"a NUL at the end":                      {nil, `{"id":1,"method":"tools/call","params":{"name":"get_issue\u0000drop_table"}}`, "400"},
		"a member that ends at a NUL":           {nil, `{"id":1,"method":"tools/call","params":{"name\u0000":"drop_table","name":"get_issue"}}`, "400"},
		"a method that ends at a NUL":           {nil, `{"id":1,"method\u0000":"tools/call","method":"ping","params":{"name":"drop_table"}}`, "400"},
		"a lone surrogate":                      {nil, `{"id":1,"method":"tools/call","params":{"name":"get_\ud800issue"}}`, "400"},
		"no UTF-8":                              {nil, "{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"get_\xffissue\"}}", "400"},
		"a byte order mark":                     {nil, "\xef\xbb\xbf" + denied, "400"},
		"two messages":                          {nil, `{"id":1,"method":"ping"}` + denied, "400"},
		"two lines":                             {nil, `{"id":1,"method":"ping"}` + "\n" + denied, "400"},
		"nothing":                               {nil, ``, "400"},
		"text/plain":                            {map[string]string{"Content-Type": "text/plain"}, denied, "415"},
		"a form":                                {map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, denied, "415"},
		"no type":                               {map[string]string{"Content-Type": ""}, denied, "415"},
		"another JSON type":                     {map[string]string{"Content-Type": "Application/Vnd.X+JSON; charset=utf-8"}, denied, "denied"},
		"UTF-7":                                 {map[string]string{"Content-Type": "application/json; charset=utf-7"}, `{"id":1,"method":"tools/call","params":{"name":"get_issue","+AG4-ame":"drop_table"}}`, "400"},
		"UTF-16, as it is said":                 {map[string]string{"Content-Type": `application/json; charset*=utf-8''UTF-16LE`}, callBody("tools/call", "get_issue"), "400"},
		"UTF-8, as it is said":                  {map[string]string{"Content-Type": `application/json; Charset="UTF-8"`}, callBody("tools/call", "get_issue"), "allowed"},
		"gzip":                                  {map[string]string{"Content-Encoding": "gzip"}, zipped.String(), "415"},
		"too long":                              {nil, `{"id":1,"x":"` + strings.Repeat("x", 4<<20) + `","method":"tools/call","params":{"name":"drop_table"}}`, "413"},
		"too long, with headers":                {modern, `{"id":1,"x":"` + strings.Repeat("x", 4<<20) + `","method":"tools/call","params":{"name":"drop_table"}}`, "413"},
		"headers that say otherwise":            {modern, denied, "400"},
		"headers of an old client":              {map[string]string{"MCP-Protocol-Version": "2025-11-25", "Mcp-Method": "ping", "Mcp-Name": "get_issue"}, denied, "denied"},
		"headers without a version":             {map[string]string{"Mcp-Method": "ping"}, denied, "denied"},
		"in a batch":                            {nil, `[{"id":1,"method":"ping"},` + denied + `]`, "denied"},
		"a batch in a batch":                    {nil, `[[` + denied + `]]`, "400"},
		"in a batch of notifications":           {nil, `[{"method":"tools/call","params":{"name":"drop_table"}}]`, "403"},
		"a batch that needs scopes":             {nil, `[{"id":1,"method":"tools/call","params":{"name":"create_issue"}},{"id":2,"method":"ping"}]`, "needs read write"},
		"an empty batch":                        {nil, `[]`, "400"},
		"a completion":                          {nil, `{"id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"secret"}}}`, "denied"},
		"a completion of both":                  {nil, `{"id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"greet","type":"ref/resource"}}}`, "400"},
		"a completion of nothing":               {nil, `{"id":1,"method":"completion/complete","params":{}}`, "400"},
		"a subscription":                        {nil, `{"id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["memo://a","file:///etc/passwd"]}}}`, "denied"},
		"a subscription to what is allowed":     {nil, `{"id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["memo://a"]}}}`, "allowed"},
		"a subscription to too much":            {nil, `{"id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["memo://a"` + strings.Repeat(`,"memo://a"`, 1000) + `]}}}`, "400"},
		"a subscription that is no list":        {nil, `{"id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":"file:///etc/passwd"}}}`, "400"},
		"a method that is no method":            {nil, `{"id":1,"method":"tools/call ","params":{"name":"drop_table"}}`, "400"},
		"a method in another case":              {nil, `{"id":1,"method":"Tools/Call","params":{"name":"drop_table"}}`, "400"},
		"an id that is an object":               {nil, `{"id":{},"method":"tools/call","params":{"name":"drop_table"}}`, "400"},
		"an answer to the server":               {nil, `{"jsonrpc":"2.0","id":7,"result":{"roots":[]}}`, "allowed"},
		"a notification":                        {nil, `{"jsonrpc":"2.0","method":"notifications/initialized"}`, "allowed"},
		"the headers in base64":                 {map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "=?base64?Z2V0X2lzc3Vl?="}, callBody("tools/call", "get_issue"), "allowed"},
		"the headers in base64, saying another": {map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "=?base64?ZHJvcF90YWJsZQ==?="}, callBody("tools/call", "get_issue"), "400"},
	} {
		if got := decide(t, s, up, "reader", c.header, c.body); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodPatch, "FOO"} {
		before := up.count()
		res := s.request(t, method, "/jira/mcp", map[string]string{"Authorization": "Bearer reader"}, denied)
		if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") == "" || up.count() != before {
			t.Errorf("%s: %d, allowed are %q", method, res.StatusCode, res.Header.Get("Allow"))
		}
	}
	before := up.count()
	if res := s.request(t, http.MethodGet, "/jira/mcp", map[string]string{"Authorization": "Bearer reader"}, denied); res.StatusCode != http.StatusBadRequest || up.count() != before {
		t.Errorf("GET with a body: %d", res.StatusCode)
	}
}

// A list and the calls of what it names never disagree.
func TestListsNameExactlyWhatMayBeCalled(t *testing.T) {
	t.Parallel()
	g, up := policyGateway(t), policyServer()
	s := startCaddy(t, g, resource, viaProxy, up)
	call := map[string]string{"tools": "tools/call", "resources": "resources/read", "prompts": "prompts/get"}
	for user := range g.sessions {
		for list, names := range offered {
			var callable []string
			for _, name := range names {
				if decide(t, s, up, user, nil, callBody(call[list], name)) == "allowed" {
					callable = append(callable, name)
				}
			}
			for _, answer := range []string{"", "stream"} {
				res := s.request(t, http.MethodPost, "/jira/mcp", map[string]string{"Authorization": "Bearer " + user, "X-Answer": answer}, `{"jsonrpc":"2.0","id":1,"method":"`+list+`/list"}`)
				text := bodyOf(t, res)
				if got := listed(t, text, list); res.StatusCode != http.StatusOK || !slices.Equal(got, callable) {
					t.Errorf("%s: %s/list %s: %d, %q; may call %q", user, list, answer, res.StatusCode, got, callable)
				}
				if answer == "stream" && !strings.HasPrefix(text, ": hello\nid: 1\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\nid: 2\n") {
					t.Errorf("the stream changed beyond its list:\n%s", text)
				}
			}
		}
	}
	if accept := up.last(t).Header.Get("Accept-Encoding"); accept != "identity" {
		t.Errorf("a list that must be read is asked for with Accept-Encoding %q", accept)
	}
}

// listed reads the names of a list, of JSON or an event stream.
func listed(t *testing.T, text, list string) []string {
	t.Helper()
	if _, data, ok := strings.Cut(text, "id: 2\ndata: "); ok {
		text = data
	}
	var message struct {
		Result map[string][]struct{ Name string }
	}
	if err := json.Unmarshal([]byte(strings.TrimSpace(text)), &message); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var names []string
	for _, item := range message.Result[list] {
		names = append(names, item.Name)
	}
	return names
}

// A list may come back on a stream that is opened again, in a batch, or in a form that cannot be looked through.
func TestListsArePrunedWhereverTheyComeBack(t *testing.T) {
	t.Parallel()
	tools := `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"drop_table"},{"name":"get_issue"}]}}`
	for name, c := range map[string]struct {
		method, body, contentType, encoding, answer string
		status                                      int
		want                                        string
	}{
		"on a GET stream":                     {http.MethodGet, "", "text/event-stream", "", "data: " + tools + "\n\n", 200, "get_issue"},
		"in a batch":                          {http.MethodPost, `[{"id":1,"method":"tools/list"},{"id":2,"method":"ping"}]`, "application/json", "", "[" + tools + `,{"id":2,"result":{}}]`, 200, "get_issue"},
		"as no JSON":                          {http.MethodPost, `{"id":1,"method":"tools/list"}`, "text/plain", "", tools, 502, ""},
		"as a stream that is not well-formed": {http.MethodGet, "", "text/event-stream; charset", "", "data: " + tools + "\n\n", 502, ""},
		"as a stream of two types":            {http.MethodPost, `{"id":1,"method":"tools/list"}`, "text/event-stream, text/event-stream", "", "data: " + tools + "\n\n", 502, ""},
		"as broken JSON":                      {http.MethodPost, `{"id":1,"method":"tools/list"}`, "application/json", "", tools[:60], 502, ""},
		"encoded":                             {http.MethodPost, `{"id":1,"method":"tools/list"}`, "application/json", "br", tools, 502, ""},
		"too long":                            {http.MethodPost, `{"id":1,"method":"tools/list"}`, "application/json", "", tools + strings.Repeat(" ", 4<<20), 502, ""},
		"after another one":                   {http.MethodPost, `{"id":1,"method":"tools/call","params":{"name":"get_issue"}}`, "application/json", "", tools, 200, "drop_table"}, // no list was asked for
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := policyGateway(t)
			s := startCaddy(t, g, resource, viaProxy, &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				if c.encoding != "" {
					w.Header().Set("Content-Encoding", c.encoding)
				}
				_, _ = io.WriteString(w, c.answer)
			}})
			res := s.request(t, c.method, "/jira/mcp", map[string]string{"Authorization": "Bearer reader"}, c.body)
			text := bodyOf(t, res)
			if res.StatusCode != c.status || !strings.Contains(text, c.want) {
				t.Errorf("%d %s", res.StatusCode, text)
			}
			if c.want != "drop_table" && strings.Contains(text, "drop_table") {
				t.Errorf("the list names what may not be used: %s", text)
			}
		})
	}
}

func TestPolicyNeedsItsTransport(t *testing.T) {
	t.Parallel()
	g := policyGateway(t)
	s := startCaddy(t, g, resource, "\tmcp_filter PROXY {\n\t\tcredential transport\n\t}\n\treverse_proxy UPSTREAM", policyServer())
	res := s.request(t, http.MethodPost, "/jira/mcp", map[string]string{"Authorization": "Bearer reader"}, `{"id":1,"method":"tools/list"}`)
	if text := bodyOf(t, res); res.StatusCode != http.StatusBadGateway || strings.Contains(text, "drop_table") {
		t.Errorf("%d %s", res.StatusCode, text)
	}
}

func TestListsAreLegibleWhateverTheStatus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		answer, status          int
		contentType, body, want string
	}{
		{201, 502, "text/plain", `{"id":1,"result":{"tools":[{"name":"drop_table"}]}}`, ""},
		{203, 203, "application/json", `{"id":1,"result":{"tools":[{"name":"drop_table"}]}}`, `{"id":1,"result":{"tools":[]}}`},
		{202, 202, "text/plain", "Accepted", "Accepted"}, // the answer comes on another stream
		{200, 200, "text/plain", "", ""},
		{204, 204, "", "", ""},
	} {
		s := startCaddy(t, policyGateway(t), resource, viaProxy, &recorder{answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", c.contentType)
			w.WriteHeader(c.answer)
			_ = http.NewResponseController(w).Flush() // so that its length is not known
			_, _ = io.WriteString(w, c.body)
		}})
		res := s.request(t, http.MethodPost, "/jira/mcp", map[string]string{"Authorization": "Bearer reader"}, `{"id":1,"method":"tools/list"}`)
		if text := bodyOf(t, res); res.StatusCode != c.status || c.want != "" && text != c.want || strings.Contains(text, "drop_table") {
			t.Errorf("%d %s: %d %s", c.answer, c.contentType, res.StatusCode, text)
		}
	}
}
