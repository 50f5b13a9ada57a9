package caddyoauthproxy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// Whoever follows a runbook at night types what it says.
func TestCommandsOfTheDocumentationExist(t *testing.T) {
	t.Parallel()
	root := &cobra.Command{Use: "oauth-proxy"}
	caddycmd.Commands()["oauth-proxy"].CobraFunc(root)
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	providers, err := filepath.Glob("../docs/providers/*.md")
	if err != nil || len(providers) == 0 {
		t.Fatalf("%d pages of providers, %v", len(providers), err)
	}
	files = append(append(files, providers...), "../README.md")
	written := regexp.MustCompile("caddy oauth-proxy ([a-z][a-z-]*)([^`\n|#]*)")
	flag := regexp.MustCompile(`--([a-z-]+)`)
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, use := range written.FindAllStringSubmatch(string(text), -1) {
			seen++
			cmd, _, err := root.Find([]string{use[1]})
			if err != nil || cmd == root {
				t.Errorf("%s: there is no command %q", file, use[1])
				continue
			}
			unquoted := regexp.MustCompile(`"[^"]*"`).ReplaceAllString(use[2], "")
			for _, f := range flag.FindAllStringSubmatch(unquoted, -1) {
				if cmd.Flag(f[1]) == nil && cmd.InheritedFlags().Lookup(f[1]) == nil {
					t.Errorf("%s: %s has no flag --%s: %s", file, use[1], f[1], strings.TrimSpace(use[0]))
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d commands were found", seen)
	}
}
