package caddyoauthproxy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
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
	caddyfiles := map[string]string{"quickstart": read("../examples/quickstart/Caddyfile")}
	for _, m := range regexp.MustCompile("(?s)```caddyfile\n(\\{\n\toauth_proxy \\{.*?)```").FindAllStringSubmatch(read("../README.md"), -1) {
		caddyfiles["README: "+m[1][:40]] = m[1]
	}
	if len(caddyfiles) < 2 {
		t.Fatal("the README has no complete Caddyfile: the test is no good")
	}
	for name, c := range caddyfiles {
		if got := adapt(t, c); !strings.HasPrefix(got, "{") || !strings.Contains(got, `"handler": "mcp_filter"`) {
			t.Errorf("%s: %s", name, got)
		}
	}
}
