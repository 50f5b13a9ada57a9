//go:build slow

package e2e

import (
	"bufio"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// The README's first commands, and then those of examples/README.md, as a newcomer runs them.
func TestSlowReadmeAndExamplesWorkAsTheyAreWritten(t *testing.T) {
	blocks := blocksOf(t, "README.md", "Try it", func(page string) string { return page })
	if len(blocks) != 4 || blocks[0].language != "sh" || blocks[1].language != "text" || blocks[2].language != "sh" || blocks[3].language != "text" {
		t.Fatalf("the README no longer has commands and what they print, twice: %q", blocks)
	}
	newcomer := newMachine(t)
	gateway := newcomer.command(t, blocks[0].text)
	stdout, err := gateway.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stderr.Close() })
	gateway.Stderr = stderr
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = gateway.Wait() })
	var said strings.Builder
	for lines := bufio.NewScanner(stdout); !strings.Contains(said.String(), "\nCtrl-C ") && lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
	}
	alsoSaid, err := os.ReadFile(stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !fits(said.String(), blocks[1].text) {
		t.Fatalf("%s says\n%s\n%s\nand in the README\n%s", blocks[0].text, said.String(), alsoSaid, blocks[1].text)
	}
	if strings.Contains(string(alsoSaid), `"msg"`) {
		t.Errorf("a line of the log is on the terminal, and not in the README:\n%s", alsoSaid)
	}
	if said := withPerson(t, newcomer.command(t, blocks[2].text), loginAs(t, testenv.Alice)); !fits(said, blocks[3].text) {
		t.Errorf("%s says\n%s\nand in the README\n%s", blocks[2].text, said, blocks[3].text)
	}

	readme, err := os.ReadFile("../../examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("\\| `((?:go run|python3|node) .* http://localhost:8080/demo/mcp)` \\|").FindAllStringSubmatch(string(readme), -1)
	if len(commands) != 3 || !slices.ContainsFunc(commands, func(c []string) bool { return c[1]+"\n" == blocks[2].text }) {
		t.Errorf("the README has %q, and examples/README.md has %q", blocks[2].text, commands)
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
			args = slices.Insert(args, i+1, "--tokens", filepath.Join(t.TempDir(), "tokens.json"))
			output := withPerson(t, exec.CommandContext(t.Context(), args[0], args[1:]...), loginAs(t, testenv.Bob))
			if !strings.Contains(output, "You are bob") || !strings.Contains(output, "whoami") {
				t.Errorf("the chatbot said:\n%s", output)
			}
		})
	}
	if page := get(t, "http://localhost:8080/"); !strings.Contains(page, "http://localhost:8080/demo/mcp") {
		t.Errorf("the page: %s", page)
	}
}

// machine is one that has a fresh checkout, Go, make and a shell, and nothing else in its PATH.
type machine struct {
	checkout string
	env      []string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	dir := t.TempDir()
	m := machine{filepath.Join(dir, "checkout"), []string{"PATH=" + filepath.Join(dir, "bin"), "HOME=" + dir}}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB"} { // what is there already is not fetched and built again
		m.env = append(m.env, name+"="+goEnv(t, name))
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"go", "make", "sh"} {
		path, err := exec.LookPath(program)
		if err != nil {
			missing(t, program+" is not installed")
		}
		if err := os.Symlink(path, filepath.Join(dir, "bin", program)); err != nil {
			t.Fatal(err)
		}
	}
	checkout := os.DirFS("../..")
	err := fs.WalkDir(checkout, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || path == "bin" || path == "dist" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir():
			return os.Mkdir(filepath.Join(m.checkout, path), 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		content, err := fs.ReadFile(checkout, path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(m.checkout, path), content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// command is one typed there. It ends when the test does, with all that it has started.
func (m machine) command(t *testing.T, line string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	cmd.Dir, cmd.Env = m.checkout, m.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	return cmd
}
