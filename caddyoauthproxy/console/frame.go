package console

import (
	"net/http"
	"slices"
)

// Frame is what surrounds a signed-in page: where the user is, who they are, and the way out.
type Frame struct {
	// Base is the issuer, which links begin with.
	Base string

	// Section is the entry of the navigation that the page belongs to: overview, grants, clients, sessions, keys, audit, providers, assistant or connections.
	Section string

	// User is who is signed in, at Provider, and Admin says that they are an operator.
	User, Provider string
	Admin          bool

	// NoConnections leaves out the users' own page.
	NoConnections bool

	// CSRF is what every form of the page carries.
	CSRF string

	// Result is what the last form has done; may be nil.
	Result *Result
}

// NavItem is one entry of the navigation.
type NavItem struct {
	Text, URL string
	Here      bool
}

// sections are the entries of the navigation, in order. Those of operators are the first.
var sections = []struct{ id, text, path string }{
	{"overview", "Overview", "/admin/"},
	{"grants", "Grants", "/admin/grants"},
	{"clients", "Clients", "/admin/clients"},
	{"sessions", "Sessions", "/admin/sessions"},
	{"keys", "Keys", "/admin/keys"},
	{"audit", "Audit", "/admin/audit"},
	{"providers", "Providers", "/admin/providers"},
	{"assistant", "Assistant", "/admin/assistant"},
	{"connections", "Connections", "/connections"},
}

// Nav is the navigation.
func (f *Frame) Nav() []NavItem {
	var items []NavItem
	for _, s := range sections {
		if own := s.id == "connections"; own && f.NoConnections || !own && !f.Admin {
			continue
		}
		items = append(items, NavItem{s.text, f.Base + s.path, s.id == f.Section})
	}
	return items
}

// SignOut is where the form goes that ends the sign-in.
func (f *Frame) SignOut() string { return f.Base + "/oauth/signout" }

// framed sends a signed-in page. Its forms go nowhere but to the gateway itself.
func (p *Pages) framed(w http.ResponseWriter, status int, name, title string, f Frame, data any) {
	p.send(w, p.policy+"; form-action 'self'", status, name, page{Title: title, Frame: &f, Data: data})
}

// Confirm draws the page that asks before something happens that cannot be taken back.
func (p *Pages) Confirm(w http.ResponseWriter, f Frame, c Confirm) {
	c.CSRF = f.CSRF
	p.framed(w, http.StatusOK, "confirm", c.Title, f, c)
}

// FramedProblem draws an error page for somebody who is signed in.
func (p *Pages) FramedProblem(w http.ResponseWriter, status int, f Frame, pr Problem) {
	pr.Text, pr.Code = Clean(pr.Text, 400), Clean(pr.Code, 64)
	p.framed(w, status, "trouble", pr.Title, f, pr)
}

// framedPages are the pages that have a frame; the others have none.
var framedPages = []string{
	"confirm", "trouble", "connections", "overview", "list", "sheet", "form",
	"assistant", "assistantform", "assistantresult", "assistantplan",
}

// isFramed reports whether a page has a frame.
func isFramed(name string) bool { return slices.Contains(framedPages, name) }
