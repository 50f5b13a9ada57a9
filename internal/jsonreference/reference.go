package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddy-oauth-proxy/caddy-oauth-proxy" // the modules
)

// plugin is the path of the Go module.
const plugin = "github.com/caddy-oauth-proxy/caddy-oauth-proxy"

const intro = `# JSON reference

Every module of the plugin and every field of its JSON configuration, in the words of the doc comments in the code. [configuration.md](configuration.md) says the same by topic, with examples and the Caddyfile.
This page is written by ` + "`make docs`" + `; a test keeps it true.

A field that is left out has its default. A *duration* is a string such as ` + "`90s`, `1h` or `30d`" + `, or a number of nanoseconds. In paths, ` + "`<name>`" + ` stands for a key that you choose, and ` + "`[]`" + ` for each element of an array.
`

// places says where in Caddy's JSON the modules of a namespace stand; %s is the module's name.
var places = map[string]string{
	"":                             "The app `apps.%s`.",
	"admin.api":                    "A part of Caddy's admin endpoint, which is there by itself: nothing in the configuration names `%s`.",
	"http.handlers":                "A handler: `\"handler\": \"%s\"` in the `handle` of a route.",
	"http.matchers":                "A matcher: the object `%s` in the `match` of a route.",
	"http.reverse_proxy.transport": "A transport: `\"protocol\": \"%s\"` in the `transport` of `reverse_proxy`.",
	"oauth_proxy.keys":             "A key source: `\"source\": \"%s\"` in an element of `encryption_keys` of the app.",
	"oauth_proxy.vaults":           "A vault: `\"module\": \"%s\"` in `vault` of the app.",
}

// keys names the keys of objects by what they are; elsewhere they are names.
var keys = map[string]string{"clients": "<client_id>", "proxies": "<id>", "rate_limits": "<limit>", "identity_headers": "<header>", "scope_texts": "<scope>", "scope_includes": "<scope>"}

// reference is the page, of the checkout at root.
func reference(root string) ([]byte, error) {
	w := &writer{comments: newComments(root)}
	w.page.WriteString(intro)
	for _, info := range modules() {
		w.module(info)
	}
	return w.page.Bytes(), errors.Join(w.faults...)
}

// modules are those of the plugin, the app first.
func modules() []caddy.ModuleInfo {
	var found []caddy.ModuleInfo
	for _, id := range caddy.Modules() {
		info, err := caddy.GetModule(id)
		if err == nil && ours(kindOf(info)) {
			found = append(found, info)
		}
	}
	slices.SortStableFunc(found, func(a, b caddy.ModuleInfo) int {
		return strings.Compare(a.ID.Namespace(), b.ID.Namespace())
	})
	return found
}

