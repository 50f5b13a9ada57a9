package operator

import (
	"net/url"
	"slices"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// sessions is GET /admin/sessions.
func (p *AdminPages) sessions(v *visit) error {
	q := v.query("after", "done")
	v.done(q.Get("done"), map[string]string{"ended": "The sign-in is ended. Whoever uses that browser has to sign in again."})
	q.Del("done")
	page, err := v.Server.sessionsAfter(v.ctx(), q.Get("after"), pageSize)
	if err != nil {
		return err
	}
	table := console.Table{Caption: "Sign-ins", Columns: []console.Column{{Title: "User"}, {Title: "As"}, {Title: "At"}, {Title: "Signed in"}, {Title: "Until"}, {Title: "Address"}, {Title: "End", Plain: true}}}
	for _, s := range page.Sessions {
		as := "user"
		if s.Admin {
			as = "operator"
		}
		since := v.ago(s.Created)
		if s.ID == v.signIn.ID {
			since.Note = "this browser"
		}
		table.Rows = append(table.Rows, []console.Cell{
			noted(s.User.Label(), v.grantsLink("user_id", s.UserID), s.User.Name), text(as, ""), text(s.User.Provider, ""), {Value: since}, {Value: v.ahead(s.Expires)}, text(s.Address, ""),
			{Action: &console.Action{Text: "End…", Link: v.link("/admin/sessions/"+url.PathEscape(s.ID)+"/end", nil), About: "the sign-in of " + s.User.Label()}},
		})
	}
	v.options.Pages.List(v.w, v.frame(), console.List{
		Title: "Sessions", Lead: "Who is signed in to these pages, and to the users’ own. Chatbots have grants instead.", Mistakes: v.mistakes, Table: table,
		Empty: console.Empty{Title: "Nobody is signed in"}, Pager: v.pagerOf("/admin/sessions", q, page.Next),
	})
	return nil
}

// sessionOf is the sign-in that the path names.
func (v *visit) sessionOf() (*authserver.SignIn, error) {
	all, err := v.options.Gateway.SignIns(v.ctx())
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(s *authserver.SignIn) bool { return s.ID == v.r.PathValue("id") })
	if i < 0 {
		return nil, denied(404, "not_found", "nobody is signed in under this id; they may have signed out, or the sign-in has expired")
	}
	return all[i], nil
}

// askSession is GET /admin/sessions/{id}/end.
func (p *AdminPages) askSession(v *visit) error {
	s, err := v.sessionOf()
	if err != nil {
		return err
	}
	form := console.Form{
		Title: "End this sign-in?", Texts: []string{"Whoever uses that browser has to sign in again. Their chatbots go on."},
		Facts:  facts(fact("User", s.User.Label()), fact("At", s.User.Provider), moment("Signed in", s.Created, v.now()), moment("Until", s.Expires, v.now()), fact("Address", s.Address)),
		Action: v.link("/admin/sessions/"+url.PathEscape(s.ID)+"/end", nil), Button: "End", Cancel: v.link("/admin/sessions", nil), Danger: true,
	}
	if s.ID == v.signIn.ID {
		form.Warnings = []string{"This is your own sign-in, with this browser."}
	}
	v.options.Pages.Form(v.w, v.frame(), form)
	return nil
}

// endSession is POST /admin/sessions/{id}/end.
func (p *AdminPages) endSession(v *visit) error {
	if err := v.options.Gateway.EndSignIn(v.ctx(), v.r.PathValue("id")); err != nil {
		return err
	}
	v.redirect("/admin/sessions", url.Values{"done": {notice(v.signIn, "ended")}})
	return nil
}
