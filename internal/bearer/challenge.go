// Package bearer reads the challenges of protected resources (RFC 6750 §3).
package bearer

import "strings"

// Params reads the parameters of a Bearer challenge (RFC 6750 §3), by their names in lower case; none where it is another scheme.
func Params(value string) map[string]string {
	value = strings.TrimSpace(value)
	at := strings.Index(strings.ToLower(value), "bearer ")
	if at < 0 || at > 0 && !strings.HasSuffix(strings.TrimRight(value[:at], " "), ",") {
		return nil
	}
	rest, params := value[at+len("bearer "):], map[string]string{}
	for rest = strings.TrimLeft(rest, " ,"); rest != ""; rest = strings.TrimLeft(rest, " ,") {
		name, after, found := strings.Cut(rest, "=")
		if !found || strings.ContainsAny(name, ` "`) { // the next challenge, or nonsense
			return params
		}
		text, left := unquote(after)
		name, rest = strings.ToLower(name), left
		if _, twice := params[name]; !twice {
			params[name] = text
		}
	}
	return params
}

// unquote reads a token or quoted-string (RFC 9110 §5.6) from the beginning of s, and returns what follows.
func unquote(s string) (text, rest string) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, " ,")
		if end < 0 {
			return s, ""
		}
		return s[:end], s[end:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}
