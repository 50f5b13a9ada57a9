package mcpfilter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// What simple clients send is in internal/testenv and the documentation: no Accept for event streams, no session, no initialize,
// and the method behind the path.

// toolServer is an MCP server of the official SDK. Its tools say what it knows.
func toolServer(o *mcp.StreamableHTTPOptions) http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	type in struct {
		Text string `json:"text,omitempty"`
		Size int    `json:"size,omitempty"`
	}
	say := func(s string) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: s}}}, nil, nil
	}
	mcp.AddTool(server, &mcp.Tool{Name: "echo"}, func(ctx context.Context, r *mcp.CallToolRequest, in in) (*mcp.CallToolResult, any, error) {
		if token := r.Params.GetProgressToken(); token != nil {
			for i := range 3 { // which a server that answers with JSON cannot send
				_ = r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: float64(i)})
			}
		}
		return say(in.Text)
	})
	mcp.AddTool(server, &mcp.Tool{Name: "session"}, func(_ context.Context, r *mcp.CallToolRequest, _ in) (*mcp.CallToolResult, any, error) {
		return say(r.Session.ID())
	})
	mcp.AddTool(server, &mcp.Tool{Name: "big"}, func(_ context.Context, _ *mcp.CallToolRequest, in in) (*mcp.CallToolResult, any, error) {
		return say(strings.Repeat("x", in.Size))
	})
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, o)
}

// servers are all that the SDK can be.
func servers(t *testing.T, test func(t *testing.T, server func() http.Handler, sessions bool)) {
	for name, o := range map[string]mcp.StreamableHTTPOptions{
		"sessions, event streams": {}, "sessions, JSON": {JSONResponse: true},
		"stateless, event streams": {Stateless: true}, "stateless, JSON": {Stateless: true, JSONResponse: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, func() http.Handler { return toolServer(&o) }, !o.Stateless)
		})
	}
}

// startCompat runs a proxy with compat in front of an MCP server.
func startCompat(t *testing.T, server http.Handler) (*caddyServer, *recorder, *testGateway) {
	t.Helper()
	g, up := newGateway(t), &recorder{answer: server.ServeHTTP}
	g.compat = true
	return startCaddy(t, g, resource, viaProxy, up), up, g
}

func call(id, tool, args string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call","params":{"name":"` + tool + `","arguments":` + args + `}}`
}

// simple sends a request as simple clients do, and returns the JSON that it is answered with.
func (s *caddyServer) simple(t *testing.T, path, body string, header map[string]string) answer {
	t.Helper()
	all := map[string]string{"Accept": "*/*"}
	maps.Copy(all, header)
	res := s.request(t, http.MethodPost, path, all, body)
	raw := bodyOf(t, res)
	a := answer{status: res.StatusCode, header: res.Header, raw: raw}
	if raw != "" && json.Unmarshal([]byte(raw), &a) != nil && res.StatusCode == http.StatusOK {
		t.Fatalf("%s: no JSON: %s", path, raw)
	}
	return a
}

// answer is a JSON-RPC response.
type answer struct {
	status int
	header http.Header
	raw    string

	ID     json.RawMessage `json:"id"`
	Result struct {
		Tools   []struct{ Name string } `json:"tools"`
		Content []struct{ Text string } `json:"content"`
	} `json:"result"`
	Error struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// said is what a tool answered.
func (a answer) said(t *testing.T) string {
	t.Helper()
	if a.status != http.StatusOK || len(a.Result.Content) != 1 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	return a.Result.Content[0].Text
}

// methods are the JSON-RPC methods, or else the HTTP methods, that the server was sent.
func (u *recorder) methods() (all []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, r := range u.requests {
		var m struct{ Method string }
		_ = json.Unmarshal([]byte(u.bodies[i]), &m)
		if m.Method == "" {
			m.Method = r.Method
		}
		all = append(all, m.Method)
	}
	return all
}

func (u *recorder) sent(method string) int {
	n := 0
	for _, m := range u.methods() {
		if m == method {
			n++
		}
	}
	return n
}

func TestCompatAnswersSimpleClients(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, server func() http.Handler, sessions bool) {
		s, up, _ := startCompat(t, server())
		for _, accept := range []string{"*/*", "", "application/json", "text/html, */*;q=0.5", "application/json, text/event-stream;q=0"} {
			for _, path := range []string{"/jira/mcp/tools/list", "/jira/mcp"} {
				list := s.simple(t, path, listTools, map[string]string{"Accept": accept})
				if list.status != http.StatusOK || len(list.Result.Tools) != 3 || string(list.ID) != "1" {
					t.Fatalf("%s, Accept %q: %d %s", path, accept, list.status, list.raw)
				}
				h := list.header
				if h.Get("Content-Type") != "application/json" || h.Get("Mcp-Session-Id") != "" {
					t.Errorf("headers %v", h)
				}
			}
			for _, id := range []string{`1`, `"a-b"`, `7000000001`, `"1"`} {
				echo := s.simple(t, "/jira/mcp/tools/call", call(id, "echo", `{"text":"hello"}`), map[string]string{"Accept": accept})
				if got := echo.said(t); got != "hello" || string(echo.ID) != id {
					t.Errorf("id %s, Accept %q: %s", id, accept, echo.raw)
				}
			}
		}
		if n := up.sent("initialize"); sessions && n != 1 || !sessions && n != 0 {
			t.Errorf("%d sessions were opened", n)
		}
		for _, r := range up.requests {
			if r.URL.Path != "/v1/mcp" || r.Header.Get("Authorization") != "Bearer upstream-1" || r.Header.Get("Accept") != "application/json, text/event-stream" {
				t.Errorf("upstream: %s %s %v", r.Method, r.URL, r.Header)
			}
		}
		if sessions {
			id := s.simple(t, "/jira/mcp", call("1", "session", "{}"), nil).said(t)
			if id == "" || strings.Contains(s.log.String(), id) {
				t.Errorf("session %q, or it is in the log", id)
			}
		}
	})
}

