package caddyoauthproxy_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// Those of the pages are validated in package docs.
func TestCaddyfilesOfExamplesAdapt(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob("../examples/*/Caddyfile")
	if err != nil || len(examples) < 2 {
		t.Fatalf("examples: %v, %v", examples, err)
	}
	for _, path := range append(examples, caseCaddyfiles(t)...) {
		if got := adapt(t, readExample(t, path)); !strings.HasPrefix(got, "{") || !strings.Contains(got, `"handler": "mcp_filter"`) {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// caseCaddyfiles are those of the common cases.
func caseCaddyfiles(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../examples/caddyfiles/*.Caddyfile")
	if err != nil || len(paths) < 8 {
		t.Fatalf("cases: %v, %v", paths, err)
	}
	return paths
}

// The Caddyfiles of the common cases are good as they stand, once there are the secrets that they name, and their list has each.
func TestCaddyfilesOfCommonCasesValidate(t *testing.T) {
	dir := t.TempDir()
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(base64.StdEncoding.EncodeToString(secret)), 0o600); err != nil {
		t.Fatal(err)
	}
	list := readExample(t, "../examples/caddyfiles/README.md")
	placeholder := regexp.MustCompile(`\{(env\.\w+|file\./(run|etc/caddy)/secrets/[\w.-]+)\}`)
	for _, path := range caseCaddyfiles(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			check := func(file string) error {
				caddyfile := placeholder.ReplaceAllLiteralString(readExample(t, path), "{file."+filepath.Join(dir, file)+"}")
				adapted := adapt(t, caddyfile)
				var config caddy.Config
				if err := json.Unmarshal([]byte(adapted), &config); err != nil {
					t.Fatal(adapted)
				}
				config.Admin = &caddy.AdminConfig{Disabled: true}
				return caddy.Validate(&config)
			}
			if err := check("secret"); err != nil {
				t.Error(err)
			}
			if err := check("missing"); err == nil || !strings.Contains(err.Error(), "is not set or cannot be read") {
				t.Errorf("without its secrets: %v", err)
			}
			if !strings.Contains(list, "]("+filepath.Base(path)+")") {
				t.Error("examples/caddyfiles/README.md does not have it")
			}
		})
	}
}
