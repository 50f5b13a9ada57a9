package mcpfilter

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

// What goes into a header is a header's value to every reader, and percent-decoding gives back what it was; of a list, after splitting it.
func FuzzIdentityValueRoundTrip(f *testing.F) {
	for _, seed := range []string{"ada@example.com", "Ada Lovelace", " lead", "tail ", " ", "100%", "%41", "Ünïcode ☃ 𝒜", "a,b", "a\r\nX-User: root", "\x00\x7f\xff\xc3\x28", "\t", "+"} {
		f.Add(seed, "jira admins")
	}
	f.Fuzz(func(t *testing.T, one, other string) {
		check := func(encoded string) {
			for i := range len(encoded) {
				if encoded[i] < ' ' || encoded[i] > '~' {
					t.Fatalf("%q is no visible ASCII", encoded)
				}
			}
			if !httpguts.ValidHeaderFieldValue(encoded) || strings.TrimSpace(encoded) != encoded {
				t.Fatalf("%q is no value that arrives as it is", encoded)
			}
		}
		decode := func(encoded string) string {
			decoded, err := url.PathUnescape(encoded)
			if err != nil {
				t.Fatal(err)
			}
			return decoded
		}
		value := encodeValue(one)
		check(value)
		if got := decode(value); got != one {
			t.Fatalf("%q comes back as %q", one, got)
		}
		for _, separator := range []string{",", " "} {
			want := slices.DeleteFunc([]string{one, other}, func(v string) bool { return v == "" })
			list := encodeList([]string{one, other}, separator)
			check(list)
			var got []string
			if list != "" {
				for part := range strings.SplitSeq(list, separator) {
					got = append(got, decode(strings.TrimSpace(part)))
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%q comes back as %q", want, got)
			}
		}
	})
}
