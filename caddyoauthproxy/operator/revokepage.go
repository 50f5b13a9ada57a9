package operator

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Many grants are revoked in one of two ways: those that were chosen one by one, of a page at most, each by itself; and all that match a filter, by a
// revocation order.

// chosenIDs reads which grants were chosen: id, as often as there are boxes ticked.
func (v *visit) chosenIDs() ([]string, error) {
	query, err := url.ParseQuery(v.r.URL.RawQuery)
	if err != nil {
		return nil, bad("the address cannot be read")
	}
	return checkChosen(query["id"])
}

func checkChosen(ids []string) ([]string, error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	if len(ids) > pageSize {
		return nil, bad("more than %d grants were chosen: revoke them by a filter", pageSize)
	}
	for _, id := range ids {
		if !isID(id) {
			return nil, bad("one of the chosen is no grant")
		}
	}
	return ids, nil
}

// chosenGrants are those that are there, and how many are not.
func (v *visit) chosenGrants(ids []string) (grants []*authserver.GrantInfo, gone int, err error) {
	for _, id := range ids {
		g, err := v.options.Gateway.GrantInfo(v.ctx(), id)
		if e, ok := errors.AsType[*authserver.Error](err); ok && e.Status == http.StatusNotFound {
			gone++
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		grants = append(grants, g)
	}
	return grants, gone, nil
}

// askMany is GET /admin/revoke: it shows what would be revoked.
func (p *AdminPages) askMany(v *visit) error {
	ids, err := v.chosenIDs()
	if err != nil {
		return err
	}
	f, err := v.orderFilter()
	switch {
	case err != nil:
		return err
	case len(ids) > 0 && f != authserver.RevocationFilter{}:
		return bad("either some grants are chosen, or all that match a filter")
	case len(ids) > 0:
		return v.askChosen(ids, "")
	case f == authserver.RevocationFilter{}:
		return bad("nothing is chosen: go back, and tick the grants to revoke")
	}
	return v.askOrder(f, "")
}

// askChosen asks about grants that were chosen one by one.
func (v *visit) askChosen(ids []string, reason string) error {
	grants, gone, err := v.chosenGrants(ids)
	if err != nil {
		return err
	}
	form := console.Form{
		Title: "Revoke " + number(len(grants), "grant", "grants") + "?", Texts: []string{"The chatbots’ next requests are refused, and the users have to agree again."},
		Table: v.chosenTable(grants), Mistakes: v.mistakes, Fields: []console.FormField{v.reasonField(reason)},
		Action: v.link("/admin/revoke", nil), Hidden: []console.Hidden{{Name: "ids", Value: strings.Join(ids, " ")}},
		Button: "Revoke " + number(len(grants), "grant", "grants"), Cancel: v.link("/admin/grants", nil), Danger: true,
	}
	if gone > 0 {
		form.Warnings = append(form.Warnings, number(gone, "of those that you chose is", "of those that you chose are")+" not there any more.")
	}
	v.options.Pages.Form(v.w, v.frame(), form)
	return nil
}

// chosenTable is a table that fits in a narrow page.
func (v *visit) chosenTable(grants []*authserver.GrantInfo) *console.Table {
	table := &console.Table{Caption: "Chosen grants", Columns: []console.Column{{Title: "User"}, {Title: "Client"}, {Title: "Proxy"}, {Title: "Health"}}}
	for _, g := range grants {
		table.Rows = append(table.Rows, []console.Cell{
			text(cmp.Or(g.User.Label, g.ID), v.grantLink(g.ID)), text(clientName(g.Client, g.ClientID), ""), text(g.Proxy, ""), {Value: console.Value{Badge: healthBadge(g.Health)}},
		})
	}
	return table
}

// orderFilter reads what an order is to mean.
func (v *visit) orderFilter() (f authserver.RevocationFilter, err error) {
	query, err := url.ParseQuery(v.r.URL.RawQuery)
	if err != nil {
		return f, bad("the address cannot be read")
	}
	query.Del("id")
	return filterOf(query)
}

// filterOf makes a filter of parameters. What it does not know it refuses: an order that leaves a part of its filter out ends more than was meant.
func filterOf(values url.Values) (f authserver.RevocationFilter, err error) {
	for name, all := range values {
		value := all[0]
		switch {
		case len(all) > 1:
			return f, bad("%s is there more than once", console.Clean(name, 40))
		case name == "user_id":
			f.UserID = value
		case name == "client_id":
			f.ClientID = value
		case name == "proxy":
			f.Proxy = value
		case name == "provider":
			f.Provider = value
		case name == "all" && (value == "true" || value == ""):
			f.All = value == "true"
		default:
			return f, bad("there is no filter %q to revoke by: there are user_id, client_id, proxy, provider and all", console.Clean(name, 40))
		}
	}
	if f == (authserver.RevocationFilter{}) {
		return f, nil
	}
	if err := f.Check(); err != nil {
		return f, bad("%v", err)
	}
	return f, nil
}

// countFor is how long the grants are counted that an order would mean. Whoever must revoke more than can be counted in that time need not wait for it.
const countFor = 5 * time.Second

// countMeant is how many grants an order would end, in words.
func (v *visit) countMeant(f authserver.RevocationFilter) (string, error) {
	ctx, cancel := context.WithTimeout(v.ctx(), countFor)
	defer cancel()
	n, err := v.options.Gateway.CountGrants(ctx, f)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && v.ctx().Err() == nil:
		return "more grants than can be counted in time", nil
	case err != nil:
		return "", err
	}
	return number(n, "grant", "grants"), nil
}

