package deployments

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root    = "../.."
	cluster = root + "/examples/cluster/deploy"
	single  = root + "/examples/deploy"
)

func read(t *testing.T, path ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// glob finds files, and at least so many.
func glob(t *testing.T, least int, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) < least {
		t.Fatalf("%s: %v, %v: there should be %d", pattern, found, err, least)
	}
	return found
}

// groups are the first groups of a pattern in a text, each once.
func groups(pattern, text string) (found []string) {
	for _, m := range regexp.MustCompile(`(?m)`+pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// needs are what a Caddyfile has from its surroundings: secrets in files, variables without which it is not complete, ports.
type needs struct{ secrets, variables, ports []string }

func needsOf(t *testing.T, dir string) needs {
	t.Helper()
	caddyfile := read(t, dir, "Caddyfile")
	n := needs{
		secrets:   groups(`\{file\.\{\$SECRETS:/run/secrets\}/([\w-]+)\}`, caddyfile),
		variables: groups(`\{env\.(\w+)\}`, caddyfile),
		ports:     groups(`^:(\d+) \{$`, caddyfile),
	}
	if len(n.secrets) < 2 || len(n.variables) < 1 {
		t.Fatalf("%s: %+v: the test is no good", dir, n)
	}
	return n
}

// endpoint says whether the gateway serves a path that a probe asks for.
func endpoint(t *testing.T, path string) bool {
	t.Helper()
	return strings.Contains(read(t, root, "docs", "endpoints.md"), "`GET "+path+"`")
}

// mutation is what somebody might write by mistake, and what must then be said.
type mutation struct{ name, old, new, want string }

// apply makes the mistake.
func (m mutation) apply(t *testing.T, text string) string {
	t.Helper()
	if !strings.Contains(text, m.old) {
		t.Fatalf("there is no %q to change", m.old)
	}
	return strings.Replace(text, m.old, m.new, 1)
}
