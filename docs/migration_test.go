package docs

import (
	"go/ast"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// cells are the columns of the rows of every table whose heading row this is.
func cells(t *testing.T, page, heading string) (rows [][]string) {
	t.Helper()
	for _, rest := range strings.Split(page, "\n"+heading+"\n")[1:] {
		_, rest, _ = strings.Cut(rest, "\n") // the line below the heading row
		body, _, _ := strings.Cut(rest, "\n\n")
		for line := range strings.Lines(body) {
			row := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
			for i := range row {
				row[i] = strings.TrimSpace(row[i])
			}
			if len(row) != strings.Count(heading, "|")-1 {
				t.Fatalf("%d columns: %s", len(row), line)
			}
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("there is no table %s", heading)
	}
	return rows
}

var code = regexp.MustCompile("`([^`]+)`")

// directives are those that the code registers for sites.
func directives(t *testing.T) (names []string) {
	t.Helper()
	for _, f := range functions(t, "../caddyoauthproxy", "../mcpfilter") {
		ast.Inspect(f.decl.Body, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && (callee(call) == "RegisterHandlerDirective" || callee(call) == "RegisterDirective") {
				names = append(names, literal(call.Args[0]))
			}
			return true
		})
	}
	return names
}

// Who moves here is sent to options that exist, in the blocks that take them, to routes that exist, and to tests that exist.
func TestMigrationLeadsToWhatThereIs(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("migration.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(content)
	parsers := acceptedOptions(t)
	options := map[string][]string{
		"oauth_proxy": parsers["parser.option"], "provider": parsers["providerOption"], "proxy": parsers["parser.proxyOption"],
		"upstream_token": parsers["parser.upstreamToken"], "site": directives(t), "Caddy": {"log", "trusted_proxies"},
	}
	for _, row := range cells(t, page, "| there | here | in | remark |") {
		var accepted []string
		for _, in := range code.FindAllStringSubmatch(row[2], -1) {
			if len(options[in[1]]) == 0 {
				t.Errorf("%s: there is no block %s", row[0], in[1])
			}
			accepted = append(accepted, options[in[1]]...)
		}
		if row[1] == "nothing" && row[2] == "" && row[3] != "" {
			continue
		}
		here := code.FindAllStringSubmatch(row[1], -1)
		if len(here) == 0 {
			t.Errorf("%s: leads nowhere", row[0])
		}
		for _, option := range here {
			if !slices.Contains(accepted, option[1]) {
				t.Errorf("%s: %s has no option %s", row[0], row[2], option[1])
			}
		}
	}

	routes := routesTold(t)
	for _, row := range cells(t, page, "| there | here | remark |") {
		for _, route := range code.FindAllStringSubmatch(row[1], -1) {
			if strings.Contains(route[1], "/") && !slices.Contains(routes, route[1]) {
				t.Errorf("%s: there is no %s", row[0], route[1])
			}
		}
	}

	said := texts(t)
	for _, row := range cells(t, page, "| met there | said here | what it is |") {
		for _, text := range code.FindAllStringSubmatch(row[1], -1) {
			if !quotes(text[1], said) {
				t.Errorf("%s: nothing in the code says %s", row[0], text[1])
			}
		}
	}

	tests := declared(t)
	for _, row := range cells(t, page, "| what they send | what becomes of it | test |") {
		shown := code.FindAllStringSubmatch(row[2], -1)
		if len(shown) == 0 {
			t.Errorf("%s: no test shows it", row[0])
		}
		for _, name := range shown {
			if !slices.Contains(tests, name[1]) {
				t.Errorf("%s: there is no test %s", row[0], name[1])
			}
		}
	}
}

// routesTold are the routes that endpoints.md and admin.md tell of, the admin API's as the site has them.
func routesTold(t *testing.T) (routes []string) {
	t.Helper()
	for file, prefix := range map[string]string{"endpoints.md": "", "admin.md": "/admin/oauth"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range cells(t, string(content), "| route | what |") {
			for _, route := range code.FindAllStringSubmatch(row[0], -1) {
				method, path, found := strings.Cut(route[1], " ")
				if !found {
					routes = append(routes, route[1])
					continue
				}
				routes = append(routes, method+" "+prefix+path)
			}
		}
	}
	for _, route := range routes {
		if method, name, ok := strings.Cut(route, " /api/v1/oauth-proxy/"); ok && !strings.Contains(name, "/") && name != "consent" {
			routes = append(routes, method+" /api/v1/oauth-proxy/{proxy}/"+name)
		}
	}
	return routes
}
