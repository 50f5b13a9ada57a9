package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// block is where configuration.md documents the options that some parsers accept: the first table below the heading whose first column is `column`, or what stands
// between the braces of `inline`, or, without either, the first example there.
type block struct {
	heading, column, inline string
	parsers                 []string

	// values stand in the table beside options: what the option itself takes.
	values []string
}

var blocks = []block{
	{heading: "## Global option", column: "option", parsers: []string{"parser.option"}},
	{heading: "| `audit` |", inline: "audit", parsers: []string{"audit"}},
	{heading: "### Encryption keys", parsers: []string{"KeyCommand.UnmarshalCaddyfile"}},
	{heading: "### Vault in PostgreSQL", column: "option", parsers: []string{"PostgresVault.option"}, values: []string{"<connection>"}},
	{heading: "### provider", column: "option", parsers: []string{"providerOption"}},
	{heading: "### proxy", column: "option", parsers: []string{"parser.proxyOption"}},
	{heading: "### What may be used", column: "option", parsers: []string{"parser.policy", "parser.policyRule"}},
	{heading: "### Upstream tokens", column: "option", parsers: []string{"parser.upstreamToken"}, values: []string{"user", "client_credentials", "exchange", "static"}},
	{heading: "**Registration**", column: "option", parsers: []string{"registration"}, values: []string{"open", "off", "token"}},
	{heading: "**Configuration**", column: "option", parsers: []string{"clientOption"}},
	{heading: "### Pages", column: "option", parsers: []string{"adminOption"}},
	{heading: "`console` says", column: "option", parsers: []string{"consoleOption"}},
	{heading: "### mcp_filter", column: "option", parsers: []string{"Filter.UnmarshalCaddyfile"}},
	{heading: "### Matcher mcp", parsers: []string{"Matcher.UnmarshalCaddyfile"}},
}

// What a parser accepts is read off its refusal of the rest, which names what it knows, and its switch must agree with that.
func TestOptionsAreDocumentedWhereTheyAreAcceptedAndNowhereElse(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	accepted := acceptedOptions(t)
	for _, b := range blocks {
		_, below, found := strings.Cut(string(content), "\n"+b.heading)
		if !found {
			t.Errorf("configuration.md has no %q", b.heading)
			continue
		}
		want := slices.Clone(b.values)
		for _, name := range b.parsers {
			if accepted[name] == nil {
				t.Errorf("%s: there is no parser %s", b.heading, name)
			}
			want = append(want, accepted[name]...)
			delete(accepted, name)
		}
		var have []string
		switch {
		case b.column != "":
			have = optionsOfTable(below, b.column)
		case b.inline != "":
			line, _, _ := strings.Cut(below, "\n")
			for _, m := range regexp.MustCompile("`"+b.inline+` \{ ([a-z_]+)`).FindAllStringSubmatch(line, -1) {
				have = append(have, m[1])
			}
		default:
			have = optionsOfExample(below)
		}
		want, have = sorted(want), sorted(have)
		if !slices.Equal(have, want) {
			t.Errorf("%s documents\n%v\nthe parsers accept\n%v", b.heading, have, want)
		}
	}
	for name, options := range accepted {
		t.Errorf("%s accepts %v; tell this test where configuration.md documents them", name, options)
	}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// optionsOfTable are the first words of what stands as code in the first column.
func optionsOfTable(text, column string) []string {
	_, rows, _ := strings.Cut(text, "\n| "+column+" |")
	_, rows, _ = strings.Cut(rows, "\n|---")
	_, rows, _ = strings.Cut(rows, "\n")
	rows, _, _ = strings.Cut(rows, "\n\n")
	var options []string
	for line := range strings.Lines(rows) {
		first, _, _ := strings.Cut(strings.ReplaceAll(strings.TrimPrefix(line, "| "), `\|`, "\x00"), " | ")
		for _, code := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(first, -1) {
			word, _, _ := strings.Cut(code[1], " ")
			options = append(options, strings.Split(word, "\x00")...)
		}
	}
	return options
}

// optionsOfExample are the first words of the lines within the blocks of an example.
func optionsOfExample(text string) []string {
	_, example, _ := strings.Cut(text, "```caddyfile\n")
	example, _, _ = strings.Cut(example, "```")
	var options []string
	for _, m := range regexp.MustCompile(`(?m)^\t+([a-z_]+)`).FindAllStringSubmatch(example, -1) {
		options = append(options, m[1])
	}
	return options
}

// acceptedOptions finds the parsers of blocks, and what each accepts.
func acceptedOptions(t *testing.T) map[string][]string {
	t.Helper()
	accepted := make(map[string][]string)
	loops := make(map[string]map[string]bool) // functions that read a block, and what they call
	for _, f := range functions(t, "../caddyoauthproxy", "../mcpfilter") {
		if known, refuses := refusedBeside(f); refuses {
			accepted[f.name] = known
			if cases := switchCases(f); len(cases) > 0 && !slices.Equal(sorted(cases), sorted(slices.Clone(known))) {
				t.Errorf("%s has cases for\n%v\nand says that it knows\n%v", f.name, cases, known)
			}
		}
		if calls, reads := readsBlock(f); reads {
			loops[f.name] = calls
		}
	}
	readers := make(map[string]bool)
	for name := range accepted {
		readers[name[strings.LastIndex(name, ".")+1:]] = true
	}
	for name, calls := range loops {
		if accepted[name] == nil && !slices.ContainsFunc(slices.Collect(maps.Keys(calls)), func(c string) bool { return readers[c] }) {
			t.Errorf("%s reads a block and never refuses an unknown option in the usual words", name)
		}
	}
	return accepted
}

func TestLimitsAreThoseThatCanBeSet(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, below, _ := strings.Cut(string(content), "\n### Limits\n")
	var want []string
	inspect(t, "../caddyoauthproxy", func(n ast.Node, name, _ string) {
		if entry, ok := n.(*ast.KeyValueExpr); ok && name == "rateLimits" {
			want = append(want, literal(entry.Key))
		}
	})
	if have := optionsOfTable(below, "name"); len(want) == 0 || !slices.Equal(sorted(have), sorted(want)) {
		t.Errorf("configuration.md documents %v, rate_limit knows %v", have, want)
	}
}

// function is one of the code, with its receiver's type in its name.
type function struct {
	name string
	decl *ast.FuncDecl
}

// The kinds of users are read by one function, for `allow` and for rules of a policy.
func TestKindsOfUsersAreThoseThatAllowReads(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, below, _ := strings.Cut(string(content), "\n### Who may come in\n")
	var want []string
	for _, f := range functions(t, "../caddyoauthproxy") {
		if f.name == "people" {
			ast.Inspect(f.decl.Body, func(n ast.Node) bool {
				if clause, ok := n.(*ast.CaseClause); ok {
					want = append(want, literal(clause.List[0]))
				}
				return true
			})
		}
	}
	if have := optionsOfTable(below, "entry"); len(want) == 0 || !slices.Equal(sorted(have), sorted(want)) {
		t.Errorf("configuration.md documents %v, the parser reads %v", have, want)
	}
}

// functions are those of some directories.
func functions(t *testing.T, dirs ...string) []function {
	t.Helper()
	var found []function
	for _, dir := range dirs {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				decl, ok := d.(*ast.FuncDecl)
				if !ok || decl.Body == nil {
					continue
				}
				found = append(found, function{functionName(decl), decl})
			}
		}
	}
	return found
}