func TestWithoutCompatNothingIsHelped(t *testing.T) {
	t.Parallel()
	up := &recorder{answer: toolServer(nil).ServeHTTP}
	s := startCaddy(t, newGateway(t), resource, viaProxy, up)
	res := s.request(t, http.MethodPost, "/jira/mcp/tools/list", map[string]string{"Accept": "*/*"}, listTools)
	if got := bodyOf(t, res); !strings.Contains(got, "event: message") || up.count() != 1 || up.last(t).URL.Path != "/v1/mcp/tools/list" {
		t.Errorf("%s %v", got, up.methods())
	}
}

func TestCompatDropsNotificationsBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, server func() http.Handler, _ bool) {
		s, _, _ := startCompat(t, server())
		a := s.simple(t, "/jira/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"done"},"_meta":{"progressToken":"p"}}}`, nil)
		if got := a.said(t); got != "done" {
			t.Errorf("%s", a.raw)
		}
	})
}

func TestCompatSendsNotificationsInTheSession(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, server func() http.Handler, sessions bool) {
		s, up, _ := startCompat(t, server())
		s.simple(t, "/jira/mcp", listTools, nil)
		res := s.request(t, http.MethodPost, "/jira/mcp", map[string]string{"Accept": "*/*"}, `{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`)
		wantStatus(t, res, http.StatusAccepted)
		if got := up.last(t).Header.Get("Mcp-Session-Id"); (got != "") != sessions {
			t.Errorf("session %q", got)
		}
	})
}

func TestCompatSessionIsItsUsersAndClientsAlone(t *testing.T) {
	t.Parallel()
	s, up, _ := startCompat(t, toolServer(nil))
	ids := make(map[string]string)
	for range 3 {
		for _, token := range []string{"good-token", "token-of-bob", "token-of-another-client"} {
			id := s.simple(t, "/jira/mcp", call("1", "session", "{}"), map[string]string{"Authorization": "Bearer " + token}).said(t)
			if known := ids[token]; id == "" || known != "" && known != id {
				t.Errorf("%s: session %q, then %q", token, known, id)
			}
			ids[token] = id
		}
	}
	if n := up.sent("initialize"); n != 3 || len(slices.Compact(slices.Sorted(maps.Values(ids)))) != 3 {
		t.Errorf("%d sessions were opened, %v", n, ids)
	}
	owner := make(map[string]string)
	for _, r := range up.requests {
		id, token := r.Header.Get("Mcp-Session-Id"), r.Header.Get("Authorization")
		if id == "" {
			continue
		}
		if owner[id] != "" && owner[id] != token {
			t.Errorf("a session carries %s and %s", owner[id], token)
		}
		owner[id] = token
	}
	if n := len(slices.Compact(slices.Sorted(maps.Values(owner)))); n != 2 { // two clients have one user's token
		t.Errorf("%d users", n)
	}
}

func TestCompatOpensOneSessionForManyRequestsAtOnceAndMixesNoneOfThemUp(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, server func() http.Handler, sessions bool) {
		s, up, _ := startCompat(t, server())
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				want := fmt.Sprint("text ", i)
				if a := s.simple(t, "/jira/mcp/tools/call", call("1", "echo", `{"text":"`+want+`"}`), nil); len(a.Result.Content) != 1 || a.Result.Content[0].Text != want {
					t.Errorf("%d: %d %s", i, a.status, a.raw)
				}
			})
		}
		group.Wait()
		if n := up.sent("initialize"); sessions && n != 1 {
			t.Errorf("%d sessions were opened", n)
		}
	})
}

