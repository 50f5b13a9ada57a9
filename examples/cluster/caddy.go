//go:build unix

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

var (
	//go:embed node.Caddyfile
	nodeCaddyfile []byte

	//go:embed balancer.Caddyfile
	balancerCaddyfile []byte
)

// nodes is how many there are.
const nodes = 3

// asCaddy is the environment variable that makes this program run as Caddy.
const asCaddy = "CLUSTER_PROCESS"

// leaveWithParent has this Caddy stop when the process that started it is gone, which holds the other end of its standard input.
func leaveWithParent() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}()
}

// newCaddies returns the nodes, and the balancer in front of them.
func newCaddies(ctx context.Context, dir string, balancerPort int, env []string) ([]*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "node.Caddyfile"), nodeCaddyfile, 0o600),
		os.WriteFile(filepath.Join(dir, "balancer.Caddyfile"), balancerCaddyfile, 0o600))
	if err != nil {
		return nil, err
	}
	newCaddy := func(name, caddyfile string, port int, env ...string) *process {
		// What Caddy keeps for itself, each has of its own.
		home := filepath.Join(dir, strings.ReplaceAll(name, " ", ""))
		env = append(os.Environ(), append(env, asCaddy+"="+name, fmt.Sprintf("CLUSTER_PORT=%d", port), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)...)
		address := fmt.Sprintf("http://localhost:%d", port)
		return &process{
			name: name, address: address, logFile: home + ".log", goodbye: syscall.SIGTERM,
			command: func() *exec.Cmd {
				cmd := exec.CommandContext(context.Background(), exe, "run", "--adapter", "caddyfile", "--config", filepath.Join(dir, caddyfile)) //nolint:gosec // this program itself, ended by process.stop
				cmd.Env = env
				return cmd
			},
			ready: func(ctx context.Context) error { return answers(ctx, address+"/oauth/ready") },
		}
	}
	var processes []*process
	var addresses []string
	for i := range nodes {
		port, err := freePort(ctx, 0)
		if err != nil {
			return nil, err
		}
		admin, err := freePort(ctx, 0)
		if err != nil {
			return nil, err
		}
		p := newCaddy(fmt.Sprintf("node %d", i+1), "node.Caddyfile", port, append(env, fmt.Sprintf("CLUSTER_ADMIN_PORT=%d", admin), fmt.Sprintf("CLUSTER_NODE=%d", i+1))...)
		processes, addresses = append(processes, p), append(addresses, strings.TrimPrefix(p.address, "http://"))
	}
	return append(processes, newCaddy("balancer", "balancer.Caddyfile", balancerPort, "CLUSTER_NODES="+strings.Join(addresses, " "))), nil
}

// answers asks an address.
func answers(ctx context.Context, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, resp.Status)
	}
	return nil
}
