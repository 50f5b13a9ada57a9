package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

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
	blocks := blocksOf(t, "docs/tutorial.md", "", func(page string) string {
		return w.InPlaceOfQuickstart(strings.ReplaceAll(page, "/etc/caddy/", w.Dir()+"/"))
	})
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

// What runs already is not made again, and programs are run where they are, as who runs the test. The world's directory stands for /etc/caddy, whose Caddyfile is not the world's own.
const preamble = `set -euo pipefail
make() { case "$1" in build | run) ;; *) return 1 ;; esac; }
go() { (cd "$CHECKOUT" && command go "$@"); }
sudo() { "$@"; }
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
	return withPerson(t, cmd, func(address string) string {
		if strings.Contains(address, "localhost:8765") { // nobody is there, and the reader copies the address
			return testenv.NewBrowser(testenv.Alice).Login(t, address, "http://localhost:8765/callback?").String() + "\n"
		}
		return loginAs(t, testenv.Alice)(address)
	})
}
