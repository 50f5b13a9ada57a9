package bearer

import (
	"maps"
	"testing"
)

func TestParams(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]map[string]string{
		`Bearer`:           nil,
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
		`DPoP scope="a"`:                                                                                       nil,
		``:                                                                                                     nil,
	} {
		if got := Params(value); !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", value, got, want)
		}
	}
}

func FuzzParams(f *testing.F) {
	f.Add(`Bearer error="insufficient_scope", scope="a b", resource_metadata=https://a`)
	f.Add(`Basic realm="x\", Bearer scope="a"`)
	f.Fuzz(func(t *testing.T, value string) {
		for name, text := range Params(value) {
			if len(name)+len(text) > len(value) {
				t.Errorf("%q gives more than it has: %q=%q", value, name, text)
			}
		}
	})
}
