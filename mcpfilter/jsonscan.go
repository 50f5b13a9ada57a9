package mcpfilter

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// The scanner finds the members of an object, or the elements of an array, in one pass and without a copy. It takes what encoding/json takes and nothing
// else (RFC 8259), which the fuzz targets check.

// maxDepth is how deep the arrays and objects of a value may be nested, as in encoding/json.
const maxDepth = 10000

// jsonPart is a value in a text, and its name where it is a member of an object: what stands between the quotation marks where that is plain, and with them where it
// must be decoded.
type jsonPart struct {
	name       []byte
	plain      bool
	start, end int
}

// eachPart finds the parts of the one object or array that a text is, and tells of each. What follows it must be space.
func eachPart(text []byte, open byte, tell func(jsonPart) error) error {
	i := skipSpace(text, 0)
	if i == len(text) || text[i] != open {
		return errNotOneValue
	}
	i = skipSpace(text, i+1)
	if i < len(text) && text[i] == closing(open) {
		return atEnd(text, i+1)
	}
	for {
		var p jsonPart
		if open == '{' {
			if i == len(text) || text[i] != '"' {
				return errNotOneValue
			}
			end := skipString(text, i)
			if end < 0 {
				return errNotOneValue
			}
			p.name, p.plain = nameIn(text[i:end])
			if i = skipSpace(text, end); i == len(text) || text[i] != ':' {
				return errNotOneValue
			}
			i = skipSpace(text, i+1)
		}
		p.start = i
		if p.end = skipValue(text, i); p.end < 0 {
			return errNotOneValue
		}
		if err := tell(p); err != nil {
			return err
		}
		i = skipSpace(text, p.end)
		switch {
		case i == len(text):
			return errNotOneValue
		case text[i] == closing(open):
			return atEnd(text, i+1)
		case text[i] != ',':
			return errNotOneValue
		}
		i = skipSpace(text, i+1)
	}
}

// atEnd finds out whether there is nothing but space from i on.
func atEnd(text []byte, i int) error {
	if skipSpace(text, i) < len(text) {
		return errNotOneValue
	}
	return nil
}

// closing is the bracket that closes one.
func closing(open byte) byte { return open + 2 }

// The functions below tell where what begins at i ends. It is -1 where there is no such thing.

// skipValue is the scanner of all values.
func skipValue(text []byte, i int) int {
	var few [32]byte
	open := few[:0] // the brackets around the value at i
	for {
		switch {
		case i == len(text):
			return -1
		case text[i] == '"':
			i = skipString(text, i)
		case text[i] == '{' || text[i] == '[':
			if len(open) == maxDepth {
				return -1
			}
			bracket := text[i]
			if i = skipSpace(text, i+1); i < len(text) && text[i] == closing(bracket) {
				i++
				break
			}
			open = append(open, bracket)
			if i = skipNameWithin(text, i, bracket); i < 0 {
				return -1
			}
			continue
		default:
			i = skipScalar(text, i)
		}
		if i < 0 {
			return -1
		}
		for { // a value has ended
			if len(open) == 0 {
				return i
			}
			if i = skipSpace(text, i); i == len(text) {
				return -1
			}
			bracket := open[len(open)-1]
			if text[i] == ',' {
				if i = skipNameWithin(text, skipSpace(text, i+1), bracket); i < 0 {
					return -1
				}
				break
			}
			if text[i] != closing(bracket) {
				return -1
			}
			open = open[:len(open)-1]
			i++
		}
	}
}

// skipNameWithin skips the name of the next value, which members of objects have.
func skipNameWithin(text []byte, i int, bracket byte) int {
	if bracket == '[' {
		return i
	}
	if i = skipName(text, i); i < 0 {
		return -1
	}
	return skipSpace(text, i)
}

// skipName skips the name of a member, and the colon behind it.
func skipName(text []byte, i int) int {
	if i == len(text) || text[i] != '"' {
		return -1
	}
	if i = skipString(text, i); i < 0 {
		return -1
	}
	if i = skipSpace(text, i); i == len(text) || text[i] != ':' {
		return -1
	}
	return i + 1
}

func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t') {
		i++
	}
	return i
}

// skipString skips a string, which begins with its quotation mark.
func skipString(text []byte, i int) int {
	for i++; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			i++
			if i == len(text) {
				return -1
			}
			if text[i] == 'u' {
				if len(text)-i <= 4 || !hexadecimal(text[i+1:i+5]) {
					return -1
				}
				i += 4
			} else if strings.IndexByte(`"\/bfnrt`, text[i]) < 0 {
				return -1
			}
		}
	}
	return -1
}

func hexadecimal(digits []byte) bool {
	for _, c := range digits {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}

// skipScalar skips a number, or one of the three words.
func skipScalar(text []byte, i int) int {
	for _, word := range [...]string{"true", "false", "null"} {
		if rest := text[i:]; len(rest) >= len(word) && string(rest[:len(word)]) == word {
			return i + len(word)
		}
	}
	if text[i] == '-' {
		i++
	}
	whole := skipDigits(text, i)
	if whole == i || text[i] == '0' && whole > i+1 {
		return -1
	}
	i = whole
	if i < len(text) && text[i] == '.' {
		end := skipDigits(text, i+1)
		if end == i+1 {
			return -1
		}
		i = end
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		end := skipDigits(text, i)
		if end == i {
			return -1
		}
		i = end
	}
	return i
}

func skipDigits(text []byte, i int) int {
	for i < len(text) && '0' <= text[i] && text[i] <= '9' {
		i++
	}
	return i
}

// nameIn is what a string says, which stands between its quotation marks. It is plain when that is what stands there, and otherwise with them.
func nameIn(quoted []byte) (name []byte, plain bool) {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return inner, true
	}
	return quoted, false
}

// stringIn is the string that a JSON value is.
func stringIn(raw []byte) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	if inner, plain := nameIn(raw); plain {
		return string(inner), true
	}
	return unquoted(raw), true
}

// unquoted decodes a string that is one.
func unquoted(raw []byte) (s string) {
	_ = json.Unmarshal(raw, &s) // cannot fail
	return s
}

// foldsTo reports whether a name is a known one, which is of ASCII letters, but for its case.
func foldsTo(name []byte, known string) bool {
	if len(name) == 0 || name[0] < utf8.RuneSelf && name[0]|0x20 != known[0]|0x20 { // which is most of them
		return false
	}
	return bytes.EqualFold(name, []byte(known))
}
