package mcpfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Target is a family of things that an MCP server offers by name.
type Target string

// The families.
const (
	TargetTool     Target = "tool"     // by its name
	TargetResource Target = "resource" // by its URI
	TargetPrompt   Target = "prompt"   // by its name
)

// What label says of a body without one clear method.
const (
	methodBatch    = "batch"
	methodResponse = "response"
	methodUnknown  = "unknown"
)

const (
	// maxMethod is the longest JSON-RPC method name that is told apart.
	maxMethod = 64

	// maxBatch is how many messages of a batch are looked at.
	maxBatch = 100

	// maxSubscriptions is how many resources a message may be about. Each is judged by all rules.
	maxSubscriptions = 1000
)

// message is one JSON-RPC message of a client.
type message struct {
	// id is the request's as it was written, nil for notifications.
	id json.RawMessage

	// method is empty for responses.
	method string

	// target and names are what the message is about. Most messages are about nothing.
	target Target
	names  []string

	// params are those of a method that is about something.
	params json.RawMessage

	// unclear says why two parsers could disagree on the names; nil when they cannot.
	unclear error
}

// name is what a message about one thing is about.
func (m *message) name() string {
	if len(m.names) != 1 {
		return ""
	}
	return m.names[0]
}

// contents is what the body of a POST says.
type contents struct {
	batch    bool
	messages []message
	single   [1]message // where there is no batch

	// unclear says why two parsers could disagree on the methods; nil when they cannot.
	unclear error
}

// label tells the method, for log and placeholders.
func (c *contents) label() string {
	switch {
	case c.batch:
		return methodBatch
	case c.unclear != nil:
		return methodUnknown
	case c.messages[0].method == "":
		return methodResponse
	default:
		return c.messages[0].method
	}
}

// one is the message of a body that has one and is clear; nil otherwise.
func (c *contents) one() *message {
	if c == nil || c.batch || c.unclear != nil || c.messages[0].unclear != nil {
		return nil
	}
	return &c.messages[0]
}

var (
	errIncomplete = fmt.Errorf("the body is longer than %d MiB, or is no JSON by its Content-Type", maxBody>>20)
	errEncoding   = errors.New("the body is no valid UTF-8")
	errCharset    = errors.New("the charset of the body's Content-Type is not UTF-8")
	errNoMessage  = errors.New("the body is no JSON-RPC message")
)

// readAll reads a body, all of which is there. Whatever two parsers could understand differently is unclear: names of members twice or in
// another case, what follows the message, and text that is not well encoded.
func (c *contents) readAll(body []byte) {
	text := bytes.TrimLeft(body[:min(len(body), 64)], " \t\r\n")
	c.batch = len(text) > 0 && text[0] == '['
	if !utf8.Valid(body) {
		c.unclear = errEncoding
		return
	}
	if !c.batch {
		m, err := readMessage(body)
		c.single[0] = m
		c.messages, c.unclear = c.single[:], err
		return
	}
	var all []json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		c.unclear = errors.New("the batch is not well-formed JSON")
		return
	}
	if len(all) > maxBatch {
		c.unclear = fmt.Errorf("a batch has at most %d messages", maxBatch)
		return
	}
	for _, raw := range all {
		m, err := readMessage(raw)
		switch {
		case err == errNoMessage: //nolint:errorlint // it is never wrapped
		case err != nil:
			c.unclear = err
			return
		default:
			c.messages = append(c.messages, m)
		}
	}
	switch {
	case len(c.messages) == 0:
		c.unclear = errNoMessage
	case len(c.messages) == len(all):
	default: // servers answer those that they understand
		c.unclear = errors.New("only a part of the batch are JSON-RPC messages")
	}
}

// readMessage reads one message.
func readMessage(raw []byte) (message, error) {
	var method, id, params, answer json.RawMessage
	err := readMembers(raw, knownMember{"method", &method}, knownMember{"id", &id}, knownMember{"params", &params}, knownMember{"result", &answer}, knownMember{"error", &answer})
	if err != nil {
		return message{}, err
	}
	var m message
	if len(id) > 0 {
		if id[0] == '{' || id[0] == '[' || id[0] == 't' || id[0] == 'f' {
			return m, errors.New("the id is neither a string nor a number")
		}
		m.id = id
	}
	switch {
	case method == nil && answer == nil:
		return m, errNoMessage
	case method != nil && answer != nil: // some servers do what the method says
		return m, errors.New("it is a request and a response at once")
	case method == nil:
		return m, nil
	}
	var ok bool
	if m.method, ok = methodIn(method); !ok || !plainMethod(m.method) {
		return message{}, errors.New("the method is no plain name")
	}
	m.readNames(params)
	return m, nil
}

// methodIn is the string that a JSON value is. Those of MCP are not copied.
func methodIn(raw json.RawMessage) (method string, ok bool) {
	if len(raw) > 2 {
		if known, ok := methodIndex[string(raw[1:len(raw)-1])]; ok && raw[0] == '"' {
			return MethodNames[known], true
		}
	}
	return stringIn(raw)
}

// named are the methods that are about something, and how it is found.
var named = map[string]func(params json.RawMessage) (Target, []string, error){
	"tools/call":            oneName(TargetTool, "name", "arguments"),
	"prompts/get":           oneName(TargetPrompt, "name", ""),
	"resources/read":        oneName(TargetResource, "uri", ""),
	"resources/subscribe":   oneName(TargetResource, "uri", ""),
	"resources/unsubscribe": oneName(TargetResource, "uri", ""),
	"completion/complete":   referenced,
	"subscriptions/listen":  subscribed,
}

