package operator

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// What several pages show.

// text is a cell with a text, which may be a link.
func text(text, link string) console.Cell { return noted(text, link, "") }

// maxCell is how much of a stranger's text is shown in a table, in characters. The page behind it has all of it.
const maxCell = 80

// noted is a cell with something smaller below.
func noted(text, link, note string) console.Cell {
	if note == text {
		note = ""
	}
	return console.Cell{Value: console.Value{Text: console.Clean(text, maxCell), Link: link, Note: console.Clean(note, maxCell)}}
}

// sentenceCell is a cell with a text of several words, all of which matter.
func sentenceCell(text string) console.Cell { return console.Cell{Value: console.Value{Text: text}} }

// ago is how long ago something was, and ahead in how long it will be.
func (v *visit) ago(t time.Time) console.Value {
	return console.Value{Time: t, Words: console.Ago(t, v.now())}
}

func (v *visit) ahead(t time.Time) console.Value {
	return console.Value{Time: t, Words: console.Ahead(t, v.now())}
}

// facts leaves out those without a value.
func facts(all ...console.Fact) []console.Fact {
	return slices.DeleteFunc(all, func(f console.Fact) bool {
		return f.Text == "" && f.Time.IsZero() && len(f.List) == 0 && f.Badge == nil
	})
}

func fact(name, text string) console.Fact {
	return console.Fact{Name: name, Value: console.Value{Text: text}}
}

func code(name, text string) console.Fact {
	return console.Fact{Name: name, Value: console.Value{Text: text, Code: true}}
}

func linked(name, text, link string) console.Fact {
	return console.Fact{Name: name, Value: console.Value{Text: text, Link: link}}
}

func linkedCode(name, text, link string) console.Fact {
	return console.Fact{Name: name, Value: console.Value{Text: text, Link: link, Code: true}}
}

func moment(name string, t time.Time, now time.Time) console.Fact {
	f := console.Fact{Name: name, Value: console.Value{Time: t}}
	if !t.IsZero() {
		f.Note = "(" + console.Ahead(t, now) + ")"
	}
	return f
}

func listed(name string, list []string) console.Fact {
	return console.Fact{Name: name, Value: console.Value{List: list, Code: true}}
}

// healthNames are the healths of grants as people read them.
var healthNames = map[tokenstore.Health]string{
	tokenstore.HealthValid: "Valid", tokenstore.HealthExpiring: "Expiring", tokenstore.HealthExpired: "Expired",
	tokenstore.HealthBroken: "Broken", tokenstore.HealthRevoked: "Revoked",
}

func healthBadge(h tokenstore.Health) *console.Badge {
	return &console.Badge{Kind: string(h), Text: cmp.Or(healthNames[h], string(h))}
}

// sessionClient is what stands for the client in a grant that no client is behind, but a script of the user's.
const sessionClient = "(session)"

// clientName is how people know a client.
func clientName(name, id string) string {
	switch {
	case id == sessionClient:
		return "Session token"
	case strings.TrimSpace(console.Clean(name, 100)) == "":
		return id
	}
	return name
}

// clientLink is the page about a client; empty where there is none.
func (p *AdminPages) clientLink(id string) string {
	if id == "" || strings.HasPrefix(id, "(") || strings.HasPrefix(id, "api-key:") {
		return ""
	}
	return p.link("/admin/client", url.Values{"client_id": {id}})
}

func (p *AdminPages) grantLink(id string) string {
	if id == "" {
		return ""
	}
	return p.link("/admin/grants/"+url.PathEscape(id), nil)
}

func (p *AdminPages) grantsLink(name, value string) string {
	if value == "" {
		return ""
	}
	return p.link("/admin/grants", url.Values{name: {value}})
}

// grantColumns are those of a table of grants; the list itself has more.
var grantColumns = []string{"User", "Client", "Proxy", "Health", "Since", "Last used", "Expires"}

// grantTable is a short list of grants.
func (v *visit) grantTable(caption string, grants []*authserver.GrantInfo) *console.Table {
	table := &console.Table{Caption: caption}
	for _, title := range grantColumns {
		table.Columns = append(table.Columns, console.Column{Title: title})
	}
	for _, g := range grants {
		table.Rows = append(table.Rows, v.grantCells(g))
	}
	return table
}

