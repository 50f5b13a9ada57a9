// Package wwwauth reads the challenges of protected resources (RFC 6750 §3), and bounds what they may demand.
package wwwauth

import "strings"

// Bearer reads the parameters of the Bearer challenges in a WWW-Authenticate value (RFC 9110 §11.6.1), by their names in lower case. Of one that is there
// more than once the first counts; where there is no Bearer challenge it is nil.
func Bearer(value string) map[string]string {
	var params map[string]string
	ours := false
	for rest := skip(value, " \t,"); rest != ""; rest = skip(rest, " \t,") {
		name, after := cutToken(rest)
		if name == "" {
			return params // what is no challenge
		}
		equals := skip(after, " \t")
		if !strings.HasPrefix(equals, "=") { // a scheme: whatever follows is its own
			if ours = strings.EqualFold(name, "Bearer"); ours && params == nil {
				params = map[string]string{}
			}
			rest = after
			continue
		}
		text, left := unquote(skip(equals[1:], " \t="))
		rest = left
		name = strings.ToLower(name)
		if _, have := params[name]; ours && !have {
			params[name] = text
		}
	}
	return params
}

// skip leaves out what s begins with of the given bytes.
func skip(s, bytes string) string { return strings.TrimLeft(s, bytes) }

// cutToken reads a token (RFC 9110 §5.6.2) from the beginning of s.
func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && isTokenByte(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func isTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~/", c) >= 0
}

// unquote reads a quoted-string, or what stands there unquoted up to a space or comma, from the beginning of s, and returns what follows.
func unquote(s string) (text, rest string) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, " \t,")
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
