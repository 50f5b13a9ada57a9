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

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// Every complete Caddyfile that a reader may copy is one that Caddy takes.
func TestCaddyfilesOfReadmeAndExamplesAdapt(t *testing.T) {
	t.Parallel()
	read := func(path string) string {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	caddyfiles := make(map[string]string)
	examples, err := filepath.Glob("../examples/*/Caddyfile")
	if err != nil || len(examples) < 2 {
		t.Fatalf("examples: %v, %v", examples, err)
	}
	for _, path := range append(examples, caseCaddyfiles(t)...) {
		caddyfiles[path] = read(path)
	}
	for _, page := range []string{"README.md", "docs/migration.md", "docs/tutorial.md"} {
		whole := regexp.MustCompile("(?s)```caddyfile\n(\\{\n\t.*?)```").FindAllStringSubmatch(read("../"+page), -1)
		if len(whole) == 0 {
			t.Errorf("%s has no whole Caddyfile", page)
		}
		for _, m := range whole {
			caddyfiles[page+": "+m[1][:40]] = m[1]
		}
	}
	// Those that leave out what stands elsewhere get it back.
	for _, m := range regexp.MustCompile("(?s)```caddyfile\n(oauth_proxy \\{.*?)```").FindAllStringSubmatch(read("../README.md"), -1) {
		whole := strings.Replace(m[1], "…", "issuer https://gateway.example.com\nprovider github {\nclient_id app\nclient_secret {env.GITHUB_SECRET}\n}", 1)
		whole = strings.Replace(whole, "…", "resource https://gateway.example.com/jira/mcp", 1)
		caddyfiles["README, in part: "+m[1][:40]] = "{\n" + whole + "}\ngateway.example.com {\noauth_proxy\nmcp_proxy jira http://localhost:9000\n}\n"
	}
	for _, word := range upstream.Types() {
		if word == "azure_ad" || word == "generic" { // other words for those that have pages
			continue
		}
		page := "../docs/providers/" + word + ".md"
		m := regexp.MustCompile("(?s)```caddyfile\n(provider \\w+ \\{.*?)```").FindStringSubmatch(read(page))
		if m == nil {
			t.Fatalf("%s has no Caddyfile", page)
		}
		caddyfiles[page] = "{\noauth_proxy {\nissuer https://gateway.example.com\n" + m[1] + "proxy jira {\nresource https://gateway.example.com/jira/mcp\n}\n}\n}\ngateway.example.com {\noauth_proxy\nmcp_proxy jira http://localhost:9000\n}\n"
	}
	for _, m := range regexp.MustCompile("(?s)```caddyfile\n(proxy \\w+ \\{.*?)```").FindAllStringSubmatch(read("../docs/configuration.md"), -1) {
		providers := "provider okta {\ndomain acme.okta.com\nclient_id a\nclient_secret {env.A}\n}\nprovider github {\nclient_id b\nclient_secret {env.B}\n}\n"
		if !strings.Contains(m[1], "provider ") {
			m[1] = strings.Replace(m[1], "{\n", "{\nprovider okta\n", 1)
		}
		id := strings.Fields(m[1])[1]
		caddyfiles["configuration.md: "+m[1][:40]] = "{\noauth_proxy {\nissuer https://gateway.example.com\n" + providers + m[1] + "}\n}\ngateway.example.com {\noauth_proxy\nmcp_proxy " + id + " http://localhost:9000\n}\n"
	}
	if len(caddyfiles) < 15+len(upstream.Types())-2 {
		t.Fatalf("only %d Caddyfiles were found: the test is no good", len(caddyfiles))
	}
	for name, c := range caddyfiles {
		if got := adapt(t, c); !strings.HasPrefix(got, "{") || !strings.Contains(got, `"handler": "mcp_filter"`) {
			t.Errorf("%s: %s", name, got)
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
	placeholder := regexp.MustCompile(`\{(env\.\w+|file\./run/secrets/[\w.-]+)\}`)
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
