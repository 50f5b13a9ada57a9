package docs

import (
	"go/ast"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// documents are files of YAML, or of JSON, which is YAML, too.
type documents map[string]any

func (d documents) read(t *testing.T, file string) any {
	t.Helper()
	if d[file] == nil {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var document any
		if err := yaml.Unmarshal(content, &document); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		d[file] = document
	}
	return d[file]
}

// openAPI is the description of the HTTP API.
const openAPI = "openapi.yaml"

// at follows names through the members of objects.
func at(t *testing.T, v any, names ...string) map[string]any {
	t.Helper()
	for _, name := range names {
		object, _ := v.(map[string]any)
		v = object[name]
	}
	object, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%v is no object: %v", names, v)
	}
	return object
}

// resolve finds what a reference of openAPI leads to (RFC 6901).
func (d documents) resolve(t *testing.T, ref string) (found any) {
	t.Helper()
	file, pointer, ok := strings.Cut(ref, "#/")
	if !ok {
		t.Fatalf("%s is no reference", ref)
	}
	if file == "" {
		file = openAPI
	}
	found = d.read(t, file)
	for step := range strings.SplitSeq(pointer, "/") {
		object, _ := found.(map[string]any)
		if found = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)]; found == nil {
			t.Fatalf("%s leads nowhere", ref)
		}
	}
	return found
}

// walk visits all objects within a value.
func walk(v any, visit func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(v)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			walk(v[name], visit)
		}
	case []any:
		for _, e := range v {
			walk(e, visit)
		}
	}
}

var methods = []string{"get", "put", "post", "delete", "patch", "head", "options"}

// described are the routes of openapi.yaml, with {} for parameters of paths.
func described(t *testing.T) map[string]bool {
	t.Helper()
	d, routes := make(documents), make(map[string]bool)
	for path, item := range at(t, d.read(t, openAPI), "paths") {
		if ref, ok := at(t, item)["$ref"].(string); ok {
			item = d.resolve(t, ref)
		}
		for name := range at(t, item) {
			if slices.Contains(methods, name) {
				routes[strings.ToUpper(name)+" "+unnamed(path)] = true
			}
		}
	}
	return routes
}

var parameter = regexp.MustCompile(`\{[a-z_]+\}`)

func unnamed(path string) string { return parameter.ReplaceAllString(path, "{}") }

// constants are the texts of a package's constants.
func constants(t *testing.T, dir string) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	inspect(t, dir, func(n ast.Node, _, _ string) {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for i, name := range spec.Names {
				if len(spec.Values) > i && literal(spec.Values[i]) != "" {
					texts[name.Name] = literal(spec.Values[i])
				}
			}
		}
	})
	return texts
}

// text evaluates literals and constants that are put together. Anything else, such as the issuer's own path, is empty.
func text(e ast.Expr, constants map[string]string) string {
	switch e := e.(type) {
	case *ast.Ident:
		return constants[e.Name]
	case *ast.BinaryExpr:
		return text(e.X, constants) + text(e.Y, constants)
	default:
		return literal(e)
	}
}

