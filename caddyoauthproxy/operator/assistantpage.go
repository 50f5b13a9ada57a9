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

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// AssistantPagesOptions configures the assistant's pages.
type AssistantPagesOptions struct {
	// Assistant writes the configuration.
	Assistant *Assistant

	// Pages draws.
	Pages *console.Pages

	// SignedIn, ReadForm and SignInURL are those of authserver.Server.
	SignedIn  func(*http.Request) (*authserver.SignIn, error)
	ReadForm  func(http.ResponseWriter, *http.Request, *authserver.SignIn) (url.Values, error)
	SignInURL func(returnTo string) string

	// ApplyConfig says that the operator lets admins change the running config, and Admin how to get to Caddy's admin endpoint, or why nobody can.
	ApplyConfig bool
	Admin       func() (*AdminEndpoint, error)

	// NoConnections says that users have no page of their own.
	NoConnections bool

	// Vault gets an event for each change of the running config, and Logger a line. ClientIP is the address of a request.
	Vault    *tokenstore.Vault
	ClientIP func(*http.Request) string
	Logger   *zap.Logger
}

// AssistantPages are the assistant's pages, for admins who have signed in.
type AssistantPages struct {
	o      AssistantPagesOptions
	issuer *url.URL
}

// NewAssistantPages makes the pages. They are safe for concurrent use.
func NewAssistantPages(issuer *url.URL, o AssistantPagesOptions) *AssistantPages {
	return &AssistantPages{o, issuer}
}

// assistantPath is where the pages are, below the issuer's path.
const assistantPath = "/admin/assistant"

// Handles reports whether a request is for one of the pages.
func (a *AssistantPages) Handles(r *http.Request) bool {
	return r.URL.Path == strings.TrimSuffix(a.issuer.Path, "/")+assistantPath
}

func (a *AssistantPages) start() string { return a.o.Assistant.o.Issuer + assistantPath }

// ServeHTTP answers.
func (a *AssistantPages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !sameHost(a.issuer, r.Host) {
		a.o.Pages.Problem(w, http.StatusForbidden, console.Problem{Title: "Not here", Text: "This host is not the gateway’s own.", Advice: "Open " + a.start() + " instead.", Code: "access_denied"})
		return
	}
	signIn, err := a.o.SignedIn(r)
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case errors.Is(err, authserver.ErrNotSignedIn) && reads:
		returnTo := assistantPath
		if query := (url.Values{"template": {r.URL.Query().Get("template")}}); query.Get("template") != "" {
			returnTo += "?" + query.Encode()
		}
		http.Redirect(w, r, a.o.SignInURL(returnTo), http.StatusSeeOther)
		return
	case errors.Is(err, authserver.ErrNotSignedIn):
		a.o.Pages.Problem(w, http.StatusUnauthorized, console.Problem{
			Title: "You are not signed in", Text: "Your sign-in has ended, and nothing was done.", Advice: "Sign in again, and fill in the form once more.",
			Code: "login_required", Retry: a.o.SignInURL(assistantPath), RetryText: "Sign in again",
		})
		return
	case err != nil:
		a.o.Logger.Error("assistant: sign-in cannot be checked", zap.Error(err))
		w.Header().Set("Retry-After", "2")
		a.o.Pages.Problem(w, http.StatusServiceUnavailable, console.Problem{
			Title: "Not available", Text: "The gateway cannot check your sign-in at the moment.", Advice: "Try again in a minute.", Code: "temporarily_unavailable",
		})
		return
	case !signIn.Admin:
		a.o.Pages.FramedProblem(w, http.StatusForbidden, a.frame(signIn), console.Problem{
			Title: "Not for you", Text: "This page is for the operators of this gateway, whom its configuration names.", Code: "access_denied",
		})
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		a.serveQuestion(w, r, signIn)
	case http.MethodPost:
		a.serveAnswer(w, r, signIn)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		a.o.Pages.FramedProblem(w, http.StatusMethodNotAllowed, a.frame(signIn), console.Problem{Title: "Not possible", Text: "This page is read with GET and filled in with POST."})
	}
}

func (a *AssistantPages) frame(s *authserver.SignIn) console.Frame {
	return console.Frame{
		Base: a.o.Assistant.o.Issuer, Section: "assistant", User: s.User.Label(), Provider: s.User.Provider, Admin: s.Admin, CSRF: s.CSRF, NoConnections: a.o.NoConnections,
	}
}

