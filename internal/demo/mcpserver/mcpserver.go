// Package mcpserver is an MCP server for the quickstart and the tests, on the official Go SDK. It takes upstream
// tokens of the demo provider and nothing else, and its tools tell what arrived.
package mcpserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Options configures a server.
type Options struct {
	// UserOf says whose access token of the provider this is, and whether it is alive.
	UserOf func(ctx context.Context, accessToken string) (user string, live bool)

	// OnRequest, when set, sees every request before anything else.
	OnRequest func(*http.Request)
}

// New returns the server's handler. It serves MCP at every path, in both protocol eras.
func New(o Options) http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "demo", Title: "Demo MCP server", Version: "1.0.0"}, nil)
	mcp.AddTool(server, &mcp.Tool{
		Name:        "whoami",
		Description: "Tells whose upstream token arrived at the MCP server.",
	}, func(ctx context.Context, r *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		user, live := o.UserOf(ctx, bearer(r.Extra.Header))
		if !live {
			return nil, nil, fmt.Errorf("no live token of the provider arrived")
		}
		return text("You are " + user + ", by a token that the demo provider issued."), nil, nil
	})
	type echoInput struct {
		Text string `json:"text" jsonschema:"what to say back"`
	}
	mcp.AddTool(server, &mcp.Tool{Name: "echo", Description: "Says back what it is given."},
		func(_ context.Context, _ *mcp.CallToolRequest, in echoInput) (*mcp.CallToolResult, any, error) {
			return text(in.Text), nil, nil
		})
	type countInput struct {
		To int `json:"to" jsonschema:"how far to count, 1 to 100"`
		Ms int `json:"ms,omitempty" jsonschema:"milliseconds between two numbers"`
	}
	mcp.AddTool(server, &mcp.Tool{Name: "count", Description: "Counts aloud, one progress notification a number."},
		func(ctx context.Context, r *mcp.CallToolRequest, in countInput) (*mcp.CallToolResult, any, error) {
			for i := range min(in.To, 100) {
				select {
				case <-time.After(time.Duration(in.Ms) * time.Millisecond):
				case <-ctx.Done():
					return nil, nil, ctx.Err()
				}
				if token := r.Params.GetProgressToken(); token != nil {
					if err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
						ProgressToken: token, Progress: float64(i + 1), Total: float64(in.To),
					}); err != nil {
						return nil, nil, err
					}
				}
			}
			return text(fmt.Sprintf("Counted to %d.", in.To)), nil, nil
		})

	// One URL carries both eras: from 2026-07-28 on there are no sessions.
	same := func(*http.Request) *mcp.Server { return server }
	stateful := mcp.NewStreamableHTTPHandler(same, nil)
	stateless := mcp.NewStreamableHTTPHandler(same, &mcp.StreamableHTTPOptions{Stateless: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.OnRequest != nil {
			o.OnRequest(r)
		}
		if _, live := o.UserOf(r.Context(), bearer(r.Header)); !live {
			// A real server would point at its own authorization server here; a client must never see this.
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token", resource_metadata="https://upstream.invalid/metadata"`)
			http.Error(w, "a live token of the provider is required", http.StatusUnauthorized)
			return
		}
		if r.Header.Get("MCP-Protocol-Version") >= "2026-07-28" {
			stateless.ServeHTTP(w, r)
			return
		}
		stateful.ServeHTTP(w, r)
	})
}

func text(s string) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: s}}}
}

func bearer(h http.Header) string {
	scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return token
}
