package operator

import (
	"cmp"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

var keyStates = map[string]console.Badge{"active": {Kind: "valid", Text: "Active"}, "expired": {Kind: "expired", Text: "Expired"}, "revoked": {Kind: "revoked", Text: "Revoked"}}

// keys is GET /admin/keys.
func (p *AdminPages) keys(v *visit) error {
	v.done(v.query("done").Get("done"), map[string]string{
		"revoked": "The API key is revoked. The next request with it is refused.",
		"rotated": "There is a new signing key. It signs as soon as everybody can know it.",
		"cut":     "There is a new signing key, and it signs from now on. Tokens that the others signed are worth nothing any more.",
	})
	all, err := v.options.Gateway.APIKeys(v.ctx())
	if err != nil {
		return err
	}
	machines := slices.ContainsFunc(v.options.Proxies, func(p *authserver.Proxy) bool { return p.Machines })
	section := console.Section{Title: "API keys", Lead: "For programs that act for no user, at proxies whose upstream token is no user’s."}
	if machines {
		section.Actions = []console.Action{{Text: "Create an API key…", Link: v.link("/admin/keys/new", nil)}}
	}
	switch {
	case len(all) > 0:
		section.Table = v.keyTable(all)
	case machines:
		section.Empty = &console.Empty{Title: "There is no API key yet"}
	default:
		section.Empty = &console.Empty{
			Title: "No proxy is open to API keys", Text: "A proxy is, when it has an upstream token that is no user’s: set its machine_token, or its upstream_token to client_credentials or static.",
		}
	}
	signing := &console.Table{Caption: "Signing keys", Columns: []console.Column{{Title: "Key id"}, {Title: "Algorithm"}, {Title: "State"}, {Title: "Made"}, {Title: "Signs from"}}}
	for _, k := range v.options.Gateway.SigningKeys() {
		state := console.Badge{Kind: "expired", Text: "Verifies"}
		switch {
		case k.Active:
			state = console.Badge{Kind: "valid", Text: "Signs"}
		case v.now().Before(k.Signs):
			state = console.Badge{Kind: "expiring", Text: "Signs soon"}
		}
		signing.Rows = append(signing.Rows, []console.Cell{
			{Value: console.Value{Text: k.ID, Code: true}}, text(k.Algorithm, ""), {Value: console.Value{Badge: &state}}, {Value: v.ago(k.Created)}, {Value: v.ahead(k.Signs)},
		})
	}
	v.options.Pages.Sheet(v.w, v.frame(), console.Sheet{Title: "Keys", Sections: []console.Section{section, {
		Title: "Signing keys", Lead: "With which the gateway signs its tokens. They change by themselves; change them now when one may be known to somebody.", Table: signing,
		Actions: []console.Action{{Text: "Rotate…", Link: v.link("/admin/keys/rotate", nil)}},
	}}})
	return nil
}

func (v *visit) keyTable(all []*authserver.APIKey) *console.Table {
	table := &console.Table{Caption: "API keys", Columns: []console.Column{
		{Title: "Name"}, {Title: "State"}, {Title: "Proxies"}, {Title: "Scopes"}, {Title: "Created"}, {Title: "Last used"}, {Title: "Expires"}, {Title: "Revoke", Plain: true},
	}}
	for _, k := range all {
		state, used := keyStates[k.State], v.ago(k.Used)
		if k.Used.IsZero() {
			used = console.Value{Text: "never"}
		}
		var act console.Cell
		if k.State == "active" {
			act.Action = &console.Action{Text: "Revoke…", Link: v.link("/admin/keys/"+url.PathEscape(k.ID)+"/revoke", nil), About: "the API key " + k.Name}
		}
		table.Rows = append(table.Rows, []console.Cell{
			noted(k.Name, v.link("/admin/audit", url.Values{"grant": {k.ID}}), k.ID), {Value: console.Value{Badge: &state}}, {Value: console.Value{List: k.Proxies}},
			{Value: console.Value{List: k.Scopes}}, {Value: v.ago(k.Created)}, {Value: used}, {Value: v.ahead(k.Expires)}, act,
		})
	}
	return table
}

// askNewKey is GET /admin/keys/new.
func (p *AdminPages) askNewKey(v *visit) error { return v.askAboutNewKey(nil) }

func (v *visit) askAboutNewKey(filled url.Values) error {
	var open []console.Option
	for _, p := range v.options.Proxies {
		if p.Machines {
			open = append(open, console.Option{Value: "proxy:" + p.ID, Text: cmp.Or(p.Name, p.ID), Selected: filled.Get("proxy:"+p.ID) != ""})
		}
	}
	if len(open) == 0 {
		return denied(409, "conflict", "no proxy is open to API keys: set the machine_token of one, or its upstream_token to client_credentials or static")
	}
	v.options.Pages.Form(v.w, v.frame(), console.Form{
		Title: "Create an API key", Texts: []string{"It is shown once, on the next page. Whoever has it can use the proxies that you choose, until it expires or is revoked."}, Mistakes: v.mistakes,
		Fields: []console.FormField{
			{Name: "name", Label: "Name", Help: "What it is for, such as nightly report.", Value: filled.Get("name"), Most: 100, Required: true, Problem: v.mistakeIn("name")},
			{Name: "proxies", Label: "Proxies", Checks: open, Problem: v.mistakeIn("proxies")},
			{Name: "scopes", Label: "Scopes", Help: "Those of the gateway, apart by spaces. Empty for all that the proxies have.", Value: filled.Get("scopes"), Problem: v.mistakeIn("scopes")},
			{Name: "expires_in", Label: "Lives for", Help: "Such as 12h or 30d, 365d at most.", Value: cmp.Or(filled.Get("expires_in"), "90d"), Most: 10, Problem: v.mistakeIn("expires_in")},
		},
		Action: v.link("/admin/keys/new", nil), Button: "Create", Cancel: v.link("/admin/keys", nil),
	})
	return nil
}

// createKey is POST /admin/keys/new. The key stands in its answer and nowhere else, so there is no page to go on to.
func (p *AdminPages) createKey(v *visit) error {
	n := authserver.NewAPIKey{Name: v.form.Get("name"), Scopes: strings.Fields(v.form.Get("scopes"))}
	for name, values := range v.form {
		if id, ok := strings.CutPrefix(name, "proxy:"); ok && values[0] == "on" {
			n.Proxies = append(n.Proxies, id)
		}
	}
	slices.Sort(n.Proxies)
	var err error
	if n.Lifetime, err = parseExpiresIn(v.form.Get("expires_in")); err != nil {
		v.mistaken("expires_in", err)
		return v.askAboutNewKey(v.form)
	}
	key, made, err := v.options.Gateway.CreateAPIKey(v.ctx(), n)
	if err != nil {
		if !v.mistaken(keyField(err), err) {
			return err
		}
		return v.askAboutNewKey(v.form)
	}
	v.result = &console.Result{Text: "The API key is made. Copy it now: it is shown this once, and the gateway keeps but a hash of it."}
	v.options.Pages.Sheet(v.w, v.frame(), console.Sheet{
		Title: made.Name, Back: &console.Action{Text: "All keys", Link: v.link("/admin/keys", nil)}, Sections: []console.Section{
			{Title: "The key", Facts: []console.Fact{code("API key", key)}},
			{Title: "What it is good for", Facts: facts(listed("Proxies", made.Proxies), listed("Scopes", made.Scopes), moment("Expires", made.Expires, v.now()), code("Key id", made.ID))},
		},
	})
	return nil
}

// keyField is the field that a refusal of a new key is about.
func keyField(err error) string {
	e, ok := errors.AsType[*authserver.Error](err)
	if !ok {
		return ""
	}
	for begin, field := range map[string]string{"name": "name", "a key lives": "expires_in", "prox": "proxies", "scopes": "scopes"} {
		if strings.HasPrefix(e.Description, begin) {
			return field
		}
	}
	return ""
}

// askKey is GET /admin/keys/{id}/revoke.
func (p *AdminPages) askKey(v *visit) error {
	all, err := v.options.Gateway.APIKeys(v.ctx())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(k *authserver.APIKey) bool { return k.ID == v.r.PathValue("id") })
	if i < 0 {
		return denied(404, "not_found", "there is no API key of this id")
	}
	k, used := all[i], fact("Last used", "never")
	if !all[i].Used.IsZero() {
		used = moment("Last used", all[i].Used, v.now())
	}
	v.options.Pages.Form(v.w, v.frame(), console.Form{
		Title: "Revoke this API key?", Texts: []string{"The next request with it is refused. It cannot be had back; create another in its place."},
		Facts:  facts(fact("Name", k.Name), listed("Proxies", k.Proxies), moment("Created", k.Created, v.now()), used, moment("Expires", k.Expires, v.now()), code("Key id", k.ID)),
		Action: v.link("/admin/keys/"+url.PathEscape(k.ID)+"/revoke", nil), Button: "Revoke", Cancel: v.link("/admin/keys", nil), Danger: true,
	})
	return nil
}