// grantCells are a grant's, in the order of grantColumns.
func (v *visit) grantCells(g *authserver.GrantInfo) []console.Cell {
	name := g.User.Label
	if name == "" {
		name = "Nobody: " + cmp.Or(g.User.Login, g.ID) // which cannot be read, or a client that acts for itself
	}
	used := v.ago(g.Used)
	if g.Used.IsZero() {
		used = console.Value{Text: "never"}
	}
	expires := v.ahead(g.Expires)
	if g.Health == tokenstore.HealthRevoked {
		expires = console.Value{}
	}
	return []console.Cell{
		noted(name, v.grantLink(g.ID), cmp.Or(g.User.Name, g.User.Login)),
		text(clientName(g.Client, g.ClientID), v.clientLink(g.ClientID)),
		noted(cmp.Or(g.Proxy, "every proxy"), v.grantsLink("proxy", g.Proxy), g.Provider),
		{Value: console.Value{Badge: healthBadge(g.Health), Note: g.Reason}},
		{Value: v.ago(g.Created)},
		{Value: used},
		{Value: expires},
	}
}

// eventTable is a list of events.
func (v *visit) eventTable(caption string, events []*tokenstore.Event) *console.Table {
	table := &console.Table{Caption: caption}
	for _, title := range []string{"Time", "Event", "By", "About", "Where", "Reason"} {
		table.Columns = append(table.Columns, console.Column{Title: title, Wide: title == "Reason"})
	}
	for _, e := range events {
		event := console.Value{Text: e.Type, Code: true}
		if e.Outcome == tokenstore.OutcomeRefused {
			event.Badge = &console.Badge{Kind: "broken", Text: "Refused"}
		}
		when := console.Value{Time: e.Time, Words: e.Time.UTC().Format("2 Jan 2006, 15:04:05"), Link: v.link("/admin/audit/"+url.PathEscape(e.ID), nil)}
		table.Rows = append(table.Rows, []console.Cell{
			{Value: when},
			{Value: event},
			noted(actorName(e.Actor), "", actorKinds[e.Actor.Kind]),
			noted(e.User, v.link("/admin/audit", url.Values{"user_id": {e.UserID}}), clientName(e.Client, e.ClientID)),
			noted(e.Proxy, "", e.Provider),
			sentenceCell(e.Reason),
		})
		row := table.Rows[len(table.Rows)-1]
		if e.UserID == "" {
			row[3].Link = ""
		}
		if e.User == "" { // else the note would stand below nothing
			row[3] = text(clientName(e.Client, e.ClientID), v.clientLink(e.ClientID))
		}
		if e.Proxy == "" {
			row[4] = text(e.Provider, "")
		}
	}
	return table
}

// actorKinds says what somebody is who has a name.
var actorKinds = map[string]string{tokenstore.ActorClient: "client", tokenstore.ActorUser: "user", tokenstore.ActorOperator: "operator"}

// actorName is how people know who did something.
func actorName(a tokenstore.Actor) string {
	nameless := map[string]string{tokenstore.ActorClient: "a client", tokenstore.ActorUser: "somebody in a browser", tokenstore.ActorOperator: "an operator"}
	return cmp.Or(a.Label, a.ID, nameless[a.Kind], "the gateway")
}

// options are the choices of a filter: all, those that there are, and the present one where it is none of them.
func options(chosen, all string, values []string, names map[string]string) []console.Option {
	if chosen != "" && !slices.Contains(values, chosen) {
		values = append(slices.Clone(values), chosen)
	}
	list := append(make([]console.Option, 0, len(values)+1), console.Option{Text: all, Selected: chosen == ""})
	for _, value := range values {
		list = append(list, console.Option{Value: value, Text: console.Clean(cmp.Or(names[value], value), 60), Selected: value == chosen})
	}
	return list
}

// tellProblems says beside each field of a filter what is wrong with it. A name that the configuration does not have selects what is left of an earlier one.
func (v *visit) tellProblems(q url.Values, fields []console.Field) {
	known := map[string][]string{"proxy": v.proxyIDs(), "provider": v.providerNames()}
	for i, field := range fields {
		fields[i].Problem = v.mistakeIn(field.Name)
		names, named := known[field.Name]
		if value := q.Get(field.Name); named && value != "" && fields[i].Problem == "" && !slices.Contains(names, value) {
			fields[i].Problem = "The running configuration has none of this name."
		}
	}
}

func (p *AdminPages) proxyIDs() []string {
	ids := make([]string, 0, len(p.options.Proxies))
	for _, proxy := range p.options.Proxies {
		ids = append(ids, proxy.ID)
	}
	return ids
}

func (p *AdminPages) providerNames() []string { return slices.Sorted(maps.Keys(p.options.Providers)) }

// number writes one with what is counted.
func number(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(n) + " " + many
}

// grouped writes a number with thin spaces between its thousands.
func grouped(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0 && n >= 10_000; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return digits
}

func percent(part, whole int) string {
	if whole <= 0 {
		return ""
	}
	return fmt.Sprintf("%d %%", part*100/whole)
}
