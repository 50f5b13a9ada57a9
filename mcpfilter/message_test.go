package mcpfilter

import (
	"encoding/json"
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
