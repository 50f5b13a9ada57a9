//go:build unix

// Cluster runs three nodes of the gateway on one machine, as the Caddyfiles beside this file say: with a PostgreSQL that they share, a balancer
// in front of them, a demo provider with two users, and a demo MCP server. It prints what to try, and which processes to kill meanwhile.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-proxy/caddy-oauth-proxy"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/mcpserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
)

func main() {
	if os.Getenv(asCaddy) != "" {
		leaveWithParent()
		caddycmd.Main()
		return
	}
	dir := flag.String("dir", ".cluster", "where the database, the secrets and the logs are kept")
	port := flag.Int("port", 8080, "where the balancer listens; 0 for any free port")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, *dir, *port); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
	fmt.Println("bye")
}

func run(ctx context.Context, dir string, port int) error {
	bin, err := programs()
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	secrets, err := makeSecrets(dir)
	if err != nil {
		return err
	}
	if port, err = freePort(ctx, port); err != nil {
		return fmt.Errorf("port %d is in use: is the cluster or the quickstart running already? Take another one with -port (%w)", port, err)
	}
	url := fmt.Sprintf("http://localhost:%d", port)
	providerURL, mcpURL, err := startDemo(ctx, url, secrets.client)
	if err != nil {
		return err
	}
	db, err := newDatabase(ctx, bin, dir)
	if err != nil {
		return err
	}
	caddies, err := newCaddies(ctx, dir, port, []string{
		"CLUSTER_DIR=" + dir, "CLUSTER_URL=" + url, "CLUSTER_PROVIDER=" + providerURL, "CLUSTER_MCP=" + mcpURL, "CLUSTER_DATABASE=" + db.connection(),
	})
	if err != nil {
		return err
	}

	fmt.Println("Starting PostgreSQL, three nodes and a balancer …")
	defer db.process.stop()
	if err := db.start(ctx, secrets.database); err != nil {
		return err
	}
	var stopping sync.WaitGroup
	defer stopping.Wait()
	for _, p := range caddies {
		defer stopping.Go(p.stop)
		if err := p.start(ctx); err != nil {
			return err
		}
	}
	processes := append(caddies, db.process)
	fmt.Printf(welcome, url, table(processes), dir)

	var keeping sync.WaitGroup
	defer keeping.Wait()
	for _, p := range processes {
		keeping.Go(func() { p.keep(ctx) })
	}
	<-ctx.Done()
	fmt.Println("\nEverything is being stopped …")
	return nil
}

const welcome = `
The gateway is running on three nodes. Users: alice (password wonderland) and bob (password builder).

1. A chatbot in a second terminal:

     go run ./examples/chatbot %[1]s/demo/mcp

2. The demo server in any MCP client, and what is connected in your browser:

     claude mcp add --transport http demo %[1]s/demo/mcp
     %[1]s/connections
     %[1]s/admin/

3. Who answers, request by request:

     curl -si %[1]s/oauth/ | grep -i x-node

4. Kill what you like, and go on clicking. It comes back by itself.

%[2]s
Logs and secrets: %[3]s
Ctrl-C ends it.
`

// table lists the processes.
func table(processes []*process) string {
	var b strings.Builder
	for _, p := range processes {
		fmt.Fprintf(&b, "     kill -9 %-8d # %-10s %s\n", p.pid(), p.name, p.address)
	}
	return b.String()
}

// startDemo starts the provider and the MCP server in this process.
func startDemo(ctx context.Context, gatewayURL, clientSecret string) (providerURL, mcpURL string, err error) {
	forProvider, providerURL, err := listen(ctx)
	if err != nil {
		return "", "", err
	}
	forMCP, mcpURL, err := listen(ctx)
	if err != nil {
		return "", "", err
	}
	idp, err := provider.New(provider.Options{
		Issuer: providerURL, ClientID: "gateway", ClientSecret: clientSecret,
		RedirectURIs:    []string{gatewayURL + "/api/v1/oauth/callback"},
		Users:           []provider.User{{Name: "alice", Password: "wonderland", FullName: "Alice Liddell"}, {Name: "bob", Password: "builder", FullName: "Bob Builder"}},
		AccessTokenLife: time.Minute,
	})
	if err != nil {
		return "", "", err
	}
	serve(forProvider, idp)
	serve(forMCP, mcpserver.New(mcpserver.Options{UserOf: idp.UserOf}))
	return providerURL, mcpURL, nil
}

// listen listens at any free port of loopback.
func listen(ctx context.Context) (l net.Listener, url string, err error) {
	var lc net.ListenConfig
	if l, err = lc.Listen(ctx, "tcp", "localhost:0"); err != nil {
		return nil, "", err
	}
	return l, fmt.Sprintf("http://localhost:%d", l.Addr().(*net.TCPAddr).Port), nil
}

// serve serves until the process ends.
func serve(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { fmt.Fprintln(os.Stderr, "cluster:", srv.Serve(l)) }()
}

// freePort returns the port if nobody listens there, and for 0 one where nobody does.
func freePort(ctx context.Context, port int) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
