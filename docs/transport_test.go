package docs

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestTransportTableNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("transport.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, rules := declared(t), 0
	for line := range strings.Lines(string(content)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| rule |") {
			continue
		}
		rules++
		named := regexp.MustCompile("`(Test[A-Za-z0-9_]+)`").FindAllStringSubmatch(line, -1)
		if len(named) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range named {
			if !slices.Contains(tests, m[1]) {
				t.Errorf("there is no %s", m[1])
			}
		}
	}
	if rules < 20 {
		t.Errorf("%d rules were read", rules)
	}
}
