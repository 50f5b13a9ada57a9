package operator

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Paths of the users' own pages, below the issuer's path.
const (
	connectionsPath = "/connections"
	cutPath         = "/connections/cut"
)

// The ways to cut, which are the names of the one parameter that says what is cut. The last two take no id.
const (
	cutGrant    = "grant"
	cutAccount  = "account"
	cutAll      = "all"
	cutBrowsers = "browsers"
)

// results are what a page says after something was cut.
var results = map[string]string{
	cutGrant:   "Cut. The application cannot act in your name any more, from its next request on.",
	cutAccount: "Disconnected. The gateway has given up what it had of the account, and told the provider where it can.",
}

// showConnections is GET /connections: what the user has allowed and connected.
func (s *Server) showConnections(w http.ResponseWriter, r *http.Request, signIn *authserver.SignIn) error {
	all, err := s.options.Gateway.Connections(r.Context(), signIn)
	if err != nil {
		return err
	}
	page := console.Connections{SignOutAll: s.cutLink(cutBrowsers, "1"), Browsers: all.SignIns}
	for _, c := range all.Grants {
		page.Grants = append(page.Grants, s.connection(c))
	}
	for _, a := range all.Accounts {
		page.Accounts = append(page.Accounts, s.account(a))
	}
	if len(all.Grants) > 0 {
		page.CutAll = s.cutLink(cutAll, "1")
	}
	for _, p := range all.Unconnected {
		server := console.Server{Name: p.Name, Resource: p.Resource}
		if connect := s.options.Gateway.ConnectURL(p.ID); connect != "" {
			server.Link = connect
		}
		page.Servers = append(page.Servers, server)
	}
	f := s.frame(signIn)
	if text := results[noticed(signIn, r.URL.Query().Get("done"))]; text != "" {
		f.Result = &console.Result{Text: text}
	} else if all.More {
		f.Result = &console.Result{Failed: true, Text: "You have more connections than are shown here. To be rid of them all, cut everything."}
	}
	s.options.Pages.Connections(w, f, page)
	return nil
}

// connection is one grant on the page.
func (s *Server) connection(c *authserver.Connection) console.Connection {
	out := console.Connection{
		Client: c.Client, Badge: badge(c.Health), Reason: c.Reason,
		Facts: []console.Fact{{Name: "At", Value: console.Value{Text: c.ProxyName, Note: c.Resource}}},
		Cut:   console.Action{Text: "Cut", Link: s.cutLink(cutGrant, c.ID), About: c.Client},
	}
	if c.ProxyName == "" {
		out.Facts[0].Value = console.Value{Text: "every MCP server that uses " + c.Provider}
	}
	if out.Client == "" {
		out.Client = "An application without a name"
	}
	switch {
	case c.Own:
		out.Client, out.From = "Session token", "You made it yourself, without a chatbot."
	case c.KnownToOperator:
		out.From, out.Verified = "registered by the people who run this gateway", true
	case c.VerifiedHost != "":
		out.From, out.Verified = c.VerifiedHost+" vouches for it", true
	default:
		out.From = "Registered itself: the name is its own claim."
	}
	if len(c.ScopeTexts) > 0 {
		out.Facts = append(out.Facts, console.Fact{Name: "May", Value: console.Value{List: c.ScopeTexts}})
	}
	used := console.Value{Time: c.Used, Note: console.Ago(c.Used, s.options.Vault.Now())}
	if c.Used.IsZero() {
		used = console.Value{Text: "never"}
	}
	out.Facts = append(out.Facts, console.Fact{Name: "Since", Value: console.Value{Time: c.Created}}, console.Fact{Name: "Last used", Value: used},
		console.Fact{Name: "Ends", Value: console.Value{Time: c.Ends, Note: "at the latest"}})
	return out
}

// account is one account on the page.
func (s *Server) account(a *authserver.ConnectedAccount) console.Connection {
	out := console.Connection{
		Client: a.Provider, Badge: console.Badge{Kind: "valid", Text: "connected"},
		Cut: console.Action{Text: "Disconnect", Link: s.cutLink(cutAccount, a.ID), About: a.Provider},
	}
	if a.Broken != "" {
		out.Badge, out.Reason = console.Badge{Kind: "broken", Text: "to be connected again"}, a.Broken
	}
	if a.Owner != "" {
		out.Facts = append(out.Facts, console.Fact{Name: "Account", Value: console.Value{Text: a.Owner}})
	}
	out.Facts = append(out.Facts, console.Fact{Name: "Connected", Value: console.Value{Time: a.Since}}, console.Fact{Name: "Used by", Value: console.Value{List: clients(a)}})
	return out
}

