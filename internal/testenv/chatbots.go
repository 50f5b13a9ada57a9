package testenv

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// The protocol versions of the two eras of MCP.
const (
	Stateful  = "2025-11-25"
	Stateless = "2026-07-28"
)

// Connect logs the browser's user in with the official SDK's own client, and returns its session.
func (w *World) Connect(t testing.TB, b *Browser, resource, version string) *mcp.ClientSession {
	t.Helper()
	return w.ConnectWith(t, b, resource, version, nil)
}

// ConnectWith is Connect with options for the client.
func (w *World) ConnectWith(t testing.TB, b *Browser, resource, version string, o *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	return w.connect(t, b, resource, version, o, registering())
}

// ConnectPublished is Connect for a client that publishes its metadata at the address.
func (w *World) ConnectPublished(t testing.TB, b *Browser, resource, clientID string) *mcp.ClientSession {
	t.Helper()
	return w.connect(t, b, resource, Stateless, nil, &auth.AuthorizationCodeHandlerConfig{
		ClientIDMetadataDocumentConfig: &auth.ClientIDMetadataDocumentConfig{URL: clientID},
	})
}

// ConnectAsking is Connect for a client that chooses among the scopes that it is told to ask for.
func (w *World) ConnectAsking(t testing.TB, b *Browser, resource, version string, choose func([]string) []string) *mcp.ClientSession {
	t.Helper()
	config := registering()
	config.ScopeFilter = choose
	return w.connect(t, b, resource, version, nil, config)
}

// SDKRedirect is the redirect URI of the SDK's clients. Nobody listens there: the browser stops before.
const SDKRedirect = "http://localhost:33418/callback"

func (w *World) connect(t testing.TB, b *Browser, resource, version string, o *mcp.ClientOptions, config *auth.AuthorizationCodeHandlerConfig) *mcp.ClientSession {
	t.Helper()
	session, err := tryConnect(t.Context(), b, resource, version, o, config)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// TryConnect is Connect with an error.
func TryConnect(ctx context.Context, b *Browser, resource, version string) (*mcp.ClientSession, error) {
	return tryConnect(ctx, b, resource, version, nil, registering())
}

// registering is a client that registers itself.
func registering() *auth.AuthorizationCodeHandlerConfig {
	return &auth.AuthorizationCodeHandlerConfig{
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName: "SDK client", RedirectURIs: []string{SDKRedirect}, GrantTypes: []string{"authorization_code", "refresh_token"},
		}},
	}
}

func tryConnect(ctx context.Context, b *Browser, resource, version string, o *mcp.ClientOptions, config *auth.AuthorizationCodeHandlerConfig) (*mcp.ClientSession, error) {
	config.RedirectURL = SDKRedirect
	config.Client = &http.Client{Transport: http.DefaultTransport} // which trusts the sites of the tests
	config.AuthorizationCodeFetcher = func(_ context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
		back, err := b.TryLogin(args.URL, SDKRedirect)
		if err != nil {
			return nil, err
		}
		q := back.Query()
		return &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}, nil
	}
	handler, err := auth.NewAuthorizationCodeHandler(config)
	if err != nil {
		return nil, err
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, o)
	return client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: resource, OAuthHandler: handler},
		&mcp.ClientSessionOptions{ProtocolVersion: version})
}

// Call calls a tool and returns the text that it answers.
func Call(ctx context.Context, s *mcp.ClientSession, tool string, args map[string]any) (string, error) {
	res, err := s.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return "", err
	}
	if len(res.Content) == 0 || res.IsError {
		return "", fmt.Errorf("tool %s: %+v", tool, res)
	}
	return res.Content[0].(*mcp.TextContent).Text, nil
}

// PlainBot is a chatbot that knows nothing but the endpoints of one proxy: no discovery, no resource, no MCP session.
type PlainBot struct {
	w              *World
	ID, Secret     string
	Redirect       string
	Code, Verifier string // of the last login

	mu            sync.Mutex
	access, token string

	// Client sends the requests.
	Client *http.Client
}

// NewPlainBot registers a plain chatbot.
func (w *World) NewPlainBot(t testing.TB) *PlainBot {
	t.Helper()
	return w.NewPlainBotNamed(t, "Plain bot")
}

// NewPlainBotNamed registers a plain chatbot under a name without quotes.
func (w *World) NewPlainBotNamed(t testing.TB, name string) *PlainBot {
	t.Helper()
	return w.newPlainBot(t, name, http.DefaultClient)
}

func (w *World) newPlainBot(t testing.TB, name string, client *http.Client) *PlainBot {
	t.Helper()
	b := &PlainBot{w: w, Redirect: "http://localhost:8888/callback", Client: client}
	body := `{"redirect_uris":["` + b.Redirect + `"],"client_name":"` + name + `","token_endpoint_auth_method":"client_secret_post",` +
		`"grant_types":["authorization_code","refresh_token"],"response_types":["code"]}`
	var status int
	var m map[string]any
	err := errors.New("not tried")
	for tries := 0; err != nil && tries < 5; tries++ { // a reload just before may have lost the connection, see redial
		status, m, err = b.Post("register", "application/json", body)
	}
	if err != nil || status != http.StatusCreated {
		t.Fatalf("register: %d %v %v", status, m, err)
	}
	b.ID, b.Secret = m["client_id"].(string), m["client_secret"].(string)
	return b
}

// Post sends a request to one of the proxy's endpoints and reads the JSON that it answers.
func (b *PlainBot) Post(endpoint, contentType, body string) (int, map[string]any, error) {
	resp, err := b.Client.Post(b.w.URL+"/api/v1/oauth-proxy/demo/"+endpoint, contentType, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	var m map[string]any
	raw, err := io.ReadAll(resp.Body)
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &m)
	}
	return resp.StatusCode, m, err
}

