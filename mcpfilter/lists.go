package mcpfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// lists are the members of results that list what a server offers, and the member that names an item.
var lists = map[string]struct {
	target Target
	name   string
}{
	"tools":             {TargetTool, "name"},
	"prompts":           {TargetPrompt, "name"},
	"resources":         {TargetResource, "uri"},
	"resourceTemplates": {TargetResource, "uriTemplate"},
}

// listMethods are the methods whose results have them.
var listMethods = []string{"tools/list", "prompts/list", "resources/list", "resources/templates/list"}

// errIllegible says that the MCP server's answer could not be looked through.
var errIllegible = errors.New("the MCP server's answer is no legible JSON-RPC message")

// pruneLists takes from a JSON-RPC message, or a batch of them, what a list names that may not be used. Every other byte stays, and a message with
// nothing to take away is returned as it is.
func pruneLists(raw []byte, allowed func(target Target, name string) bool) ([]byte, error) {
	if bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("[")) {
		elements, err := elementsOf(raw)
		if err != nil {
			return nil, err
		}
		return replaceParts(raw, elements, func(e part) ([]byte, error) { return pruneMessage(e.raw(raw), allowed) })
	}
	return pruneMessage(raw, allowed)
}

func pruneMessage(raw []byte, allowed func(Target, string) bool) ([]byte, error) {
	members, err := membersOf(raw)
	if err != nil {
		return nil, err
	}
	return replaceParts(raw, members, func(m part) ([]byte, error) {
		result := m.raw(raw)
		if !strings.EqualFold(m.name, "result") || result[0] != '{' {
			return result, nil
		}
		inner, err := membersOf(result)
		if err != nil {
			return nil, err
		}
		return replaceParts(result, inner, func(m part) ([]byte, error) { return pruneList(m.name, m.raw(result), allowed) })
	})
}

// pruneList prunes one member of a result.
func pruneList(member string, raw []byte, allowed func(Target, string) bool) ([]byte, error) {
	for name, list := range lists {
		if !strings.EqualFold(name, member) || raw[0] != '[' {
			continue
		}
		elements, err := elementsOf(raw)
		if err != nil {
			return nil, err
		}
		kept := make([][]byte, 0, len(elements))
		for _, e := range elements {
			item := e.raw(raw)
			var value json.RawMessage
			if err := readObject(item, strictly(map[string]*json.RawMessage{list.name: &value})); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", errIllegible, name, err)
			}
			text, err := readString(list.name, value)
			if err != nil {
				return nil, fmt.Errorf("%w: %s: %w", errIllegible, name, err)
			}
			if allowed(list.target, text) {
				kept = append(kept, item)
			}
		}
		if len(kept) == len(elements) {
			return raw, nil
		}
		return slices.Concat([]byte("["), bytes.Join(kept, []byte(",")), []byte("]")), nil
	}
	return raw, nil
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
		return nil, errIllegible
	}
	var parts []part
	for dec.More() {
		var p part
		if open == '{' {
			token, err := dec.Token()
			if err != nil {
				return nil, errIllegible
			}
			p.name, _ = token.(string)
		}
		var value json.RawMessage // without the space around it
		if err := dec.Decode(&value); err != nil {
			return nil, errIllegible
		}
		p.end = dec.InputOffset()
		p.start = p.end - int64(len(value))
		parts = append(parts, p)
	}
	if _, err := dec.Token(); err != nil {
		return nil, errIllegible
	}
	if len(bytes.TrimLeft(text[dec.InputOffset():], " \t\r\n")) > 0 {
		return nil, errIllegible
	}
	return parts, nil
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
