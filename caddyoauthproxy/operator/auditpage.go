package operator

import (
	"cmp"
	"errors"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// eventFilters are the parameters that select events. account and consent come with links alone.
var eventFilters = []string{"type", "user_id", "client_id", "grant", "account", "consent", "jti", "proxy", "provider", "text", "from", "until"}

// audit is GET /admin/audit.
func (p *AdminPages) audit(v *visit) error {
	q := v.query(slices.Concat(eventFilters, []string{"after"})...)
	f := v.eventFilter(q)
	var events []*tokenstore.Event
	var next string
	if len(v.mistakes) == 0 {
		var err error
		events, next, err = v.options.Vault.Events(v.ctx(), f)
		switch {
		case errors.Is(err, tokenstore.ErrTampered):
			v.result = &console.Result{Failed: true, Text: "A part of the audit trail does not open, and is not listed: verify it.", Link: v.link("/admin/audit/verify", nil), LinkText: "Verify"}
		case errors.Is(err, tokenstore.ErrCursor):
			v.mistake("", "The list cannot go on from here: begin again.")
		case err != nil:
			return err
		}
	}
	list := console.List{
		Title: "Audit trail", Lead: "What was done, by whom, and what was refused. Nothing in it can be changed without being found.", Mistakes: v.mistakes,
		Actions: []console.Action{{Text: "Verify the trail", Link: v.link("/admin/audit/verify", nil)}}, Filter: v.auditFilter(q),
		Table: *v.eventTable("Events", events), Pager: v.pagerOf("/admin/audit", q, next),
		Empty: console.Empty{Title: "No event is like this", Text: "Take a filter away. Events are kept for a time that the configuration says."},
	}
	if next != "" {
		list.Empty = console.Empty{Title: "None among the latest", Text: "There is more to look through: go on with More."}
	}
	if len(v.mistakes) == 0 {
		export := copied(q)
		export.Del("after")
		lines, sheet := copied(export), copied(export)
		sheet.Set("format", "csv")
		list.Links = []console.Action{
			{Text: "Export as JSON lines", Link: v.link("/admin/oauth/audit/export", lines)}, {Text: "Export as CSV", Link: v.link("/admin/oauth/audit/export", sheet)},
		}
	}
	v.options.Pages.List(v.w, v.frame(), list)
	return nil
}

// eventFilter reads what is selected.
func (v *visit) eventFilter(q url.Values) tokenstore.EventFilter {
	f := tokenstore.EventFilter{
		UserID: q.Get("user_id"), ClientID: q.Get("client_id"), Grant: q.Get("grant"), Account: q.Get("account"), Consent: q.Get("consent"), JTI: q.Get("jti"),
		Proxy: q.Get("proxy"), Provider: q.Get("provider"), Text: q.Get("text"), After: q.Get("after"), Limit: pageSize,
	}
	if t := q.Get("type"); t != "" {
		f.Types = []string{t}
		if !slices.Contains(tokenstore.EventTypes(), t) {
			v.mistake("type", "There is no such type of events.")
		}
	}
	f.From, f.Until = v.moment(q, "from"), v.moment(q, "until")
	if !f.From.IsZero() && !f.Until.IsZero() && !f.From.Before(f.Until) {
		v.mistake("until", "Nothing lies between the two times: until must be later than from.")
	}
	return f
}

// moment reads a time, or a day for its first moment.
func (v *visit) moment(q url.Values, name string) time.Time {
	if q.Get(name) == "" {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.Parse(layout, q.Get(name)); err == nil {
			return t
		}
	}
	v.mistake(name, "This is no time: write it like 2026-07-28 or 2026-07-28T09:00, in UTC.")
	return time.Time{}
}

// auditFilter is the form above the list.
func (v *visit) auditFilter(q url.Values) *console.Filter {
	f := &console.Filter{
		Action: v.link("/admin/audit", nil), Button: "Find",
		Fields: []console.Field{
			{Name: "text", Label: "Find any text", Value: q.Get("text")},
			{Name: "type", Label: "Event", Options: options(q.Get("type"), "Any", tokenstore.EventTypes(), nil)},
			{Name: "proxy", Label: "Proxy", Options: options(q.Get("proxy"), "All", v.proxyIDs(), nil)},
			{Name: "provider", Label: "Provider", Options: options(q.Get("provider"), "All", v.providerNames(), nil)},
			{Name: "from", Label: "From (UTC)", Value: q.Get("from")},
			{Name: "until", Label: "Until (UTC)", Value: q.Get("until")},
			{Name: "user_id", Label: "User id", Value: q.Get("user_id")},
			{Name: "client_id", Label: "Client id", Value: q.Get("client_id")},
			{Name: "grant", Label: "Grant id", Value: q.Get("grant")},
			{Name: "jti", Label: "Token id (jti)", Value: q.Get("jti")},
		},
	}
	v.tellProblems(q, f.Fields)
	for _, name := range []string{"account", "consent"} {
		if q.Get(name) != "" {
			f.Hidden = append(f.Hidden, console.Hidden{Name: name, Value: q.Get(name)})
		}
	}
	if len(q) > 0 || len(v.mistakes) > 0 {
		f.Reset = v.link("/admin/audit", nil)
	}
	return f
}

// event is GET /admin/audit/{id}.
func (p *AdminPages) event(v *visit) error {
	e, err := v.options.Vault.Event(v.ctx(), v.r.PathValue("id"))
	if err != nil {
		return err
	}
	like := func(name, value string) string {
		if value == "" {
			return ""
		}
		return v.link("/admin/audit", url.Values{name: {value}})
	}
	consent := ""
	if e.Consent != "" {
		consent = v.link("/admin/audit/"+url.PathEscape(e.Consent), nil)
	}
	badge := &console.Badge{Kind: "valid", Text: "OK"}
	if e.Outcome == tokenstore.OutcomeRefused {
		badge = &console.Badge{Kind: "broken", Text: "Refused"}
	}
	grant := v.grantLink(e.Grant)
	if _, err := v.options.Gateway.GrantInfo(v.ctx(), e.Grant); err != nil {
		grant = "" // past its time, or an API key
	}
	all := facts(
		console.Fact{Name: "Time", Value: console.Value{Text: e.Time.UTC().Format("2 Jan 2006, 15:04:05.000 UTC")}}, fact("Reason", e.Reason),
		fact("By", actorName(e.Actor)), fact("As", actorKinds[e.Actor.Kind]), code("Their id", e.Actor.ID), code("From address", e.Address),
		linked("User", cmp.Or(e.User, e.UserID), like("user_id", e.UserID)), code("User id", e.UserID),
		linked("Client", clientName(e.Client, e.ClientID), v.clientLink(e.ClientID)), code("Client id", e.ClientID),
		linked("Proxy", e.Proxy, like("proxy", e.Proxy)), linked("Provider", e.Provider, like("provider", e.Provider)),
		linkedCode("Grant", e.Grant, grant), linkedCode("Account", e.Account, like("account", e.Account)),
		linkedCode("Consent", e.Consent, consent), linkedCode("Token (jti)", e.JTI, like("jti", e.JTI)),
	)
	for _, name := range slices.Sorted(maps.Keys(e.Details)) {
		all = append(all, code(name, e.Details[name]))
	}
	sheet := console.Sheet{
		Title: e.Type, Badge: badge, Back: &console.Action{Text: "Audit trail", Link: v.link("/admin/audit", nil)}, Sections: []console.Section{{Facts: append(all, code("Event id", e.ID))}},
	}
	chain, err := v.chainOf(e)
	if err != nil {
		return err
	}
	if len(chain) > 1 {
		sheet.Sections = append(sheet.Sections, console.Section{
			Title: "The whole story", Lead: "From the consent to the last token of the same grant.", Table: v.eventTable("Events that belong together", chain),
		})
	}
	v.options.Pages.Sheet(v.w, v.frame(), sheet)
	return nil
}

// chainOf are the events that go back to the same consent, or are about the same grant.
func (v *visit) chainOf(e *tokenstore.Event) ([]*tokenstore.Event, error) {
	var events []*tokenstore.Event
	if e.Grant != "" {
		var err error
		if events, err = v.eventsLike(tokenstore.EventFilter{Grant: e.Grant, Limit: trailSize}); err != nil {
			return nil, err
		}
	}
	consent := e.Consent
	if e.Type == tokenstore.EventConsentGiven {
		consent = e.ID
	}
	if consent == "" {
		return events, nil
	}
	return v.withConsent(events, consent)
}

// verification is what the last one of this process found.
type verification struct {
	at     time.Time
	report *tokenstore.AuditReport
}

// verify is GET /admin/audit/verify. It reads the whole trail, and changes nothing.
func (p *AdminPages) verify(v *visit) error {
	q := v.query("anchor")
	report, err := v.options.Vault.VerifyAudit(v.ctx(), q.Get("anchor"))
	if errors.Is(err, tokenstore.ErrAnchor) {
		return bad("anchor: %v", err)
	}
	if err != nil {
		return err
	}
	v.verified.Store(&verification{v.now(), report})
	v.result = &console.Result{Text: "The audit trail is whole: nothing in it was changed, removed or put in another place."}
	badge := &console.Badge{Kind: "valid", Text: "Whole"}
	if !report.Whole() {
		v.result = &console.Result{Failed: true, Text: "The audit trail was changed, or is damaged. See below where, and what the operations guide says to do."}
		badge = &console.Badge{Kind: "broken", Text: "Not whole"}
	}
	anchor := ""
	if report.Hash != "" {
		anchor = grouped(int(min(report.Number, 1<<48))) + ":" + report.Hash
	}
	found := console.Section{Facts: facts(
		fact("Events in the chain", grouped(report.Events)), fact("Not chained yet", grouped(report.Waiting)), moment("Oldest event", report.First, v.now()), moment("Latest event", report.Last, v.now()),
		code("Anchor", anchor),
	), Actions: []console.Action{{Text: "Verify again", Link: v.link("/admin/audit/verify", nil)}, {Text: "Audit trail", Link: v.link("/admin/audit", nil)}}}
	if anchor != "" {
		found.Lead = "Keep the anchor somewhere else. With it, caddy oauth-proxy verify-audit --anchor finds later also a trail that was put back or written anew."
	}
	sheet := console.Sheet{Title: "Verification", Badge: badge, Back: &console.Action{Text: "Audit trail", Link: v.link("/admin/audit", nil)}, Sections: []console.Section{found}}
	if !report.Whole() {
		table := &console.Table{Caption: "What is wrong", Columns: []console.Column{{Title: "Where"}, {Title: "What is wrong", Wide: true}, {Title: "Between"}}}
		for _, fault := range report.Faults {
			where := "head"
			switch {
			case fault.Segment > 0:
				where = "segment " + grouped(int(min(fault.Segment, 1<<48)))
			case fault.Event != "":
				where = "event " + fault.Event
			}
			table.Rows = append(table.Rows, []console.Cell{text(where, ""), sentenceCell(fault.Problem), sentenceCell(between(fault.After, fault.Before))})
		}
		sheet.Sections = append(sheet.Sections, console.Section{Title: "What is wrong", Table: table})
	}
	v.options.Pages.Sheet(v.w, v.frame(), sheet)
	return nil
}

func between(after, before time.Time) string {
	const layout = "2 Jan 2006, 15:04:05 UTC"
	switch {
	case after.IsZero() && before.IsZero():
		return ""
	case before.IsZero():
		return "after " + after.UTC().Format(layout)
	case after.IsZero():
		return "before " + before.UTC().Format(layout)
	default:
		return after.UTC().Format(layout) + " and " + before.UTC().Format(layout)
	}
}