// demanding puts the words of another implementation in front of a server with sessions.
func demanding(next http.Handler, missing, unknown http.HandlerFunc) http.Handler {
	var mu sync.Mutex
	known := make(map[string]bool)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		mu.Lock()
		id := r.Header.Get("Mcp-Session-Id")
		ok := known[id]
		mu.Unlock()
		switch {
		case bytes.Contains(body, []byte(`"initialize"`)):
			next.ServeHTTP(w, r)
			mu.Lock()
			known[w.Header().Get("Mcp-Session-Id")] = true
			mu.Unlock()
		case id == "":
			missing(w, r)
		case !ok:
			unknown(w, r)
		default:
			w.Header().Set("Mcp-Session-Id", id) // as most do in every response
			next.ServeHTTP(w, r)
		}
	})
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if strings.HasPrefix(body, "{") {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func rpcError(status, code int, id, text string) http.HandlerFunc {
	return says(status, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, id, code, text))
}

func TestCompatOpensASessionHoweverTheServerDemandsIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ missing, unknown http.HandlerFunc }{
		"TypeScript SDK":           {rpcError(400, -32000, "null", "Bad Request: Server not initialized"), rpcError(404, -32001, "null", "Session not found")},
		"TypeScript SDK, examples": {rpcError(400, -32000, "null", "Bad Request: No valid session ID provided"), rpcError(400, -32000, "null", "Bad Request: No valid session ID provided")},
		"Python SDK":               {rpcError(400, -32600, `"server-error"`, "Bad Request: Missing session ID"), rpcError(404, -32600, `"server-error"`, "Session not found")},
		"Rust SDK":                 {says(422, "Unprocessable Entity: Unexpected message, expect initialize request"), says(404, "Not Found: Session not found")},
		"C# SDK":                   {rpcError(400, -32000, `""`, "Bad Request: A new session can only be created by an initialize request."), rpcError(404, -32001, `""`, "Session not found")},
		"without a word":           {says(400, ""), says(404, "")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			server := demanding(toolServer(nil), c.missing, c.unknown)
			s, up, _ := startCompat(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				now := server
				mu.Unlock()
				now.ServeHTTP(w, r)
			}))
			for round := range 2 {
				for range 2 {
					if a := s.simple(t, "/jira/mcp/tools/list", listTools, nil); len(a.Result.Tools) != 3 || a.header.Get("Mcp-Session-Id") != "" {
						t.Fatalf("round %d: %d %s", round, a.status, a.raw)
					}
				}
				if n := up.sent("initialize"); n != round+1 {
					t.Errorf("%d sessions were opened", n)
				}
				mu.Lock()
				server = demanding(toolServer(nil), c.missing, c.unknown) // the server is started again, and has forgotten all
				mu.Unlock()
			}
		})
	}
}

// A client that accepts both media types and sends no session is only helped when the server demands one.
func TestCompatOpensASessionForClientsThatAcceptBothMediaTypes(t *testing.T) {
	t.Parallel()
	s, up, _ := startCompat(t, demanding(toolServer(nil), says(400, "no session"), says(404, "")))
	for range 2 {
		a := s.simple(t, "/jira/mcp", listTools, map[string]string{"Accept": "application/json, text/event-stream"})
		if len(a.Result.Tools) != 3 {
			t.Fatalf("%d %s", a.status, a.raw)
		}
	}
	if n := up.sent("initialize"); n != 1 {
		t.Errorf("%d sessions were opened", n)
	}
}

func TestCompatTellsTheServerThatAClientOfEventStreamsAcceptsBothMediaTypes(t *testing.T) {
	t.Parallel()
	stream := ": hello\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"
	s, up, _ := startCompat(t, events(stream))
	res := s.request(t, http.MethodPost, "/jira/mcp/tools/list", map[string]string{"Accept": "text/event-stream"}, listTools)
	if got := bodyOf(t, res); got != stream || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%v %q", res.Header, got)
	}
	if r := up.last(t); r.Header.Get("Accept") != "application/json, text/event-stream" || r.URL.Path != "/v1/mcp" {
		t.Errorf("upstream: %s %v", r.URL, r.Header)
	}
}

