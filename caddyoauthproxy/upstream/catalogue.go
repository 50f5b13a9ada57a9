package upstream

import "slices"

// Template is a type of provider, as somebody who configures one should know it.
type Template struct {
	// Name is the word for Config.Type.
	Name string

	// Needs are the fields of Config, beside the client's, that must be written, and Takes those that may.
	Needs, Takes []string

	// Registers says that the gateway can register itself there, so that no client identifier is needed.
	Registers bool

	// UniqueLogins says that an allow list may go by login names.
	UniqueLogins bool

	// Scopes are asked for in any case, and Recommended are those to begin with beside them.
	Scopes, Recommended []string

	// Note is what operators should know before the first login, and Tokens how long tokens live there.
	Note, Tokens string
}

// Templates returns all types of providers, in the order in which most people look for theirs.
func Templates() []Template {
	all := make([]Template, 0, len(templates))
	for _, t := range templates {
		all = append(all, Template{
			Name: t.name, Needs: slices.Clone(t.needs), Takes: slices.Clone(t.takes), Registers: t.mcp, UniqueLogins: t.uniqueLogins,
			Scopes: slices.Clone(t.scopes), Recommended: slices.Clone(t.recommended), Note: t.note, Tokens: t.tokens,
		})
	}
	return all
}

// TemplateNamed returns the template of a type, which may be an alias.
func TemplateNamed(name string) (Template, bool) {
	t := templateFor(name)
	if t == nil {
		return Template{}, false
	}
	all := Templates()
	return all[slices.IndexFunc(all, func(have Template) bool { return have.Name == t.name })], true
}

// Hint says what to write for a field that some templates take and others do not.
func Hint(field string) string {
	for _, f := range templateFields {
		if f.name == field {
			return f.example
		}
	}
	return ""
}
