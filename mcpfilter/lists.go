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
	pruned, err := pruneMessages(raw, allowed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIllegible, err)
	}
	return pruned, nil
}

func pruneMessages(raw []byte, allowed func(Target, string) bool) ([]byte, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("[")) {
		return pruneMessage(raw, allowed)
	}
	elements, err := elementsOf(raw)
	if err != nil {
		return nil, err
	}
	return replaceParts(raw, elements, func(e part) ([]byte, error) { return pruneMessage(e.raw(raw), allowed) })
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
			if err := readMembers(item, knownMember{list.name, &value}); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			text, err := readString(list.name, value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
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