// functionName is the name of a function, behind the type of its receiver.
func functionName(decl *ast.FuncDecl) string {
	if decl.Recv == nil {
		return decl.Name.Name
	}
	kind := decl.Recv.List[0].Type
	if star, ok := kind.(*ast.StarExpr); ok {
		kind = star.X
	}
	if id, ok := kind.(*ast.Ident); ok {
		return id.Name + "." + decl.Name.Name
	}
	return decl.Name.Name
}

// refusedBeside are the options that a function names when it refuses others.
func refusedBeside(f function) (known []string, refuses bool) {
	ast.Inspect(f.decl.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if callee(call) == "unknown" {
			refuses = true
			for _, arg := range call.Args[1:] {
				known = append(known, literal(arg))
			}
		}
		if callee(call) == "Errf" && strings.HasPrefix(literal(call.Args[0]), "unknown option") && f.name != "unknown" {
			refuses = true
			_, list, _ := strings.Cut(literal(call.Args[0]), "known are ")
			known = append(known, strings.Split(list, ", ")...)
		}
		return true
	})
	return known, refuses
}

// switchCases are the words that the switch with the refusal in its default has cases for.
func switchCases(f function) (words []string) {
	ast.Inspect(f.decl.Body, func(n ast.Node) bool {
		s, ok := n.(*ast.SwitchStmt)
		if !ok {
			return true
		}
		var cases []string
		refuses := false
		for _, c := range s.Body.List {
			clause, ok := c.(*ast.CaseClause)
			if !ok {
				continue
			}
			for _, e := range clause.List {
				cases = append(cases, literal(e))
			}
			if clause.List == nil {
				_, refuses = refusedBeside(function{"default", &ast.FuncDecl{Body: &ast.BlockStmt{List: clause.Body}}})
			}
		}
		if refuses {
			words = append(words, cases...)
		}
		return true
	})
	return words
}

// readsBlock tells what is called within a loop over the lines of a block.
func readsBlock(f function) (calls map[string]bool, reads bool) {
	calls = make(map[string]bool)
	ast.Inspect(f.decl.Body, func(n ast.Node) bool {
		loop, ok := n.(*ast.ForStmt)
		if !ok || loop.Cond == nil {
			return true
		}
		if call, ok := loop.Cond.(*ast.CallExpr); !ok || callee(call) != "NextBlock" {
			return true
		}
		reads = true
		ast.Inspect(loop.Body, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				calls[callee(call)] = true
			}
			return true
		})
		return true
	})
	return calls, reads
}

// callee is the name of what is called, without what it is called on.
func callee(call *ast.CallExpr) string {
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		return fun.Sel.Name
	default:
		return ""
	}
}

// literal is the text of a string literal, and of those that are put together with +.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return text
		}
	case *ast.BinaryExpr:
		return literal(e.X) + literal(e.Y)
	}
	return ""
}
