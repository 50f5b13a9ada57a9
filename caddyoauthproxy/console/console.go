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
)

//go:embed pages/*.html pages/style.css
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
	for _, name := range []string{"consent", "problem", "notice", "home"} {
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

// write sends a page with the headers that every page has.
func (p *Pages) write(w http.ResponseWriter, status int, name, title string, data any) {
	var body bytes.Buffer
	if err := p.templates[name].Execute(&body, page{title, p.brand, p.style, data}); err != nil {
		http.Error(w, "the page could not be drawn", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
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

	// Loopback says that the client runs on the user's own machine, where any program could be it.
	Loopback bool

	// Verified says that the client's name is vouched for.
	Verified bool

	// Proxy is the MCP server's name, Resource its URL, and Provider where the user will log in.
	Proxy, Resource, Provider string

	// Scopes are what the provider will be asked for.
	Scopes []Scope
}

// Consent draws the consent page.
func (p *Pages) Consent(w http.ResponseWriter, c Consent) {
	c.ClientName, c.ClientID, c.ClientURI = Clean(c.ClientName, 64), Clean(c.ClientID, 128), Clean(c.ClientURI, 128)
	c.RedirectHost = asciiHost(c.RedirectHost)
	c.Scopes = slices.Clone(c.Scopes)
	for i, scope := range c.Scopes {
		if scope.Text == "" {
			c.Scopes[i].Text = scopeTexts[scope.Name]
		}
	}
	if c.ClientName == "" {
		c.ClientName = "An application without a name"
	}
	p.write(w, http.StatusOK, "consent", "Allow access to "+c.Proxy+"?", c)
}

// Problem is a page that says what went wrong.
type Problem struct {
	Title  string // what cannot go on
	Text   string // why
	Advice string // what to do now
	Code   string // the OAuth error code, for support
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