func TestCompatAsksOnlyOnceForANewSession(t *testing.T) {
	t.Parallel()
	forgetful := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case bytes.Contains(body, []byte(`"initialize"`)):
			w.Header().Set("Mcp-Session-Id", "s")
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}`)
		case bytes.Contains(body, []byte(`"notifications/initialized"`)):
			w.WriteHeader(http.StatusAccepted)
		default:
			http.Error(w, "Session not found", http.StatusNotFound)
		}
	})
	s, up, _ := startCompat(t, demanding(forgetful, says(400, ""), says(404, "")))
	for i := range 3 {
		if a := s.simple(t, "/jira/mcp", listTools, nil); a.status != http.StatusNotFound || a.raw != "Session not found\n" {
			t.Errorf("%d %s", a.status, a.raw)
		}
		if n, asked := up.sent("initialize"), up.sent("tools/list"); n != i+1 || asked != 2*(i+1) {
			t.Errorf("%d sessions, %d requests after %d", n, asked, i+1)
		}
	}
}

// Within a session the words of the official Go SDK are an error as any other.
func TestCompatKeepsASessionWhateverErrorsSay(t *testing.T) {
	t.Parallel()
	sdk := toolServer(nil)
	s, up, _ := startCompat(t, demanding(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Body = io.NopCloser(bytes.NewReader(body)); bytes.Contains(body, []byte("tools/list")) {
			rpcError(200, 0, "1", "method \"tools/list\" is invalid during session initialization")(w, r)
			return
		}
		sdk.ServeHTTP(w, r)
	}), says(400, ""), says(404, "")))
	for range 3 {
		if a := s.simple(t, "/jira/mcp", listTools, nil); !strings.Contains(a.Error.Message, "is invalid") {
			t.Errorf("%d %s", a.status, a.raw)
		}
	}
	if n := up.sent("initialize"); n != 1 {
		t.Errorf("%d sessions were opened", n)
	}
}

// Some servers say 401 of a session that they do not know. The client tries again then, and gets a new one.
func TestCompatLeavesASessionThatIsAnsweredWith401(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	fresh := func() http.Handler { return demanding(toolServer(nil), says(400, ""), says(401, "Session not found")) }
	server := fresh()
	s, up, _ := startCompat(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now := server
		mu.Unlock()
		now.ServeHTTP(w, r)
	}))
	for i, want := range []int{200, 401, 200, 200} {
		if i == 1 {
			mu.Lock()
			server = fresh()
			mu.Unlock()
		}
		if a := s.simple(t, "/jira/mcp", listTools, nil); a.status != want {
			t.Errorf("request %d: %d %s", i, a.status, a.raw)
		}
	}
	if n := up.sent("initialize"); n != 2 {
		t.Errorf("%d sessions were opened", n)
	}
}

func TestCompatSaysNothingOfTheClientWhenASessionIsOpened(t *testing.T) {
	t.Parallel()
	s, up, _ := startCompat(t, toolServer(nil))
	s.simple(t, "/jira/mcp/tools/list", listTools, map[string]string{"Mcp-Method": "tools/list", "Accept-Encoding": "gzip, br", "User-Agent": "script"})
	if got := up.methods(); !slices.Equal(got, []string{"tools/list", "initialize", "notifications/initialized", "tools/list"}) {
		t.Fatalf("the server was sent %v", got)
	}
	for i, r := range up.requests {
		h := r.Header
		if h.Get("Accept-Encoding") != "identity" || h.Get("User-Agent") != "script" || (h.Get("Mcp-Session-Id") != "") != (i >= 2) || (h.Get("MCP-Protocol-Version") != "") != (i >= 2) {
			t.Errorf("request %d: %v", i, h)
		}
		if opens := i == 1 || i == 2; opens && h.Get("Mcp-Method") != "" {
			t.Errorf("request %d has a header of the client's: %v", i, h)
		}
	}
}

func TestCompatPassesOnWhatIsNoDemandForASession(t *testing.T) {
	t.Parallel()
	const text = `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"invalid params"}}`
	for name, initialize := range map[string]http.HandlerFunc{
		"the server opens none": says(200, `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18"}}`),
		"the server refuses":    says(400, text),
		"it answers nonsense":   says(200, "hello"),
		"an id with spaces": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Mcp-Session-Id", "a b")
			says(200, `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18"}}`)(w, r)
		},
		"it does not go on": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if bytes.Contains(body, []byte(`notifications/initialized`)) {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			w.Header().Set("Mcp-Session-Id", "ab")
			says(200, `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18"}}`)(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, up, _ := startCompat(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
				if bytes.Contains(body, []byte(`initialize`)) {
					initialize(w, r)
					return
				}
				says(400, text)(w, r)
			}))
			for i := range 2 {
				if a := s.simple(t, "/jira/mcp", listTools, nil); a.status != http.StatusBadRequest || a.raw != text || up.sent("tools/list") != i+1 {
					t.Errorf("%d %s after %v", a.status, a.raw, up.methods())
				}
			}
			if name == "it does not go on" {
				eventually(t, "the sessions to be ended", func() bool { return up.sent(http.MethodDelete) == 2 })
			}
		})
	}
}

// A result that speaks of sessions is no demand: the call was made, and must not be made again.
func TestCompatNeverRepeatsWhatWasDone(t *testing.T) {
	t.Parallel()
	const done = `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"method is invalid during session initialization"}]}}`
	for name, serve := range map[string]http.HandlerFunc{
		"JSON": says(200, done), "event stream": events("data: " + done + "\n\n"), "error": says(500, "session not initialized"), "forbidden": says(403, "no session"),
		"not found": says(404, "no session"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, up, _ := startCompat(t, serve)
			s.simple(t, "/jira/mcp", listTools, nil)
			if up.count() != 1 {
				t.Errorf("the server was sent %v", up.methods())
			}
		})
	}
}

