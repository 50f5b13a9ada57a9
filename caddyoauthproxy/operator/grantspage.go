package operator

import (
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// pageSize is how many rows a page has.
const pageSize = 50

// grantFilters are the parameters that select grants. account_id comes with links alone.
var grantFilters = []string{"text", "health", "proxy", "provider", "client_id", "user_id", "account_id"}

// grants is GET /admin/grants.
func (p *AdminPages) grants(v *visit) error {
	q := v.query(slices.Concat(grantFilters, []string{"sort", "after"})...)
	v.checkID(q, "client_id", "user_id", "account_id", "after", "proxy", "provider")
	if h := tokenstore.Health(q.Get("health")); h != "" && !slices.Contains(tokenstore.Healths(), h) {
		v.mistake("health", "There is no such health.")
	}
	f := authserver.GrantFilter{
		UserID: q.Get("user_id"), ClientID: q.Get("client_id"), Proxy: q.Get("proxy"), Provider: q.Get("provider"), AccountID: q.Get("account_id"),
		Health: tokenstore.Health(q.Get("health")), Text: q.Get("text"), Sort: q.Get("sort"), After: q.Get("after"), Limit: pageSize,
	}
	page := new(authserver.GrantPage)
	if len(v.mistakes) == 0 {
		var err error
		if page, err = v.options.Gateway.Grants(v.ctx(), f); err != nil {
			if !v.mistaken(fieldOf(err), err) {
				return err
			}
			page = new(authserver.GrantPage)
		}
	}
	list := console.List{
		Title: "Grants", Lead: "Who allowed which chatbot to act as them, and where. What you revoke stops with the next request.", Mistakes: v.mistakes,
		Actions: []console.Action{{Text: "Revocations", Link: v.link("/admin/revocations", nil)}}, Filter: v.grantFilter(q),
		Table: v.sortable(q, page.Grants), Pick: &console.Pick{Action: v.link("/admin/revoke", nil), Button: "Revoke the chosen…"},
		Empty: console.Empty{Title: "No grant is like this", Text: "Take a filter away, or look for another word: the search finds whole words of names, e-mail addresses and logins."},
	}
	if narrowed(q) == 0 {
		list.Empty = console.Empty{Title: "There are no grants yet", Text: "When a user adds one of the MCP servers to a chatbot and agrees, it is listed here."}
	}
	if len(v.mistakes) == 0 {
		var err error
		if list.Pager, err = v.grantPager(q, f, page); err != nil {
			return err
		}
		list.Links, list.Note = v.revokeAll(q, page)
	}
	v.options.Pages.List(v.w, v.frame(), list)
	return nil
}

// narrowed is how many filters there are.
func narrowed(q url.Values) int {
	n := 0
	for _, name := range grantFilters {
		if q.Get(name) != "" {
			n++
		}
	}
	return n
}

// fieldOf is the field that an error of the gateway's begins with.
func fieldOf(err error) string {
	name, _, _ := strings.Cut(err.Error(), ":")
	if slices.Contains(grantFilters, name) {
		return name
	}
	for _, field := range grantFilters {
		if strings.Contains(err.Error(), field+": ") {
			return field
		}
	}
	return ""
}

// grantFilter is the form above the list.
func (v *visit) grantFilter(q url.Values) *console.Filter {
	healths := make([]string, 0, 5)
	names := make(map[string]string)
	for _, h := range tokenstore.Healths() {
		healths = append(healths, string(h))
		names[string(h)] = healthNames[h]
	}
	f := &console.Filter{
		Action: v.link("/admin/grants", nil), Button: "Find",
		Fields: []console.Field{
			{Name: "text", Label: "Find a name, e-mail address or login", Value: q.Get("text")},
			{Name: "health", Label: "Health", Options: options(q.Get("health"), "Any", healths, names)},
			{Name: "proxy", Label: "Proxy", Options: options(q.Get("proxy"), "All", v.proxyIDs(), nil)},
			{Name: "provider", Label: "Provider", Options: options(q.Get("provider"), "All", v.providerNames(), nil)},
			{Name: "client_id", Label: "Client id", Value: q.Get("client_id")},
			{Name: "user_id", Label: "User id", Value: q.Get("user_id")},
		},
	}
	v.tellProblems(q, f.Fields)
	for _, name := range []string{"account_id", "sort"} {
		if q.Get(name) != "" {
			f.Hidden = append(f.Hidden, console.Hidden{Name: name, Value: q.Get(name)})
		}
	}
	if narrowed(q) > 0 || len(v.mistakes) > 0 {
		f.Reset = v.link("/admin/grants", nil)
	}
	return f
}

// sortColumns are what the columns of grantColumns are sorted by.
var sortColumns = []string{"user", "client", "proxy", "health", "", "used", "expires"}

// sortable is the table of the list, with links that sort it and boxes to choose with.
func (v *visit) sortable(q url.Values, grants []*authserver.GrantInfo) console.Table {
	table := console.Table{Caption: "Grants", Columns: []console.Column{{Title: "Choose", Plain: true}}}
	by, down := strings.CutPrefix(q.Get("sort"), "-")
	for i, title := range grantColumns {
		c := console.Column{Title: title}
		other := copied(q)
		other.Del("after")
		switch name := sortColumns[i]; {
		case name == "": // the order that they are in by themselves
			other.Del("sort")
			c.Sort = v.link("/admin/grants", other)
			if by == "" {
				c.Order = "descending"
			}
		case name == by && !down:
			other.Set("sort", "-"+name)
			c.Sort, c.Order = v.link("/admin/grants", other), "ascending"
		default:
			other.Set("sort", name)
			c.Sort = v.link("/admin/grants", other)
			if name == by {
				c.Order = "descending"
			}
		}
		table.Columns = append(table.Columns, c)
	}
	for _, g := range grants {
		about := strings.TrimSpace(g.User.Label + ", " + clientName(g.Client, g.ClientID) + " at " + g.Proxy)
		box := console.Cell{Check: &console.Check{Name: "id", Value: g.ID, About: about}}
		if g.Health == tokenstore.HealthRevoked {
			box.Check = nil
		}
		table.Rows = append(table.Rows, append([]console.Cell{box}, v.grantCells(g)...))
	}
	return table
}

func copied(q url.Values) url.Values {
	other := make(url.Values, len(q))
	for name, values := range q {
		other[name] = slices.Clone(values)
	}
	return other
}

// grantPager says how many there are, where that is cheap to know, and leads on.
func (v *visit) grantPager(q url.Values, f authserver.GrantFilter, page *authserver.GrantPage) (*console.Pager, error) {
	pager := new(console.Pager)
	healths := tokenstore.Healths()
	switch {
	case f.After == "" && page.Next == "":
		pager.Text = number(len(page.Grants), "grant", "grants")
	case narrowed(q) == 1 && f.Health != "":
		healths = []tokenstore.Health{f.Health}
		fallthrough
	case narrowed(q) == 0:
		total := 0
		for _, h := range healths {
			n, err := v.options.Vault.CountGrants(v.ctx(), h)
			if err != nil {
				return nil, err
			}
			total += n
		}
		pager.Text = number(total, "grant", "grants") + ", " + number(len(page.Grants), "is shown", "are shown")
	default:
		pager.Text = number(len(page.Grants), "grant is shown", "grants are shown")
	}
	if f.After != "" {
		first := copied(q)
		first.Del("after")
		pager.First = v.link("/admin/grants", first)
	}
	if page.Next != "" {
		next := copied(q)
		next.Set("after", page.Next)
		pager.Next = v.link("/admin/grants", next)
	}
	return pager, nil
}

// orderFilters are the parameters that a revocation order knows too.
var orderFilters = []string{"user_id", "client_id", "proxy", "provider"}

// revokeAll leads to the page that ends all grants that match, where an order can say which those are.
func (v *visit) revokeAll(q url.Values, page *authserver.GrantPage) (links []console.Action, note string) {
	if narrowed(q) == 0 || len(page.Grants) == 0 {
		return nil, ""
	}
	filter := make(url.Values)
	for _, name := range orderFilters {
		filter.Set(name, q.Get(name))
	}
	if q.Get("text") != "" || q.Get("health") != "" || q.Get("account_id") != "" {
		return nil, "To revoke all that match at once, filter by user, client, proxy or provider alone: those can be told apart for certain also among grants that are made meanwhile."
	}
	return []console.Action{{Text: "Revoke all that match…", Link: v.link("/admin/revoke", filter), Danger: true}}, ""
}
