package mcpfilter

import (
	"testing"
	"unicode"
)

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

func TestFoldedLettersAreThoseThatAnyServerTakesForTheSame(t *testing.T) {
	t.Parallel()
	for c := rune(0); c <= unicode.MaxRune; c++ {
		if other := unicode.SimpleFold(c); fold(string(c)) != fold(string(other)) {
			t.Errorf("%q and %q", c, other)
		}
	}
	if !MatchAny([]string{"secret*"}, "\u017fECRETS") {
		t.Error("a long s is an s for servers that ignore case")
	}
}

// A pattern may be written as the URIs are, encoded.
func TestEncodedPatternsNameEncodedURIs(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"file:///my%20docs/*", "FILE:///my%20docs/*"} {
		p := &Policy{Rules: []Rule{{Target: TargetResource, Patterns: []string{pattern}}}}
		for uri, want := range map[string]bool{"file:///my%20docs/a": true, "file:///my%20docs/%C3%A4": true, "file:///my docs/a": true, "file:///my%2520docs/a": false, "file:///mydocs/a": false} {
			if got := p.judge(&Session{}, TargetResource, uri).allowed(); got != want {
				t.Errorf("%s, %s: %v", pattern, uri, got)
			}
		}
	}
}

func TestRulesThatDecideNothingAreFound(t *testing.T) {
	t.Parallel()
	some := func(*Session) bool { return true }
	for _, c := range []struct {
		first, later Rule
		want         bool
	}{
		{Rule{Patterns: []string{"*"}}, Rule{Patterns: []string{"a", "b*"}}, true},
		{Rule{Patterns: []string{"*"}, For: some}, Rule{Patterns: []string{"a"}}, false},
		{Rule{Patterns: []string{"*"}}, Rule{Patterns: []string{"a"}, For: some}, true},
		{Rule{Patterns: []string{"a*", "b*"}}, Rule{Patterns: []string{"B1", "aa*"}}, true},
		{Rule{Patterns: []string{"a*"}}, Rule{Patterns: []string{"*a"}}, false},
		{Rule{Patterns: []string{"a*"}}, Rule{Patterns: []string{"a1", "b"}}, false},
		{Rule{Patterns: []string{"*"}}, Rule{Target: TargetPrompt, Patterns: []string{"a"}}, false},
	} {
		if got := c.first.Covers(&c.later); got != c.want {
			t.Errorf("%q before %q: %v", c.first.Patterns, c.later.Patterns, got)
		}
	}
}

func TestPatternsThatNameNothingAreFound(t *testing.T) {
	t.Parallel()
	for pattern, ok := range map[string]bool{
		"*": true, "file:///*": true, "*://internal/*": true, "*//internal/*": true, "*.md": true, "file:///my%20docs/*": true,
		"": false, "file:///docs/../*": false, "file:///docs//*": false, `c:\*`: false, "file:///%2e%2e/*": false, " file:///*": false,
	} {
		if err := CheckPattern(TargetResource, pattern); (err == nil) != ok {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}

// A policy that is ready judges as one that is not.
func TestReadyPoliciesJudgeTheSame(t *testing.T) {
	t.Parallel()
	p := Policy{Rules: []Rule{
		{Target: TargetTool, Deny: true, Patterns: []string{"Delete_*", "\u017fecret*"}}, {Target: TargetTool, Patterns: []string{"get_*"}},
		{Target: TargetResource, Patterns: []string{"file:///my%20docs/*"}}, {Target: TargetTool, Patterns: nil},
	}}
	ready := p.ready()
	if p.Rules[0].forms != nil {
		t.Error("the policy itself was changed, which others may read")
	}
	for target, names := range map[Target][]string{
		TargetTool: {"delete_all", "DELETE_ALL", "SECRETS", "get_issue", "GET_\u0130", "other"}, TargetResource: {"file:///my%20docs/a", "file:///my docs/a", "FILE:///MY%20DOCS/a", "x://a"},
		TargetPrompt: {"any"},
	} {
		for _, name := range names {
			got, want := ready.judge(&Session{}, target, name), p.judge(&Session{}, target, name)
			if got.denied != want.denied {
				t.Errorf("%s %s: %v, want %v", target, name, got, want)
			}
		}
	}
}
