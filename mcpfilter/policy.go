package mcpfilter

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Policy says which tools, resources and prompts of a proxy's server may be used by whom. The zero value lets everybody use all.
//
// The first rule of a target's that names what is asked for and is for the one who asks decides. Where none does, the answer is no if
// any rule of that target allows something, and yes otherwise.
type Policy struct {
	// Rules are judged in order.
	Rules []Rule

	// Includes are the scopes that a scope stands for as well, directly or by way of others.
	Includes map[string][]string
}

// Rule is one line of a policy.
type Rule struct {
	// Target is what the rule is about, and Deny what it says of it.
	Target Target
	Deny   bool

	// Patterns are names or URIs, in which * stands for any characters. Case does not count, because for some servers it does not.
	Patterns []string

	// For says whom the rule is for; nil is for everybody.
	For func(*Session) bool

	// Scopes are those that the caller needs, all of them, where the rule allows.
	Scopes []string

	// forms are what names are compared with, in rules that are ready.
	forms []string
}

// ready is the policy with the forms of all its patterns, so that no request has to find them.
func (p Policy) ready() Policy {
	p.Rules = slices.Clone(p.Rules)
	for i := range p.Rules {
		r := &p.Rules[i]
		r.forms = formsOf(r.Target, r.Patterns)
	}
	return p
}

// formsOf are the patterns in all their spellings, folded.
func formsOf(target Target, patterns []string) []string {
	forms := make([]string, 0, len(patterns))
	for _, pattern := range patterns {
		for _, spelling := range spellings(target, pattern) {
			forms = append(forms, fold(spelling))
		}
	}
	return forms
}

// verdict is what a policy says of a message.
type verdict struct {
	// denied is what nobody can help, and missing the scopes that would.
	denied  bool
	missing []string

	// needed are all scopes that the rules ask for.
	needed []string
}

func (v verdict) allowed() bool { return !v.denied && len(v.missing) == 0 }

// restricts reports whether there is a rule for the target.
func (p *Policy) restricts(target Target) bool {
	for i := range p.Rules {
		if p.Rules[i].Target == target {
			return true
		}
	}
	return false
}

// judge says whether a caller may use what goes by this name, in each of the ways in which servers may read it.
func (p *Policy) judge(s *Session, target Target, name string) verdict {
	var all verdict
	if target != TargetResource { // of which names have one spelling
		return all.and(p.judgeSpelling(s, target, name))
	}
	for _, spelling := range spellings(target, name) {
		all = all.and(p.judgeSpelling(s, target, spelling))
	}
	return all
}

func (p *Policy) judgeSpelling(s *Session, target Target, name string) verdict {
	opened, folded := false, fold(name)
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Target != target {
			continue
		}
		opened = opened || !r.Deny
		forms := r.forms
		if forms == nil {
			forms = formsOf(target, r.Patterns)
		}
		if !matchForms(forms, folded) || r.For != nil && !r.For(s) {
			continue
		}
		if r.Deny {
			return verdict{denied: true}
		}
		v := verdict{needed: slices.Clip(r.Scopes)}
		for _, scope := range r.Scopes {
			if !p.holds(s.Scopes, scope) {
				v.missing = append(v.missing, scope)
			}
		}
		return v
	}
	return verdict{denied: opened}
}

// and is the verdict on two things at once.
func (v verdict) and(other verdict) verdict {
	v.denied = v.denied || other.denied
	for _, scope := range other.missing {
		if !slices.Contains(v.missing, scope) {
			v.missing = append(v.missing, scope)
		}
	}
	for _, scope := range other.needed {
		if !slices.Contains(v.needed, scope) {
			v.needed = append(v.needed, scope)
		}
	}
	return v
}

// holds says whether scopes contain one, or one that includes it.
func (p *Policy) holds(scopes []string, scope string) bool {
	return slices.ContainsFunc(scopes, func(held string) bool { return p.includes(held, scope, nil) })
}

func (p *Policy) includes(held, scope string, seen []string) bool {
	if held == scope {
		return true
	}
	if slices.Contains(seen, held) {
		return false
	}
	return slices.ContainsFunc(p.Includes[held], func(next string) bool { return p.includes(next, scope, append(seen, held)) })
}

// matchName reports whether a name has the form of any of the patterns, in the way in which it is spelled. A URI that is decoded has the form of patterns that are.
func matchName(target Target, patterns []string, name string) bool {
	return matchForms(formsOf(target, patterns), fold(name))
}

// matchForms reports whether a folded name has any of the forms.
func matchForms(forms []string, folded string) bool {
	for _, form := range forms {
		if matchFolded(form, folded) {
			return true
		}
	}
	return false
}

// fold makes names equal that differ in case alone, in the sense of any server's: there are letters of which only the upper case is the same.
func fold(s string) string {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return strings.ToLower(strings.ToUpper(s))
		}
	}
	return strings.ToLower(s)
}

// CheckPattern says why no name that the gateway lets pass has the form of a pattern.
func CheckPattern(target Target, pattern string) error {
	if !strings.Contains(pattern, "://") {
		pattern = strings.Replace(pattern, "*//", "*://", 1)
	}
	return plainName(target, pattern)
}

// Covers reports whether a rule leaves nothing to a later one, because whatever that names, for whomever, it decides itself.
func (r *Rule) Covers(later *Rule) bool {
	return r.Target == later.Target && r.For == nil && !slices.ContainsFunc(later.Patterns, func(p string) bool { return !matchName(r.Target, r.Patterns, p) })
}

// matchFolded reports whether a name has the form of a pattern, in which * stands for any characters. Both are folded.
func matchFolded(pattern, name string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, first)
	if !ok {
		return false
	}
	for {
		part, more, wild := strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(name, part)
		}
		_, after, ok := strings.Cut(name, part)
		if !ok {
			return false
		}
		name, rest = after, more
	}
}
