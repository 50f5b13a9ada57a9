package caddyoauthproxy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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
	for _, path := range examples {
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
	if len(caddyfiles) < 7+len(upstream.Types())-2 {
		t.Fatalf("only %d Caddyfiles were found: the test is no good", len(caddyfiles))
	}
	for name, c := range caddyfiles {
		if got := adapt(t, c); !strings.HasPrefix(got, "{") || !strings.Contains(got, `"handler": "mcp_filter"`) {
			t.Errorf("%s: %s", name, got)
		}
	}
}
