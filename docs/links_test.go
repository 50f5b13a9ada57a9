package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// anchors are the names by which the headings of a page are found.
func anchors(page string) map[string]bool {
	found := make(map[string]bool)
	fenced := false
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		marks, title, ok := strings.Cut(strings.TrimSpace(line), " ")
		if fenced || !ok || strings.Trim(marks, "#") != "" {
			continue
		}
		title = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(title), "")
		found[strings.ReplaceAll(title, " ", "-")] = true
	}
	return found
}

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	t.Parallel()
	var pages []string
	for _, pattern := range []string{"*.md", "providers/*.md", "../*.md", "../examples/*.md", "../examples/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d pages, %v", pattern, len(found), err)
		}
		pages = append(pages, found...)
	}
	links := 0
	for _, page := range pages {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^()\s]+)\)`).FindAllStringSubmatch(string(content), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			links++
			name, anchor, _ := strings.Cut(m[1], "#")
			target := filepath.Join(filepath.Dir(page), name)
			if name == "" {
				target = page
			}
			if anchor == "" {
				if _, err := os.Stat(target); err != nil {
					t.Errorf("%s: %s: %v", page, m[1], err)
				}
				continue
			}
			there, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: %s: %v", page, m[1], err)
			} else if !anchors(string(there))[anchor] {
				t.Errorf("%s: %s has no heading %s", page, target, anchor)
			}
		}
	}
	if links < 300 {
		t.Errorf("only %d links were found: the test is no good", links)
	}
}

func TestEveryPictureIsShown(t *testing.T) {
	t.Parallel()
	pictures, err := filepath.Glob("pictures/*.*g")
	if err != nil || len(pictures) < 5 {
		t.Fatalf("%d pictures, %v", len(pictures), err)
	}
	all := read(t, "README.md")
	for _, page := range files(t, func(p string) bool { return strings.HasPrefix(p, "docs/") && strings.HasSuffix(p, ".md") }) {
		all += read(t, page)
	}
	for _, picture := range pictures {
		if !strings.Contains(all, picture+")") {
			t.Errorf("no page shows docs/%s", picture)
		}
	}
}