// UseHTTP2 makes the bot speak HTTP/2, where a server that ends says so and the client knows which requests to send
// again. In HTTP/1.1 a request that is being written while the server closes the connection is lost (RFC 9112 §9.6).
// A connection that no server has accepted is dialed again, see redial.
func (b *PlainBot) UseHTTP2() { b.Client = &http.Client{Transport: newRedial()} }

// Twin is the same client with another grant, by its refresh token.
func (b *PlainBot) Twin(token string) *PlainBot {
	return &PlainBot{w: b.w, ID: b.ID, Secret: b.Secret, Redirect: b.Redirect, Client: b.Client, token: token}
}

// Access is the access token that the bot holds.
func (b *PlainBot) Access() string { access, _ := b.tokens(); return access }

// Token is the refresh token that the bot holds.
func (b *PlainBot) Token() string { _, token := b.tokens(); return token }

func (b *PlainBot) tokens() (access, token string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.access, b.token
}

const plainState = "state-of-the-plain-bot"

// AuthorizeURL is where the bot sends a user, with a new verifier.
func (b *PlainBot) AuthorizeURL() string {
	b.Verifier = rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(b.Verifier))
	return b.w.URL + "/api/v1/oauth-proxy/demo/authorize?" + url.Values{
		"response_type": {"code"}, "client_id": {b.ID}, "redirect_uri": {b.Redirect}, "state": {plainState}, "scope": {"whatever you have"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}.Encode()
}

// Login logs a user in and gets the first tokens.
func (b *PlainBot) Login(t testing.TB, browser *Browser) {
	t.Helper()
	if err := b.TryLogin(browser); err != nil {
		t.Fatal(err)
	}
}

// TryLogin is Login with an error.
func (b *PlainBot) TryLogin(browser *Browser) error {
	u, err := browser.TryLogin(b.AuthorizeURL(), b.Redirect)
	if err != nil {
		return err
	}
	back := u.Query()
	if back.Get("state") != plainState {
		return fmt.Errorf("state came back as %q", back.Get("state"))
	}
	b.Code = back.Get("code")
	return b.tryTake(url.Values{"grant_type": {"authorization_code"}, "code": {b.Code}, "redirect_uri": {b.Redirect}, "code_verifier": {b.Verifier}})
}

// Refresh gets the next tokens.
func (b *PlainBot) Refresh(t testing.TB) {
	t.Helper()
	b.take(t, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {b.Token()}})
}

// TryRefresh gets the next tokens from a gateway that may not be there.
func (b *PlainBot) TryRefresh() error {
	return b.tryTake(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {b.Token()}})
}

func (b *PlainBot) take(t testing.TB, form url.Values) {
	t.Helper()
	if err := b.tryTake(form); err != nil {
		t.Fatal(err)
	}
}

func (b *PlainBot) tryTake(form url.Values) error {
	form.Set("client_id", b.ID)
	form.Set("client_secret", b.Secret)
	status, m, err := b.Post("token", "application/x-www-form-urlencoded", form.Encode())
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("token: %d %v %w", status, m, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.access, _ = m["access_token"].(string)
	b.token, _ = m["refresh_token"].(string)
	if b.access == "" || b.token == "" {
		return fmt.Errorf("token answer without tokens: %v", m)
	}
	return nil
}

// Answer is a response to an MCP request.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// ToolCall is the body of a tools/call request that stands by itself, as in the stateless era.
func ToolCall(tool string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `","arguments":{},` +
		`"_meta":{"io.modelcontextprotocol/protocolVersion":"` + Stateless + `","io.modelcontextprotocol/clientInfo":{"name":"bot","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`
}

// Send sends an MCP request to the proxy, with edits to its headers.
func (b *PlainBot) Send(ctx context.Context, method, body string, edit ...func(*http.Request)) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.w.ProxyURL("demo"), strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+b.Access())
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("MCP-Protocol-Version", Stateless)
	req.Header.Set("Mcp-Method", "tools/call")
	req.Header.Set("Mcp-Name", "whoami")
	for _, f := range edit {
		f(req)
	}
	resp, err := b.Client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return Answer{resp.StatusCode, resp.Header, string(raw)}, err
}

// SendSimply sends an MCP request as scripts do that know nothing of MCP: with the method behind the path, and neither a session nor media types.
func (b *PlainBot) SendSimply(ctx context.Context, method, params string) (Answer, error) {
	body := `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":` + params + `}`
	return b.Send(ctx, http.MethodPost, body, func(r *http.Request) {
		r.URL.Path += "/" + method
		r.Header = http.Header{"Authorization": r.Header["Authorization"], "Content-Type": {"application/json"}, "Accept": {"*/*"}}
	})
}

// WhoAmI calls the tool of that name and returns the whole answer.
func (b *PlainBot) WhoAmI(ctx context.Context) (string, error) {
	a, err := b.Send(ctx, http.MethodPost, ToolCall("whoami"))
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", a.Status, a.Body)
	}
	return a.Body, err
}

// TokenRequest sends a token request with one credential, and reads the answer whatever it is.
func (b *PlainBot) TokenRequest(grantType, credential string) (int, map[string]any, error) {
	form := url.Values{"grant_type": {grantType}, grantType: {credential}, "client_id": {b.ID}, "client_secret": {b.Secret}}
	return b.Post("token", "application/x-www-form-urlencoded", form.Encode())
}

// Form sends one field to one of the proxy's endpoints, with the bot's authentication.
func (b *PlainBot) Form(endpoint, name, value string) (int, map[string]any, error) {
	form := url.Values{name: {value}, "client_id": {b.ID}, "client_secret": {b.Secret}}
	return b.Post(endpoint, "application/x-www-form-urlencoded", form.Encode())
}
