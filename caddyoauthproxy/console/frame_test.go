package console

import (
	"html/template"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/net/html"
)

// framedTexts draws every signed-in page with the same text everywhere.
func framedTexts(p *Pages, text string) string {
	rec := httptest.NewRecorder()
	f := Frame{Base: "https://gw.test", Section: text, User: text, Provider: text, CSRF: text, Admin: true, Result: &Result{Text: text, Link: text, LinkText: text}}
	facts := []Fact{{text, Value{Text: text, Link: text, Note: text, List: []string{text}, Badge: &Badge{text, text}}}, {text, Value{Text: text, Code: true}}}
	one := Connection{Client: text, From: text, Badge: Badge{text, text}, Reason: text, Facts: facts, Cut: Action{Text: text, Link: text, About: text}}
	p.Connections(rec, f, Connections{Grants: []Connection{one}, Accounts: []Connection{one}, Servers: []Server{{text, text, text}}, CutAll: text, SignOutAll: text})
	p.Confirm(rec, f, Confirm{Title: text, Texts: []string{text}, Facts: facts, Action: "https://gw.test/x", Hidden: []Hidden{{text, text}}, Button: text, Cancel: text})
	p.FramedProblem(rec, 400, f, Problem{Title: text, Text: text, Advice: text, Code: text, Retry: text, RetryText: text})
	section := Section{Title: text, Lead: text, Facts: facts, Cards: []Card{{text, &Badge{text, text}, text, facts, &Action{Text: text, Link: text, About: text}}}, Empty: &Empty{text, text, text, text}}
	p.Overview(rec, f, Overview{Tiles: []Tile{{Badge{text, text}, 1, text}}, State: section, Events: section})
	p.List(rec, f, List{
		Title: text, Lead: text, Mistakes: []Mistake{{text, text}}, Pick: &Pick{text, text}, Note: text, Links: []Action{{Text: text, Link: text, About: text}},
		Table: Table{Columns: []Column{{Title: text, Plain: true}}, Rows: [][]Cell{{{Check: &Check{text, text, text}, Value: Value{Text: text, Words: text, Time: time.Unix(1, 0)}}}}},
	})
	p.Sheet(rec, f, Sheet{Title: text, Badge: &Badge{text, text}, Reason: text, Lead: text, Back: &Action{Text: text, Link: text}, Sections: []Section{section}})
	p.Form(rec, f, Form{
		Title: text, Texts: []string{text}, Warnings: []string{text}, Facts: facts, Mistakes: []Mistake{{text, text}}, Action: "https://gw.test/x", Hidden: []Hidden{{text, text}}, Button: text, Cancel: text,
		Fields: []FormField{{Name: text, Label: text, Help: text, Value: text, Problem: text}, {Name: text, Label: text, Checks: []Option{{text, text, true}}}},
	})
	p.SignIn(rec, SignIn{Title: text, Text: text, Choices: []Choice{{text, text}}, Home: text})
	drawParts(rec, f, parts{
		Table:  Table{Caption: text, Columns: []Column{{Title: text, Sort: text, Order: "ascending", Number: true}}, Rows: [][]Cell{{{Value: Value{Text: text}, Action: &Action{Text: text, Link: text, About: text}}}}},
		Filter: Filter{Action: "https://gw.test/x", Fields: []Field{{Name: text, Label: text, Value: text}, {Name: text, Label: text, Options: []Option{{text, text, true}}}}, Hidden: []Hidden{{text, text}}, Button: text, Reset: text},
		Pager:  Pager{Text: text, Previous: text, Next: text}, Empty: Empty{text, text, text, text}, Facts: facts, Result: Result{Text: text},
	})
	return rec.Body.String()
}

// parts is a page of all building blocks.
type parts struct {
	Table  Table
	Filter Filter
	Pager  Pager
	Empty  Empty
	Facts  []Fact
	Result Result
}

const partsTemplate = `{{define "body"}}<h1>Parts</h1>{{template "filter" .Filter}}{{template "table" .Table}}{{template "pager" .Pager}}{{template "empty" .Empty}}{{template "facts" .Facts}}{{template "result" .Result}}{{end}}`