// registered are the routes of the code: those of the authorization server's mux and well-known documents, of the pages of users and operators, of the admin API as
// the site has it, and of health. HEAD counts as GET.
func registered(t *testing.T) map[string]bool {
	t.Helper()
	routes := make(map[string]bool)
	add := func(method, path string) {
		if method == "" || path == "" {
			t.Fatalf("a route that cannot be read: %q %q", method, path)
		}
		path = strings.NewReplacer("{$}", "", "client-metadata/{provider}", "client-metadata/{provider}.json").Replace(path) // whose name ends so, or is unknown
		if method != "HEAD" {
			routes[method+" "+unnamed(path)] = true
		}
	}

	dir := "../caddyoauthproxy/authserver"
	texts := constants(t, dir)
	for _, f := range functions(t, dir) {
		if f.name != "Server.routes" {
			continue
		}
		ast.Inspect(f.decl.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 2 {
				return true
			}
			handler, ok := call.Args[1].(*ast.CallExpr)
			if !ok || callee(handler) != "public" && callee(handler) != "private" {
				return true
			}
			for _, m := range handler.Args[1:] {
				method := strings.ToUpper(strings.TrimPrefix(m.(*ast.SelectorExpr).Sel.Name, "Method"))
				if name := text(call.Args[0], texts); callee(call) == "both" {
					add(method, texts["endpointPath"]+"/"+name)
					add(method, texts["endpointPath"]+"/{proxy}/"+name)
				} else {
					add(method, name)
				}
			}
			return true
		})
	}
	if len(routes) < 20 {
		t.Fatalf("only %d routes of the authorization server were found", len(routes))
	}
	for name, path := range texts {
		if strings.HasPrefix(path, "/.well-known/") {
			add("GET", path)
			if name == "prMetadataPath" {
				add("GET", path+"/{path}")
			}
		}
	}

	dir = "../caddyoauthproxy/operator"
	texts = constants(t, dir)
	for _, f := range functions(t, dir) {
		ast.Inspect(f.decl.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if callee(n) == "page" && len(n.Args) == 2 {
					method, path, _ := strings.Cut(text(n.Args[0], texts), " ")
					add(method, path)
				}
			case *ast.CompositeLit:
				if n.Type != nil || len(n.Elts) != 4 {
					break
				}
				switch f.name {
				case "Server.routes":
					add(literal(n.Elts[0]), texts["sitePath"]+text(n.Elts[1], texts))
				case "AdminPages.routes":
					add(literal(n.Elts[0]), text(n.Elts[1], texts))
				}
			}
			return true
		})
	}

	texts = constants(t, "../caddyoauthproxy")
	add("GET", texts["livePath"])
	add("GET", texts["readyPath"])
	if len(routes) < 100 {
		t.Fatalf("only %d routes were found", len(routes))
	}
	return routes
}

func TestOpenAPIDescribesTheRoutesOfTheCodeAndNoOther(t *testing.T) {
	t.Parallel()
	have, want := described(t), registered(t)
	for route := range want {
		if !have[route] {
			t.Errorf("%s is not described", route)
		}
	}
	for route := range have {
		if !want[route] {
			t.Errorf("there is no %s", route)
		}
	}
}

// The pages of operators are the console's business, and the admin API has a page of its own.
func TestEndpointsPageTellsOfTheRoutesOfOpenAPI(t *testing.T) {
	t.Parallel()
	told := make(map[string]bool)
	for _, route := range routesTold(t) {
		route = strings.NewReplacer("[/path]", "", "?", " ").Replace(route)
		told[unnamed(route)] = true
	}
	have := described(t)
	for route := range have {
		if !strings.Contains(route, " /admin/") && !strings.HasSuffix(route, "-resource/{}") && !told[route] {
			t.Errorf("endpoints.md does not tell of %s", route)
		}
	}
	for route := range told {
		if method, _, ok := strings.Cut(route, " "); ok && method == strings.ToUpper(method) && !have[route] {
			t.Errorf("endpoints.md tells of %s, which is not described", route)
		}
	}
}

func TestOpenAPIHoldsTogether(t *testing.T) {
	t.Parallel()
	d := make(documents)
	doc := at(t, d.read(t, openAPI))
	used := make(map[string]bool)
	walk(doc, func(object map[string]any) {
		if ref, ok := object["$ref"].(string); ok {
			d.resolve(t, ref)
			used[ref] = true
		}
	})
	tags := make(map[any]bool)
	for _, tag := range doc["tags"].([]any) {
		tags[at(t, tag)["name"]] = true
	}
	ids := make(map[any]bool)
	for path, item := range at(t, doc, "paths") {
		for method, o := range at(t, item) {
			if method == "$ref" {
				continue
			}
			operation := at(t, o)
			if id := operation["operationId"]; id == nil || ids[id] {
				t.Errorf("%s %s: operationId %v is missing, or another's", method, path, id)
			}
			ids[operation["operationId"]] = true
			if operation["summary"] == nil || len(at(t, operation, "responses")) == 0 {
				t.Errorf("%s %s: no summary, or no responses", method, path)
			}
			for _, tag := range operation["tags"].([]any) {
				if !tags[tag] {
					t.Errorf("%s %s: there is no tag %v", method, path, tag)
				}
			}
			var named []string
			parameters, _ := operation["parameters"].([]any)
			for _, p := range parameters {
				if found := at(t, d.resolve(t, at(t, p)["$ref"].(string))); found["in"] == "path" {
					named = append(named, "{"+found["name"].(string)+"}")
				}
			}
			if want := parameter.FindAllString(path, -1); !slices.Equal(sorted(named), sorted(want)) {
				t.Errorf("%s %s: describes the parameters %v of its path", method, path, named)
			}
			requirements, _ := operation["security"].([]any)
			for _, r := range requirements {
				for scheme := range at(t, r) {
					used["#/components/securitySchemes/"+scheme] = true
					at(t, doc, "components", "securitySchemes", scheme)
				}
			}
		}
	}
	for kind, parts := range at(t, doc, "components") {
		for name := range at(t, parts) {
			if !used["#/components/"+kind+"/"+name] {
				t.Errorf("%s %s is not used", kind, name)
			}
		}
	}
}

