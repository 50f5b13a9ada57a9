package mcpfilter

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestT66JSONRPCMethodIsWhatEveryParserSees(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"method":"other","a":[1,{"b":2}]}}`: "tools/call",
		` { "method" : "ping" } `:                               "ping",
		"{\"meth\\u006fd\":\"ping\"}":                           "ping",
		`{"jsonrpc":"2.0","id":1,"result":{"method":"x"}}`:      "response",
		`{"jsonrpc":"2.0","id":1,"error":{"code":-1}}`:          "response",
		`[{"method":"tools/call"}]`:                             "batch",
		`[]`:                                                    "batch",
		`{"method":"ping","method":"tools/call"}`:               "unknown",
		`{"method":"ping","Method":"tools/call"}`:               "unknown",
		`{"METHOD":"tools/call"}`:                               "unknown",
		`{"method":"tools/call"`:                                "unknown",
		`{"method":"tools/call"} {"method":"x"}`:                "unknown",
		`{"method":"tools/call"}x`:                              "unknown",
		"\xef\xbb\xbf{\"method\":\"ping\"}":                     "unknown",
		`{"method":7}`:                                          "unknown",
		`{"method":null}`:                                       "unknown",
		`{"method":null,"method":"x"}`:                          "unknown",
		`{"method":""}`:                                         "unknown",
		`{"method":"a b"}`:                                      "unknown",
		"{\"method\":\"a\\nb\"}":                                "unknown",
		`{"method":"{env.HOME}"}`:                               "unknown",
		`{"method":"` + strings.Repeat("a", 65) + `"}`:          "unknown",
		`{"params":` + strings.Repeat("[", 20000) + `,"method"`: "unknown",
		`{}`:       "unknown",
		`"method"`: "unknown",
		``:         "unknown",
	} {
		if got := readContents([]byte(body)).label(); got != want {
			t.Errorf("%.80s: %q, want %q", body, got, want)
		}
	}
	if got := (&body{bytes: []byte(`{"method":"ping"}`)}).contents().label(); got != "unknown" {
		t.Errorf("a part of a body: %q", got)
	}
}

// A method that is told must be the one that encoding/json finds too, in a valid body.
func FuzzJSONRPCMethod(f *testing.F) {
	for _, seed := range []string{listSeed, `[1]`, `{"method":"a","Method":"b"}`, `{"result":1}`, `{"method":"a"}{}`, "{\"meth\\u006fd\":\"x\"}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got := readContents(body).label()
		switch got {
		case methodUnknown, methodBatch:
			return
		}
		if !json.Valid(body) {
			t.Fatalf("%q has the method %q, but is no JSON", body, got)
		}
		var message struct{ Method string }
		if err := json.Unmarshal(body, &message); err != nil {
			t.Fatalf("%q has the method %q, but does not decode: %v", body, got, err)
		}
		if got == methodResponse && message.Method == "" {
			return
		}
		if message.Method != got {
			t.Fatalf("%q has the method %q here and %q there", body, got, message.Method)
		}
	})
}

const listSeed = `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}`

// What a clear message is about must be what lenient parsers find, too: those that do not look at the case of members, and those for which the last of
// two counts.
func FuzzMessageNames(f *testing.F) {
	for _, seed := range []string{
		`{"id":1,"method":"tools/call","params":{"name":"a"}}`, `{"id":1,"method":"tools/call","params":{"name":"a","NAME":"b"}}`,
		`{"id":1,"method":"resources/read","params":{"uri":"file:///a%2fb"}}`, `{"id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}`,
		`[{"method":"prompts/get","params":{"name":"\ud83d\ude00"}}]`, `{"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["a","b"]}}}`,
		"{\"method\":\"tools/call\",\"params\":{\"name\":\"a\xff\"}}",
	} {
		f.Add([]byte(seed))
	}
	type lenient struct {
		Method string
		Params struct {
			Name, URI     string
			Ref           struct{ Type, Name, URI string }
			Notifications struct{ ResourceSubscriptions []string }
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		said := readContents(raw)
		if said.unclear != nil {
			return
		}
		var read []lenient
		if said.batch {
			if err := json.Unmarshal(raw, &read); err != nil {
				return // it has other types elsewhere
			}
		} else {
			read = make([]lenient, 1)
			if err := json.Unmarshal(raw, &read[0]); err != nil {
				return
			}
		}
		for i, m := range said.messages {
			if m.unclear != nil || m.target == "" {
				continue
			}
			p := read[i].Params
			var names []string
			switch m.method {
			case "tools/call", "prompts/get":
				names = []string{p.Name}
			case "completion/complete":
				names = []string{p.Ref.Name}
				if p.Ref.Type == "ref/resource" {
					names = []string{p.Ref.URI}
				}
			case "subscriptions/listen":
				names = p.Notifications.ResourceSubscriptions
			default:
				names = []string{p.URI}
			}
			if read[i].Method != m.method || !slices.Equal(names, m.names) {
				t.Fatalf("%q is %s of %q here, and %s of %q there", raw, m.method, m.names, read[i].Method, names)
			}
		}
	})
}

func TestURIsThatCouldBeAnotherOnesAreUnclear(t *testing.T) {
	t.Parallel()
	for uri, clear := range map[string]bool{
		"file:///docs/a": true, "memo://a": true, "urn:x:y": true, "https://example.com/a?next=//b/c..d\\": true, "x://a b": true, "file:///docs/%C3%A4": true, "file:///docs/ä": true,
		"file:///docs/?/../../etc": false, "file:///docs/#/../../etc": false, "file:///docs/?..": false, `file:///docs/?\..\..`: false, " file:///docs/a": false, "file:///docs/a\u00a0": false,
		"file:///docs/..": false, "file:///docs/./a": false, "file:////etc": false, `file:///docs\..\a`: false, "file:///%2e%2e/a": false, "file:///a%00b": false, "file:///%252e": false, "file:///%zz": false,
		"file:///a%5cb": false, "": false, "x://\u202eb": false, "x://" + strings.Repeat("a", 2048): false,
	} {
		if got := plainName(TargetResource, uri) == nil; got != clear {
			t.Errorf("%.60s: clear %v", uri, got)
		}
	}
}

func readContents(body []byte) *contents {
	c := new(contents)
	c.readAll(body)
	return c
}
