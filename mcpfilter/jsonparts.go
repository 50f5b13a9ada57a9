package mcpfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

var errNotOneValue = errors.New("is not one JSON object or array")

// readMembers reads the members of one JSON object that are known, each at most once and in its own spelling. Others are left out.
func readMembers(raw []byte, known map[string]*json.RawMessage) error {
	members, err := membersOf(raw)
	if err != nil {
		return err
	}
	for _, m := range members {
		if !plainText(m.name) {
			return errors.New("has a member with control or broken characters in its name") // where some parsers end it
		}
		for name := range known {
			if name != m.name && strings.EqualFold(name, m.name) {
				return fmt.Errorf("has %q in another spelling", name)
			}
		}
		switch into := known[m.name]; {
		case into == nil:
		case *into != nil:
			return fmt.Errorf("has %q twice", m.name)
		default:
			*into = m.raw(raw)
		}
	}
	return nil
}

// part is where a value stands in a text, and its name where it is a member of an object.
type part struct {
	name       string
	start, end int64
}

func (p part) raw(text []byte) []byte { return text[p.start:p.end] }

// membersOf finds the members of the one object that a text is.
func membersOf(text []byte) ([]part, error) { return partsOf(text, '{') }

// elementsOf finds the elements of the one array that a text is.
func elementsOf(text []byte) ([]part, error) { return partsOf(text, '[') }

func partsOf(text []byte, open json.Delim) ([]part, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if first, err := dec.Token(); err != nil || first != open {
		return nil, errNotOneValue
	}
	var parts []part
	for dec.More() {
		var p part
		if open == '{' {
			token, err := dec.Token()
			if err != nil {
				return nil, errNotOneValue
			}
			p.name, _ = token.(string)
		}
		var size length
		if err := dec.Decode(&size); err != nil {
			return nil, errNotOneValue
		}
		p.end = dec.InputOffset()
		p.start = p.end - int64(size)
		parts = append(parts, p)
	}
	if _, err := dec.Token(); err != nil {
		return nil, errNotOneValue
	}
	if len(bytes.TrimLeft(text[dec.InputOffset():], " \t\r\n")) > 0 {
		return nil, errNotOneValue
	}
	return parts, nil
}

// length is how long a JSON value is, without the space around it.
type length int64

// UnmarshalJSON implements json.Unmarshaler.
func (l *length) UnmarshalJSON(value []byte) error {
	*l = length(len(value))
	return nil
}

// replaceParts puts what edit makes of each part in its place. A text of which no part changes is returned as it is.
func replaceParts(text []byte, parts []part, edit func(part) ([]byte, error)) ([]byte, error) {
	var out []byte
	var done int64
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
