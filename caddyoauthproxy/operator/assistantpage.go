package operator

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// assistantPath is where the assistant is, below the issuer's path.
const assistantPath = "/admin/assistant"

// assistant shows which providers there are, or the form for one.
func (p *AdminPages) assistant(v *visit) error {
	query := v.r.URL.Query()
	draft := Draft{"template": query.Get("template")}
	existing := v.options.Assistant.o.Providers
	if name := query.Get("provider"); existing[name] != "" {
		draft = Draft{"provider": name}
	} else if _, known := upstream.TemplateNamed(draft["template"]); !known {
		v.assistantStart()
		return nil
	}
	v.assistantForm(http.StatusOK, draft, nil)
	return nil
}

func (v *visit) assistantStart() {
	var page console.AssistantStart
	existing := v.options.Assistant.o.Providers
	for _, name := range slices.Sorted(maps.Keys(existing)) {
		page.Existing = append(page.Existing, console.AssistantChoice{Name: name, Text: "type " + existing[name], URL: v.base + assistantPath + "?" + url.Values{"provider": {name}}.Encode()})
	}
	for _, t := range upstream.Templates() {
		text := "needs client id and secret"
		if t.Registers {
			text = "any MCP server that OAuth protects already; the gateway registers itself"
		}
		if len(t.Needs) > 0 && !t.Registers {
			text += ", and " + strings.ReplaceAll(strings.Join(t.Needs, ", "), "_", " ")
		}
		page.New = append(page.New, console.AssistantChoice{Name: t.Name, Text: text, URL: v.base + assistantPath + "?" + url.Values{"template": {t.Name}}.Encode()})
	}
	v.options.Pages.AssistantStart(v.w, v.frame(), page)
}

// assist checks what was filled in, and shows or does what was asked for.
func (p *AdminPages) assist(v *visit) error {
	draft := make(Draft)
	for name := range v.form {
		if slices.Contains(draftFields, name) {
			draft[name] = v.form.Get(name)
		}
	}
	result := v.options.Assistant.Draw(draft)
	if len(result.Problems) > 0 {
		v.assistantForm(http.StatusUnprocessableEntity, draft, result.Problems)
		return nil
	}
	switch v.form.Get("step") {
	case "":
		v.assistantResult(draft, result, false)
	case "plan":
		v.showPlan(draft, result)
	case "apply":
		v.applyPlan(draft, result, v.form.Get("etag"))
	default:
		return denied(http.StatusBadRequest, "invalid_request", "The form has no such step.")
	}
	return nil
}

// assistantForm draws the form, with what was filled in. A secret that was typed in is not shown again.
func (v *visit) assistantForm(status int, draft Draft, problems []Problem) {
	page := console.AssistantForm{Action: v.base + assistantPath, CSRF: v.signIn.CSRF, Start: v.base + assistantPath}
	fields := serverFields
	if draft["template"] != "" {
		t, _ := upstream.TemplateNamed(draft["template"])
		page.Title, page.Note = "Add a server at a new provider: "+t.Name, t.Note
		page.Hidden = []console.Hidden{{Name: "template", Value: draft["template"]}}
		section := providerFields(t)
		if len(draft) == 1 {
			draft = maps.Clone(draft)
			for _, f := range section {
				draft[f.name] = f.value
			}
			if v.options.Assistant.o.Providers[draft["provider"]] != "" {
				draft["provider"] = ""
			}
		}
		page.Sections = append(page.Sections, console.AssistantSection{Title: "Provider", Fields: drawn(section, draft, problems)})
		fields = slices.Concat(section, fields)
	} else {
		page.Title = "Add a server at provider " + draft["provider"]
		page.Hidden = []console.Hidden{{Name: "provider", Value: draft["provider"]}}
	}
	page.Sections = append(page.Sections, console.AssistantSection{Title: "MCP server", Fields: drawn(serverFields, draft, problems)})
	for _, p := range problems {
		if !slices.ContainsFunc(fields, func(f field) bool { return f.name == p.Field }) {
			page.Problems = append(page.Problems, p.Text)
		}
	}
	v.options.Pages.AssistantForm(v.w, status, v.frame(), page)
}

// drawn are fields with their values and what is wrong with them.
func drawn(fields []field, draft Draft, problems []Problem) []console.AssistantField {
	all := make([]console.AssistantField, 0, len(fields))
	for _, f := range fields {
		out := console.AssistantField{Name: f.name, Label: f.label, Help: f.help, Value: draft[f.name], Required: f.required, Lines: f.kind == fieldLines, Tick: f.kind == fieldCheck}
		if i := slices.IndexFunc(problems, func(p Problem) bool { return p.Field == f.name }); i >= 0 {
			out.Problem = problems[i].Text
		}
		if f.name == "client_secret" && !barePlaceholder.MatchString(strings.TrimSpace(out.Value)) {
			out.Value = ""
		}
		for _, choice := range f.choices {
			option := console.Option{Value: choice, Text: choice, Selected: choice == out.Value}
			if choice == "" {
				option.Text = "as usual"
			}
			out.Options = append(out.Options, option)
		}
		all = append(all, out)
	}
	return all
}

// hidden carries a draft to the next page.
func hidden(draft Draft) []console.Hidden {
	var all []console.Hidden
	for _, name := range slices.Sorted(maps.Keys(draft)) {
		if draft[name] != "" {
			all = append(all, console.Hidden{Name: name, Value: draft[name]})
		}
	}
	return all
}

