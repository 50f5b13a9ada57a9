package main

import (
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// comments are the doc comments of types and their fields, package by package as they are asked for.
type comments struct {
	root     string
	packages map[string]map[string]*typeComments
}

type typeComments struct {
	text   string
	fields map[string]string
}

func newComments(root string) *comments {
	return &comments{root: root, packages: make(map[string]map[string]*typeComments)}
}

// ofType is the comment of a type as Markdown.
func (c *comments) ofType(t reflect.Type) string {
	if found := c.find(t); found != nil {
		return markdown(found.text)
	}
	return ""
}

// ofField is the comment of a field in one line.
func (c *comments) ofField(t reflect.Type, field string) string {
	if found := c.find(t); found != nil {
		return flow(found.fields[field])
	}
	return ""
}

func (c *comments) find(t reflect.Type) *typeComments {
	types, read := c.packages[t.PkgPath()]
	if !read {
		types = readTypes(filepath.Join(c.root, strings.TrimPrefix(t.PkgPath(), plugin)))
		c.packages[t.PkgPath()] = types
	}
	return types[t.Name()]
}

// readTypes reads the types of a directory. What cannot be read has no comments, which is told of every field.
func readTypes(dir string) map[string]*typeComments {
	types := make(map[string]*typeComments)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.ParseComments)
		if err != nil {
			continue
		}
		for _, d := range file.Decls {
			if decl, ok := d.(*ast.GenDecl); ok && decl.Tok == token.TYPE {
				readDeclaration(decl, types)
			}
		}
	}
	return types
}

func readDeclaration(decl *ast.GenDecl, types map[string]*typeComments) {
	for _, s := range decl.Specs {
		spec, ok := s.(*ast.TypeSpec)
		if !ok {
			continue
		}
		made := &typeComments{text: spec.Doc.Text(), fields: make(map[string]string)}
		if made.text == "" && len(decl.Specs) == 1 {
			made.text = decl.Doc.Text()
		}
		types[spec.Name.Name] = made
		body, ok := spec.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range body.Fields.List {
			for _, name := range f.Names {
				made.fields[name.Name] = f.Doc.Text()
			}
		}
	}
}

// markdown makes Markdown of a doc comment. Caddy's own documentation takes comments for Markdown, so what is marked up in them stays so: comment.Printer would escape it.
func markdown(text string) string {
	var parser comment.Parser
	var out []string
	for _, block := range parser.Parse(text).Content {
		switch b := block.(type) {
		case *comment.Paragraph:
			out = append(out, flow(plain(b.Text)))
		case *comment.Heading:
			out = append(out, "**"+flow(plain(b.Text))+"**")
		case *comment.Code:
			out = append(out, "```\n"+b.Text+"```")
		case *comment.List:
			items := make([]string, 0, len(b.Items))
			for _, item := range b.Items {
				mark := "- "
				if item.Number != "" {
					mark = item.Number + ". "
				}
				var paragraphs []string
				for _, inner := range item.Content {
					if p, ok := inner.(*comment.Paragraph); ok {
						paragraphs = append(paragraphs, flow(plain(p.Text)))
					}
				}
				items = append(items, mark+strings.Join(paragraphs, " "))
			}
			out = append(out, strings.Join(items, "\n"))
		}
	}
	return strings.Join(out, "\n\n")
}

// flow unwraps lines, but for those of a table.
func flow(text string) string {
	if lines := strings.Split(text, "\n"); len(lines) > 1 && strings.HasPrefix(lines[1], "---") {
		return text
	}
	return strings.Join(strings.Fields(escape(text)), " ")
}

// escape keeps what means nothing but itself from being Markdown. What stands between backticks is code, and says so.
func escape(text string) string {
	parts := strings.Split(text, "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = strings.NewReplacer("*", `\*`, "<", `\<`).Replace(parts[i])
	}
	return strings.Join(parts, "`")
}

func plain(text []comment.Text) string {
	var b strings.Builder
	for _, t := range text {
		switch t := t.(type) {
		case comment.Plain:
			b.WriteString(string(t))
		case comment.Italic:
			b.WriteString(string(t))
		case *comment.Link:
			b.WriteString(plain(t.Text))
		case *comment.DocLink:
			b.WriteString("`" + plain(t.Text) + "`")
		default:
			panic(fmt.Sprintf("a doc comment holds a %T", t))
		}
	}
	return b.String()
}