func TestCompatRenewsTheTokenWhileASessionIsOpened(t *testing.T) {
	t.Parallel()
	server := demanding(toolServer(nil), says(400, ""), says(404, ""))
	s, up, g := startCompat(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first := r.Header.Get("Authorization") != "Bearer upstream-2"
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if first && bytes.Contains(body, []byte(`"initialize"`)) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		server.ServeHTTP(w, r)
	}))
	a := s.simple(t, "/jira/mcp", listTools, nil)
	if len(a.Result.Tools) != 3 || len(g.rejections()) != 1 {
		t.Errorf("%d %s after %v; rejected %v", a.status, a.raw, up.methods(), g.rejections())
	}
	if got := up.last(t).Header.Get("Authorization"); got != "Bearer upstream-2" {
		t.Errorf("the request was repeated with %s", got)
	}
}

func TestCompatAnswersAnUpstream401AsEverywhere(t *testing.T) {
	t.Parallel()
	s, _, g := startCompat(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(body, []byte(`"initialize"`)) {
			w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="https://upstream.invalid"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusBadRequest)
	}))
	a := s.simple(t, "/jira/mcp", listTools, nil)
	if challenge := a.header.Get("WWW-Authenticate"); a.status != http.StatusUnauthorized || !strings.Contains(challenge, "https://gw.test/") || len(g.rejections()) != 1 {
		t.Errorf("%d %s; rejected %v", a.status, challenge, g.rejections())
	}
}

