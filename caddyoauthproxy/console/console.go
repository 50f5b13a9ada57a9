// Package console draws the pages that people see: consent, problems, notices, the start page, and those of users and operators who are signed in.
//
// The pages are complete in themselves: no script, no image, no font and no style from anywhere else. They work in any
// browser, with a keyboard and with a screen reader, on a phone and in the dark. Everything that a client or a
// provider has a say in is treated as text of a stranger: it is cleaned, escaped, and never a heading or a link.
package console

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"
)

//go:embed pages
var files embed.FS

// Options configures the pages.
type Options struct {
	// Brand is the name of the gateway that people read on top of each page. Default: MCP gateway.
	Brand string

	// Logo is a picture that stands before it: SVG, PNG or WebP, of 64 KiB at most. It is part of the page, so that nothing is fetched.
	Logo []byte

	// Accent is the colour of links and buttons, as rrggbb or #rrggbb, and AccentDark that on dark paper. What is written on it is black or white, and
	// links are made darker or lighter until they can be read. Default of AccentDark: Accent.
	Accent, AccentDark string

	// Templates holds files that take the place of those in the directory pages of this package, by name.
	Templates fs.FS
}

// Pages draws pages. It is safe for concurrent use.
type Pages struct {
	brand     string
	logo      template.URL
	style     template.HTML
	copy      template.JS
	blocks    template.JS
	policy    string
	templates map[string]*template.Template
}

// names are the pages, each a file in the directory pages.
var names = append([]string{"consent", "connect", "session", "problem", "notice", "home", "signin"}, framedPages...)

// New parses the templates, and draws every page once with made-up content, so that a template of the operator's that breaks is found now. Errors name the
// option, or the file and its line.
func New(o Options) (*Pages, error) {
	if err := CheckBrand(o.Brand); err != nil {
		return nil, fmt.Errorf("brand: %w", err)
	}
	logo, err := embedLogo(o.Logo)
	if err != nil {
		return nil, fmt.Errorf("logo: %w", err)
	}
	accent, err := accentStyle(o.Accent, o.AccentDark)
	if err != nil {
		return nil, fmt.Errorf("accent: %w", err)
	}
	all, err := replaced(o.Templates)
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	style, err := fs.ReadFile(all, "style.css")
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	// Browsers take every end of a line for \n, and the policy's hash is of what they read.
	css := "\n" + strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(style)) + accent
	if strings.Contains(strings.ToLower(css), "</style") {
		return nil, errors.New("templates: style.css: </style ends it")
	}
	p := &Pages{brand: cmp.Or(o.Brand, "MCP gateway"), logo: logo, templates: make(map[string]*template.Template)}
	p.style = template.HTML("<style>" + css + "</style>") //nolint:gosec // our own file, or the operator's
	// There is no form-action: Chrome applies it to every hop behind the form, the client's own
	// redirect targets included. Signed-in pages have one.
	hash := sha256.Sum256([]byte(css))
	p.policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'; base-uri 'none'; frame-ancestors 'none'"
	if logo != "" {
		p.policy += "; img-src data:"
	}
	script, err := files.ReadFile("pages/copy.js")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	p.copy = template.JS(script) //nolint:gosec // our own file
	if script, err = files.ReadFile("pages/copyblocks.js"); err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	p.blocks = template.JS(script) //nolint:gosec // our own file
	for _, name := range names {
		t, err := template.New("layout.html").Funcs(template.FuncMap{"clean": clean, "whole": whole}).ParseFS(all, "layout.html", "partials.html", name+".html")
		if err != nil {
			return nil, fmt.Errorf("templates: %w", err)
		}
		p.templates[name] = t
	}
	return p, p.tryAll()
}

// clean is what templates show texts of strangers with.
func clean(text string) string { return Clean(text, 300) }

// whole is what templates show ids and addresses with, of which no end may be missing.
func whole(text string) string { return Clean(text, 4096) }

// page is what the layout gets.
type page struct {
	Title string
	Brand string
	Logo  template.URL
	Style template.HTML
	Frame *Frame // nil where nobody need be signed in
	Data  any
}

// copyPolicy lets the one script of the session page run. All pages work without it.
func (p *Pages) copyPolicy() string {
	hash := sha256.Sum256([]byte("\n" + string(p.copy)))
	return p.policy + "; script-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
}

// write sends a page with the headers that every page has.
func (p *Pages) write(w http.ResponseWriter, status int, name, title string, data any) {
	p.send(w, p.policy, status, name, page{Title: title, Data: data})
}