// askOrder asks about all grants that match a filter.
func (v *visit) askOrder(f authserver.RevocationFilter, reason string) error {
	count, err := v.countMeant(f)
	if err != nil {
		return err
	}
	form := console.Form{
		Title: "Revoke " + count + "?",
		Texts: []string{"All of them are refused from now on, on every node, also those that are made between now and your answer. Users have to agree again."},
		Facts: v.filterFacts(f), Warnings: sentences(v.options.Gateway.RevocationWarnings(f)), Mistakes: v.mistakes, Fields: []console.FormField{v.reasonField(reason)},
		Action: v.link("/admin/revoke", nil), Button: "Revoke them all", Cancel: v.link("/admin/grants", filterValues(f)), Danger: true,
		Hidden: hiddenValues(filterValues(f)),
	}
	if f.All {
		form.Cancel = v.link("/admin/revocations", nil)
		form.Fields = append(form.Fields, console.FormField{
			Name: "sure", Label: "Every chatbot of every user loses its access", Problem: v.mistakeIn("sure"), Checks: []console.Option{{Value: "sure", Text: "Yes, revoke every grant of this gateway"}},
		})
	}
	v.options.Pages.Form(v.w, v.frame(), form)
	return nil
}

// filterFacts say in words what a filter means.
func (v *visit) filterFacts(f authserver.RevocationFilter) []console.Fact {
	user, client := f.UserID, f.ClientID
	sample, err := v.options.Gateway.Grants(v.ctx(), authserver.GrantFilter{UserID: f.UserID, ClientID: f.ClientID, Limit: 1})
	named := err == nil && len(sample.Grants) == 1
	if named && f.UserID != "" {
		user = cmp.Or(sample.Grants[0].User.Label, user)
	}
	if named && f.ClientID != "" {
		client = clientName(sample.Grants[0].Client, f.ClientID)
	}
	all := facts(fact("User", user), fact("Client", client), fact("Proxy", f.Proxy), fact("Provider", f.Provider))
	for i := range all {
		switch {
		case all[i].Name == "User" && user != f.UserID:
			all[i].Note = f.UserID
		case all[i].Name == "Client" && client != f.ClientID:
			all[i].Note = f.ClientID
		}
	}
	if f.All {
		all = append(all, fact("Which", "every grant"))
	}
	return all
}

