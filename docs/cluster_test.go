package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Whoever looks for a message finds it: the troubleshooting of cluster.md has those of the code, in its words.
func TestMessagesOfTheClusterAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for _, pattern := range []string{"../tokenstore/*.go", "../tokenstore/postgres/*.go", "../caddyoauthproxy/*.go"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %v", pattern, paths, err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(content)
		}
	}
	content, err := os.ReadFile("cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(content), "\n## Troubleshooting\n")
	if !found {
		t.Fatal("cluster.md has no troubleshooting")
	}
	messages := 0
	for _, row := range regexp.MustCompile(`(?m)^\| (`+"`.*?"+`) \|`).FindAllStringSubmatch(table, -1) {
		for _, m := range regexp.MustCompile("`(.+?)`").FindAllStringSubmatch(row[1], -1) {
			messages++
			// What differs from case to case stands as … there, and as a verb of fmt in the code.
			for part := range strings.SplitSeq(m[1], "…") {
				if part = strings.Trim(part, " "); len(part) > 3 && !strings.Contains(code.String(), part) {
					t.Errorf("no message has %q", part)
				}
			}
		}
	}
	if messages < 15 {
		t.Errorf("only %d messages were found: the test is no good", messages)
	}
}