func TestCompatTellsWhatTheServerWantsTheUserToAllow(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"initialize", "notifications/initialized"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			g.compat, g.upstreamScope, g.scopes = true, "upstream:", []string{"mcp"}
			up := demanding(toolServer(nil), says(400, ""), says(404, ""))
			s := startCaddy(t, g, resource, viaProxy, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
				if bytes.Contains(body, []byte(`"`+method+`"`)) {
					w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="tools"`)
					w.WriteHeader(http.StatusForbidden)
					return
				}
				up.ServeHTTP(w, r)
			}))
			a := s.simple(t, "/jira/mcp", listTools, nil)
			if challenge := a.header.Get("WWW-Authenticate"); a.status != http.StatusForbidden || !strings.Contains(challenge, `scope="mcp upstream:tools"`) {
				t.Errorf("%d %s %s", a.status, challenge, a.raw)
			}
		})
	}
}

// events is an MCP server that answers everything with an event stream.
func events(stream string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-cache, no-transform")
		_, _ = io.WriteString(w, stream)
		_ = http.NewResponseController(w).Flush()
	}
}

func TestCompatTellsWhatCannotBeAnswered(t *testing.T) {
	t.Parallel()
	const right = `{"jsonrpc":"2.0","id":1,"result":{}}`
	for name, c := range map[string]struct {
		stream string
		status int
		want   string
	}{
		"a request of the server":    {`data: {"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":{}}` + "\n\n", 200, "asks for sampling/createMessage"},
		"one without a clear method": {`data: {"jsonrpc":"2.0","id":"x","method":"a\nb"}` + "\n\n", 200, "asks for something"},
		"no answer":                  {"data: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n\n: ping\n\n", 502, "ended without an answer"},
		"nothing":                    {"", 502, "ended without an answer"},
		"half an answer":             {"data: " + right[:20], 502, "ended without an answer"},
		"an answer that is too long": {"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"" + strings.Repeat("x", 5<<20) + "\"}\n\n", 502, "longer than 4 MiB"},

		"an answer":                         {"event: message\nid: 1\ndata: " + right + "\n\n", 200, ""},
		"an answer in lines":                {"data: {\"jsonrpc\":\"2.0\",\ndata: \"id\":1,\"result\":{}}\n\n", 200, ""},
		"an answer without its blank line":  {"data: " + right, 200, ""},
		"an answer after others":            {"data\n\ndata: hello\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"ping\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"1\",\"result\":{}}\n\ndata: " + right + "\n\n", 200, ""},
		"an answer among several":           {"data: [{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}," + right + "]\n\n", 200, ""},
		"an answer whose id is written out": {"data: {\"jsonrpc\":\"2.0\",\"id\":1.0,\"result\":{}}\n\n", 200, ""},
		"an error about nobody's request":   {"data: {\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"no JSON\"}}\n\n", 200, "no JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, up, _ := startCompat(t, events(c.stream))
			a := s.simple(t, "/jira/mcp", listTools, nil)
			if a.status != c.status || !strings.Contains(a.Error.Message, c.want) || (a.Error.Message == "") != (c.want == "") {
				t.Errorf("%d %.300s", a.status, a.raw)
			}
			if a.header.Get("Content-Type") != "application/json" || a.header.Get("Content-Length") == "" || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("headers %v", a.header)
			}
			if up.count() != 1 {
				t.Errorf("the server was sent %v", up.methods())
			}
		})
	}
}

func TestCompatTellsOfAStreamThatItCannotRead(t *testing.T) {
	t.Parallel()
	s, _, _ := startCompat(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "br")
		events("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n")(w, r)
	}))
	if a := s.simple(t, "/jira/mcp", listTools, nil); a.status != http.StatusBadGateway || !strings.Contains(a.Error.Message, "compressed") || a.header.Get("Content-Encoding") != "" {
		t.Errorf("%d %v %s", a.status, a.header, a.raw)
	}
}

func TestCompatTellsWhenTheServerDiesInBetween(t *testing.T) {
	t.Parallel()
	s, _, _ := startCompat(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		events(": here\n\n")(w, r)
		panic(http.ErrAbortHandler)
	}))
	if a := s.simple(t, "/jira/mcp", listTools, nil); a.status != http.StatusBadGateway || !strings.Contains(a.Error.Message, "without an answer") || string(a.ID) != "1" {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

func TestCompatBoundsAnswersInSessions(t *testing.T) {
	t.Parallel()
	for _, o := range []mcp.StreamableHTTPOptions{{}, {JSONResponse: true}} {
		s, _, _ := startCompat(t, toolServer(&o))
		if a := s.simple(t, "/jira/mcp", call(`"big"`, "big", `{"size":3000000}`), nil); len(a.said(t)) != 3000000 || string(a.ID) != `"big"` {
			t.Errorf("%d, %d bytes", a.status, len(a.raw))
		}
		a := s.simple(t, "/jira/mcp", call(`"big"`, "big", `{"size":5000000}`), nil)
		if a.status != http.StatusBadGateway || !strings.Contains(a.Error.Message, "longer than 4 MiB") || string(a.ID) != `"big"` {
			t.Errorf("%d %.300s", a.status, a.raw)
		}
	}
}

func TestCompatLeavesWithTheClient(t *testing.T) {
	t.Parallel()
	up := newTicker()
	s, _, g := startCompat(t, up)
	ctx, leave := context.WithCancel(t.Context())
	req := s.newRequest(t, http.MethodPost, "/jira/mcp", map[string]string{"Accept": "*/*"}, listTools).WithContext(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if res, err := s.Client().Do(req); err == nil {
			_ = res.Body.Close()
			t.Error("the client was answered")
		}
	}()
	up.events <- `{"jsonrpc":"2.0","method":"notifications/message"}`
	leave()
	<-gone
	up.waitLeft(t)
	eventually(t, "the vault to be let go", func() bool { return g.entered.Load() == 0 })
}

// What a capable client sends and gets is the same with compat and without, to the byte.
func TestCompatLeavesCapableClientsAlone(t *testing.T) {
	t.Parallel()
	both := "application/json, text/event-stream"
	stream := "event: message\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\r\n\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"
	for name, c := range map[string]struct {
		method, path, body string
		header             map[string]string
		serve              http.HandlerFunc
	}{
		"in a session":         {"POST", "/jira/mcp", listTools, map[string]string{"Accept": both, "Mcp-Session-Id": "s-1"}, events(stream)},
		"whose session ended":  {"POST", "/jira/mcp", listTools, map[string]string{"Accept": both, "Mcp-Session-Id": "s-1"}, says(404, "Session not found")},
		"whose request is bad": {"POST", "/jira/mcp", listTools, map[string]string{"Accept": both, "Mcp-Session-Id": "s-1"}, says(400, "no session")},
		"of the stateless era": {"POST", "/jira/mcp", listTools, map[string]string{"Accept": both, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}, events(stream)},
		"probing for the era":  {"POST", "/jira/mcp", listTools, map[string]string{"Accept": both, "MCP-Protocol-Version": "2026-07-28"}, says(400, `{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"session"}}`)},
		"initializing":         {"POST", "/jira/mcp", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`, map[string]string{"Accept": both}, says(400, "Server not initialized")},
		"of 2025-03-26":        {"POST", "/jira/mcp", listTools, map[string]string{"Accept": both, "Accept-Encoding": "gzip"}, events(stream)},
		"of 2025-03-26, JSON":  {"POST", "/jira/mcp", listTools, map[string]string{"Accept": "text/event-stream, application/json"}, says(200, `{"jsonrpc":"2.0", "id": 1, "result":{}}`)},
		"with a path below":    {"POST", "/jira/mcp/tools/list", listTools, map[string]string{"Accept": both}, events(stream)},
		"with a batch":         {"POST", "/jira/mcp", `[` + listTools + `]`, map[string]string{"Accept": both}, events(stream)},
		"with a response":      {"POST", "/jira/mcp", `{"jsonrpc":"2.0","id":1,"result":{}}`, map[string]string{"Accept": both, "Mcp-Session-Id": "s-1"}, says(202, "")},
		"listening":            {"GET", "/jira/mcp", "", map[string]string{"Accept": "text/event-stream", "Mcp-Session-Id": "s-1", "Last-Event-ID": "7"}, events(stream)},
		"leaving":              {"DELETE", "/jira/mcp", "", map[string]string{"Mcp-Session-Id": "s-1"}, says(204, "")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := make(map[bool]string)
			for _, compat := range []bool{false, true} {
				g, up := newGateway(t), &recorder{answer: c.serve}
				g.compat = compat
				s := startCaddy(t, g, resource, viaProxy, up)
				header := maps.Clone(c.header)
				if id := header["Mcp-Session-Id"]; id != "" {
					header["Mcp-Session-Id"] = g.tagged(id)
				}
				res := s.request(t, c.method, c.path, header, c.body)
				body := bodyOf(t, res)
				res.Header.Del("Date")
				sent := up.last(t)
				for _, name := range []string{"X-Forwarded-Host", "Via"} {
					sent.Header.Del(name)
				}
				seen[compat] = fmt.Sprint(up.count(), sent.Method, sent.URL, sent.Header, up.bodies, sent.ContentLength, sent.TransferEncoding, "\n",
					res.StatusCode, res.Header, res.ContentLength, res.TransferEncoding, body)
			}
			if seen[true] != seen[false] {
				t.Errorf("with compat:\n%s\nwithout:\n%s", seen[true], seen[false])
			}
		})
	}
}

