// Chatbot is a chatbot without the chat: it logs a person in at the gateway, lists a server's tools and calls one. The official SDK speaks MCP, and
// reads and checks the documents of OAuth; the login and its tokens are in login.go.
//
//	go run ./examples/chatbot http://localhost:8080/demo/mcp
//
// Tokens are kept in a file of mode 0600 (-tokens), session tokens in memory.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"
)

// What the program says by its exit code. A failure leaves the login as good as before: try again later.
const (
	failed = iota + 1
	usage
	notLoggedIn  // nobody has logged in so far
	loginExpired // there was a login, and it is over: it was too old, or the user or an operator ended it
	scopeNeeded  // the user is logged in, but has not allowed this
)

// problem is an error with an exit code.
type problem struct {
	exitCode int
	text     string
}

func (p *problem) Error() string { return p.text }

// plain says what is wrong, without what the SDK was about when it met it.
func plain(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return &problem{failed, r.Error()}
	}
	if unreached, ok := errors.AsType[*url.Error](err); ok {
		where, _ := url.Parse(unreached.URL) // the client has read it before
		return &problem{failed, fmt.Sprintf("%s cannot be reached: %v; try again later", where.Host, unreached.Err)}
	}
	return &problem{failed, err.Error()}
}

func main() {
	tokens := flag.String("tokens", ".chatbot.json", "the file that the login is kept in")
	noLogin := flag.Bool("no-login", false, "ask nobody: exit with 3 (not logged in), 4 (expired), 5 (scope missing) or 1 (failed)")
	logout := flag.Bool("logout", false, "end the login")
	session := flag.String("session", "", "use a session token of this `provider`, which is not kept")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: chatbot [-tokens FILE] [-no-login | -logout | -session PROVIDER] <MCP server URL> [<tool> [<arguments in JSON>]]")
		flag.PrintDefaults()
	}
	flag.Parse()
	server, tool, arguments := flag.Arg(0), "whoami", "{}"
	if flag.NArg() > 1 {
		tool = flag.Arg(1)
	}
	if flag.NArg() > 2 {
		arguments = flag.Arg(2)
	}
	if server == "" || flag.NArg() > 3 || !json.Valid([]byte(arguments)) {
		flag.Usage()
		os.Exit(usage)
	}
	call := &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(arguments)}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := func() error {
		l, err := openLogin(server, *tokens, *noLogin)
		switch {
		case err != nil:
			return err
		case *logout:
			return l.end(ctx)
		case *session != "":
			return useSession(ctx, l, *session, call)
		}
		talk := func() error {
			return chat(ctx, &mcp.StreamableClientTransport{Endpoint: server, OAuthHandler: l, HTTPClient: &http.Client{CheckRedirect: noRedirect, Transport: told{}}}, call)
		}
		if err = talk(); errors.Is(err, mcp.ErrSessionMissing) { // the server has forgotten the session, as when it was started anew: another is opened, once
			err = talk()
		}
		return err
	}()
	if err != nil {
		p := plain(err)
		fmt.Fprintln(os.Stderr, "chatbot:", p)
		os.Exit(p.exitCode)
	}
}

// told makes an error of an answer that says why there is none, of which the SDK would tell the status alone.
type told struct{}

func (told) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || resp.StatusCode < http.StatusInternalServerError && (resp.StatusCode != http.StatusNotFound || r.Header.Get("Mcp-Session-Id") != "") {
		return resp, err
	}
	return nil, refused(resp)
}

// chat lists the tools and calls one, at once: if the access token is old, one refresh is enough for both.
func chat(ctx context.Context, transport mcp.Transport, call *mcp.CallToolParams) error {
	session, err := mcp.NewClient(&mcp.Implementation{Name: "example-chatbot", Version: "1.0.0"}, nil).Connect(ctx, transport, nil)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer session.Close() //nolint:errcheck // on the way out
	var tools *mcp.ListToolsResult
	var answer *mcp.CallToolResult
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		tools, err = session.ListTools(ctx, nil)
		return err
	})
	both.Go(func() (err error) {
		answer, err = session.CallTool(ctx, call)
		return err
	})
	if err := both.Wait(); err != nil {
		return err
	}
	fmt.Println("Tools:")
	for _, tool := range tools.Tools {
		fmt.Printf("  %-8s %s\n", tool.Name, tool.Description)
	}
	text, err := textOf(answer)
	if err != nil {
		return fmt.Errorf("%s: %w", call.Name, err)
	}
	fmt.Printf("\n%s:\n  %s\n", call.Name, text)
	return nil
}