// readNames finds what the message is about.
func (m *message) readNames(params json.RawMessage) {
	find := named[m.method]
	if find == nil {
		if folded := strings.ToLower(m.method); folded != m.method && (named[folded] != nil || slices.Contains(listMethods, folded)) {
			m.unclear = fmt.Errorf("the method is %q in another spelling", folded)
		}
		return
	}
	m.params = params
	var err error
	if m.target, m.names, err = find(params); err != nil {
		m.unclear = fmt.Errorf("%s: params: %w", m.method, err)
		return
	}
	for _, name := range m.names {
		if err := plainName(m.target, name); err != nil {
			m.unclear = fmt.Errorf("%s: %w", m.method, err)
		}
	}
}

// oneName finds the one member that names the target. Another, where given, must be clear as well.
func oneName(target Target, name, other string) func(json.RawMessage) (Target, []string, error) {
	return func(params json.RawMessage) (Target, []string, error) {
		var value, ignored json.RawMessage
		known := [...]knownMember{{name, &value}, {other, &ignored}}
		wanted := known[:]
		if other == "" {
			wanted = known[:1]
		}
		if err := readMembers(params, wanted...); err != nil {
			return target, nil, err
		}
		text, err := readString(name, value)
		return target, []string{text}, err
	}
}

// referenced finds what completion/complete is about: a prompt, or a resource template.
func referenced(params json.RawMessage) (Target, []string, error) {
	var ref, kind, name, uri json.RawMessage
	if err := readMembers(params, knownMember{"ref", &ref}); err != nil {
		return "", nil, err
	}
	if err := readMembers(ref, knownMember{"type", &kind}, knownMember{"name", &name}, knownMember{"uri", &uri}); err != nil {
		return "", nil, fmt.Errorf("ref: %w", err)
	}
	text, err := readString("type", kind)
	if err != nil {
		return "", nil, err
	}
	switch text {
	case "ref/prompt":
		text, err = readString("name", name)
		return TargetPrompt, []string{text}, err
	case "ref/resource":
		text, err = readString("uri", uri)
		return TargetResource, []string{text}, err
	default:
		return "", nil, errors.New("ref: the type is unknown")
	}
}

// subscribed finds the resources that a client wants to be told of.
func subscribed(params json.RawMessage) (Target, []string, error) {
	var notifications, uris json.RawMessage
	if err := readMembers(params, knownMember{"notifications", &notifications}); err != nil {
		return "", nil, err
	}
	if notifications == nil || string(notifications) == "null" {
		return TargetResource, nil, nil
	}
	if err := readMembers(notifications, knownMember{"resourceSubscriptions", &uris}); err != nil {
		return "", nil, fmt.Errorf("notifications: %w", err)
	}
	var names []string
	if uris != nil {
		if err := json.Unmarshal(uris, &names); err != nil {
			return "", nil, errors.New("resourceSubscriptions is no list of URIs")
		}
		if len(names) > maxSubscriptions {
			return "", nil, fmt.Errorf("resourceSubscriptions has more than %d URIs", maxSubscriptions)
		}
	}
	return TargetResource, names, nil
}

func readString(member string, raw json.RawMessage) (string, error) {
	s, ok := stringIn(raw)
	if !ok {
		return "", fmt.Errorf("%q is missing or no string", member)
	}
	return s, nil
}

// plainMethod keeps what a client invents out of logs and labels.
func plainMethod(s string) bool {
	if s == "" || len(s) > maxMethod {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("/_-.$:", c))
	})
}

// maxName is the longest name or URI that is told apart, in bytes.
const maxName = 2048

// plainName says why servers could take a name for another one: they cut it at control characters, drop what is not well encoded or space around it, or
// resolve the path of a URI.
func plainName(target Target, name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("the %s has no name, or one that is longer than %d bytes", target, maxName)
	case !plainText(name) || strings.TrimSpace(name) != name:
		return fmt.Errorf("the name of the %s has control or broken characters, or space around it", target)
	case target != TargetResource:
		return nil
	}
	decoded, err := url.PathUnescape(name)
	twice, again := url.PathUnescape(decoded)
	if err != nil || again != nil || twice != decoded || !plainText(decoded) || resolvable(name) || resolvable(decoded) {
		return errors.New("the URI of the resource has dot segments, empty ones, a backslash, or encodes twice")
	}
	return nil
}

// spellings are the ways in which servers may read a name that is plain.
func spellings(target Target, name string) []string {
	if decoded, err := url.PathUnescape(name); target == TargetResource && err == nil && decoded != name {
		return []string{name, decoded}
	}
	return []string{name}
}

func plainText(s string) bool { return !strings.ContainsFunc(s, hidden) }

func plainBytes(s []byte) bool { return !bytes.ContainsFunc(s, hidden) }

// hidden reports whether a character is a control character, or broken.
func hidden(c rune) bool {
	if c < utf8.RuneSelf {
		return c < ' ' || c == 0x7f
	}
	return unicode.Is(unicode.C, c) || c == utf8.RuneError
}

// resolvable says whether a URI has segments by which it could be another one. For dot segments that is all of it: servers that make a file name of a URI know
// nothing of queries.
func resolvable(uri string) bool {
	rest := uri
	if _, after, ok := strings.Cut(uri, "://"); ok {
		rest = after
	}
	for segment := range strings.FieldsFuncSeq(rest, func(c rune) bool { return strings.ContainsRune(`/\?#`, c) }) {
		if segment == "." || segment == ".." {
			return true
		}
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	return strings.Contains(rest, "//") || strings.Contains(rest, `\`)
}
