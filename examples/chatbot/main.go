// Chatbot is a chatbot without the chat: it connects to an MCP server behind the gateway as any MCP client does, lists the
// server's tools, and asks it who the user is. The OAuth part is the official SDK's own: it finds the authorization server,
// registers, and exchanges the code. All that is left to a program is to open a browser and to listen for its return.
//
//	go run ./examples/chatbot http://localhost:8080/demo/mcp
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

func main() {
	noBrowser := flag.Bool("no-browser", false, "only print the address to open")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: chatbot [-no-browser] <MCP server URL>")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := chat(ctx, flag.Arg(0), !*noBrowser); err != nil {
		fmt.Fprintln(os.Stderr, "chatbot:", err)
		os.Exit(1)
	}
}

func chat(ctx context.Context, server string, openBrowser bool) error {
	login, err := listenForReturn(ctx, openBrowser)
	if err != nil {
		return err
	}
	defer login.close()
	handler, err := auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		RedirectURL: login.redirectURL,
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName:   "Example chatbot",
			RedirectURIs: []string{login.redirectURL},
			GrantTypes:   []string{"authorization_code", "refresh_token"},
		}},
		AuthorizationCodeFetcher: login.fetch,
	})
	if err != nil {
		return err
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "example-chatbot", Version: "1.0.0"}, nil)
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: server, OAuthHandler: handler}, nil)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", server, err)
	}
	defer session.Close() //nolint:errcheck // on the way out

	tools, err := session.ListTools(ctx, nil)
	if err != nil {
		return fmt.Errorf("list tools: %w", err)
	}
	fmt.Println("\nTools:")
	for _, tool := range tools.Tools {
		fmt.Printf("  %-8s %s\n", tool.Name, tool.Description)
	}
	answer, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "whoami"})
	if err != nil {
		return fmt.Errorf("call whoami: %w", err)
	}
	fmt.Println("\nwhoami:")
	for _, c := range answer.Content {
		if text, ok := c.(*mcp.TextContent); ok {
			fmt.Println(" ", text.Text)
		}
	}
	return nil
}

// browserLogin sends the user to a browser and waits at a loopback address for the return (RFC 8252 §7.3).
type browserLogin struct {
	redirectURL string
	openBrowser bool
	server      *http.Server
	returned    chan *auth.AuthorizationResult
	refused     chan error
}

func listenForReturn(ctx context.Context, openBrowser bool) (*browserLogin, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the browser's return: %w", err)
	}
	b := &browserLogin{
		redirectURL: "http://" + l.Addr().String() + "/callback",
		openBrowser: openBrowser,
		returned:    make(chan *auth.AuthorizationResult, 1),
		refused:     make(chan error, 1),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", b.callback)
	b.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = b.server.Serve(l) }() // ends with close
	return b, nil
}

func (b *browserLogin) callback(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if code := q.Get("error"); code != "" {
		fmt.Fprintln(w, "The login was refused. You can close this window.")
		b.refuse(fmt.Errorf("login refused: %s: %s", code, q.Get("error_description")))
		return
	}
	fmt.Fprintln(w, "Done. You can close this window and go back to the chatbot.")
	select {
	case b.returned <- &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}:
	default:
	}
}

// fetch is called by the SDK when the user has to log in. It is called again when the SDK tries another way to connect: who has said no is
// not asked a second time.
func (b *browserLogin) fetch(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
	select {
	case err := <-b.refused:
		b.refuse(err)
		return nil, err
	default:
	}
	fmt.Printf("Open this address in your browser and log in:\n\n  %s\n", args.URL)
	if b.openBrowser {
		openInBrowser(ctx, args.URL)
	}
	select {
	case result := <-b.returned:
		return result, nil
	case err := <-b.refused:
		b.refuse(err)
		return nil, err
	case <-ctx.Done():
		return nil, errors.New("nobody came back from the browser")
	}
}

// refuse keeps the refusal for the next call of fetch.
func (b *browserLogin) refuse(err error) {
	select {
	case b.refused <- err:
	default:
	}
}

func (b *browserLogin) close() { _ = b.server.Close() }

// openInBrowser does its best; the address is on the screen anyway.
func openInBrowser(ctx context.Context, address string) {
	command := map[string][]string{
		"darwin":  {"open"},
		"windows": {"rundll32", "url.dll,FileProtocolHandler"},
	}[runtime.GOOS]
	if command == nil {
		command = []string{"xdg-open"}
	}
	_ = exec.CommandContext(ctx, command[0], append(command[1:], address)...).Start() //nolint:gosec // the user's own command
}