// bearer puts the gateway token on an SDK client's requests.
type bearer struct{}

func (bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer good-token")
	return http.DefaultTransport.RoundTrip(r)
}

func TestCompatServesConformingClientsAsBefore(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, server func() http.Handler, sessions bool) {
		for _, version := range []string{"2025-11-25", "2026-07-28"} {
			if sessions && version == "2026-07-28" {
				continue
			}
			seen := make(map[bool][]string)
			for _, compat := range []bool{false, true} {
				g, up := newGateway(t), &recorder{answer: server().ServeHTTP}
				g.compat = compat
				s := startCaddy(t, g, resource, viaProxy, up)
				var progress atomic.Bool
				client := mcp.NewClient(&mcp.Implementation{Name: "sdk", Version: "1"}, &mcp.ClientOptions{
					ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) { progress.Store(true) },
				})
				session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{
					Endpoint: s.URL + "/jira/mcp", HTTPClient: &http.Client{Transport: bearer{}}, DisableStandaloneSSE: true,
				}, &mcp.ClientSessionOptions{ProtocolVersion: version})
				if err != nil {
					t.Fatal(err)
				}
				params := &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"text": "hello"}}
				params.SetProgressToken("p")
				res, err := session.CallTool(t.Context(), params)
				if err != nil || res.Content[0].(*mcp.TextContent).Text != "hello" {
					t.Fatalf("%v, %v", res, err)
				}
				if err := session.Close(); err != nil {
					t.Error(err)
				}
				seen[compat] = append(up.methods(), fmt.Sprint(progress.Load()))
			}
			if !slices.Equal(seen[true], seen[false]) {
				t.Errorf("with compat %v, without %v", seen[true], seen[false])
			}
		}
	})
}

func TestCompatNeedsTheMCPTransport(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.compat = true
	text := "{\n\tauto_https off\n\toauth_proxy {\n\t\tproxy " + g.id + " " + resource + "\n\t}\n}\nhttp:// {\n\tmcp_filter " + g.id + "\n\treverse_proxy localhost:1\n}\n"
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	var config caddy.Config
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	if _, err := caddy.ProvisionContext(&config); err == nil || !strings.Contains(err.Error(), "this proxy's compat is the work of the mcp transport: use mcp_proxy") {
		t.Errorf("provision: %v", err)
	}
}

func TestCompatBehindComposedRoutes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ resource, site, path, want string }{
		"paths as they are":  {resource, "\tmcp_filter PROXY {\n\t\tcredential transport\n\t}\n\treverse_proxy UPSTREAM {\n\t\ttransport mcp\n\t}", "/jira/mcp/tools/list", "/jira/mcp"},
		"a prefix taken off": {resource, "\thandle_path /jira/mcp* {\n\t\tmcp_filter PROXY {\n\t\t\tcredential transport\n\t\t}\n\t\treverse_proxy UPSTREAM {\n\t\t\ttransport mcp\n\t\t}\n\t}", "/jira/mcp/tools/list", "/"},
		"at the root":        {"https://gw.test", "\tmcp_proxy PROXY UPSTREAM/v1/mcp", "/tools/list", "/v1/mcp"},
		"without a path":     {"https://gw.test", "\tmcp_proxy PROXY UPSTREAM", "/tools/list", "/"},
		"another method":     {resource, viaProxy, "/jira/mcp/tools/call", "/v1/mcp/tools/call"},
		"something behind":   {resource, viaProxy, "/jira/mcp/tools/list/x", "/v1/mcp/tools/list/x"},
		"something before":   {resource, viaProxy, "/jira/mcp/x/tools/list", "/v1/mcp/x/tools/list"},
		"half of it":         {resource, viaProxy, "/jira/mcp/list", "/v1/mcp/list"},
		"percent-encoded":    {resource, viaProxy, "/jira/mcp/t%6fols/list", "/v1/mcp"},
		"with a query":       {resource, viaProxy, "/jira/mcp/tools/list?a=b", "/v1/mcp?a=b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, up := newGateway(t), new(recorder)
			g.compat = true
			s := startCaddy(t, g, c.resource, c.site, up)
			wantStatus(t, s.request(t, http.MethodPost, c.path, map[string]string{"Accept": "*/*"}, listTools), http.StatusOK)
			if got := up.last(t).URL.RequestURI(); got != c.want {
				t.Errorf("upstream sees %s", got)
			}
		})
	}
}