// drawParts draws it.
func drawParts(w io.Writer, f Frame, c parts) {
	t := template.Must(template.New("layout.html").Funcs(template.FuncMap{"clean": clean, "whole": whole}).ParseFS(files, "pages/layout.html", "pages/partials.html"))
	if err := template.Must(t.Parse(partsTemplate)).Execute(w, page{Title: "Parts", Frame: &f, Data: c}); err != nil {
		panic(err)
	}
}

func TestT06SignedInPagesSendFormsNowhereElse(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	for name, draw := range map[string]func(http.ResponseWriter){
		"connections": func(w http.ResponseWriter) { p.Connections(w, Frame{}, Connections{}) },
		"confirm":     func(w http.ResponseWriter) { p.Confirm(w, Frame{}, Confirm{}) },
		"overview":    func(w http.ResponseWriter) { p.Overview(w, Frame{}, Overview{}) },
		"list":        func(w http.ResponseWriter) { p.List(w, Frame{}, List{}) },
		"sheet":       func(w http.ResponseWriter) { p.Sheet(w, Frame{}, Sheet{}) },
		"form":        func(w http.ResponseWriter) { p.Form(w, Frame{}, Form{}) },
		"problem":     func(w http.ResponseWriter) { p.FramedProblem(w, 404, Frame{}, Problem{Title: "x"}) },
	} {
		rec := httptest.NewRecorder()
		draw(rec)
		h := rec.Header()
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: no %s in %s", name, want, csp)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "img-src") || strings.Contains(csp, "script-src") {
			t.Errorf("%s: %s", name, csp)
		}
		for header, want := range map[string]string{
			"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if h.Get(header) != want {
				t.Errorf("%s: %s is %q", name, header, h.Get(header))
			}
		}
		if body := rec.Body.String(); strings.Contains(body, "<script") || strings.Contains(body, "src=") || strings.Contains(body, "style=") {
			t.Errorf("%s: %s", name, body)
		}
	}
}

func TestT07HostileTextChangesNoSignedInPage(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	want := shape(t, framedTexts(p, "plain"))
	for _, text := range []string{
		`"><img src=x onerror=fetch('//evil')>`, `javascript:alert(1)`, `{{7*7}}`, `</title><script>alert(1)</script>`, `</style><script>`,
		`' onmouseover='alert(1)`, `<!--`, "\x00<b>", `</form><form action="https://evil.test">`, "\u202egnp.exe", strings.Repeat("<b>W", 10_000/4),
	} {
		body := framedTexts(p, text)
		if got := shape(t, body); got != want {
			t.Errorf("%.40q changed the page:\n%s\n%s", text, got, want)
		}
		if strings.Contains(text, "{{") && strings.Contains(body, ">49<") {
			t.Errorf("%q was computed", text)
		}
	}
	rec := httptest.NewRecorder()
	long := strings.Repeat("W", 10_000)
	p.Connections(rec, Frame{User: long}, Connections{Grants: []Connection{{Client: "\u202e" + long, From: long, Reason: long}}})
	if body := rec.Body.String(); strings.Contains(body, strings.Repeat("W", 400)) || strings.Contains(body, "\u202e") {
		t.Error("a stranger's text is shown in full length, or turns the page around")
	}
}