// clients names who uses an account, each once.
func clients(a *authserver.ConnectedAccount) []string {
	var names []string
	seen := make(map[string]bool)
	for _, c := range a.Grants {
		name := c.Client
		switch {
		case c.Own:
			name = "session token"
		case name == "":
			name = "an application without a name"
		}
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// badge is a health in a word.
func badge(h tokenstore.Health) console.Badge {
	text := map[tokenstore.Health]string{
		tokenstore.HealthValid: "valid", tokenstore.HealthExpiring: "expiring", tokenstore.HealthExpired: "expired", tokenstore.HealthBroken: "broken", tokenstore.HealthRevoked: "revoked",
	}[h]
	return console.Badge{Kind: string(h), Text: text}
}

// cutLink leads to the page that asks.
func (s *Server) cutLink(what, id string) string {
	return s.issuer() + cutPath + "?" + url.Values{what: {id}}.Encode()
}

// whatToCut reads the one thing that a request is about.
func whatToCut(values url.Values) (what, id string, err error) {
	for _, name := range []string{cutGrant, cutAccount, cutAll, cutBrowsers} {
		if !values.Has(name) {
			continue
		}
		if what != "" || len(values[name]) > 1 || len(values.Get(name)) > maxParameter {
			return "", "", bad("One thing at a time.")
		}
		what, id = name, values.Get(name)
	}
	if what == "" {
		return "", "", bad("Nothing was said that could be cut.")
	}
	return what, id, nil
}

// askCut is GET /connections/cut: the page that asks before something ends.
func (s *Server) askCut(w http.ResponseWriter, r *http.Request, signIn *authserver.SignIn) error {
	what, id, err := whatToCut(r.URL.Query())
	if err != nil {
		return err
	}
	page := console.Confirm{Action: s.issuer() + cutPath, Hidden: []console.Hidden{{Name: what, Value: id}}, Cancel: s.issuer() + connectionsPath, Danger: true}
	switch what {
	case cutGrant:
		c, err := s.options.Gateway.Connection(r.Context(), signIn, id)
		if err != nil {
			return err
		}
		shown := s.connection(c)
		page.Title, page.Button, page.Facts = fmt.Sprintf("Cut off “%s”?", console.Clean(shown.Client, 64)), "Cut", shown.Facts
		page.Texts = []string{"Its tokens stop working at once. To act in your name again it has to ask you, and you would have to log in."}
	case cutAccount:
		a, err := s.options.Gateway.ConnectedAccount(r.Context(), signIn, id)
		if err != nil {
			return err
		}
		page.Title, page.Button, page.Facts = fmt.Sprintf("Disconnect your account at %s?", a.Provider), "Disconnect", s.account(a).Facts
		page.Texts = []string{"Every application that uses it is cut off at once. To go on, each has to ask you again."}
	case cutAll:
		page.Title, page.Button = "Cut everything?", "Cut everything"
		page.Texts = []string{"Every application is cut off, every account is disconnected, and what you had remembered is forgotten. You are signed out of this page in all browsers.", "Nothing is deleted at the MCP servers themselves."}
	case cutBrowsers:
		page.Title, page.Button, page.Danger = "Sign out in all browsers?", "Sign out everywhere", false
		page.Texts = []string{"You are signed out of this gateway's own pages, here and in every other browser. Your applications stay connected."}
	}
	f := s.frame(signIn)
	f.Section = "connections"
	s.options.Pages.Confirm(w, f, page)
	return nil
}

// cut is POST /connections/cut: what the page asked about ends.
func (s *Server) cut(w http.ResponseWriter, r *http.Request, signIn *authserver.SignIn) error {
	form, err := s.options.Gateway.ReadForm(w, r, signIn)
	if err != nil {
		return err
	}
	what, id, err := whatToCut(form)
	if err != nil {
		return err
	}
	ctx := tokenstore.WithActor(r.Context(), tokenstore.Actor{Kind: tokenstore.ActorUser, ID: signIn.UserID, Label: signIn.User.Label()})
	switch what {
	case cutGrant:
		_, err = s.options.Gateway.CutGrant(ctx, signIn, id)
	case cutAccount:
		_, err = s.options.Gateway.CutAccount(ctx, signIn, id)
	case cutAll:
		if err = s.options.Gateway.CutAll(ctx, signIn); err == nil {
			s.options.Gateway.SignedOut(w, "Everything is cut", "No application can act in your name any more, no account is connected, and you are signed out in all browsers.")
			return nil
		}
	case cutBrowsers:
		if _, err = s.options.Gateway.EndSignIns(ctx, signIn.UserID); err == nil {
			s.options.Gateway.SignedOut(w, "You are signed out everywhere", "In this browser, and in every other one. Your applications stay connected.")
			return nil
		}
	}
	if err != nil {
		return err
	}
	w.Header().Set("Location", s.issuer()+connectionsPath+"?done="+notice(signIn, what))
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// mayBePage reports whether a path looks like that of a page, while there is no server to ask.
func mayBePage(path string) bool {
	return strings.HasSuffix(path, connectionsPath) || strings.HasSuffix(path, cutPath)
}
