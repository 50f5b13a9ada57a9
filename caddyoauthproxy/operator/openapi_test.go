package operator

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// openAPI is what the tests read of the document.
type openAPI struct {
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas map[string]json.RawMessage `json:"schemas"`
	} `json:"components"`
}

type operation struct {
	OperationID string `json:"operationId"`
	Parameters  []struct{ Name, In string }
	RequestBody *json.RawMessage           `json:"requestBody"`
	Responses   map[string]json.RawMessage `json:"responses"`
}

func readDocument(t *testing.T) openAPI {
	t.Helper()
	var doc openAPI
	if err := json.Unmarshal(document, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestOpenAPIDocumentDescribesEveryRouteAndNoOther(t *testing.T) {
	t.Parallel()
	doc := readDocument(t)
	described := make(map[string]operation)
	ids := make(map[string]bool)
	for path, methods := range doc.Paths {
		for method, raw := range methods {
			if method == "parameters" {
				continue
			}
			var o operation
			if err := json.Unmarshal(raw, &o); err != nil {
				t.Fatal(err)
			}
			if o.OperationID == "" || ids[o.OperationID] {
				t.Errorf("%s %s: operationId %q is empty, or another's", method, path, o.OperationID)
			}
			ids[o.OperationID] = true
			described[strings.ToUpper(method)+" "+path] = o
		}
	}
	for _, r := range new(Server).routes() {
		name := r.method + " " + r.path
		o, ok := described[name]
		if !ok {
			t.Errorf("%s is not described", name)
			continue
		}
		delete(described, name)
		var query []string
		for _, p := range o.Parameters {
			if p.In == "query" {
				query = append(query, p.Name)
			}
		}
		if want := slices.Sorted(slices.Values(r.query)); !slices.Equal(want, slices.Sorted(slices.Values(query))) {
			t.Errorf("%s knows the parameters %v; described are %v", name, want, query)
		}
		if _, ok := o.Responses["default"]; !ok {
			t.Errorf("%s: refusals are not described", name)
		}
		if _, ok := doc.Paths[r.path]["parameters"]; ok != strings.Contains(r.path, "{") {
			t.Errorf("%s: the path's parameters are described: %t", name, ok)
		}
	}
	for name := range described {
		t.Errorf("%s is described, but there is no such route", name)
	}
}

// What is true of all schemas: whatever they let through has no place for a credential.
func TestNoSchemaHasAMemberForACredential(t *testing.T) {
	t.Parallel()
	suspicious := regexp.MustCompile(`(?i)token|secret|hash|verifier|challenge|password|cookie|csrf|assertion|^code$|^key$|^jwks?$`)
	allowed := map[string]string{
		"token_endpoint_auth_method": "the name of a method",
		"CreatedAPIKey.key":          "the one answer that is a credential",
		"AuditReport.hash":           "of the trail, public by its purpose",
		"Verification.hash":          "the same",
		"Draft.client_secret":        "a placeholder, and refused where it is not",
		"Draft.token_url":            "an address",
	}
	n := 0
	var walk func(schema, at string, v any)
	walk = func(schema, at string, v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(schema, at, e)
			}
		case map[string]any:
			if v["type"] == "object" && v["additionalProperties"] == nil {
				t.Errorf("%s%s may have members that are not described", schema, at)
			}
			if members, ok := v["properties"].(map[string]any); ok {
				for name := range members {
					n++
					if suspicious.MatchString(name) && allowed[name] == "" && allowed[schema+"."+name] == "" {
						t.Errorf("%s%s has a member %s", schema, at, name)
					}
				}
			}
			for name, e := range v {
				walk(schema, at+"/"+name, e)
			}
		}
	}
	for name, raw := range readDocument(t).Components.Schemas {
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		walk(name, "", v)
	}
	if n < 50 {
		t.Errorf("only %d members were seen: the test is no good", n)
	}
}

func TestEveryReferenceInTheDocumentLeadsSomewhere(t *testing.T) {
	t.Parallel()
	doc := readDocument(t)
	used := make(map[string]bool)
	for _, m := range regexp.MustCompile(`"\$ref": "#/components/schemas/([A-Za-z]+)"`).FindAllStringSubmatch(string(document), -1) {
		used[m[1]] = true
		if doc.Components.Schemas[m[1]] == nil {
			t.Errorf("there is no schema %s", m[1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(doc.Components.Schemas)) {
		if !used[name] {
			t.Errorf("schema %s is not used", name)
		}
	}
}
