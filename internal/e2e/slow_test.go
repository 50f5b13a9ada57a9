//go:build slow

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// R12, R17: tokens that live five seconds, 200 calls at a time for a minute, at a provider that ends a login when a refresh
// token is used twice.
func TestSlowR12R17ShortTokensUnderLoad(t *testing.T) {
	const (
		life     = 5 * time.Second
		duration = time.Minute
		callers  = 200
	)
	w := testenv.Start(t, testenv.Options{TokenLife: life})
	b := w.NewPlainBot(t)
	b.UseHTTP2()
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	ctx, stop := context.WithTimeout(t.Context(), duration)
	defer stop()
	var calls, failed atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				who, err := b.WhoAmI(t.Context())
				calls.Add(1)
				if err != nil || !strings.Contains(who, "You are alice") {
					if failed.Add(1) < 5 {
						t.Errorf("%q, %v", who, err)
					}
				}
			}
		})
	}
	wg.Wait()
	s := w.Provider.Stats()
	// No token is refreshed twice: there is no replay. And none before half of its life, which the provider says in whole
	// seconds, cut off.
	most := int(duration/((life-time.Second)/2)) + 2
	t.Logf("%d calls, %d failed; %d refreshes, at most %d expected; %+v", calls.Load(), failed.Load(), s.Refreshes, most, s)
	if failed.Load() != 0 || s.Refreshes > most || s.Refreshes < int(duration/life)-1 || s.Replays != 0 || s.Refused != 0 || s.Logins != 1 {
		t.Errorf("%d of %d calls failed; %+v", failed.Load(), calls.Load(), s)
	}
}

// make run, what it prints, and the chatbots by the commands of examples/README.md, as a newcomer does it.
func TestSlowQuickstart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	exe := t.TempDir() + "/quickstart"
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", exe, "../../examples/quickstart").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(ctx, exe, "-dir", t.TempDir())
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var command string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "go run ./examples/chatbot ") {
			command = line
		}
		if strings.HasPrefix(line, "Ctrl-C") {
			break
		}
	}
	if command == "" {
		t.Fatalf("no command was printed: %s", stderr.String())
	}
	readme, err := os.ReadFile("../../examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("\\| `((?:go run|python3|node) .* http://localhost:8080/demo/mcp)` \\|").FindAllStringSubmatch(string(readme), -1)
	if len(commands) != 3 || !slices.ContainsFunc(commands, func(c []string) bool { return c[1] == command }) {
		t.Errorf("%q was printed, and examples/README.md has %q", command, commands)
	}
	for _, c := range commands {
		t.Run(strings.Fields(c[1])[0], func(t *testing.T) {
			args := strings.Fields(c[1])
			switch args[0] {
			case "node":
				needNode(t)
				args[0] = "js/node_modules/.bin/node"
			case "python3":
				needPython(t)
			}
			i := slices.IndexFunc(args, func(s string) bool { return strings.Contains(s, "examples/") })
			args[i] = "../../" + strings.TrimPrefix(args[i], "./")
			output := runExample(t, slices.Insert(args, i+1, "--tokens", filepath.Join(t.TempDir(), "tokens.json")))
			if !strings.Contains(output, "You are bob") || !strings.Contains(output, "whoami") {
				t.Errorf("the chatbot said:\n%s", output)
			}
		})
	}
	if page := get(t, "http://localhost:8080/"); !strings.Contains(page, "http://localhost:8080/demo/mcp") {
		t.Errorf("the page: %s", page)
	}
}
