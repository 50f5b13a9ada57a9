package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// block is a fenced part of the tutorial.
type block struct{ language, text string }

// tutorial is docs/tutorial.md, with the addresses of a world in place of those of the quickstart.
func tutorial(t *testing.T, w *testenv.World) (blocks []block) {
	t.Helper()
	page, err := os.ReadFile("../../docs/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	text := w.InPlaceOfQuickstart(strings.ReplaceAll(string(page), "/etc/caddy/", w.Dir()+"/"))
	for _, m := range regexp.MustCompile("(?s)\n```([a-z]+)\n(.*?\n)```\n").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, block{m[1], m[2]})
	}
	return blocks
}

// A reader of the tutorial runs its commands one after the other, in one shell, against the gateway of the quickstart; the test is the user at the browser.
// The output of each block is what the block behind it says, where … stands for anything.
func TestTutorialWorksAsItIsWritten(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl", "jq", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool+" is not installed")
		}
	}
	w := testenv.Start(t, testenv.Options{Caddyfile: (*testenv.World).Quickstart, Env: []string{"QUICKSTART_CLIENT_SECRET=" + testenv.ClientSecret}})
	blocks := tutorial(t, w)
	var script strings.Builder
	script.WriteString(preamble)
	var expected []string // output of each block of commands, in order
	for i, b := range blocks {
		switch b.language {
		case "sh":
			expected = append(expected, "…")
			fmt.Fprintf(&script, "%s\necho '%s'\n", b.text, endOfBlock)
		case "text":
			if blocks[i-1].language != "sh" {
				t.Fatalf("output of what?\n%s", b.text)
			}
			expected[len(expected)-1] = b.text
		case "caddyfile":
			if strings.HasPrefix(b.text, "{") {
				write(t, filepath.Join(w.Dir(), "production.Caddyfile"), b.text)
			} else if !strings.Contains(w.Caddyfile(), b.text) {
				t.Errorf("not in the Caddyfile of the quickstart:\n%s", b.text)
			}
		default:
			t.Errorf("a block of %q", b.language)
		}
	}
	if len(expected) < 12 {
		t.Fatalf("only %d blocks of commands", len(expected))
	}
	outputs := strings.Split(readAlong(t, w, script.String()), endOfBlock+"\n")
	for i, want := range expected {
		if i >= len(outputs)-1 {
			t.Fatalf("ended after %d of %d blocks", len(outputs)-1, len(expected))
		}
		if !fits(outputs[i], want) {
			t.Errorf("block %d said\n%s\nthe tutorial says\n%s", i+1, outputs[i], want)
		}
	}
}

const endOfBlock = "=== end of block"

// What runs already is not made again, and programs are run where they are. The world's directory stands for /etc/caddy, whose Caddyfile is not the world's own.
const preamble = `set -euo pipefail
make() { case "$1" in build | run) ;; *) return 1 ;; esac; }
go() { (cd "$CHECKOUT" && command go "$@"); }
`

// readAlong runs the script in a directory with bin/caddy, logs in as alice where it asks for that, and returns what it said.
func readAlong(t *testing.T, w *testenv.World, script string) string {
	t.Helper()
	dir := t.TempDir()
	command := w.Command(t.Context())
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(command.Path, filepath.Join(dir, "bin", "caddy")); err != nil {
		t.Fatal(err)
	}
	checkout, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "script"), strings.ReplaceAll(script, w.Dir()+"/Caddyfile", w.Dir()+"/production.Caddyfile"))
	cmd := exec.CommandContext(t.Context(), "bash", "script")
	cmd.Dir, cmd.Env = dir, append(command.Env, "CHECKOUT="+checkout, "GOCACHE="+goEnv(t, "GOCACHE"), "GOMODCACHE="+goEnv(t, "GOMODCACHE"))
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
		address := strings.TrimSpace(lines.Text())
		if !strings.HasPrefix(address, "http") || !strings.Contains(address, "/authorize?") {
			continue
		}
		browser := testenv.NewBrowser(testenv.Alice)
		if strings.Contains(address, "localhost:8765") { // nobody is there, and the reader copies the address
			fmt.Fprintln(stdin, browser.Login(t, address, "http://localhost:8765/callback?"))
			continue
		}
		browser.Visit(t, browser.Login(t, address, "http://127.0.0.1:").String())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v after\n%s\n%s", err, output.String(), stderr.String())
	}
	return output.String()
}

// goEnv is a setting of the go command, which has another home directory in the script.
func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// fits reports whether a text is what a pattern says, in which … stands for anything.
func fits(text, pattern string) bool {
	parts := strings.Split(strings.TrimSpace(pattern), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(strings.TrimSpace(parts[i]))
	}
	return regexp.MustCompile(`(?s)^\s*` + strings.Join(parts, ".*") + `\s*$`).MatchString(text)
}
