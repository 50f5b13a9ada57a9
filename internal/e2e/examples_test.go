package e2e

import (
	"bufio"
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// The chatbot that knows no discovery, as a reader of the README runs it; the test is the user at the browser. The others are in chatbots_test.go.
func TestExamplePlainbotLogsInAndCalls(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	output := runExample(t, []string{"go", "run", "../../examples/plainbot", "-gateway", w.URL, "-proxy", "demo"})
	for _, want := range []string{"ok: register", "ok: log in", "You are bob", "ok: refresh", "ok: call again"} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in:\n%s", want, output)
		}
	}
}

// runExample runs a program that prints an address, and opens it.
func runExample(t *testing.T, args []string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
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
		address := strings.TrimSpace(lines.Text())
		if !strings.HasPrefix(address, "http") || !strings.Contains(address, "/authorize?") {
			continue
		}
		browser := testenv.NewBrowser(testenv.Bob)
		back := browser.Login(t, address, "http://127.0.0.1:")
		browser.Visit(t, back.String())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %v\n%s\n%s", args, err, output.String(), stderr.String())
	}
	return output.String()
}
