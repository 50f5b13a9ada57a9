package mcpfilter_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The official SDK's client and server do everything that they can do with each other, in either era of the protocol, while every byte
// is kept on both sides of the filter. What goes in comes out.
func TestTrafficOfTheSDKPassesByteForByte(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for name, c := range map[string]struct{ site, path string }{
				"header":    {transparentHeader, "/jira/mcp"},
				"transport": {viaProxy, "/v1/mcp"},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					server := httptest.NewServer(everythingServer())
					t.Cleanup(server.Close)
					inside := startTap(t, server.URL)
					s := startCaddyAt(t, newGateway(t), resource, c.site, inside.URL)
					outside := startTap(t, s.URL)
					requests := everythingClient(t, outside.URL+"/jira/mcp", version)
					eventually(t, "the last answers", func() bool { return outside.answered(t) == requests && inside.answered(t) == requests })
					passed := compareTaps(t, outside, inside, "/jira/mcp", c.path)
					checkStory(t, version, passed)
				})
			}
		})
	}
}

// transparentHeader is viaHeader with a transport that leaves the encoding of answers to the client and the server.
const transparentHeader = `
	mcp_filter PROXY
	reverse_proxy UPSTREAM {
		transport http {
			compression off
		}
	}`

// everythingServer is an MCP server for both eras, whose tools make use of the transport in all its ways.
func everythingServer() http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "everything", Version: "1"}, &mcp.ServerOptions{
		SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	})
	say := func(format string, a ...any) *mcp.CallToolResult {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprintf(format, a...)}}}
	}
	question := &mcp.ElicitParams{Message: "Who?", RequestedSchema: map[string]any{
		"type": "object", "properties": map[string]any{"name": map[string]any{"type": "string"}}, "required": []string{"name"},
	}}
	tool := func(name string, handle func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error)) {
		mcp.AddTool(server, &mcp.Tool{Name: name}, func(ctx context.Context, r *mcp.CallToolRequest, _ map[string]any) (*mcp.CallToolResult, any, error) {
			result, err := handle(ctx, r)
			return result, nil, err
		})
	}
	tool("echo", func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return say("%s", r.Params.Arguments), nil
	})
	tool("fail", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return nil, fmt.Errorf("no: äöü \u2028 <&>")
	})
	tool("count", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for i := range 5 {
			err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i), Total: 5})
			if err != nil {
				return nil, err
			}
		}
		return say("%s", strings.Repeat("five ", 20_000)), nil
	})
	tool("ask", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		answer, err := r.Session.Elicit(ctx, question)
		if err != nil {
			return nil, err
		}
		return say("%v", answer.Content), nil
	})
	tool("ask on the other stream", func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		answer, err := r.Session.Elicit(context.Background(), question) // of no request, and so on the stream of GET
		if err != nil {
			return nil, err
		}
		return say("%v", answer.Content), nil
	})
	tool("sample", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		answer, err := r.Session.CreateMessage(ctx, &mcp.CreateMessageParams{MaxTokens: 9}) //nolint:staticcheck // clients of the older era know it
		if err != nil {
			return nil, err
		}
		return say("%s", answer.Model), nil
	})
	tool("ask in the answer", func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if answer, ok := r.Params.InputResponses["who"].(*mcp.ElicitResult); ok {
			return say("%v", answer.Content), nil
		}
		return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"who": question}}, nil
	})
	tool("break off", func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		r.Extra.CloseSSEStream(mcp.CloseSSEStreamArgs{RetryAfter: time.Millisecond})
		return say("resumed"), nil
	})
	tool("grow", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		tool("grown", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) { return say("grown"), nil })
		return say("grown"), nil
	})
	server.AddResource(&mcp.Resource{Name: "binary", URI: "test://binary"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: "test://binary", Blob: make([]byte, 300_000)}}}, nil
	})
	server.AddPrompt(&mcp.Prompt{Name: "hello"}, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{Description: "hello"}, nil
	})

	same := func(*http.Request) *mcp.Server { return server }
	stateful := mcp.NewStreamableHTTPHandler(same, &mcp.StreamableHTTPOptions{EventStore: mcp.NewMemoryEventStore(nil)})
	stateless := mcp.NewStreamableHTTPHandler(same, &mcp.StreamableHTTPOptions{Stateless: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("MCP-Protocol-Version") >= "2026-07-28" {
			stateless.ServeHTTP(w, r)
			return
		}
		stateful.ServeHTTP(w, r)
	})
}

// numbered sends requests with the good token, and a number each.
type numbered struct {
	*http.Transport
	count atomic.Int64
}