// textOf is what a tool has answered.
func textOf(answer *mcp.CallToolResult) (string, error) {
	var texts []string
	for _, c := range answer.Content {
		if text, ok := c.(*mcp.TextContent); ok {
			texts = append(texts, text.Text)
		}
	}
	text := strings.Join(texts, "\n")
	if answer.IsError {
		return "", errors.New(text)
	}
	return text, nil
}

// useSession lets a person log in and paste the session token, calls a tool with it, refreshes it and ends it. It is for scripts that are no OAuth
// clients, and is never written down.
func useSession(ctx context.Context, l *login, provider string, call *mcp.CallToolParams) error {
	_, h, _, err := post(ctx, l.server, "application/json", "{}") // without a token, for the challenge
	if err != nil {
		return err
	}
	resource, _, err := discover(ctx, l.server, h)
	if err != nil {
		return err
	}
	type state struct {
		URL   string `json:"authorization_url"`
		Token string `json:"session_token"`
		Valid bool   `json:"valid"`
		Email string `json:"user_email"`
	}
	care := func(what, token string) (state, error) {
		var answer struct{ Data state }
		body, err := json.Marshal(map[string]string{"session_token": token})
		if err == nil {
			err = ask(ctx, strings.TrimSuffix(resource.AuthorizationServers[0], "/")+"/api/v1/oauth/"+what, "application/json", string(body), &answer)
		}
		return answer.Data, err
	}
	begun, err := care("authorize/"+url.PathEscape(provider), "")
	if err != nil {
		return err
	}
	show(ctx, begun.URL)
	token, err := paste()
	if err != nil {
		return err
	}
	known, err := care("validate", token)
	if err != nil {
		return err
	}
	if !known.Valid {
		return &problem{loginExpired, "that is no session token, or not a good one any more"}
	}
	fmt.Printf("\nLogged in as %s.\n", known.Email)
	use := func() error {
		return chat(ctx, &mcp.StreamableClientTransport{Endpoint: l.server, HTTPClient: &http.Client{CheckRedirect: noRedirect, Transport: sessionToken(token)}}, call)
	}
	if err := use(); err != nil {
		return err
	}
	refreshed, err := care("refresh", token)
	if err != nil {
		return err
	}
	token = refreshed.Token
	fmt.Println("Refreshed.")
	if err := use(); err != nil {
		return err
	}
	if _, err := care("logout", token); err != nil {
		return err
	}
	fmt.Println("Logged out.")
	return nil
}

// sessionToken puts itself on each request.
type sessionToken string

func (s sessionToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Session-Token", string(s))
	return http.DefaultTransport.RoundTrip(r)
}

// paste reads a line, which a terminal does not show.
func paste() (string, error) {
	fmt.Fprint(os.Stderr, "Paste the session token: ")
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		line, err := term.ReadPassword(fd)
		return strings.TrimSpace(string(line)), err
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Scan()
	return strings.TrimSpace(lines.Text()), lines.Err()
}

// show asks a person to open an address. It opens it as well as it can; it is on the screen anyway.
func show(ctx context.Context, address string) {
	fmt.Printf("Open this address in your browser and log in:\n\n  %s\n\n", address)
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		return
	}
	command := map[string][]string{
		"darwin":  {"open"},
		"windows": {"rundll32", "url.dll,FileProtocolHandler"},
	}[runtime.GOOS]
	if command == nil {
		command = []string{"xdg-open"}
	}
	_ = exec.CommandContext(ctx, command[0], append(command[1:], address)...).Start() //nolint:gosec // the user's own command
}

// patience is how long a person has in the browser.
const patience = 5 * time.Minute
