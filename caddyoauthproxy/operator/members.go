package operator

import (
	"encoding/json"
	"strings"
)

// checkMembers refuses what Go's decoder would make something of, in JSON that it has read: a member that is there twice, of which it takes the last; one
// in other letters than its own; and null, such as that of a variable that a script forgot to set, which counts as no member at all.
func checkMembers(d *json.Decoder, member string) error {
	token, err := d.Token()
	if err != nil {
		return bad("the body cannot be read: %v", err)
	}
	switch token {
	case nil:
		return bad("%.40s is missing: null is no value", member)
	case json.Delim('['):
		for d.More() {
			if err := checkMembers(d, member); err != nil {
				return err
			}
		}
		_, err = d.Token()
	case json.Delim('{'):
		err = checkObject(d)
	}
	return err
}

func checkObject(d *json.Decoder) error {
	seen := make(map[string]bool)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return bad("the body cannot be read: %v", err)
		}
		name, _ := token.(string)
		switch {
		case strings.ContainsFunc(name, func(c rune) bool { return c != '_' && (c < 'a' || c > 'z') }):
			return bad("member %.40q is unknown: all have small letters, and _", name)
		case seen[name]:
			return bad("member %.40q is there more than once", name)
		}
		seen[name] = true
		if err := checkMembers(d, name); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}