func (p *Pages) send(w http.ResponseWriter, policy string, status int, name string, content page) {
	body, err := p.draw(name, content)
	if err != nil {
		http.Error(w, "the page could not be drawn", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the browser is gone: nobody left to tell
}

func (p *Pages) draw(name string, content page) ([]byte, error) {
	content.Brand, content.Logo, content.Style = p.brand, p.logo, p.style
	var body bytes.Buffer
	if err := p.templates[name].Execute(&body, content); err != nil {
		return nil, err
	}
	return body.Bytes(), nil
}

// Scope is one thing that a client would be allowed to do.
type Scope struct {
	// Name is the scope as the provider knows it.
	Name string

	// Text says it in words. Those of OpenID Connect have words of their own; any other is shown by its name.
	Text string
}

// scopeTexts are the scopes of OpenID Connect Core §5.4 and §11 in words.
var scopeTexts = map[string]string{
	"openid":         "know who you are",
	"profile":        "see your name and profile",
	"email":          "see your e-mail address",
	"address":        "see your postal address",
	"phone":          "see your phone number",
	"offline_access": "stay connected until you or it ends this",
}

// Consent is the page that asks the user.
type Consent struct {
	// Action is where the answer goes. Request and CSRF are its hidden fields.
	Action, Request, CSRF string

	// ClientName, ClientID and ClientURI are what the client says of itself. Nobody has checked them.
	ClientName, ClientID, ClientURI string

	// RedirectHost is where the answer takes the browser: the one fact about the client.
	RedirectHost string

	// Loopback and OwnScheme say that the answer goes to a program on the user's own machine: one that listens there, or
	// one that the machine opens for the scheme. Any program could be it, whoever vouches for the client.
	Loopback, OwnScheme bool

	// VerifiedHost is the host that vouches for the client's name by serving its metadata document, and KnownToOperator says
	// that the operator does. Both are empty for clients that registered themselves.
	VerifiedHost    string
	KnownToOperator bool

	// Changed says that the user agreed before, to something else.
	Changed bool

	// Proxy is the MCP server's name, Resource its URL, and Provider whose account is connected. Login is where the user logs in first, if elsewhere.
	Proxy, Resource, Provider, Login string

	// Scopes are what the provider will be asked for.
	Scopes []Scope

	// Choices are the gateway's own scopes, of which the user may leave some out. Empty where there is nothing to choose.
	Choices []Scope

	// Remember offers to remember the answer.
	Remember bool
}

// Consent draws the consent page.
func (p *Pages) Consent(w http.ResponseWriter, c Consent) {
	c.ClientName, c.ClientID, c.ClientURI = Clean(c.ClientName, 64), Clean(c.ClientID, 128), Clean(c.ClientURI, 128)
	c.RedirectHost, c.VerifiedHost = asciiHost(c.RedirectHost), asciiHost(c.VerifiedHost)
	c.Scopes = inWords(c.Scopes)
	if c.ClientName == "" {
		c.ClientName = "An application without a name"
	}
	p.write(w, http.StatusOK, "consent", "Allow access to "+c.Proxy+"?", c)
}

// inWords gives scopes that everybody has their words.
func inWords(scopes []Scope) []Scope {
	scopes = slices.Clone(scopes)
	for i, scope := range scopes {
		if scope.Text == "" {
			scopes[i].Text = scopeTexts[scope.Name]
		}
	}
	return scopes
}

// Connect is the page that asks a user who came without a chatbot.
type Connect struct {
	// Action is where the answer goes. Request and CSRF are its hidden fields.
	Action, Request, CSRF string

	// Proxy is the MCP server's name, Resource its URL, and Provider whose account is connected. Login is where the user logs in first, if elsewhere.
	Proxy, Resource, Provider, Login string

	// Scopes are what the provider will be asked for.
	Scopes []Scope
}

// Connect draws the page.
func (p *Pages) Connect(w http.ResponseWriter, c Connect) {
	c.Scopes = inWords(c.Scopes)
	p.write(w, http.StatusOK, "connect", "Connect "+c.Proxy+"?", c)
}

// Session is the page at the end of a login without a chatbot: it shows who is connected, and the session token.
type Session struct {
	// Proxy is the MCP server's name and Resource its URL; empty when the token is good for all of the provider's.
	Proxy, Resource string

	// User is who logged in, at Provider.
	User, Provider string

	// Token is the session token, and Expires when it ends.
	Token   string
	Expires time.Time

	// Home is the start page.
	Home string

	// Copy is the script behind the button that copies the token.
	Copy template.JS
}

// Session draws the page.
func (p *Pages) Session(w http.ResponseWriter, s Session) {
	s.User, s.Copy = Clean(s.User, 128), p.copy
	p.send(w, p.copyPolicy(), http.StatusOK, "session", page{Title: "You are connected", Data: s})
}

// Problem is a page that says what went wrong.
type Problem struct {
	Title  string // what cannot go on
	Text   string // why
	Advice string // what to do now
	Code   string // the OAuth error code, for support
	Home   string // where to go from here; may be empty

	// Retry is where to begin again, and RetryText what that link says; may be empty.
	Retry, RetryText string
}

// Problem draws an error page.
func (p *Pages) Problem(w http.ResponseWriter, status int, pr Problem) {
	pr.Text, pr.Code = Clean(pr.Text, 400), Clean(pr.Code, 64)
	p.write(w, status, "problem", pr.Title, pr)
}

// Notice is a page that says that something is done.
type Notice struct {
	Title   string
	Text    string
	Details [][2]string // name and value
}

// Notice draws a page that says that something is done.
func (p *Pages) Notice(w http.ResponseWriter, n Notice) {
	for i := range n.Details {
		n.Details[i][1] = Clean(n.Details[i][1], 128)
	}
	p.write(w, http.StatusOK, "notice", n.Title, n)
}

// Home is the start page.
type Home struct {
	Issuer  string
	Proxies []HomeProxy

	// Connections is the page where users see and cut their connections; empty where there is none.
	Connections string
}

// HomeProxy is one MCP server on the start page.
type HomeProxy struct{ Name, Resource string }

// Home draws the start page.
func (p *Pages) Home(w http.ResponseWriter, h Home) {
	p.write(w, http.StatusOK, "home", "MCP servers", h)
}