func (n *numbered) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer good-token")
	r.Header.Set("X-Passage", fmt.Sprint(n.count.Add(1)))
	return n.Transport.RoundTrip(r)
}

// everythingClient connects, uses all that the server has, and leaves. It returns how many requests it sent.
func everythingClient(t *testing.T, endpoint, version string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	transport := &numbered{Transport: new(http.Transport)}
	defer transport.CloseIdleConnections()
	grown := make(chan struct{}, 9)
	client := mcp.NewClient(&mcp.Implementation{Name: "everybody", Version: "1"}, &mcp.ClientOptions{
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ada \U0001F469"}}, nil
		},
		CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) { //nolint:staticcheck // as above
			return &mcp.CreateMessageResult{Model: "mind", Role: "assistant", Content: &mcp.TextContent{Text: "?"}}, nil //nolint:staticcheck // as above
		},
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { grown <- struct{}{} },
	})
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: endpoint, HTTPClient: &http.Client{Transport: transport}},
		&mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	_, err = session.ListTools(ctx, nil)
	must("tools/list", err)
	_, err = session.ListResources(ctx, nil)
	must("resources/list", err)
	_, err = session.ListResourceTemplates(ctx, nil)
	must("resources/templates/list", err)
	_, err = session.ListPrompts(ctx, nil)
	must("prompts/list", err)
	_, err = session.GetPrompt(ctx, &mcp.GetPromptParams{Name: "hello"})
	must("prompts/get", err)
	_, err = session.ReadResource(ctx, &mcp.ReadResourceParams{URI: "test://binary"})
	must("resources/read", err)
	_, err = session.ReadResource(ctx, &mcp.ReadResourceParams{URI: "test://nothing"})
	if err == nil {
		t.Error("resources/read of nothing succeeded")
	}

	tools := map[string]string{"echo": `{"a":"<\u2028\u0000`, "count": "five five", "fail": "no: ", "grow": "grown"}
	if version < "2026-07-28" {
		tools["ask"], tools["ask on the other stream"], tools["sample"], tools["break off"] = "Ada", "Ada", "mind", "resumed"
	} else {
		tools["ask in the answer"] = "Ada"
	}
	for name, want := range tools {
		params := &mcp.CallToolParams{Name: name, Arguments: map[string]any{"a": "<\u2028\x00\U0001F600", "n": 1e300}}
		params.SetProgressToken("p")
		result, err := session.CallTool(ctx, params)
		must(name, err)
		if got := result.Content[0].(*mcp.TextContent).Text; !strings.Contains(got, want) || result.IsError != (name == "fail") {
			t.Errorf("%s: %.200q", name, got)
		}
	}
	select {
	case <-grown:
	case <-ctx.Done():
		t.Error("the client was not told of a new tool")
	}
	if err := session.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	return int(transport.count.Load())
}

// checkStory makes sure that what was compared is what should have happened.
func checkStory(t *testing.T, version string, passed map[string]passage) {
	t.Helper()
	seen := make(map[string]int)
	for _, p := range passed {
		method, _, _ := strings.Cut(p.request.line, " ")
		status := strings.Fields(p.response.line + " none")[1]
		seen[method+" "+status]++
		seen[p.response.header.Get("Content-Type")]++
		for name, count := range map[string]bool{
			"resumed":        p.request.header.Get("Last-Event-ID") != "",
			"session begun":  p.response.header.Get("Mcp-Session-Id") != "" && p.request.header.Get("Mcp-Session-Id") == "",
			"in a session":   p.request.header.Get("Mcp-Session-Id") != "",
			"named":          p.request.header.Get("Mcp-Name") != "",
			"server request": strings.Contains(string(p.response.body), `"method":"elicitation/create"`),
			"changed":        strings.Contains(string(p.response.body), `"method":"notifications/tools/list_changed"`),
			"whole":          p.response.whole,
		} {
			if count {
				seen[name]++
			}
		}
	}
	want := []string{"POST 200", "text/event-stream", "changed", "whole"}
	if version < "2026-07-28" {
		want = append(want, "POST 202", "GET 200", "DELETE 204", "resumed", "session begun", "in a session", "server request")
	} else {
		want = append(want, "named", "server request")
	}
	for _, what := range want {
		if seen[what] == 0 {
			t.Errorf("no passage is of this kind: %s; there are %v", what, seen)
		}
	}
	if seen["whole"] < len(passed)-3 {
		t.Errorf("%d of %d answers were seen to their end", seen["whole"], len(passed))
	}
}