func TestNavigationShowsOperatorsTheirPages(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	draw := func(f Frame) *html.Node {
		rec := httptest.NewRecorder()
		p.Connections(rec, f, Connections{})
		doc, err := html.Parse(rec.Body)
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	links := func(doc *html.Node) (urls []string, here int) {
		for n := range doc.Descendants() {
			if n.Data != "a" || n.Parent.Data != "li" {
				continue
			}
			for _, a := range n.Attr {
				if a.Key == "href" {
					urls = append(urls, a.Val)
				}
				if a.Key == "aria-current" {
					here++
				}
			}
		}
		return urls, here
	}
	user, here := links(draw(Frame{Base: "https://gw.test/base"}))
	if len(user) != 1 || user[0] != "https://gw.test/base/connections" || here != 1 {
		t.Errorf("a user: %v, %d", user, here)
	}
	if admin, _ := links(draw(Frame{Admin: true})); len(admin) != 9 {
		t.Errorf("an operator: %v", admin)
	}
	if admin, _ := links(draw(Frame{Admin: true, NoConnections: true})); len(admin) != 8 {
		t.Errorf("an operator where users have no page: %v", admin)
	}
}

// A state must be told by more than its colour.
func TestBadgesHaveAWordAndASign(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	seen := make(map[string]bool)
	for _, kind := range []string{"valid", "expiring", "expired", "broken", "revoked"} {
		rec := httptest.NewRecorder()
		p.Connections(rec, Frame{}, Connections{Grants: []Connection{{Badge: Badge{kind, "in words: " + kind}}}})
		body := rec.Body.String()
		_, badge, ok := strings.Cut(body, `<span class="badge `)
		badge, _, _ = strings.Cut(badge, "</span>")
		_, sign, _ := strings.Cut(badge, "<svg")
		sign, _, _ = strings.Cut(sign, "</svg>")
		if !ok || !strings.Contains(badge, "in words: "+kind) || seen[sign] || !strings.Contains(sign, "aria-hidden") {
			t.Errorf("%s: %s", kind, badge)
		}
		seen[sign] = true
	}
}

func TestAgo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 28, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "just now", 0: "just now", time.Minute: "1 minute ago", 59 * time.Minute: "59 minutes ago", time.Hour: "1 hour ago", 47 * time.Hour: "47 hours ago", 48 * time.Hour: "2 days ago",
	} {
		if got := Ago(now.Add(-d), now); got != want {
			t.Errorf("%s: %q", d, got)
		}
	}
	for d, want := range map[time.Duration]string{-time.Hour: "1 hour ago", 0: "in a moment", time.Minute: "in 1 minute", 30 * 24 * time.Hour: "in 30 days"} {
		if got := Ahead(now.Add(d), now); got != want {
			t.Errorf("ahead %s: %q", d, got)
		}
	}
	if got := Ago(time.Time{}, now) + Ahead(time.Time{}, now); got != "" {
		t.Errorf("never: %q", got)
	}
}

func TestPageTemplatesCanBeReplaced(t *testing.T) {
	t.Parallel()
	p, err := New(Options{Brand: "Acme", Templates: fstest.MapFS{
		"home.html": {Data: []byte(`{{define "body"}}<h1>Welcome to Acme</h1>{{range .Proxies}}{{.Name}}{{end}}{{end}}`)},
		"style.css": {Data: []byte("body { color: red; }")},
		".gitkeep":  {}, "docs/readme.txt": {},
	}})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	p.Home(rec, Home{Proxies: []HomeProxy{{"Jira", "x"}}})
	body := rec.Body.String()
	if !strings.Contains(body, "Welcome to Acme</h1>Jira") || !strings.Contains(body, "color: red") || !strings.Contains(body, `<p class="brand">Acme</p>`) {
		t.Error(body)
	}
	rec = httptest.NewRecorder()
	p.Notice(rec, Notice{Title: "still ours"})
	if !strings.Contains(rec.Body.String(), "still ours") {
		t.Error(rec.Body.String())
	}
}

func TestTemplatesThatBreakAreNamedWithTheirLine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, content, want string }{
		"does not parse":      {"home.html", "{{define \"body\"}}\n{{range}}\n{{end}}{{end}}", "home.html:2"},
		"unknown field":       {"home.html", "{{define \"body\"}}\n\n{{.Secret}}{{end}}", "home.html:3"},
		"only when empty":     {"connections.html", "{{define \"body\"}}\n{{index .Grants 0}}{{end}}", "connections.html:2"},
		"no body":             {"home.html", "<h1>Hello</h1>", "body"},
		"unknown partial":     {"layout.html", "<html>\n{{template \"frme\" .}}", "layout.html:2"},
		"unknown name":        {"hom.html", "", "hom.html takes the place of no page; those that can be replaced are assistant.html"},
		"a script":            {"copy.js", "alert(1)", "copy.js takes the place of no page"},
		"style that ends":     {"style.css", "</STYLE><script>", "style.css: </style ends it"},
		"markup is ambiguous": {"home.html", "{{define \"body\"}}<a href=\n{{if .Issuer}}\"{{end}}{{end}}", "home.html"},
		"too large":           {"home.html", strings.Repeat("x", maxTemplate+1), "larger than 256 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := New(Options{Templates: fstest.MapFS{c.file: {Data: []byte(c.content)}}})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "templates: ") {
				t.Errorf("%v", err)
			}
		})
	}
}

