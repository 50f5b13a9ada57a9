package mcpfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

var errNotOneObject = errors.New("is not one JSON object")

// readObject reads one JSON object and nothing after it. For each member it asks where the value is wanted; nil leaves it out.
// Members are told in order, and as often as they are there.
func readObject(raw []byte, want func(name string) (*json.RawMessage, error)) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return errNotOneObject
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return errNotOneObject
		}
		name, _ := token.(string)
		into, err := want(name)
		if err != nil {
			return err
		}
		var value any = &skipped{}
		if into != nil {
			value = into
		}
		if err := dec.Decode(value); err != nil {
			return errNotOneObject
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return errNotOneObject
	}
	if _, err := dec.Token(); err != io.EOF {
		return errNotOneObject
	}
	return nil
}

// skipped takes any JSON value and keeps nothing of it.
type skipped struct{}

// UnmarshalJSON implements json.Unmarshaler.
func (*skipped) UnmarshalJSON([]byte) error { return nil }
