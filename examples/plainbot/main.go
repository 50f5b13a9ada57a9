// Plainbot connects to one proxy of the gateway with the Go standard library alone, as chatbots do that know nothing of
// discovery, of resource indicators or of MCP sessions: register, log in, call, refresh, call again.
//
//	go run ./examples/plainbot -gateway http://localhost:8080 -proxy demo
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"
)

func main() {
	gateway := flag.String("gateway", "http://localhost:8080", "the gateway's URL")
	proxy := flag.String("proxy", "demo", "the proxy's id")
	server := flag.String("server", "", "the MCP server's URL; <gateway>/<proxy>/mcp when empty")
	flag.Parse()
	if *server == "" {
		*server = *gateway + "/" + *proxy + "/mcp"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	b := &bot{endpoints: *gateway + "/api/v1/oauth-proxy/" + *proxy, server: *server}
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "plainbot:", err)
		os.Exit(1)
	}
}

type bot struct {
	endpoints, server      string
	clientID, clientSecret string
	accessToken            string
	refreshToken           string
}

func (b *bot) run(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	redirectURI := "http://" + l.Addr().String() + "/callback"
	steps := []struct {
		name string
		do   func() error
	}{
		{"register", func() error { return b.register(ctx, redirectURI) }},
		{"log in", func() error { return b.logIn(ctx, l, redirectURI) }},
		{"call", func() error { return b.call(ctx) }},
		{"refresh", func() error {
			return b.token(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {b.refreshToken}})
		}},
		{"call again", func() error { return b.call(ctx) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Println("ok:", step.name)
	}
	return nil
}

func (b *bot) register(ctx context.Context, redirectURI string) error {
	body, err := json.Marshal(map[string]any{
		"client_name": "Plain bot", "redirect_uris": []string{redirectURI}, "token_endpoint_auth_method": "client_secret_post",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
	})
	if err != nil {
		return err
	}
	var answer struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
	}
	if err := post(ctx, b.endpoints+"/register", "application/json", body, &answer); err != nil {
		return err
	}
	b.clientID, b.clientSecret = answer.ClientID, answer.ClientSecret
	return nil
}

func (b *bot) logIn(ctx context.Context, l net.Listener, redirectURI string) error {
	state, verifier := rand.Text(), rand.Text()+rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	fmt.Printf("Open this address in your browser and log in:\n\n  %s/authorize?%s\n\n", b.endpoints, url.Values{
		"response_type": {"code"}, "client_id": {b.clientID}, "redirect_uri": {redirectURI}, "state": {state},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}.Encode())
	back, err := waitForReturn(ctx, l)
	switch {
	case err != nil:
		return err
	case back.Get("state") != state:
		return errors.New("the browser came back with another state")
	case back.Has("error"):
		return fmt.Errorf("%s: %s", back.Get("error"), back.Get("error_description"))
	}
	return b.token(ctx, url.Values{
		"grant_type": {"authorization_code"}, "code": {back.Get("code")}, "redirect_uri": {redirectURI}, "code_verifier": {verifier},
	})
}

func waitForReturn(ctx context.Context, l net.Listener) (url.Values, error) {
	returned := make(chan url.Values, 1)
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "Done. You can close this window.")
		select {
		case returned <- r.URL.Query():
		default:
		}
	})}
	go func() { _ = srv.Serve(l) }()               // ends with Shutdown
	defer srv.Shutdown(context.WithoutCancel(ctx)) //nolint:errcheck // on the way out
	select {
	case q := <-returned:
		return q, nil
	case <-ctx.Done():
		return nil, errors.New("nobody came back from the browser")
	}
}

func (b *bot) token(ctx context.Context, form url.Values) error {
	form.Set("client_id", b.clientID)
	form.Set("client_secret", b.clientSecret)
	var answer struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	if err := post(ctx, b.endpoints+"/token", "application/x-www-form-urlencoded", []byte(form.Encode()), &answer); err != nil {
		return err
	}
	b.accessToken, b.refreshToken = answer.AccessToken, answer.RefreshToken
	return nil
}

// call sends one JSON-RPC request that stands by itself, as MCP has it since 2026-07-28.
func (b *bot) call(ctx context.Context) error {
	const body = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami","arguments":{},"_meta":{` +
		`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},` +
		`"io.modelcontextprotocol/clientInfo":{"name":"plainbot","version":"1.0.0"}}}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.server, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+b.accessToken)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("MCP-Protocol-Version", "2026-07-28")
	req.Header.Set("Mcp-Method", "tools/call")
	req.Header.Set("Mcp-Name", "whoami")
	answer, err := send(req)
	if err != nil {
		return err
	}
	fmt.Println(strings.TrimSpace(string(answer)))
	return nil
}

func post(ctx context.Context, address, contentType string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	raw, err := send(req)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, answer)
}

var client = &http.Client{Timeout: 30 * time.Second}

func send(req *http.Request) ([]byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}