// The members of what is answered, and read, are those of the code.
func TestSchemasHaveTheMembersOfTheCode(t *testing.T) {
	t.Parallel()
	structs := make(map[string]*ast.StructType)
	inspect(t, "../caddyoauthproxy/authserver", func(n ast.Node, name, _ string) {
		if spec, ok := n.(*ast.TypeSpec); ok {
			if s, ok := spec.Type.(*ast.StructType); ok {
				structs[spec.Name.Name] = s
			}
		}
		if s, ok := n.(*ast.StructType); ok && name == "Server.serveOwnMetadata" {
			structs["own metadata"] = s
		}
	})
	schemas := at(t, make(documents).read(t, openAPI), "components", "schemas")
	for schema, of := range map[string]struct {
		name     string
		required bool // what is always there is called so
	}{
		"ServerMetadata": {"serverMetadata", true}, "ResourceMetadata": {"resourceMetadata", true}, "RegisteredClient": {"registered", true}, "TokenAnswer": {"tokenResponse", true},
		"Introspection": {"introspection", true}, "SessionStart": {"sessionStart", true}, "SessionToken": {"sessionData", true}, "SessionState": {"sessionState", true},
		"Envelope": {"envelope", true}, "OwnMetadata": {"own metadata", true}, "ClientMetadata": {"registration", false},
	} {
		s := structs[of.name]
		if s == nil {
			t.Errorf("%s: there is no struct %s", schema, of.name)
			continue
		}
		var members, always []string
		for _, field := range s.Fields.List {
			if field.Tag == nil {
				continue
			}
			name, option, _ := strings.Cut(reflect.StructTag(literal(field.Tag)).Get("json"), ",")
			members = append(members, name)
			if option != "omitempty" {
				always = append(always, name)
			}
		}
		object := at(t, schemas, schema)
		if have := slices.Collect(maps.Keys(at(t, object, "properties"))); !slices.Equal(sorted(have), sorted(members)) {
			t.Errorf("%s has\n%v\nthe code has\n%v", schema, have, members)
		}
		var required []string
		list, _ := object["required"].([]any)
		for _, name := range list {
			required = append(required, name.(string))
		}
		if of.required && !slices.Equal(sorted(required), sorted(always)) {
			t.Errorf("%s requires\n%v\nalways there are\n%v", schema, required, always)
		}
	}
}

// Somebody else's reading of the specification, in a module of its own. It follows the references into the document of the admin API.
func TestValidatorAcceptsBothDocuments(t *testing.T) {
	t.Parallel()
	const dir = "../internal/openapi"
	validator := filepath.Join(t.TempDir(), "openapi")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", validator, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%v: %s", err, out)
		}
		t.Skipf("the validator cannot be built: %v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), validator, openAPI, "../caddyoauthproxy/operator/openapi.json").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	broken := filepath.Join(t.TempDir(), openAPI)
	if err := os.WriteFile(broken, []byte("openapi: 3.1.0\ninfo: {title: x, version: \"1\"}\npaths: {/x: {get: {responses: {\"200\": {}}}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), validator, broken).CombinedOutput(); err == nil {
		t.Errorf("it accepts what is none: %s", out)
	}
}
