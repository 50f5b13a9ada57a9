package mcpfilter

import "testing"

func TestPatternsMatchAnyCharactersForAStar(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"", "", true}, {"", "a", false},
		{"*", "", true}, {"*", "a/b", true}, {"**", "x", true},
		{"delete_*", "delete_", true}, {"delete_*", "delete_all", true}, {"delete_*", "xdelete_all", false},
		{"*_all", "delete_all", true}, {"*_all", "delete_all_", false}, {"*_all", "_all", true},
		{"a*b*c", "abc", true}, {"a*b*c", "a1b2b3c", true}, {"a*b*c", "acb", false}, {"a*b*c", "ab", false},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"a*ab", "aab", true}, {"*ab*ab", "ab", false}, {"*ab*ab", "abab", true},
	} {
		if got := matchFolded(c.pattern, c.name); got != c.want {
			t.Errorf("%q and %q: %v", c.pattern, c.name, got)
		}
	}
}