func filterValues(f authserver.RevocationFilter) url.Values {
	q := url.Values{"user_id": {f.UserID}, "client_id": {f.ClientID}, "proxy": {f.Proxy}, "provider": {f.Provider}}
	if f.All {
		q.Set("all", "true")
	}
	for name := range q {
		if q.Get(name) == "" {
			q.Del(name)
		}
	}
	return q
}

func hiddenValues(q url.Values) []console.Hidden {
	var all []console.Hidden
	for _, name := range []string{"user_id", "client_id", "proxy", "provider", "all"} {
		if q.Get(name) != "" {
			all = append(all, console.Hidden{Name: name, Value: q.Get(name)})
		}
	}
	return all
}

// revokeMany is POST /admin/revoke.
func (p *AdminPages) revokeMany(v *visit) error {
	reason := v.readReason()
	if v.form.Get("ids") != "" {
		return v.revokeChosen(reason)
	}
	values := copied(v.form)
	for _, name := range []string{"csrf", "reason", "sure", "ids"} {
		values.Del(name)
	}
	f, err := filterOf(values)
	if err != nil {
		return err
	}
	if f.All && v.form.Get("sure") != "on" {
		v.mistake("sure", "Say that you are sure: this ends every grant that there is.")
	}
	if len(v.mistakes) > 0 {
		return v.askOrder(f, reason)
	}
	order, err := v.options.Gateway.RevokeGrants(v.ctx(), f, v.by(), reason)
	if err != nil {
		return err
	}
	v.redirect("/admin/revocations/"+url.PathEscape(order.ID), nil)
	return nil
}

// by is who asks, as an order has it.
func (v *visit) by() string { return console.Clean(v.signIn.User.Label(), maxReason) }

// revokeChosen ends grants one by one. One that cannot be ended keeps none of the others from it.
func (v *visit) revokeChosen(reason string) error {
	for name := range v.form {
		if !slices.Contains([]string{"csrf", "ids", "reason"}, name) {
			return bad("either some grants are chosen, or all that match a filter")
		}
	}
	ids, err := checkChosen(strings.Fields(v.form.Get("ids")))
	if err != nil {
		return err
	}
	if len(v.mistakes) > 0 {
		return v.askChosen(ids, reason)
	}
	var failed error
	for _, id := range ids {
		_, err := v.options.Gateway.EndGrant(v.ctx(), id, reason)
		if e, ok := errors.AsType[*authserver.Error](err); ok && (e.Status == http.StatusNotFound || e.Status == http.StatusConflict) {
			continue // gone, or nobody can use it; the next page says what became of each
		}
		failed = errors.Join(failed, err)
	}
	if failed != nil {
		return failed
	}
	v.redirect("/admin/revoked", url.Values{"id": ids})
	return nil
}

// chosen is GET /admin/revoked: what became of grants that were chosen. It says nothing but how each of them fares now.
func (p *AdminPages) chosen(v *visit) error {
	ids, err := v.chosenIDs()
	if err != nil {
		return err
	}
	grants, gone, err := v.chosenGrants(ids)
	if err != nil {
		return err
	}
	over := 0
	for _, g := range grants {
		if g.Health == tokenstore.HealthRevoked {
			over++
		}
	}
	v.result = &console.Result{Text: number(over, "grant is revoked.", "grants are revoked."), Link: v.link("/admin/grants", nil), LinkText: "All grants"}
	switch {
	case len(grants) == 0:
		v.result = &console.Result{Failed: true, Text: "None of these grants is there, or not any more."}
	case over < len(grants):
		v.result = &console.Result{Failed: true, Text: grouped(over) + " of " + number(len(grants), "grant is", "grants are") + " revoked: see which are not."}
	}
	if gone > 0 && len(grants) > 0 {
		v.result.Text += " " + number(gone, "is not there any more.", "are not there any more.")
	}
	sheet := console.Sheet{Title: "Chosen grants", Back: &console.Action{Text: "All grants", Link: v.link("/admin/grants", nil)}}
	if len(grants) > 0 {
		sheet.Sections = []console.Section{{Table: v.grantTable("Chosen grants", grants)}}
	}
	v.options.Pages.Sheet(v.w, v.frame(), sheet)
	return nil
}
