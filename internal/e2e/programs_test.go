package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// program is a client or a provider that runs as a process of its own.
type program struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  *bufio.Scanner // of stdout
	stderr bytes.Buffer
}

// needNode skips the test where the JavaScript clients, and the Node.js that comes with them, are not installed; in CI it fails.
func needNode(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("js/node_modules/.bin/node"); err != nil {
		missing(t, "the JavaScript clients are not installed; in the checkout run: npm ci --prefix internal/e2e/js")
	}
}

// missing skips a test for want of what it drives. In CI nothing is skipped.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// startNode runs a script with that Node.js, for two minutes at most.
func startNode(t *testing.T, script string, args ...string) *program {
	t.Helper()
	node, err := filepath.Abs("js/node_modules/.bin/node")
	if err != nil {
		t.Fatal(err)
	}
	return startProgram(t, "js", node, append([]string{script}, args...)...)
}

// startProgram runs a program in a directory, for two minutes at most.
func startProgram(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	p := &program{cmd: exec.CommandContext(ctx, name, args...)}
	p.cmd.Dir = dir
	p.cmd.Stderr = &p.stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(stdout)
	p.lines.Buffer(nil, 1<<20)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("%s, its stderr:\n%s", p.cmd, p.stderr.String())
		}
	})
	return p
}

// withPerson runs a program to its end, has the person do what there is to do at each address of a login that it prints, and returns what it said.
// What the person returns is typed into the program.
func withPerson(t *testing.T, cmd *exec.Cmd, person func(address string) string) string {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	lines := bufio.NewScanner(io.TeeReader(stdout, &output))
	for lines.Scan() {
		if address := strings.TrimSpace(lines.Text()); strings.HasPrefix(address, "http") && strings.Contains(address, "/authorize?") {
			fmt.Fprint(stdin, person(address))
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %v after\n%s\n%s", cmd, err, output.String(), stderr.String())
	}
	return output.String()
}