// revokeKey is POST /admin/keys/{id}/revoke.
func (p *AdminPages) revokeKey(v *visit) error {
	if _, err := v.options.Gateway.RevokeAPIKey(v.ctx(), v.r.PathValue("id")); err != nil {
		return err
	}
	v.redirect("/admin/keys", url.Values{"done": {notice(v.signIn, "revoked")}})
	return nil
}

// askRotation is GET /admin/keys/rotate.
func (p *AdminPages) askRotation(v *visit) error {
	v.options.Pages.Form(v.w, v.frame(), console.Form{
		Title: "Rotate the signing key?", Texts: []string{"A new key is published now and signs ten minutes later. The present one goes on to verify what it signed, so nobody is logged out."},
		Fields: []console.FormField{{Name: "compromised", Label: "Somebody may know the present key", Checks: []console.Option{{Value: "compromised", Text: "Sign with the new key at once, and refuse every access token and session token that there is"}}}},
		Action: v.link("/admin/keys/rotate", nil), Button: "Rotate", Cancel: v.link("/admin/keys", nil), Danger: true,
	})
	return nil
}

// rotate is POST /admin/keys/rotate.
func (p *AdminPages) rotate(v *visit) error {
	compromised := v.form.Get("compromised") == "on"
	if err := v.options.Gateway.RotateSigningKey(v.ctx(), compromised); err != nil {
		return err
	}
	done := "rotated"
	if compromised {
		done = "cut"
	}
	v.redirect("/admin/keys", url.Values{"done": {notice(v.signIn, done)}})
	return nil
}
