package operator

import (
	"errors"
	"slices"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// notable are the types of events that operators should know of.
var notable = []string{
	tokenstore.EventClientDeleted, tokenstore.EventLoginFailed, tokenstore.EventTokenRefused, tokenstore.EventCodeReplayed, tokenstore.EventRefreshReplayed,
	tokenstore.EventGrantEnded, tokenstore.EventRevocationOrdered, tokenstore.EventUpstreamRefused, tokenstore.EventUpstreamLost, tokenstore.EventUpstreamRevokeGivenUp,
	tokenstore.EventAPIKeyCreated, tokenstore.EventAPIKeyRevoked, tokenstore.EventSigningKeyRotated, tokenstore.EventVaultTampered, tokenstore.EventConfigApplied,
	tokenstore.EventAuditDropped,
}

// lately are the latest of them. What the gateway ends by itself, as what has expired or what an order means, would be in the way of all else.
func (v *visit) lately() ([]*tokenstore.Event, error) {
	const shown = 10
	events, err := v.eventsLike(tokenstore.EventFilter{Types: notable, Limit: 500})
	events = slices.DeleteFunc(events, func(e *tokenstore.Event) bool {
		return e.Type == tokenstore.EventGrantEnded && e.Actor.Kind == tokenstore.ActorGateway
	})
	return events[:min(len(events), shown)], err
}

// overview is GET /admin/.
func (p *AdminPages) overview(v *visit) error {
	v.query()
	page := console.Overview{
		State:  console.Section{Title: "Is all well?", Table: &console.Table{Caption: "What is watched", Columns: []console.Column{{Title: "What"}, {Title: "State"}, {Title: "Details", Wide: true}}}},
		Events: console.Section{Title: "Lately", Lead: "What ended, failed, or was refused."},
	}
	for _, h := range tokenstore.Healths() {
		n, err := v.options.Vault.CountGrants(v.ctx(), h)
		if err != nil {
			return err
		}
		page.Tiles = append(page.Tiles, console.Tile{Badge: *healthBadge(h), Number: n, Link: v.grantsLink("health", string(h))})
	}
	var rows [][]console.Cell
	for _, watched := range []func() ([][]console.Cell, error){v.watchProviders, v.watchOrders, v.watchCleanup, v.watchAudit, v.watchSignIns} {
		more, err := watched()
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	page.State.Table.Rows = rows
	events, err := v.lately()
	if err != nil {
		return err
	}
	if len(events) == 0 {
		page.Events.Empty = &console.Empty{Title: "Nothing to tell"}
	} else {
		page.Events.Table = v.eventTable("Recent events", events)
		page.Events.Actions = []console.Action{{Text: "Audit trail", Link: v.link("/admin/audit", nil)}}
	}
	v.options.Pages.Overview(v.w, v.frame(), page)
	return nil
}

// watched is a row of what is watched.
func watched(what, link string, badge *console.Badge, details string) []console.Cell {
	return []console.Cell{text(what, link), {Value: console.Value{Badge: badge}}, sentenceCell(details)}
}

func good(text string) *console.Badge    { return &console.Badge{Kind: "valid", Text: text} }
func worse(text string) *console.Badge   { return &console.Badge{Kind: "expiring", Text: text} }
func failing(text string) *console.Badge { return &console.Badge{Kind: "broken", Text: text} }

func (v *visit) watchProviders() ([][]console.Cell, error) {
	var rows [][]console.Cell
	for _, name := range v.providerNames() {
		h, ok := v.Health(name)
		if !ok {
			continue
		}
		details := ""
		switch {
		case h.State == upstream.HealthFailing:
			details = failureClasses[h.LastFailureClass]
		case h.GateClosed:
			details = "Refreshes are held back for a while, because several in a row have failed."
		case !h.LastSuccess.IsZero():
			details = "Last good answer " + console.Ago(h.LastSuccess, v.now()) + "."
		}
		rows = append(rows, watched("Provider "+name, v.link("/admin/providers", nil), providerBadge(h), details))
	}
	return rows, nil
}

func (v *visit) watchOrders() ([][]console.Cell, error) {
	// Those that are carried out may be many: they are counted alone.
	orders, err := v.options.Vault.RevocationOrders(v.ctx(), true)
	if err != nil && !errors.Is(err, tokenstore.ErrTampered) {
		return nil, err
	}
	all, err := v.options.Vault.Count(v.ctx(), tokenstore.KindRevocationOrder)
	if err != nil {
		return nil, err
	}
	open := slices.DeleteFunc(orders, func(o *tokenstore.RevocationOrder) bool { return !o.Done.IsZero() })
	link := v.link("/admin/revocations", nil)
	if len(open) == 0 {
		details := "No order was given yet."
		if all > 0 {
			details = number(all, "order is carried out.", "orders are carried out.")
		}
		return [][]console.Cell{watched("Revocations", link, good("None open"), details)}, nil
	}
	return [][]console.Cell{watched("Revocations", link, worse(grouped(len(open))+" in progress"), "Their grants are refused already; their records are being ended.")}, nil
}

func (v *visit) watchCleanup() ([][]console.Cell, error) {
	if v.CleanupEvery <= 0 {
		return [][]console.Cell{watched("Clean-up", "", worse("Off"), "The configuration has switched it off: what is over stays in the vault.")}, nil
	}
	at, err := v.Cleaned(v.ctx())
	if err != nil {
		return nil, err
	}
	switch late := v.now().Sub(at) > 2*v.CleanupEvery+5*time.Minute; {
	case at.IsZero():
		return [][]console.Cell{watched("Clean-up", "", worse("Not yet"), "It has not run since the vault was made.")}, nil
	case late:
		return [][]console.Cell{watched("Clean-up", "", failing("Late"), "It last ran "+console.Ago(at, v.now())+": see the log of the nodes.")}, nil
	default:
		return [][]console.Cell{watched("Clean-up", "", good("Runs"), "Last run "+console.Ago(at, v.now())+".")}, nil
	}
}

// maxWaiting is how many events may wait to be chained without anything being wrong: they do for seconds.
const maxWaiting = 20_000

func (v *visit) watchAudit() ([][]console.Cell, error) {
	state, err := v.options.Vault.State(v.ctx())
	if err != nil {
		return nil, err
	}
	waiting, segments, link := state.Records[tokenstore.KindEvent], state.Records[tokenstore.KindAuditSegment], v.link("/admin/audit/verify", nil)
	details := number(segments, "segment is", "segments are") + " chained, " + number(waiting, "event waits", "events wait") + "."
	last := v.verified.Load()
	switch {
	case last != nil && !last.report.Whole():
		return [][]console.Cell{watched("Audit trail", link, failing("Not whole"), "Found "+console.Ago(last.at, v.now())+": verify it, and see where.")}, nil
	case waiting > maxWaiting:
		return [][]console.Cell{watched("Audit trail", link, failing("Behind"), details)}, nil
	case last != nil:
		return [][]console.Cell{watched("Audit trail", link, good("Whole"), "Verified "+console.Ago(last.at, v.now())+". "+details)}, nil
	default:
		return [][]console.Cell{watched("Audit trail", link, &console.Badge{Text: "Not verified"}, details)}, nil
	}
}

func (v *visit) watchSignIns() ([][]console.Cell, error) {
	all, err := v.options.Gateway.SignIns(v.ctx())
	if err != nil {
		return nil, err
	}
	admins := 0
	for _, s := range all {
		if s.Admin {
			admins++
		}
	}
	details := number(len(all), "sign-in", "sign-ins") + " to these pages and the users’ own, " + number(admins, "of an operator.", "of operators.")
	return [][]console.Cell{watched("Sign-ins", v.link("/admin/sessions", nil), good("In use"), details)}, nil
}