// assistantResult shows what to add.
func (v *visit) assistantResult(draft Draft, r *Result, applied bool) {
	page := console.AssistantResult{
		Title: "Add this to your configuration", Lead: "Everything fits what is configured. Add the lines to your Caddyfile and reload, or use the JSON with Caddy’s config API.",
		RedirectURI: r.RedirectURI, Provider: draft["template"], Guide: r.Template, Resource: r.Resource, Applied: applied,
		Action: v.base + assistantPath, Hidden: hidden(draft), CSRF: v.signIn.CSRF, Start: v.base + assistantPath,
	}
	t, _ := upstream.TemplateNamed(r.Template)
	page.SelfRegisters = t.Registers && draft["client_id"] == ""
	if applied {
		page.Title = "Applied"
		page.Lead = "The running configuration has it now. The Caddyfile on disk does not know of it: add the lines there too, or the next reload from the file takes this away again."
	}
	page.Blocks = []console.AssistantBlock{
		{ID: "global", Title: "In the global option", Help: "Into the block oauth_proxy { … } at the top of the Caddyfile:", Text: r.global},
		{ID: "site", Title: "In the site", Help: "Into the block of the site " + siteAddress(r.Resource) + ":", Text: r.site},
	}
	all, err := indented(r.JSON)
	if err == nil {
		page.Blocks = append(page.Blocks, console.AssistantBlock{
			ID: "json", Title: "The same as JSON", Help: "For Caddy’s config API, by path; the route goes behind the handler oauth_proxy of the site:", Text: all,
		})
	}
	page.WhyNot = v.whyNotApply()
	page.CanApply = page.WhyNot == ""
	v.options.Pages.AssistantResult(v.w, v.frame(), page)
}

// whyNotApply says why the running config cannot be changed from here.
func (v *visit) whyNotApply() string {
	if !v.ApplyConfig {
		return "This gateway does not let its admins change the running configuration: that takes apply_config in its option admin."
	}
	if _, err := v.Endpoint(); err != nil {
		return err.Error()
	}
	return ""
}

// planOf says how the running config would change.
func (v *visit) planOf(result *Result) (*plan, *AdminEndpoint, error) {
	if why := v.whyNotApply(); why != "" {
		return nil, nil, &ApplyError{Status: http.StatusForbidden, Text: why}
	}
	endpoint, err := v.Endpoint()
	if err != nil {
		return nil, nil, err
	}
	p, err := v.options.Assistant.plan(v.ctx(), endpoint, result)
	return p, endpoint, err
}

func (v *visit) showPlan(draft Draft, result *Result) {
	p, _, err := v.planOf(result)
	if err != nil {
		v.refuseApply(err)
		return
	}
	page := console.AssistantPlan{Action: v.base + assistantPath, CSRF: v.signIn.CSRF, Start: v.base + assistantPath, Hidden: append(hidden(draft), console.Hidden{Name: "etag", Value: p.etag})}
	for _, c := range p.changes {
		page.Changes = append(page.Changes, console.AssistantChange{Path: c.path, Now: c.now, New: c.json})
	}
	if p.behindHandler {
		page.Warning = "The site has no other MCP server that the new one could stand beside, so it goes right behind the handler oauth_proxy: handlers that the site has further back, such as respond or error, do not see its requests."
	}
	v.options.Pages.AssistantPlan(v.w, v.frame(), page)
}

// applyPlan changes the running config, where it is still the one that the change was shown for.
func (v *visit) applyPlan(draft Draft, result *Result, etag string) {
	p, endpoint, err := v.planOf(result)
	if err == nil && p.etag != etag {
		err = &ApplyError{Status: http.StatusPreconditionFailed, Text: changedBetween}
	}
	if err == nil {
		err = p.apply(v.ctx(), endpoint)
	}
	v.recordApplied(result.addition, err)
	if err != nil {
		v.refuseApply(err)
		return
	}
	v.assistantResult(draft, result, true)
}

// recordApplied tells the log and the audit trail who has changed the running config, or could not.
func (v *visit) recordApplied(add *Addition, failed error) {
	ctx := context.WithoutCancel(v.ctx())
	e := v.options.Vault.NewEvent(ctx, tokenstore.EventConfigApplied)
	e.Provider, e.Proxy = add.Provider, add.Proxy
	fields := []zap.Field{zap.String("user_id", v.signIn.UserID), zap.String("user", v.signIn.User.Label()), zap.String("provider", add.Provider), zap.String("proxy", add.Proxy)}
	if failed != nil {
		v.options.Logger.Warn("change of the running config was not applied", append(fields, zap.Error(failed))...)
		v.options.Vault.Note(e.Refused(failed.Error()))
		return
	}
	v.options.Logger.Info("running config changed", fields...)
	if err := v.options.Vault.Commit(ctx, tokenstore.RecordEvent(e)); err != nil {
		v.options.Logger.Error("the change of the running config is not in the audit trail", append(fields, zap.Error(err))...)
	}
}

// refuseApply says why nothing was applied.
func (v *visit) refuseApply(err error) {
	status, problem := http.StatusInternalServerError, console.Problem{Title: "Nothing was applied", Text: "The change could not be written as JSON."}
	if e, ok := errors.AsType[*ApplyError](err); ok {
		const most = 4000
		status, problem.Text, problem.Advice = e.Status, e.Text, console.Clean(e.Said, most)
	} else {
		v.options.Logger.Error("assistant", zap.Error(err))
	}
	v.options.Pages.FramedProblem(v.w, status, v.frame(), problem)
}
