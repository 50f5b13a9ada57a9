package operator

import (
	"net/url"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// clientKinds are the kinds of clients as people read them.
var clientKinds = map[string]string{
	authserver.ClientRegistered: "Registered itself", authserver.ClientConfigured: "Configured", authserver.ClientDocument: "Metadata document",
}

// clients is GET /admin/clients.
func (p *AdminPages) clients(v *visit) error {
	q := v.query("kind", "after")
	page := new(authserver.ClientPage)
	if len(v.mistakes) == 0 {
		var err error
		if page, err = v.options.Gateway.Clients(v.ctx(), authserver.ClientFilter{Kind: q.Get("kind"), After: q.Get("after"), Limit: pageSize}); err != nil {
			if !v.mistaken("kind", err) {
				return err
			}
			page = new(authserver.ClientPage)
		}
	}
	table := console.Table{Caption: "Clients", Columns: []console.Column{
		{Title: "Client"}, {Title: "Kind"}, {Title: "Answers go to", Wide: true}, {Title: "Proxies"}, {Title: "Registered"}, {Title: "Last used"},
	}}
	for _, c := range page.Clients {
		proxies := console.Value{List: c.Proxies}
		if len(c.Proxies) == 0 {
			proxies = console.Value{Text: "all"}
		}
		used := v.ago(c.Used)
		if c.Used.IsZero() && c.Kind == authserver.ClientRegistered {
			used = console.Value{Text: "never"}
		}
		table.Rows = append(table.Rows, []console.Cell{
			noted(clientName(c.Name, c.ID), v.clientLink(c.ID), c.ID), text(clientKinds[c.Kind], ""), {Value: console.Value{List: hosts(c.RedirectURIs)}}, {Value: proxies},
			{Value: v.ago(c.Created)}, {Value: used},
		})
	}
	kinds := []string{authserver.ClientRegistered, authserver.ClientConfigured, authserver.ClientDocument}
	list := console.List{
		Title: "Clients", Lead: "The chatbots that this gateway knows. What they say of themselves nobody has checked; where their answers go is a fact.", Mistakes: v.mistakes, Table: table,
		Filter: &console.Filter{Action: v.link("/admin/clients", nil), Fields: []console.Field{{
			Name: "kind", Label: "Kind", Options: options(q.Get("kind"), "All", kinds, clientKinds), Problem: v.mistakeIn("kind"),
		}}},
		Empty: console.Empty{Title: "There is no such client", Text: "Chatbots register themselves when somebody adds one of the MCP servers, or stand in the configuration."},
		Pager: v.pagerOf("/admin/clients", q, page.Next), Note: "Clients with a metadata document are listed while this node remembers it. Their grants are always listed.",
	}
	if q.Get("kind") != "" || len(v.mistakes) > 0 {
		list.Filter.Reset = v.link("/admin/clients", nil)
	}
	v.options.Pages.List(v.w, v.frame(), list)
	return nil
}

// hosts are where redirect URIs lead, each once.
func hosts(uris []string) []string {
	var all []string
	seen := make(map[string]bool)
	for _, uri := range uris {
		host := uri
		if u, err := url.Parse(uri); err == nil {
			if host = u.Host; host == "" {
				host = u.Scheme + ":"
			}
		}
		if !seen[host] {
			seen[host] = true
			all = append(all, host)
		}
	}
	return all
}

// clientOf is the client that the query names.
func (v *visit) clientOf() (*authserver.ClientInfo, error) {
	id := v.r.URL.Query().Get("client_id")
	if !isClientID(id) {
		return nil, denied(404, "not_found", "there is no client of this id")
	}
	return v.options.Gateway.ClientInfo(v.ctx(), id)
}

// isClientID reports whether it could be one. The URLs of metadata documents are long.
func isClientID(id string) bool { return isID(id[:min(len(id), 180)]) && len(id) <= maxParameter }

// clientGrants is how many grants of a client are shown with it.
const clientGrants = 10

// client is GET /admin/client: one client, by its id, which may be a URL.
func (p *AdminPages) client(v *visit) error {
	c, err := v.clientOf()
	if err != nil {
		return err
	}
	now := v.now()
	used := moment("Last got a token", c.Used, now)
	if !c.Used.IsZero() {
		used.Note = "(" + console.Ago(c.Used, now) + ", to within a day)"
	}
	proxies := listed("Proxies", c.Proxies)
	if len(c.Proxies) == 0 {
		proxies = fact("Proxies", "all")
	}
	sheet := console.Sheet{
		Title: clientName(c.Name, c.ID), Back: &console.Action{Text: "All clients", Link: v.link("/admin/clients", nil)},
		Sections: []console.Section{{Facts: facts(
			fact("Kind", clientKinds[c.Kind]), code("Client id", c.ID), code("Says it is at", c.URI), fact("Application type", c.ApplicationType),
			listed("Redirect URIs", c.RedirectURIs), listed("Grant types", c.GrantTypes), code("Shows who it is by", c.AuthMethod), code("Its keys", c.JWKSURI), proxies,
			moment("Registered", c.Created, now), used, moment("Deleted unless used by", c.Expires, now),
		)}},
	}
	if c.Kind == authserver.ClientRegistered {
		sheet.Actions = []console.Action{{Text: "Delete…", Link: v.link("/admin/client/delete", url.Values{"client_id": {c.ID}}), Danger: true}}
	} else {
		sheet.Actions = []console.Action{{Text: "Revoke its grants…", Link: v.link("/admin/revoke", url.Values{"client_id": {c.ID}}), Danger: true}}
	}
	section := console.Section{Title: "Its grants"}
	grants, err := v.options.Gateway.Grants(v.ctx(), authserver.GrantFilter{ClientID: c.ID, Limit: clientGrants})
	switch {
	case err != nil:
		return err
	case len(grants.Grants) == 0:
		section.Empty = &console.Empty{Title: "Nobody has allowed it anything", Text: "Grants that are over are kept for a time, so there was none lately."}
	default:
		section.Table = v.grantTable("Grants of this client", grants.Grants)
		section.Actions = []console.Action{{Text: "All its grants", Link: v.grantsLink("client_id", c.ID)}, {Text: "In the audit trail", Link: v.link("/admin/audit", url.Values{"client_id": {c.ID}})}}
	}
	sheet.Sections = append(sheet.Sections, section)
	v.options.Pages.Sheet(v.w, v.frame(), sheet)
	return nil
}

// askClient is GET /admin/client/delete.
func (p *AdminPages) askClient(v *visit) error {
	c, err := v.clientOf()
	if err != nil {
		return err
	}
	return v.askAboutClient(c, "")
}

func (v *visit) askAboutClient(c *authserver.ClientInfo, reason string) error {
	if c.Kind != authserver.ClientRegistered {
		return denied(409, "conflict", "only clients that registered themselves can be deleted: revoke the grants of this one, and take it out of the configuration")
	}
	count, err := v.countMeant(authserver.RevocationFilter{ClientID: c.ID})
	if err != nil {
		return err
	}
	v.options.Pages.Form(v.w, v.frame(), console.Form{
		Title: "Delete this client?", Texts: []string{"Its registration is deleted, and all its grants are revoked. It can register again, if the configuration lets strangers register."},
		Facts:    facts(fact("Client", clientName(c.Name, c.ID)), code("Client id", c.ID), listed("Redirect URIs", c.RedirectURIs), fact("What ends", count)),
		Mistakes: v.mistakes, Fields: []console.FormField{v.reasonField(reason)}, Action: v.link("/admin/client/delete", url.Values{"client_id": {c.ID}}),
		Button: "Delete", Cancel: v.clientLink(c.ID), Danger: true,
	})
	return nil
}

// deleteClient is POST /admin/client/delete.
func (p *AdminPages) deleteClient(v *visit) error {
	reason := v.readReason()
	if len(v.mistakes) > 0 {
		c, err := v.clientOf()
		if err != nil {
			return err
		}
		return v.askAboutClient(c, reason)
	}
	id := v.r.URL.Query().Get("client_id")
	if !isClientID(id) {
		return denied(404, "not_found", "there is no client of this id")
	}
	order, err := v.options.Gateway.DeleteClient(v.ctx(), id, v.by(), reason)
	if err != nil {
		return err
	}
	v.redirect("/admin/revocations/"+url.PathEscape(order.ID), nil)
	return nil
}
