package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// message is a text of the code that somebody may read, with … for what varies in it.
type message struct {
	text string
	at   string // file:line (function)
	name string // the function that it stands in, or the variable
	log  bool
}

// answers are the calls that make an answer of the gateway's own, and which of their arguments its text is.
var answers = map[string]int{
	"refuse": 1, "bodyError": 1, "errBearer": 0, // authserver
	"errInvalidClient": 0, "invalid": 0, // and the causes that it logs
	"badRequest": 0, "malformedCredential": 0, "invalidToken": 0, "insufficientScope": 1, "badUpstream": 0, "unread": 1, "newRPCError": 2, // mcpfilter
}

// answerFields are the fields, and the key, that hold such a text.
var answerFields = map[string]bool{"Description": true, "Advice": true, "text": true, "error_description": true}

// logCalls are the methods that log what somebody should look after, and which of their arguments the message is.
var logCalls = map[string]int{"Warn": 0, "Error": 0, "Log": 1, "say": 0}

// carriers are functions and variables, by directory, all of whose texts are messages: they are handed on from there.
var carriers = map[string]map[string]bool{
	"../caddyoauthproxy":            {"App.notReady": true, "App.serveHealth": true},
	"../caddyoauthproxy/authserver": {"loginErrors": true, "registration.apply": true, "validClientKeys": true, "parseClientKeys": true, "Server.problem": true, "Server.notSignedIn": true, "Server.notConnected": true, "Server.goodFor": true},
	"../caddyoauthproxy/operator":   {"Server.admit": true, "Server.signedIn": true, "Server.pageProblem": true, "visit.admitted": true},
	"../caddyoauthproxy/upstream":   {"UnavailableError.Advice": true},
	"../mcpfilter":                  {"deniedText": true, "Filter.judgeContents": true, "answerIn": true, "errAnswerTooLong": true, "askedError.Error": true, "errIllegible": true, "pruneAnswer": true, "prune": true, "errNoFilter": true, "Matcher.MatchWithError": true},
}

// source is one package to look through.
type source struct {
	dir     string
	answers bool // whether its answers are meant, beside what it logs
}

var sources = []source{
	{"../caddyoauthproxy", false},
	{"../caddyoauthproxy/authserver", true},
	{"../caddyoauthproxy/console", false},
	{"../caddyoauthproxy/operator", true},
	{"../caddyoauthproxy/outbound", false},
	{"../caddyoauthproxy/upstream", false},
	{"../mcpfilter", true},
	{"../tokenstore", false},
	{"../tokenstore/bbolt", false},
	{"../tokenstore/postgres", false},
}

// inspect walks through the code of a directory, and tells for each node the function or variable that it stands in.
func inspect(t *testing.T, dir string, visit func(n ast.Node, name, at string)) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(files), err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			name := ""
			if f, ok := d.(*ast.FuncDecl); ok {
				name = functionName(f)
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if v, ok := n.(*ast.ValueSpec); ok {
					if _, within := d.(*ast.FuncDecl); !within {
						name = v.Names[0].Name
					}
				}
				if n != nil {
					at := positions.Position(n.Pos())
					visit(n, name, fmt.Sprintf("%s:%d (%s)", strings.TrimPrefix(path, "../"), at.Line, name))
				}
				return true
			})
		}
	}
}

// messages finds what the code answers and what it logs.
func messages(t *testing.T) []message {
	t.Helper()
	var found []message
	for _, s := range sources {
		parts := make(map[ast.Node]bool) // of a longer text
		inspect(t, s.dir, func(n ast.Node, name, at string) {
			add := func(e ast.Expr) { found = append(found, message{text: pattern(e), at: at, name: name}) }
			switch n := n.(type) {
			case *ast.CallExpr:
				fun, method := n.Fun.(*ast.SelectorExpr)
				if i, ok := logCalls[callee(n)]; ok && method && len(n.Args) > i && textual(n.Args[i]) {
					found = append(found, message{text: pattern(n.Args[i]), at: at, name: name, log: true})
				}
				if i, ok := answers[callee(n)]; ok && !method && s.answers && len(n.Args) > i {
					add(n.Args[i])
				}
				if method && fun.Sel.Name == "Error" && len(n.Args) == 3 && textual(n.Args[1]) { // http.Error
					add(n.Args[1])
				}
			case *ast.KeyValueExpr:
				name := literal(n.Key)
				if key, ok := n.Key.(*ast.Ident); ok {
					name = key.Name
				}
				if s.answers && answerFields[name] {
					add(n.Value)
				}
			case *ast.AssignStmt:
				for i, left := range n.Lhs {
					if field, ok := left.(*ast.SelectorExpr); ok && s.answers && answerFields[field.Sel.Name] && len(n.Rhs) > i {
						add(n.Rhs[i])
					}
				}
			}
			if e, ok := n.(ast.Expr); ok && carriers[s.dir][name] && !parts[n] && strings.Contains(strings.Trim(pattern(e), "… "), " ") {
				add(e)
				ast.Inspect(n, func(within ast.Node) bool { parts[within] = true; return true })
			}
		})
	}
	return found
}

// textual tells whether an expression has a text in it. What logs an error as it is has none, nor has a method that only has the name of one that logs.
func textual(e ast.Expr) bool { return strings.Trim(pattern(e), "… ") != "" }

// pattern is the text of an expression, with … for what varies.
func pattern(e ast.Expr) string {
	text := "…"
	switch e := e.(type) {
	case *ast.BasicLit:
		text = verbs.ReplaceAllString(strings.ReplaceAll(literal(e), "%%", "%"), "…")
	case *ast.BinaryExpr:
		text = pattern(e.X) + pattern(e.Y)
	case *ast.ParenExpr:
		text = pattern(e.X)
	case *ast.CallExpr:
		if callee(e) == "Sprintf" || callee(e) == "Errorf" || callee(e) == "Errf" {
			text = pattern(e.Args[0])
		}
	}
	return strings.ReplaceAll(text, "……", "…")
}

var verbs = regexp.MustCompile(`%[-+# 0]*[0-9]*(\.[0-9]+)?[a-zA-Z]`)
