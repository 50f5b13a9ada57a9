package wwwauth

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestBearer(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]map[string]string{
		`Bearer`:           {},
		`Bearer realm="x"`: {"realm": "x"},
		`bearer error=insufficient_scope, scope="a b"`:                                                         {"error": "insufficient_scope", "scope": "a b"},
		`Bearer error="insufficient_scope",scope="files:read files:write",Resource_Metadata="https://a/b?c=d"`: {"error": "insufficient_scope", "scope": "files:read files:write", "resource_metadata": "https://a/b?c=d"},
		`Bearer scope="say \"hi\", \\ you"`:                                                                    {"scope": `say "hi", \ you`},
		`Basic realm="x", Bearer scope="a"`:                                                                    {"scope": "a"},
		`Bearer scope="a", Basic realm="x"`:                                                                    {"scope": "a"},
		`Bearer scope="a", scope="b"`:                                                                          {"scope": "a"},
		`Basic realm="not a Bearer scope"`:                                                                     nil,
		`Bearer scope="unfinished`:                                                                             {"scope": "unfinished"},
		`Bearer scope=`:                                                                                        {"scope": ""},
		`Bearer ,, scope=a ,`:                                                                                  {"scope": "a"},
		`X-Bearer realm="x", Bearer scope="a"`:                                                                 {"scope": "a"},
		`Bearer error = "x", scope = "a"`:                                                                      {"error": "x", "scope": "a"},
		"Bearer\tscope=\"a\"":                                                                                  {"scope": "a"},
		`Basic realm="the bearer of this", Bearer scope="a"`:                                                   {"scope": "a"},
		`Bearer realm="x", error="y", Bearer scope="a"`:                                                        {"realm": "x", "error": "y", "scope": "a"},
		`Basic realm="x, bearer scope=a"`:                                                                      nil,
		`Negotiate a87421000492aa874209af8bc028==, Bearer scope="a"`:                                           {"scope": "a"},
		`Bearer` + "\x00" + `scope="a"`:                                                                        {},
		`DPoP scope="a"`:                                                                                       nil,
		``:                                                                                                     nil,
	} {
		if got := Bearer(value); !maps.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%s: got %v, want %v", value, got, want)
		}
	}
}

func FuzzBearer(f *testing.F) {
	f.Add(`Bearer error="insufficient_scope", scope="a b", resource_metadata=https://a`)
	f.Add(`Basic realm="x\", Bearer scope="a"`)
	f.Fuzz(func(t *testing.T, value string) {
		for name, text := range Bearer(value) {
			if len(name)+len(text) > len(value) {
				t.Errorf("%q gives more than it has: %q=%q", value, name, text)
			}
		}
	})
}

func TestFits(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200)
	for name, tt := range map[string]struct {
		scopes []string
		fit    bool
	}{
		"none": {nil, true}, "twenty": {slices.Repeat([]string{"a"}, 20), true}, "too many": {slices.Repeat([]string{"a"}, 21), false},
		"seven long ones": {slices.Repeat([]string{long}, 7), true}, "too long": {slices.Repeat([]string{long}, 8), false},
	} {
		if Fits(tt.scopes) != tt.fit {
			t.Errorf("%s: want %v", name, tt.fit)
		}
	}
}
