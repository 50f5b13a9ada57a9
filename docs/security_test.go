// Package docs holds the documentation, and the tests that keep it true.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// declared finds the names of all tests in the repository.
func declared(t *testing.T) []string {
	t.Helper()
	var names []string
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && d.Name() != "..") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		content, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(content), -1) {
			names = append(names, m[1])
		}
		return err
	})
	if err != nil || len(names) < 100 {
		t.Fatalf("found %d tests, %v", len(names), err)
	}
	return names
}

// row is a line of a table.
type row struct{ id, tests string }

// section is what stands below a heading.
func section(t *testing.T, doc, heading string) string {
	t.Helper()
	_, below, found := strings.Cut(doc, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("no section %q", heading)
	}
	below, _, _ = strings.Cut(below, "\n## ")
	return below
}

// table reads the rows below a heading: their first and their last column.
func table(t *testing.T, doc, heading string) []row {
	t.Helper()
	var rows []row
	for line := range strings.Lines(section(t, doc, heading)) {
		if cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | "); strings.HasPrefix(line, "| ") && len(cells) > 2 {
			rows = append(rows, row{strings.TrimSpace(cells[0]), cells[len(cells)-1]})
		}
	}
	return rows[1:] // without the heads
}

// ids are the threats and faults that a test's name says it is about.
func ids(name string) []string {
	m := regexp.MustCompile(`^Test(?:Slow)?((?:[TR][0-9]{2})+)`).FindStringSubmatch(name)
	if m == nil {
		return nil
	}
	return regexp.MustCompile(`[TR][0-9]{2}`).FindAllString(m[1], -1)
}

// Whatever the page claims, the test that it names beside it is there.
func TestSecurityPageNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := declared(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`").FindAllStringSubmatch(string(content), -1)
	if len(named) < 400 {
		t.Fatalf("%d names were read", len(named))
	}
	for _, m := range named {
		if !slices.Contains(tests, m[1]) {
			t.Errorf("there is no %s", m[1])
		}
	}
	claims := table(t, string(content), "What each secret opens")
	if len(claims) < 14 {
		t.Errorf("%d secrets were read", len(claims))
	}
	for _, r := range claims {
		if !strings.Contains(r.tests, "`Test") {
			t.Errorf("%s: no test", r.id)
		}
	}
	attackers := section(t, string(content), "Who can do what")
	for line := range strings.Lines(attackers) {
		if claim, ok := strings.CutPrefix(line, "- *Cannot*"); ok && !strings.Contains(claim, "`Test") {
			t.Errorf("no test for: %s", claim)
		}
	}
}

// wantIDs insists that a table has a row for each id, in order.
func wantIDs(t *testing.T, rows []row, letter string, n int) {
	t.Helper()
	for i := range n {
		if want := fmt.Sprintf("%s%02d", letter, i+1); i >= len(rows) || rows[i].id != want {
			t.Fatalf("row %d is not %s", i, want)
		}
	}
}

func TestSecurityTablesNameTestsThatExist(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := declared(t)
	named := regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")
	threats, faults, defects := table(t, string(content), "Threats"), table(t, string(content), "Faults"), table(t, string(content), "Defects seen elsewhere")
	if len(defects) < 23 {
		t.Fatalf("%d defects were read", len(defects))
	}
	wantIDs(t, threats, "T", 80)
	wantIDs(t, faults, "R", 38)
	rows := make(map[string]string)
	for _, r := range slices.Concat(threats, faults, defects) {
		if _, twice := rows[r.id]; twice {
			t.Errorf("%s is there twice", r.id)
		}
		rows[r.id] = r.tests
		found := named.FindAllStringSubmatch(r.tests, -1)
		if len(found) == 0 {
			t.Errorf("%s: no test", r.id)
		}
		for _, m := range found {
			if !slices.Contains(tests, m[1]) {
				t.Errorf("%s: there is no %s", r.id, m[1])
			}
		}
	}
	for _, name := range tests {
		for _, id := range ids(name) {
			if !strings.Contains(rows[id], "`"+name+"`") {
				t.Errorf("%s: %s is missing", id, name)
			}
		}
		if strings.HasPrefix(name, "TestDefect") && !strings.Contains(string(content), "`"+name+"`") {
			t.Errorf("%s is in no row", name)
		}
	}
}
