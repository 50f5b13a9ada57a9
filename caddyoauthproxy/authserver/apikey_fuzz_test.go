package authserver

import (
	"regexp"
	"strings"
	"testing"
)

func FuzzAPIKeyID(f *testing.F) {
	form := regexp.MustCompile(`\Agwk_([0-9a-f]{16})_[0-9a-f]{64}\z`)
	f.Add("gwk_0123456789abcdef_" + strings.Repeat("0a", 32))
	f.Add("gwk_0123456789ABCDEF_" + strings.Repeat("0a", 32))
	f.Add("gwk_0123456789abcdef_" + strings.Repeat("0a", 32) + "\n")
	f.Add("gwk_" + strings.Repeat("_", 81))
	f.Add("gwk_")
	f.Fuzz(func(t *testing.T, key string) {
		id, ok := APIKeyID(key)
		m := form.FindStringSubmatch(key)
		if ok != (m != nil) || ok && id != m[1] {
			t.Fatalf("%q: %q, %t", key, id, ok)
		}
	})
}