// serveQuestion shows which providers there are, or the form for one.
func (a *AssistantPages) serveQuestion(w http.ResponseWriter, r *http.Request, signIn *authserver.SignIn) {
	query := r.URL.Query()
	draft := Draft{"template": query.Get("template")}
	existing := a.o.Assistant.o.Providers
	if name := query.Get("provider"); existing[name] != "" {
		draft = Draft{"provider": name}
	} else if _, known := upstream.TemplateNamed(draft["template"]); !known {
		a.serveStart(w, signIn)
		return
	}
	a.form(w, http.StatusOK, signIn, draft, nil)
}

func (a *AssistantPages) serveStart(w http.ResponseWriter, signIn *authserver.SignIn) {
	var page console.AssistantStart
	existing := a.o.Assistant.o.Providers
	for _, name := range slices.Sorted(maps.Keys(existing)) {
		page.Existing = append(page.Existing, console.AssistantChoice{Name: name, Text: "type " + existing[name], URL: a.start() + "?" + url.Values{"provider": {name}}.Encode()})
	}
	for _, t := range upstream.Templates() {
		text := "needs client id and secret"
		if t.Registers {
			text = "any MCP server that OAuth protects already; the gateway registers itself"
		}
		if len(t.Needs) > 0 && !t.Registers {
			text += ", and " + strings.ReplaceAll(strings.Join(t.Needs, ", "), "_", " ")
		}
		page.New = append(page.New, console.AssistantChoice{Name: t.Name, Text: text, URL: a.start() + "?" + url.Values{"template": {t.Name}}.Encode()})
	}
	a.o.Pages.AssistantStart(w, a.frame(signIn), page)
}

// serveAnswer checks what was filled in, and shows or does what was asked for.
func (a *AssistantPages) serveAnswer(w http.ResponseWriter, r *http.Request, signIn *authserver.SignIn) {
	values, err := a.o.ReadForm(w, r, signIn)
	if err != nil {
		status, code := http.StatusBadRequest, "invalid_request"
		if e, ok := errors.AsType[*authserver.Error](err); ok && e.Status != 0 {
			status, code = e.Status, e.Code
		}
		a.o.Pages.FramedProblem(w, status, a.frame(signIn), console.Problem{Title: "Nothing was done", Text: textOf(err), Code: code})
		return
	}
	draft := make(Draft)
	for name := range values {
		if slices.Contains(draftFields, name) {
			draft[name] = values.Get(name)
		}
	}
	result := a.o.Assistant.Draw(draft)
	if len(result.Problems) > 0 {
		a.form(w, http.StatusUnprocessableEntity, signIn, draft, result.Problems)
		return
	}
	switch values.Get("step") {
	case "":
		a.result(w, signIn, draft, result, false)
	case "plan":
		a.servePlan(w, r, signIn, draft, result)
	case "apply":
		a.serveApply(w, r, signIn, draft, result, values.Get("etag"))
	default:
		a.o.Pages.FramedProblem(w, http.StatusBadRequest, a.frame(signIn), console.Problem{Title: "Nothing was done", Text: "The form has no such step.", Code: "invalid_request"})
	}
}

func textOf(err error) string {
	if e, ok := errors.AsType[*authserver.Error](err); ok {
		return e.Description
	}
	return err.Error()
}

