package mcpfilter

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestMessageIsWhatEveryParserSees(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"jsonrpc":"2.0","id":1,"method":"ping"}`:                  "1",
		` { "method" : "ping", "id" : "a\"b" , "params":{"id":2}} `: `"a\"b"`,
		`{"id":-1.5e3,"method":"ping"}`:                             "-1.5e3",
		`{"method":"ping"}`:                                         "",
		`{"id":null,"method":"ping"}`:                               "no",
		`{"id":{},"method":"ping"}`:                                 "no",
		`{"id":true,"method":"ping"}`:                               "no",
		`{"id":1,"id":2,"method":"ping"}`:                           "no",
		`{"id":1,"ID":2,"method":"ping"}`:                           "no",
		`{"Id":1,"method":"ping"}`:                                  "no",
		`{"id":1,"result":{}}`:                                      "no",
		`[{"id":1,"method":"ping"}]`:                                "no",
		`{"id":1}`:                                                  "no",
		`{"id":1,"method":"ping"`:                                   "no",
		``:                                                          "no",
		`{"id":1,"method":"ping","params":"` + strings.Repeat("x", 100) + `"}`: "1",
	} {
		m, ok := (&exchange{body: &body{bytes: []byte(text), complete: true}}).writtenMessage()
		switch {
		case ok == (want == "no"), ok && string(m.id) != want:
			t.Errorf("%s: %+v, %v", text, m, ok)
		case ok && m.id != nil:
			var other struct{ ID, Method json.RawMessage }
			if err := json.Unmarshal(m.with(json.RawMessage(`"new"`)), &other); err != nil || string(other.ID) != `"new"` || string(other.Method) != `"ping"` {
				t.Errorf("%s: %s, %v", text, m.with(json.RawMessage(`"new"`)), err)
			}
		}
	}
	if _, ok := (&exchange{body: &body{bytes: []byte(`{"id":1,"method":"ping"}`)}}).writtenMessage(); ok {
		t.Error("half a body is a message")
	}
}

func TestAcceptNamesTheMediaTypeItself(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]bool{
		"text/event-stream": true, "application/json, text/event-stream": true, "Text/Event-Stream ; charset=utf-8": true, "text/event-stream;q=0.1": true,
		"application/json,,text/event-stream;q=1": true, "\x00, text/event-stream": true,
		"": false, "*/*": false, "text/*": false, "application/json": false, "text/event-stream;q=0": false, "text/event-stream;q=0.000": false, "text/event-streams": false,
		`application/json;x="text/event-stream"`: false,
	} {
		if got := accepts(http.Header{"Accept": {accept}}, mediaEvents); got != want {
			t.Errorf("%q: %v", accept, got)
		}
		if got := accepts(http.Header{"Accept": {"application/xml", accept}}, mediaEvents); got != want {
			t.Errorf("%q in a second line: %v", accept, got)
		}
	}
	if accepts(nil, mediaEvents) {
		t.Error("no Accept accepts event streams")
	}
}

func TestAnswerThatCannotBeReadPassesAsItIs(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"\x1f\x8b compressed", `{"id":7,"ID":8}`, `{"id":8,"result":{}}`, `[]`, ``} {
		res := &http.Response{
			StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {mediaJSON}, "Content-Encoding": {"br"}}, Body: io.NopCloser(strings.NewReader(body)),
		}
		if err := restoreID(res, json.RawMessage("7"), json.RawMessage("1")); err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(res.Body); string(got) != body || res.Header.Get("Content-Encoding") != "br" {
			t.Errorf("%q became %q, %v", body, got, res.Header)
		}
	}
}

// Whatever a server streams, the client gets one JSON object with its own id.
func FuzzPlainAnswer(f *testing.F) {
	for _, seed := range []string{
		"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n", "data: [{\"id\":1,\"result\":{}}]\n\n", "data: {\"id\":3,\"method\":\"x\"}\n\n", "data: {\"id\":null,\"error\":{}}\n\n",
		"data: {\"id\":1.0,\"ID\":2}\n\n", "data: [[]]\n\ndata: null", "data: {\"id\":1e999}\n\n",
	} {
		f.Add([]byte(seed), `1`, `"mine"`)
	}
	f.Fuzz(func(t *testing.T, stream []byte, sent, id string) {
		for _, s := range []string{sent, id} {
			if !json.Valid([]byte(s)) || !isID(json.RawMessage(s)) {
				return
			}
		}
		res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {mediaEvents}}, Body: io.NopCloser(bytes.NewReader(stream))}
		if err := plainAnswer(t.Context(), res, json.RawMessage(sent)); err != nil {
			t.Fatal(err)
		}
		if err := restoreID(res, json.RawMessage(sent), json.RawMessage(id)); err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		var answer map[string]json.RawMessage
		if !isJSON(res.Header) || res.ContentLength != int64(len(body)) || json.Unmarshal(body, &answer) != nil {
			t.Fatalf("%q became %d %q", stream, res.StatusCode, body)
		}
		if found, _, ok := member(body, "id"); ok && isID(found) && !sameID(found, json.RawMessage(id)) {
			t.Fatalf("%q became %q, whose id is not %s", stream, body, id)
		}
	})
}
