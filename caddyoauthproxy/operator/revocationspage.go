package operator

import (
	"net/url"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// orderBadge says how far an order has come.
func orderBadge(o *authserver.RevocationOrder) *console.Badge {
	if o.Done.IsZero() {
		return &console.Badge{Kind: "expiring", Text: "In progress"}
	}
	return &console.Badge{Kind: "valid", Text: "Done"}
}

// orderMeans says in words which grants an order means.
func orderMeans(f authserver.RevocationFilter) string {
	if f.All {
		return "every grant"
	}
	means := ""
	for _, part := range [][2]string{{"user", f.UserID}, {"client", f.ClientID}, {"proxy", f.Proxy}, {"provider", f.Provider}} {
		if part[1] == "" {
			continue
		}
		if means != "" {
			means += ", "
		}
		means += part[0] + " " + part[1]
	}
	return means
}

// orders is GET /admin/revocations.
func (p *AdminPages) orders(v *visit) error {
	q := v.query("after")
	page, err := v.Server.revocationsAfter(v.ctx(), q.Get("after"), pageSize)
	if err != nil {
		return err
	}
	v.options.Pages.List(v.w, v.frame(), console.List{
		Title: "Revocations", Lead: "Orders to revoke all grants that match. Each holds from the moment at which it was given; the grants’ own records follow.",
		Mistakes: v.mistakes, Table: *v.orderTable(page.Revocations), Pager: v.pagerOf("/admin/revocations", q, page.Next),
		Empty: console.Empty{Title: "No order was given yet", Text: "To revoke many grants, filter the list of grants by user, client, proxy or provider."},
		Links: []console.Action{{Text: "Revoke every grant…", Link: v.link("/admin/revoke", url.Values{"all": {"true"}}), Danger: true}},
	})
	return nil
}

// pagerOf leads on in a list that is not counted; nil where there is nowhere to go.
func (v *visit) pagerOf(path string, q url.Values, next string) *console.Pager {
	if next == "" && q.Get("after") == "" {
		return nil
	}
	pager := new(console.Pager)
	if q.Get("after") != "" {
		first := copied(q)
		first.Del("after")
		pager.First = v.link(path, first)
	}
	if next != "" {
		more := copied(q)
		more.Set("after", next)
		pager.Next = v.link(path, more)
	}
	return pager
}

func (v *visit) orderTable(orders []*authserver.RevocationOrder) *console.Table {
	table := &console.Table{Caption: "Revocations", Columns: []console.Column{
		{Title: "Given"}, {Title: "Which grants"}, {Title: "State"}, {Title: "Ended", Number: true}, {Title: "By"}, {Title: "Reason", Wide: true},
	}}
	for _, o := range orders {
		given := v.ago(o.Created)
		table.Rows = append(table.Rows, []console.Cell{
			{Value: given}, text(orderMeans(o.Filter), v.link("/admin/revocations/"+url.PathEscape(o.ID), nil)), {Value: console.Value{Badge: orderBadge(o)}},
			text(grouped(o.Ended)+" of "+grouped(o.Matched), ""), text(o.By, ""), sentenceCell(o.Reason),
		})
	}
	return table
}

// order is GET /admin/revocations/{id}: how far an order is carried out.
func (p *AdminPages) order(v *visit) error {
	o, err := v.options.Gateway.RevocationOrder(v.ctx(), v.r.PathValue("id"))
	if err != nil {
		return err
	}
	here := v.link("/admin/revocations/"+url.PathEscape(o.ID), nil)
	v.result = &console.Result{Text: "None of these grants is accepted any more. Their records are being ended in the background.", Link: here, LinkText: "See how far it is"}
	if !o.Done.IsZero() {
		v.result = &console.Result{Text: "None of these grants is accepted any more, and all their records are ended."}
	}
	means := v.filterFacts(o.Filter)
	progress := fact("Ended", grouped(o.Ended)+" of "+grouped(o.Matched))
	if part := percent(o.Ended, o.Matched); part != "" {
		progress.Note = "(" + part + ")"
	}
	means = append(means, facts(progress, fact("Given by", o.By), fact("Reason", o.Reason), moment("Holds since", o.Created, v.now()), moment("Done", o.Done, v.now()), code("Order id", o.ID))...)
	sheet := console.Sheet{
		Title: "Revocation", Badge: orderBadge(o), Back: &console.Action{Text: "All revocations", Link: v.link("/admin/revocations", nil)},
		Sections: []console.Section{{Facts: means, Actions: []console.Action{{Text: "Refresh", Link: here}, {Text: "Grants", Link: v.link("/admin/grants", filterValues(o.Filter))}}}},
	}
	if o.Filter.All {
		sheet.Sections[0].Actions[1].Link = v.link("/admin/grants", nil)
	}
	if o.Unreadable > 0 {
		sheet.Sections = append(sheet.Sections, console.Section{
			Title: "Records that do not open", Lead: number(o.Unreadable, "record was", "records were") + " changed outside of the gateway, or the storage is damaged. Nobody can use these grants.",
			Facts: []console.Fact{listed("Grant ids", o.UnreadableGrants)},
		})
	}
	if len(o.Warnings) > 0 {
		sheet.Sections = append(sheet.Sections, console.Section{Title: "To be known", Facts: []console.Fact{{Name: "Warnings", Value: console.Value{List: sentences(o.Warnings)}}}})
	}
	v.options.Pages.Sheet(v.w, v.frame(), sheet)
	return nil
}
