package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What is said of others can be looked up: each cell has a note, or says that nothing was found, and each note has an address and a month.
func TestComparisonHasASourceForWhatItSaysOfOthers(t *testing.T) {
	t.Parallel()
	reference := regexp.MustCompile(`\[\^([\w-]+)\]`)
	note := regexp.MustCompile(`^\[\^([\w-]+)\]: .*\]\(https://[^)]+\).*, as of (January|February|March|April|May|June|July|August|September|October|November|December) 20\d\d\.$`)
	var used, defined []string
	cells := 0
	for line := range strings.Lines(read(t, "docs/comparison.md")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[^") {
			m := note.FindStringSubmatch(line)
			if m == nil {
				t.Errorf("a note without an address or a month: %s", line)
				continue
			}
			if slices.Contains(defined, m[1]) {
				t.Errorf("two notes %s", m[1])
			}
			defined = append(defined, m[1])
			continue
		}
		for _, m := range reference.FindAllStringSubmatch(line, -1) {
			used = append(used, m[1])
		}
		if strings.HasPrefix(line, "- ") && !reference.MatchString(line) {
			t.Errorf("no source: %s", line)
		}
		columns := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "|") || len(columns) < 7 || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| |") {
			continue
		}
		for _, cell := range columns[2:] {
			cells++
			if cell = strings.TrimSpace(cell); cell != "not documented" && !reference.MatchString(cell) {
				t.Errorf("no source: %s in %s", cell, line)
			}
		}
	}
	if cells < 100 {
		t.Errorf("only %d cells were found: the test is no good", cells)
	}
	for _, name := range used {
		if !slices.Contains(defined, name) {
			t.Errorf("no note %s", name)
		}
	}
	for _, name := range defined {
		if !slices.Contains(used, name) {
			t.Errorf("nothing refers to the note %s", name)
		}
	}
}
