package operator

import (
	"cmp"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// grantOf is the grant that the path names.
func (v *visit) grantOf() (*authserver.GrantInfo, error) {
	id := v.r.PathValue("id")
	if !isID(id) {
		return nil, tokenstore.ErrNotFound
	}
	return v.options.Gateway.GrantInfo(v.ctx(), id)
}

// grantTitle names a grant to people.
func grantTitle(g *authserver.GrantInfo) string {
	client := clientName(g.Client, g.ClientID)
	if g.User.Label == "" || g.User.Label == g.ClientID {
		return cmp.Or(client, "Grant that cannot be read")
	}
	return console.Clean(g.User.Label, 80) + " · " + console.Clean(client, 80)
}

// grant is GET /admin/grants/{id}.
func (p *AdminPages) grant(v *visit) error {
	q := v.query("done")
	g, err := v.grantOf()
	if err != nil {
		return err
	}
	if g.Health == tokenstore.HealthRevoked {
		v.done(q.Get("done"), map[string]string{"revoked": "The grant is revoked. The chatbot’s next request is refused."})
	}
	sheet := console.Sheet{
		Title: grantTitle(g), Badge: healthBadge(g.Health), Reason: g.Reason, Back: &console.Action{Text: "All grants", Link: v.link("/admin/grants", nil)},
		Sections: []console.Section{{Facts: v.grantFacts(g)}},
	}
	if g.Health != tokenstore.HealthRevoked {
		sheet.Actions = []console.Action{{Text: "Revoke…", Link: v.grantLink(g.ID) + "/revoke", Danger: true}}
	}
	if a := g.Account; a != nil {
		sheet.Sections = append(sheet.Sections, console.Section{Title: "Upstream account", Lead: "What the gateway holds for the user at the provider. Its tokens are shown to nobody.", Facts: facts(
			fact("State", string(a.State)), fact("Reason", a.Reason), fact("Provider", a.Provider), fact("Whose", a.Owner), listed("Scopes", a.Scopes),
			moment("Token obtained", a.Obtained, v.now()), moment("Token ends", a.Expires, v.now()), linkedCode("Account id", a.ID, v.grantsLink("account_id", a.ID)),
		)})
	}
	events, err := v.trailOf(g.ID)
	if err != nil {
		return err
	}
	section := console.Section{Title: "What happened", Lead: "From the consent to the last token, as the audit trail has it."}
	if len(events) == 0 {
		section.Empty = &console.Empty{Title: "The audit trail says nothing of it", Text: "It is kept for a time that the configuration says, and may be switched off."}
	} else {
		section.Table = v.eventTable("Events of this grant", events)
		section.Actions = []console.Action{{Text: "All in the audit trail", Link: v.link("/admin/audit", url.Values{"grant": {g.ID}})}}
	}
	sheet.Sections = append(sheet.Sections, section)
	v.options.Pages.Sheet(v.w, v.frame(), sheet)
	return nil
}

// grantFacts are all that there is to say of a grant.
func (v *visit) grantFacts(g *authserver.GrantInfo) []console.Fact {
	now := v.now()
	return facts(
		linked("User", g.User.Label, v.grantsLink("user_id", g.User.ID)), fact("Name", g.User.Name), fact("E-mail address", g.User.Email), fact("Login", g.User.Login),
		fact("Logs in at", g.User.Provider), code("User id", g.User.ID),
		linked("Client", clientName(g.Client, g.ClientID), v.clientLink(g.ClientID)), code("Client id", g.ClientID),
		linked("Proxy", cmp.Or(g.Proxy, "every proxy of the provider"), v.grantsLink("proxy", g.Proxy)), code("MCP URL", g.Resource),
		linked("Provider", g.Provider, v.grantsLink("provider", g.Provider)), listed("Scopes", g.Scopes),
		moment("Since", g.Created, now), v.lastUse(g), moment("Expires unless renewed", g.Expires, now), moment("Ends in any case", g.Ends, now),
		moment("Upstream token ends", g.UpstreamEnds, now), code("Grant id", g.ID),
	)
}

func (v *visit) lastUse(g *authserver.GrantInfo) console.Fact {
	if g.Used.IsZero() {
		return fact("Last used", "never")
	}
	f := moment("Last used", g.Used, v.now())
	f.Note = "(" + console.Ago(g.Used, v.now()) + ", to within an hour)"
	return f
}

// trailSize is how many events are shown of one thing.
const trailSize = 50

// trailOf are the events of a grant and of the consent that it goes back to, the newest first.
func (v *visit) trailOf(grant string) ([]*tokenstore.Event, error) {
	events, err := v.eventsLike(tokenstore.EventFilter{Grant: grant, Limit: trailSize})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(events, func(e *tokenstore.Event) bool { return e.Consent != "" })
	if i < 0 {
		return events, nil
	}
	return v.withConsent(events, events[i].Consent)
}

// withConsent adds the event of a consent, and what came of it before there was a grant.
func (v *visit) withConsent(events []*tokenstore.Event, consent string) ([]*tokenstore.Event, error) {
	more, err := v.eventsLike(tokenstore.EventFilter{Consent: consent, Limit: trailSize})
	if err != nil {
		return nil, err
	}
	first, err := v.options.Vault.Event(v.ctx(), consent)
	switch {
	case err == nil:
		more = append(more, first)
	case !errors.Is(err, tokenstore.ErrNotFound) && !errors.Is(err, tokenstore.ErrTampered):
		return nil, err
	}
	for _, e := range more {
		if !slices.ContainsFunc(events, func(known *tokenstore.Event) bool { return known.ID == e.ID }) {
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b *tokenstore.Event) int { return strings.Compare(b.ID, a.ID) })
	return events[:min(len(events), trailSize)], nil
}

// eventsLike are events of one page. What does not open is left out, and the verification tells of it.
func (v *visit) eventsLike(f tokenstore.EventFilter) ([]*tokenstore.Event, error) {
	events, _, err := v.options.Vault.Events(v.ctx(), f)
	if errors.Is(err, tokenstore.ErrTampered) {
		err = nil
	}
	return events, err
}

// askGrant is GET /admin/grants/{id}/revoke.
func (p *AdminPages) askGrant(v *visit) error {
	g, err := v.grantOf()
	if err != nil {
		return err
	}
	return v.askAboutGrant(g, "")
}

func (v *visit) askAboutGrant(g *authserver.GrantInfo, reason string) error {
	v.options.Pages.Form(v.w, v.frame(), console.Form{
		Title: "Revoke this grant?", Texts: []string{"The chatbot’s next request is refused, open responses end within a second, and the provider is told to revoke the upstream token. The user has to agree again."},
		Facts: facts(
			fact("User", g.User.Label), fact("Client", clientName(g.Client, g.ClientID)), fact("Proxy", g.Proxy), fact("Provider", g.Provider),
			console.Fact{Name: "Health", Value: console.Value{Badge: healthBadge(g.Health), Note: g.Reason}}, v.lastUse(g),
		),
		Mistakes: v.mistakes, Fields: []console.FormField{v.reasonField(reason)},
		Action: v.grantLink(g.ID) + "/revoke", Button: "Revoke", Cancel: v.grantLink(g.ID), Danger: true,
	})
	return nil
}

// maxReason is how long the reason for which something is revoked may be: what a grant keeps, in bytes.
const maxReason = 200

func (v *visit) reasonField(reason string) console.FormField {
	return console.FormField{
		Name: "reason", Label: "Reason", Help: "For other operators and the audit trail, such as a ticket number. May be left empty.", Value: reason, Most: maxReason,
		Problem: v.mistakeIn("reason"),
	}
}

// readReason reads why something is revoked.
func (v *visit) readReason() string {
	reason := strings.TrimSpace(v.form.Get("reason"))
	if len(reason) > maxReason || console.Clean(reason, maxReason) != reason {
		v.mistake("reason", "The reason must be one line of plain text, of 200 bytes at most.")
	}
	return reason
}

// endGrant is POST /admin/grants/{id}/revoke.
func (p *AdminPages) endGrant(v *visit) error {
	g, err := v.grantOf()
	if err != nil {
		return err
	}
	reason := v.readReason()
	if len(v.mistakes) > 0 {
		return v.askAboutGrant(g, reason)
	}
	if _, err := v.options.Gateway.EndGrant(v.ctx(), g.ID, reason); err != nil {
		return err
	}
	v.redirect("/admin/grants/"+url.PathEscape(g.ID), url.Values{"done": {notice(v.signIn, "revoked")}})
	return nil
}