// kindOf is the type of a module's value, without the pointer.
func kindOf(info caddy.ModuleInfo) reflect.Type {
	t := reflect.TypeOf(info.New())
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func ours(t reflect.Type) bool {
	return t.PkgPath() == plugin || strings.HasPrefix(t.PkgPath(), plugin+"/")
}

type writer struct {
	page     bytes.Buffer
	comments *comments
	faults   []error
}

func (w *writer) fault(format string, args ...any) {
	w.faults = append(w.faults, fmt.Errorf(format, args...))
}

func (w *writer) module(info caddy.ModuleInfo) {
	t := kindOf(info)
	fmt.Fprintf(&w.page, "\n## %s\n\n", info.ID)
	place, known := places[info.ID.Namespace()]
	if !known {
		w.fault("%s: jsonreference does not know where modules of this namespace stand", info.ID)
	}
	fmt.Fprintf(&w.page, place+"\n\n", info.ID.Name())
	text := w.comments.ofType(t)
	if text == "" {
		w.fault("%s: %s has no doc comment", info.ID, t)
	}
	w.page.WriteString(text + "\n")
	w.fields(t, "")
}

// part is an object within a module.
type part struct {
	kind reflect.Type
	path string
}

// fields writes the fields of a struct, and then those of the structs in it, each below its path.
func (w *writer) fields(t reflect.Type, prefix string) {
	var rows []string
	var parts []part
	for field := range t.Fields() {
		if field.Anonymous {
			w.embedded(field.Type)
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" || !field.IsExported() {
			continue
		}
		text := w.comments.ofField(t, field.Name)
		if text == "" {
			w.fault("%s.%s (%s) has no comment", t, field.Name, prefix+name)
		}
		kind, below := w.kind(field, name)
		rows = append(rows, fmt.Sprintf("| `%s%s` | %s | %s |\n", prefix, name, kind, strings.ReplaceAll(text, "|", `\|`)))
		if below.kind != nil {
			below.path = prefix + below.path
			parts = append(parts, below)
		}
	}
	if len(rows) > 0 {
		w.page.WriteString("\n| field | type | meaning |\n|---|---|---|\n" + strings.Join(rows, ""))
	}
	for _, p := range parts {
		fmt.Fprintf(&w.page, "\n### `%s`\n", p.path)
		if text := w.comments.ofType(p.kind); text != "" {
			w.page.WriteString("\n" + text + "\n")
		}
		w.fields(p.kind, p.path+".")
	}
}

// embedded says whose fields a module has as well.
func (w *writer) embedded(t reflect.Type) {
	m, ok := reflect.TypeAssert[caddy.Module](reflect.New(t))
	if !ok || ours(t) {
		w.fault("jsonreference does not know how to show the embedded %s", t)
		return
	}
	id := m.CaddyModule().ID
	fmt.Fprintf(&w.page, "\nIt has every field of Caddy's own [`%s`](https://caddyserver.com/docs/modules/%s).\n", id, id)
}

// kind is the type of a field in JSON, and the struct in it, if there is one.
func (w *writer) kind(field reflect.StructField, name string) (text string, below part) {
	t := field.Type
	if tag := field.Tag.Get("caddy"); tag != "" {
		return w.guest(tag, t), part{}
	}
	if scalar := scalarKind(t); scalar != "" {
		return scalar, part{}
	}
	key, ok := keys[name]
	if !ok {
		key = "<name>"
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
		if scalar := scalarKind(t); scalar != "" {
			return scalar, part{}
		}
	}
	switch t.Kind() {
	case reflect.Struct:
		return "object", part{t, name}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return "array of objects", part{t.Elem(), name + "[]"}
		}
		return w.arrayOf(t, name), part{}
	case reflect.Map:
		of := t.Elem()
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() == reflect.Struct {
			return "objects by `" + key + "`", part{of, name + "." + key}
		}
		if of.Kind() == reflect.Slice {
			return w.arrayOf(of, name) + " by `" + key + "`", part{}
		}
		return scalarKind(of) + "s by `" + key + "`", part{}
	default:
		w.fault("jsonreference does not know how to show %s, a %s", name, t)
		return "", part{}
	}
}

func (w *writer) arrayOf(t reflect.Type, name string) string {
	of := scalarKind(t.Elem())
	if of == "" {
		w.fault("jsonreference does not know how to show %s, a %s", name, t)
	}
	return "array of " + of + "s"
}

// guest is the type of a field that holds modules.
func (w *writer) guest(tag string, t reflect.Type) string {
	words := make(map[string]string)
	for word := range strings.FieldsSeq(tag) {
		key, value, _ := strings.Cut(word, "=")
		words[key] = value
	}
	var links []string
	for _, info := range modules() {
		if info.ID.Namespace() == words["namespace"] {
			links = append(links, fmt.Sprintf("[`%s`](#%s)", info.ID.Name(), strings.ReplaceAll(string(info.ID), ".", "")))
		}
	}
	text := fmt.Sprintf("object with `%s`: %s, and the fields of that module", words["inline_key"], strings.Join(links, " or "))
	if t != reflect.TypeFor[json.RawMessage]() {
		return "array; an element is a string, or an " + text
	}
	return text
}

func scalarKind(t reflect.Type) string {
	if t == reflect.TypeFor[caddy.Duration]() {
		return "duration"
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int:
		return "number"
	default:
		return ""
	}
}
