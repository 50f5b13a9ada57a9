package mcpfilter

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func noSecrets(_ Target, name string) bool { return !strings.Contains(name, "secret") }

func TestListsArePrunedAndNothingElseChanges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"},{"name":"secret"},{"name":"b","x":[1, 2]}],"nextCursor":"n"}}`,
			`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"},{"name":"b","x":[1, 2]}],"nextCursor":"n"}}`},
		{`{"result": {"prompts" : [ {"name":"secret"} ] , "a":1.0e3} , "id" : 9007199254740993 }`, `{"result": {"prompts" : [] , "a":1.0e3} , "id" : 9007199254740993 }`},
		{`{"id":1,"result":{"resources":[{"uri":"x://secret"},{"uri":"x://open"}]}}`, `{"id":1,"result":{"resources":[{"uri":"x://open"}]}}`},
		{`{"id":1,"result":{"resourceTemplates":[{"uriTemplate":"x://secret/{a}"}]}}`, `{"id":1,"result":{"resourceTemplates":[]}}`},
		{`[{"id":1,"result":{"tools":[{"name":"secret"}]}}, {"id":2,"result":{}}]`, `[{"id":1,"result":{"tools":[]}}, {"id":2,"result":{}}]`},
		{`{"id":1,"Result":{"Tools":[{"name":"secret"}]}}`, `{"id":1,"Result":{"Tools":[]}}`},
		{`{"id":1,"result":{"tools":[{"name":"secret"}],"tools":[{"name":"secret"},{"name":"a"}]}}`, `{"id":1,"result":{"tools":[],"tools":[{"name":"a"}]}}`},
	} {
		got, err := pruneLists([]byte(c.in), noSecrets)
		if err != nil || string(got) != c.want {
			t.Errorf("%s\n got %s (%v)\nwant %s", c.in, got, err, c.want)
		}
	}
	for _, same := range []string{
		` {"jsonrpc" : "2.0" , "id":1,"result":{"tools":[ {"name":"a"} , {"name":"b"} ]}} `,
		`{"id":1,"result":{"content":[{"type":"text","text":"secret"}]}}`,
		`{"id":1,"result":null}`, `{"id":1,"error":{"code":-1,"message":"secret"}}`,
		`{"method":"notifications/progress","params":{"tools":[{"name":"secret"}]}}`,
		`{"id":1,"result":{"tools":{}}}`, `[]`, `{}`, `{"result":[{"name":"secret"}]}`,
		`{"result":{"structuredContent":{"tools":[{"name":"secret"}]}}}`,
	} {
		if got, err := pruneLists([]byte(same), noSecrets); err != nil || string(got) != same {
			t.Errorf("%s: got %s (%v)", same, got, err)
		}
	}
}

func TestListsThatAreNotClearAreRefused(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		``, `x`, `{`, `"a"`, `{"id":1}{}`, `{"id":1} x`, `[{"id":1},2]`,
		`{"result":{"tools":[1]}}`, `{"result":{"tools":[{}]}}`, `{"result":{"tools":[{"name":null}]}}`, `{"result":{"tools":[{"name":"a","name":"secret"}]}}`,
		`{"result":{"tools":[{"Name":"secret","name":"a"}]}}`, `{"result":{"tools":[[{"name":"a"}]]}}`,
	} {
		if got, err := pruneLists([]byte(body), noSecrets); !errors.Is(err, errIllegible) {
			t.Errorf("%s: got %s (%v)", body, got, err)
		}
	}
}

// What a client decodes from a pruned message names nothing that may not be used, and all of the rest.
func FuzzPruneLists(f *testing.F) {
	for _, seed := range []string{
		`{"id":1,"result":{"tools":[{"name":"a"},{"name":"secret"}],"nextCursor":"x"}}`, `[{"result":{"prompts":[{"name":"secret"}]}}]`,
		`{"result":{"resources":[{"uri":"a","uri":"secret"}]}}`, ` { "Result" : {"TOOLS":[ {"name":"secret" } ] } } `, `{"result":{"tools":null}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := pruneLists(raw, noSecrets)
		if err != nil {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%q became %q, which is no JSON", raw, got)
		}
		again, err := pruneLists(got, func(target Target, name string) bool {
			if !noSecrets(target, name) {
				t.Fatalf("%q became %q, which names %q", raw, got, name)
			}
			return true
		})
		if err != nil || string(again) != string(got) {
			t.Fatalf("%q became %q, and that %q (%v)", raw, got, again, err)
		}
		var message struct {
			Result struct{ Tools []struct{ Name string } }
		}
		if json.Unmarshal(got, &message) == nil {
			for _, tool := range message.Result.Tools {
				if !noSecrets(TargetTool, tool.Name) {
					t.Fatalf("%q became %q, which names %q", raw, got, tool.Name)
				}
			}
		}
	})
}