// What the operator's colour is, buttons and links can be read.
func TestAccentCanBeReadOnEveryPaper(t *testing.T) {
	t.Parallel()
	for r := 0; r < 256; r += 15 {
		for g := 0; g < 256; g += 15 {
			for b := 0; b < 256; b += 15 {
				c := color{uint8(r), uint8(g), uint8(b)}
				if ratio := contrast(c, c.on()); ratio < 4.5 {
					t.Fatalf("on %s stands %s: %.2f", c, c.on(), ratio)
				}
				for _, paper := range lightPapers {
					if ratio := contrast(c.readable(color{}, lightPapers...), paper); ratio < 4.5 {
						t.Fatalf("link of %s on %s: %.2f", c, paper, ratio)
					}
				}
				for _, paper := range darkPapers {
					if ratio := contrast(c.readable(color{255, 255, 255}, darkPapers...), paper); ratio < 4.5 {
						t.Fatalf("link of %s on dark %s: %.2f", c, paper, ratio)
					}
				}
			}
		}
	}
	if c := (color{0x1f, 0x5f, 0xbf}); c.readable(color{}, lightPapers...) != c {
		t.Error("a colour that can be read is changed")
	}
	p, err := New(Options{Accent: "#7a1fa2", AccentDark: "#d9a7ee"})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	p.Home(rec, Home{})
	for _, want := range []string{"--accent: #7a1fa2; --on-accent: #ffffff", "--accent: #d9a7ee; --on-accent: #000000"} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestLogoIsPartOfThePage(t *testing.T) {
	t.Parallel()
	const svg = `<?xml version="1.0"?><!-- made --><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><script>alert(1)</script></svg>`
	for kind, raw := range map[string]string{"svg+xml": svg, "png": "\x89PNG\r\n\x1a\nrest", "webp": "RIFF\x00\x00\x00\x00WEBPVP8 "} {
		p, err := New(Options{Logo: []byte(raw)})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		rec := httptest.NewRecorder()
		p.Home(rec, Home{})
		if body := rec.Body.String(); !strings.Contains(body, `<img src="data:image/`+strings.Replace(kind, "+", "&#43;", 1)+";base64,") && !strings.Contains(body, `<img src="data:image/`+kind+";base64,") || strings.Contains(body, "<script") {
			t.Errorf("%s: %s", kind, body)
		}
		if csp := rec.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "; img-src data:") {
			t.Errorf("%s: %s", kind, csp)
		}
	}
	for name, raw := range map[string]string{"empty": "", "text": "hello", "HTML": "<html><svg/></html>", "GIF": "GIF89a", "svg of no namespace": "<svg/>", "too large": "\x89PNG\r\n\x1a\n" + strings.Repeat("x", maxLogo)} {
		if _, err := New(Options{Logo: []byte(raw)}); err == nil || !strings.Contains(err.Error(), "logo: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBrandAndAccentAreChecked(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{Brand: strings.Repeat("x", 61)}, {Brand: "two\nlines"}, {Brand: "\u202eemca"}, {Brand: " Acme"}, {Brand: "\xff"},
		{Accent: "red"}, {Accent: "#fff"}, {Accent: "#1f5fbf;}"}, {Accent: "#1f5fbf", AccentDark: "blue"}, {AccentDark: "#1f5fbf"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	if _, err := New(Options{Brand: "Büro für MCP – 東京"}); err != nil {
		t.Error(err)
	}
}

func FuzzAccent(f *testing.F) {
	for _, seed := range []string{"#1f5fbf", "#FFFFFF", "red", "#12345", "#1234567", "</style>"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		style, err := accentStyle(text, "")
		if err == nil && text != "" && (len(text) != 7 && len(text) != 6 || strings.Contains(style, "<")) {
			t.Errorf("%q: %s", text, style)
		}
	})
}
