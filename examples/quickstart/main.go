// Quickstart runs the whole thing on one machine: the gateway as the Caddyfile beside this file says, a demo provider with two
// users, and a demo MCP server. It prints three things to try.
package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-proxy/caddy-oauth-proxy"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/mcpserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
)

//go:embed Caddyfile
var caddyfile []byte

const (
	gatewayURL   = "http://localhost:8080"
	providerAddr = "localhost:9400"
	mcpAddr      = "localhost:9401"
)

func main() {
	dir := flag.String("dir", ".quickstart", "where the vault and the log are kept")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	secret := rand.Text()
	idp, err := provider.New(provider.Options{
		Issuer: "http://" + providerAddr, ClientID: "gateway", ClientSecret: secret,
		RedirectURIs:    []string{gatewayURL + "/api/v1/oauth/callback"},
		Users:           []provider.User{{Name: "alice", Password: "wonderland", FullName: "Alice Liddell"}, {Name: "bob", Password: "builder", FullName: "Bob Builder"}},
		AccessTokenLife: time.Minute,
	})
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	for addr, handler := range map[string]http.Handler{providerAddr: idp, mcpAddr: mcpserver.New(mcpserver.Options{UserOf: idp.UserOf})} {
		stop, err := serve(ctx, addr, handler, failed)
		if err != nil {
			return err
		}
		defer stop()
	}
	logFile := filepath.Join(dir, "caddy.log")
	if err := startGateway(dir, logFile, secret); err != nil {
		return err
	}
	defer caddy.Stop() //nolint:errcheck // on the way out

	fmt.Printf(welcome, gatewayURL, logFile)
	select {
	case <-ctx.Done():
		fmt.Println("\nbye")
		return nil
	case err := <-failed:
		return err
	}
}

const welcome = `
The gateway is running. Users: alice (password wonderland) and bob (password builder).

1. A chatbot in a second terminal:

     go run ./examples/chatbot %[1]s/demo/mcp

2. The demo server in Claude Code, or with the same address in any other MCP client:

     claude mcp add --transport http demo %[1]s/demo/mcp

3. What is connected, in your browser: your own connections as alice or bob, and as alice the console, which shows and ends everybody's.

     %[1]s/connections
     %[1]s/admin/

Log: %[2]s
Ctrl-C ends it.
`

// serve listens on loopback only.
func serve(ctx context.Context, addr string, h http.Handler, failed chan<- error) (stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s is in use: is the quickstart running already? (%w)", addr, err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	return func() { _ = srv.Close() }, nil
}

// startGateway runs Caddy in this process, from the Caddyfile.
func startGateway(dir, logFile, secret string) error {
	if err := errors.Join(os.Setenv("QUICKSTART_DIR", dir), os.Setenv("QUICKSTART_CLIENT_SECRET", secret)); err != nil {
		return err
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{"filename": "examples/quickstart/Caddyfile"})
	if err != nil {
		return err
	}
	var cfg caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &cfg); err != nil {
		return err
	}
	persist := false
	cfg.Admin.Config = &caddy.ConfigSettings{Persist: &persist}
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		caddy.DefaultLoggerName: {BaseLog: caddy.BaseLog{WriterRaw: caddyconfig.JSONModuleObject(map[string]string{"filename": logFile}, "output", "file", nil)}},
	}}
	_, _, early := caddy.BufferedLog() // what Caddy says before it has a log of its own goes there, too, and not to the terminal
	if err := caddy.Run(&cfg); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	early.FlushTo(caddy.Log())
	return nil
}