// form draws the form, with what was filled in. A secret that was typed in is not shown again.
func (a *AssistantPages) form(w http.ResponseWriter, status int, signIn *authserver.SignIn, draft Draft, problems []Problem) {
	page := console.AssistantForm{Action: a.start(), CSRF: signIn.CSRF, Start: a.start()}
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
			if a.o.Assistant.o.Providers[draft["provider"]] != "" {
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
	a.o.Pages.AssistantForm(w, status, a.frame(signIn), page)
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

// result shows what to add.
func (a *AssistantPages) result(w http.ResponseWriter, signIn *authserver.SignIn, draft Draft, r *Result, applied bool) {
	page := console.AssistantResult{
		Title: "Add this to your configuration", Lead: "Everything fits what is configured. Add the lines to your Caddyfile and reload, or use the JSON with Caddy’s config API.",
		RedirectURI: r.RedirectURI, Provider: draft["template"], Guide: r.Template, Resource: r.Resource, Applied: applied,
		Action: a.start(), Hidden: hidden(draft), CSRF: signIn.CSRF, Start: a.start(),
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
	page.WhyNot = a.whyNot()
	page.CanApply = page.WhyNot == ""
	a.o.Pages.AssistantResult(w, a.frame(signIn), page)
}

// whyNot says why the running config cannot be changed from here.
func (a *AssistantPages) whyNot() string {
	if !a.o.ApplyConfig {
		return "This gateway does not let its admins change the running configuration: that takes apply_config in its option admin."
	}
	if _, err := a.o.Admin(); err != nil {
		return err.Error()
	}
	return ""
}

// plan says how the running config would change.
func (a *AssistantPages) plan(ctx context.Context, result *Result) (*plan, *AdminEndpoint, error) {
	if why := a.whyNot(); why != "" {
		return nil, nil, &ApplyError{Status: http.StatusForbidden, Text: why}
	}
	endpoint, err := a.o.Admin()
	if err != nil {
		return nil, nil, err
	}
	p, err := a.o.Assistant.plan(ctx, endpoint, result)
	return p, endpoint, err
}

func (a *AssistantPages) servePlan(w http.ResponseWriter, r *http.Request, signIn *authserver.SignIn, draft Draft, result *Result) {
	p, _, err := a.plan(r.Context(), result)
	if err != nil {
		a.refuse(w, signIn, err)
		return
	}
	page := console.AssistantPlan{Action: a.start(), CSRF: signIn.CSRF, Start: a.start(), Hidden: append(hidden(draft), console.Hidden{Name: "etag", Value: p.etag})}
	for _, c := range p.changes {
		page.Changes = append(page.Changes, console.AssistantChange{Path: c.path, Now: c.now, New: c.json})
	}
	if p.behindHandler {
		page.Warning = "The site has no other MCP server that the new one could stand beside, so it goes right behind the handler oauth_proxy: handlers that the site has further back, such as respond or error, do not see its requests."
	}
	a.o.Pages.AssistantPlan(w, a.frame(signIn), page)
}

// serveApply changes the running config, where it is still the one that the change was shown for.
func (a *AssistantPages) serveApply(w http.ResponseWriter, r *http.Request, signIn *authserver.SignIn, draft Draft, result *Result, etag string) {
	p, endpoint, err := a.plan(r.Context(), result)
	if err == nil && p.etag != etag {
		err = &ApplyError{Status: http.StatusPreconditionFailed, Text: changedBetween}
	}
	if err == nil {
		err = p.apply(r.Context(), endpoint)
	}
	a.record(r, signIn, result.addition, err)
	if err != nil {
		a.refuse(w, signIn, err)
		return
	}
	a.result(w, signIn, draft, result, true)
}

// record tells the log and the audit trail who has changed the running config, or could not.
func (a *AssistantPages) record(r *http.Request, signIn *authserver.SignIn, add *Addition, failed error) {
	ctx := tokenstore.WithAddress(context.WithoutCancel(r.Context()), a.o.ClientIP(r))
	e := a.o.Vault.NewEvent(tokenstore.WithActor(ctx, tokenstore.Actor{Kind: tokenstore.ActorOperator, ID: signIn.UserID, Label: signIn.User.Label()}), tokenstore.EventConfigApplied)
	e.Provider, e.Proxy = add.Provider, add.Proxy
	fields := []zap.Field{zap.String("user_id", signIn.UserID), zap.String("user", signIn.User.Label()), zap.String("provider", add.Provider), zap.String("proxy", add.Proxy)}
	if failed != nil {
		a.o.Logger.Warn("change of the running config was not applied", append(fields, zap.Error(failed))...)
		a.o.Vault.Note(e.Refused(failed.Error()))
		return
	}
	a.o.Logger.Info("running config changed", fields...)
	if err := a.o.Vault.Commit(ctx, tokenstore.RecordEvent(e)); err != nil {
		a.o.Logger.Error("the change of the running config is not in the audit trail", append(fields, zap.Error(err))...)
	}
}

// refuse says why nothing was applied.
func (a *AssistantPages) refuse(w http.ResponseWriter, signIn *authserver.SignIn, err error) {
	status, problem := http.StatusInternalServerError, console.Problem{Title: "Nothing was applied", Text: "The change could not be written as JSON."}
	if e, ok := errors.AsType[*ApplyError](err); ok {
		const most = 4000
		status, problem.Text, problem.Advice = e.Status, e.Text, console.Clean(e.Said, most)
	} else {
		a.o.Logger.Error("assistant", zap.Error(err))
	}
	a.o.Pages.FramedProblem(w, status, a.frame(signIn), problem)
}