// A slow answer is not waited for longer than it takes.
func TestCompatAnswersAsSoonAsTheServerDoes(t *testing.T) {
	t.Parallel()
	up := newTicker() // which never ends its stream
	s, _, _ := startCompat(t, up)
	go func() { up.events <- `{"jsonrpc":"2.0","id":1,"result":{}}` }()
	start := time.Now()
	if a := s.simple(t, "/jira/mcp", listTools, nil); a.status != http.StatusOK || time.Since(start) > 5*time.Second {
		t.Errorf("%d after %s", a.status, time.Since(start))
	}
	up.waitLeft(t)
}

func TestCompatSaysWhoEndsASession(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), &recorder{answer: toolServer(nil).ServeHTTP}
	g.compat, g.identityHeaders, g.identityAssertion = true, map[string]string{"X-Acme-Email": "email"}, "X-Acme-Assertion"
	s := startCaddy(t, g, resource, viaProxy, up)
	for n := range 51 { // one more than are kept of one user
		s.simple(t, fmt.Sprintf("/jira/mcp?%d", n), listTools, nil)
	}
	eventually(t, "the end of the first", func() bool { return up.sent(http.MethodDelete) == 1 })
	want := map[string][]string{"X-Acme-Email": {"ada@example.com"}, "X-Acme-Assertion": {"assertion-of-user-1-jti-1"}}
	for i, method := range up.methods() {
		if got := told(up.requests[i]); !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s: the server is told %q, want %q", method, got, want)
		}
	}
}

func TestCompatHelpsNobodyPastThePolicy(t *testing.T) {
	t.Parallel()
	servers(t, func(t *testing.T, server func() http.Handler, _ bool) {
		g, up := newGateway(t), &recorder{answer: server().ServeHTTP}
		g.compat, g.policy = true, mcpfilter.Policy{Rules: []mcpfilter.Rule{{Target: mcpfilter.TargetTool, Deny: true, Patterns: []string{"big"}}}}
		s := startCaddy(t, g, resource, viaProxy, up)
		for range 2 { // without a session, and with one
			for _, path := range []string{"/jira/mcp", "/jira/mcp/tools/list"} {
				if a := s.simple(t, path, listTools, nil); len(a.Result.Tools) != 2 || strings.Contains(a.raw, "big") {
					t.Errorf("%d %s", a.status, a.raw)
				}
			}
			before := up.count()
			for _, path := range []string{"/jira/mcp", "/jira/mcp/tools/call"} {
				if a := s.simple(t, path, call("7", "big", `{"size":9}`), nil); a.status != http.StatusOK || a.Error.Code != -32602 || string(a.ID) != "7" {
					t.Errorf("%d %s", a.status, a.raw)
				}
			}
			if up.count() != before {
				t.Error("the server was asked")
			}
			if a := s.simple(t, "/jira/mcp", call("7", "echo", `{"text":"hello"}`), nil); a.said(t) != "hello" {
				t.Errorf("%d %s", a.status, a.raw)
			}
		}
	})
}

// In a session that the gateway keeps, the server knows requests by ids of the gateway's: the client's own may be somebody else's there.
func TestCompatCancelsNoRequestOfSomebodyElse(t *testing.T) {
	t.Parallel()
	s, up, _ := startCompat(t, toolServer(nil))
	s.simple(t, "/jira/mcp", listTools, nil)
	a := s.simple(t, "/jira/mcp", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, nil)
	if a.status != http.StatusAccepted || a.raw != "" || up.sent("notifications/cancelled") != 0 {
		t.Errorf("%d %s; the server was sent %v", a.status, a.raw, up.methods())
	}
	if a := s.simple(t, "/jira/mcp", call("1", "echo", `{"text":"hello"}`), nil); a.said(t) != "hello" || up.sent("initialize") != 1 {
		t.Errorf("%s; the server was sent %v", a.raw, up.methods())
	}
}
