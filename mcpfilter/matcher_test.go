package mcpfilter_test

import (
	"net/http"
	"strings"
	"testing"
)

// Directives that know nothing of MCP, composed by the matcher and the placeholders.
func TestMatcherComposesWithOtherDirectives(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, `
	@deletes mcp {
		method tools/call
		tool   delete_* drop_*
	}
	@docs mcp {
		resource file:///docs/*
		prompt   doc_*
	}
	@modern mcp {
		protocol_version 2026-*
	}
	@message mcp
	header @modern X-Era modern
	header @message X-Message "{mcp.method} {mcp.target} {mcp.name} {mcp.protocol_version} {mcp.session}"
	respond @deletes "not here" 418
	respond @docs "read {mcp.name} elsewhere" 421
`+viaProxy, up)
	long := strings.Repeat("x", 4<<20)
	modern := func(method, name string) map[string]string {
		return map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, "Mcp-Name": name}
	}
	for name, c := range map[string]struct {
		header  map[string]string
		body    string
		status  int
		message string
	}{
		"a tool that matches":                      {nil, callBody("tools/call", "delete_issue"), http.StatusTeapot, "tools/call tool delete_issue"},
		"in another case":                          {nil, callBody("tools/call", "DELETE_issue"), http.StatusTeapot, "tools/call tool DELETE_issue"},
		"another tool":                             {nil, callBody("tools/call", "get_issue"), 200, "tools/call tool get_issue"},
		"a prompt of that name":                    {nil, callBody("prompts/get", "delete_issue"), 200, "prompts/get prompt delete_issue"},
		"a resource":                               {nil, callBody("resources/read", "file:///docs/a"), 421, "resources/read resource file:///docs/a"},
		"a prompt":                                 {nil, callBody("prompts/get", "doc_a"), 421, "prompts/get prompt doc_a"},
		"a method without a name":                  {nil, `{"id":1,"method":"ping"}`, 200, "ping"},
		"a response":                               {nil, `{"id":1,"result":{}}`, 200, "response"},
		"a body that is no message":                {nil, `{"a":1}`, 200, ""},
		"no JSON":                                  {map[string]string{"Content-Type": "text/plain"}, "delete_issue", 200, ""},
		"JSON of another type":                     {map[string]string{"Content-Type": "text/plain"}, callBody("tools/call", "delete_issue"), 415, ""},
		"JSON of no type":                          {map[string]string{"Content-Type": ""}, "\ufeff " + callBody("tools/call", "delete_issue"), 415, ""},
		"JSON of a type that is not well-formed":   {map[string]string{"Content-Type": "application/json; charset"}, callBody("tools/call", "delete_issue"), 415, ""},
		"JSON of another type, behind spaces":      {map[string]string{"Content-Type": "text/plain"}, strings.Repeat(" ", 600) + callBody("tools/call", "delete_issue"), 415, ""},
		"a batch that matches":                     {nil, "[" + callBody("tools/call", "delete_a") + "," + callBody("tools/call", "drop_b") + "]", http.StatusTeapot, "batch"},
		"a batch of which a part matches":          {nil, "[" + callBody("tools/call", "delete_a") + "," + callBody("tools/call", "get_b") + "]", 400, "batch"},
		"a body that is unclear":                   {nil, `{"method":"ping","Method":"tools/call"}`, 400, ""},
		"a name that is unclear":                   {nil, `{"method":"tools/call","params":{"name":"get_a","name":"delete_a"}}`, 400, "tools/call"},
		"a request that is a response, too":        {nil, `{"id":1,"method":"tools/call","params":{"name":"delete_a"},"result":{}}`, 400, ""},
		"a batch with what is no message":          {nil, `[{"a":1},` + callBody("tools/call", "delete_a") + `]`, 400, ""},
		"a batch that is almost JSON":              {nil, `[` + callBody("tools/call", "delete_a") + `,]`, 400, ""},
		"a list without messages":                  {nil, `[{"a":1},{"b":2}]`, 200, ""},
		"an empty list":                            {nil, `[]`, 200, ""},
		"broken JSON":                              {nil, `{"method":"tools/call"`, 400, ""},
		"a body that says it is UTF-7":             {map[string]string{"Content-Type": "application/json; charset=utf-7"}, callBody("tools/call", "+AGQ-elete_issue"), 400, ""},
		"an encoded body":                          {map[string]string{"Content-Encoding": "gzip"}, callBody("tools/call", "get_a"), 415, ""},
		"a long body":                              {nil, callBody("tools/call", long), 413, ""},
		"a long body with headers that say it":     {modern("tools/call", "delete_a"), callBody("tools/call", long), http.StatusTeapot, "tools/call tool delete_a 2026-07-28"},
		"a long body with headers that say other":  {modern("tools/call", "get_a"), callBody("tools/call", long), 200, "tools/call tool get_a 2026-07-28"},
		"a long body with headers of an old one":   {map[string]string{"MCP-Protocol-Version": "2025-11-25", "Mcp-Method": "ping"}, callBody("tools/call", long), 413, ""},
		"a long body with half of the headers":     {map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call"}, callBody("tools/call", long), 413, ""},
		"a long body with headers that stay here":  {map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "ping", "Connection": "mcp-protocol-version, mcp-method"}, callBody("tools/call", long), 413, ""},
		"a long body of what no header names":      {map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "completion/complete"}, `{"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"file:///docs/a"},"x":"` + long + `"}}`, 413, ""},
		"headers that contradict the body":         {modern("tools/call", "get_a"), callBody("tools/call", "other"), 400, "tools/call tool other 2026-07-28"},
		"headers that contradict a body to refuse": {modern("tools/call", "get_a"), callBody("tools/call", "delete_a"), http.StatusTeapot, "tools/call tool delete_a 2026-07-28"},
	} {
		before := up.count()
		res := s.request(t, http.MethodPost, "/jira/mcp", c.header, c.body)
		text := bodyOf(t, res)
		if res.StatusCode != c.status || strings.TrimSpace(res.Header.Get("X-Message")) != c.message {
			t.Errorf("%s: %d %q %.80s, want %d %q", name, res.StatusCode, res.Header.Get("X-Message"), text, c.status, c.message)
		}
		if passed := up.count() > before; passed != (c.status == 200) {
			t.Errorf("%s: reached the server: %v", name, passed)
		}
		if passed := up.count() > before; passed && up.bodies[len(up.bodies)-1] != c.body {
			t.Errorf("%s: the body changed on its way", name)
		}
		if era := res.Header.Get("X-Era"); (era == "modern") != (c.header["MCP-Protocol-Version"] == "2026-07-28") {
			t.Errorf("%s: era %q", name, era)
		}
	}
	// Some servers do not look at the method either.
	for _, method := range []string{http.MethodPut, http.MethodGet, http.MethodDelete} {
		before := up.count()
		if res := s.request(t, method, "/jira/mcp", nil, callBody("tools/call", "delete_issue")); res.StatusCode != http.StatusTeapot || up.count() != before {
			t.Errorf("%s of a message that matches: %d", method, res.StatusCode)
		}
	}
	// Requests without a message match by their version alone.
	for version, era := range map[string]string{"2026-07-28": "modern", "2025-11-25": ""} {
		res := s.request(t, http.MethodGet, "/jira/mcp", map[string]string{"MCP-Protocol-Version": version}, "")
		if got := res.Header.Get("X-Era"); res.StatusCode != http.StatusOK || got != era || res.Header.Get("X-Message") != "" {
			t.Errorf("GET of %s: %d %q %q", version, res.StatusCode, got, res.Header.Get("X-Message"))
		}
	}
}

// Behind the filter, matchers may ask who is calling.
func TestMatcherBehindTheFilterKnowsTheUser(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	s := startCaddy(t, g, resource, `
	route {
		mcp_filter PROXY {
			credential transport
		}
		@writes {
			mcp {
				tool create_*
			}
			expression {http.auth.user.login} == "ada"
		}
		respond @writes "{mcp.name} of {http.auth.user.login}, {mcp.client_id}" 418
		reverse_proxy UPSTREAM {
			transport mcp
			header_up X-Tool {mcp.name}
		}
	}`, up)
	res := s.request(t, http.MethodPost, "/jira/mcp", nil, callBody("tools/call", "create_issue"))
	if got := bodyOf(t, res); res.StatusCode != http.StatusTeapot || got != "create_issue of ada, gateway_0f" {
		t.Errorf("%d %s", res.StatusCode, got)
	}
	wantStatus(t, s.request(t, http.MethodPost, "/jira/mcp", nil, callBody("tools/call", "get_issue")), http.StatusOK)
	if got := up.last(t).Header.Get("X-Tool"); got != "get_issue" {
		t.Errorf("X-Tool %q", got)
	}
}
