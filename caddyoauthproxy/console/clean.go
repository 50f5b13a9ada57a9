package console

import (
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// Clean makes a stranger's text fit to be shown: control, format and direction characters, with which text can
// look like other text, become spaces or go, and it is cut to so many characters.
func Clean(s string, most int) string {
	var b strings.Builder
	n, space := 0, false
	for _, r := range strings.ToValidUTF8(s, "") {
		switch {
		case unicode.IsSpace(r) || unicode.Is(unicode.Cc, r):
			space = n > 0
			continue
		case unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp), r == unicode.ReplacementChar:
			continue
		}
		if space {
			b.WriteByte(' ')
			n, space = n+1, false
		}
		if n >= most {
			return strings.TrimSpace(b.String()) + "…"
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

// asciiHost shows a host as the machine reads it, so that no letter can pass for another, and whole: who may cut the end off a
// name cuts off whose it is.
func asciiHost(host string) string {
	const longest = 300 // a name has 253 characters at most, and a port
	name, port, found := strings.Cut(host, ":")
	if ascii, err := idna.ToASCII(name); err == nil && found {
		return Clean(ascii+":"+port, longest)
	} else if err == nil {
		return Clean(ascii, longest)
	}
	return Clean(host, longest)
}
