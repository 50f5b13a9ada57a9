// Package console draws the pages that people see: consent, problems, notices, and the start page.
//
// The pages are complete in themselves: no script, no image, no font and no style from anywhere else. They work in any
// browser, with a keyboard and with a screen reader, on a phone and in the dark. Everything that a client or a
// provider has a say in is treated as text of a stranger: it is cleaned, escaped, and never a heading or a link.
package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"
)

//go:embed pages/*.html pages/style.css pages/copy.js
var files embed.FS

// Options configures the pages.
type Options struct {
	// Brand is the name of the gateway that people read on top of each page. Default: MCP gateway.
	Brand string
}

// Pages draws pages. It is safe for concurrent use.
type Pages struct {
	brand     string
	style     template.CSS
	copy      template.JS
	policy    string
	templates map[string]*template.Template
}

// New parses the templates.
func New(o Options) (*Pages, error) {
	style, err := files.ReadFile("pages/style.css")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	p := &Pages{brand: o.Brand, style: template.CSS(style), templates: make(map[string]*template.Template)} //nolint:gosec // our own file
	if p.brand == "" {
		p.brand = "MCP gateway"
	}
	// There is no form-action: Chrome applies it to every hop behind the form, the client's own
	// redirect targets included.
	hash := sha256.Sum256([]byte("\n" + string(style)))
	p.policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'; base-uri 'none'; frame-ancestors 'none'"
	script, err := files.ReadFile("pages/copy.js")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	p.copy = template.JS(script) //nolint:gosec // our own file
	for _, name := range []string{"consent", "connect", "session", "problem", "notice", "home", "signin"} {
		t, err := template.New("layout.html").ParseFS(files, "pages/layout.html", "pages/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		p.templates[name] = t
	}
	return p, nil
}

// page is what the layout gets.
type page struct {
	Title string
	Brand string
	Style template.CSS
	Data  any
}

// copyPolicy lets the one script of the session page run. All pages work without it.
func (p *Pages) copyPolicy() string {
	hash := sha256.Sum256([]byte("\n" + string(p.copy)))
	return p.policy + "; script-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
}

// write sends a page with the headers that every page has.
func (p *Pages) write(w http.ResponseWriter, status int, name, title string, data any) {
	p.writeWith(w, p.policy, status, name, title, data)
}

func (p *Pages) writeWith(w http.ResponseWriter, policy string, status int, name, title string, data any) {
	var body bytes.Buffer
	if err := p.templates[name].Execute(&body, page{title, p.brand, p.style, data}); err != nil {
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
	_, _ = w.Write(body.Bytes()) // the browser is gone: nobody left to tell
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
	p.writeWith(w, p.copyPolicy(), http.StatusOK, "session", "You are connected", s)
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
}

// HomeProxy is one MCP server on the start page.
type HomeProxy struct{ Name, Resource string }

// Home draws the start page.
func (p *Pages) Home(w http.ResponseWriter, h Home) {
	p.write(w, http.StatusOK, "home", "MCP servers", h)
}
