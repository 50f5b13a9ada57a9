package mcpfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

var errNotOneValue = errors.New("is not one JSON object or array")

// knownMember is a member of an object that a reader looks for.
type knownMember struct {
	name string
	into *json.RawMessage
}

// readMembers reads the members of one JSON object that are known, each at most once and in its own spelling. Others are left out.
func readMembers(raw []byte, known ...knownMember) error {
	return eachPart(raw, '{', func(p jsonPart) error {
		name := p.name
		if !p.plain {
			name = []byte(unquoted(p.name))
		}
		if !plainBytes(name) {
			return errors.New("has a member with control or broken characters in its name") // where some parsers end it
		}
		for _, m := range known {
			switch {
			case string(name) != m.name:
				if foldsTo(name, m.name) {
					return fmt.Errorf("has %q in another spelling", strings.Clone(m.name))
				}
			case *m.into != nil:
				return fmt.Errorf("has %q twice", strings.Clone(m.name)) // a copy, so that known need not be on the heap
			default:
				*m.into = raw[p.start:p.end]
			}
		}
		return nil
	})
}

// part is where a value stands in a text, and its name where it is a member of an object.
type part struct {
	name       string
	start, end int
}

func (p part) raw(text []byte) []byte { return text[p.start:p.end] }

// membersOf finds the members of the one object that a text is.
func membersOf(text []byte) ([]part, error) { return partsOf(text, '{') }

// elementsOf finds the elements of the one array that a text is.
func elementsOf(text []byte) ([]part, error) { return partsOf(text, '[') }

func partsOf(text []byte, open byte) ([]part, error) {
	var parts []part
	err := eachPart(text, open, func(p jsonPart) error {
		found := part{start: p.start, end: p.end}
		switch {
		case p.plain:
			found.name = string(p.name)
		case open == '{':
			found.name = unquoted(p.name)
		}
		parts = append(parts, found)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return parts, nil
}

// replaceParts puts what edit makes of each part in its place. A text of which no part changes is returned as it is.
func replaceParts(text []byte, parts []part, edit func(part) ([]byte, error)) ([]byte, error) {
	var out []byte
	done := 0
	for _, p := range parts {
		replacement, err := edit(p)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(replacement, p.raw(text)) {
			continue
		}
		out = append(append(out, text[done:p.start]...), replacement...)
		done = p.end
	}
	if done == 0 {
		return text, nil
	}
	return append(out, text[done:]...), nil
}
