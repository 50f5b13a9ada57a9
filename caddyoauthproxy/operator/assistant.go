package operator

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// AssistantOptions is what the configuration assistant is told by whoever knows Caddy.
type AssistantOptions struct {
	// Issuer is the gateway's, without a slash at its end.
	Issuer string

	// Callback is the path below it that providers send users back to, empty for the default one.
	Callback string

	// Providers are the gateway's providers with their types. None: there is no gateway yet.
	Providers map[string]string

	// Check says everything that is wrong with an addition, in the words of `caddy validate`. It has no side effects, and looks
	// behind no placeholder.
	Check func(*Addition) []Problem

	// Adapt turns a Caddyfile into Caddy's JSON.
	Adapt func(caddyfile string) ([]byte, error)
}

// Assistant writes the configuration of a provider and a proxy, from what somebody filled into a form.
type Assistant struct{ o AssistantOptions }

// NewAssistant makes an assistant. It is safe for concurrent use.
func NewAssistant(o AssistantOptions) *Assistant { return &Assistant{o} }

// Draft is what was filled in: fields by name. Those of a provider are named as its options are; `template` is its type and `provider` its
// name, or with no template the name of one that exists. The proxy's are `proxy` (its id), `name`, `resource`, `upstream`, `allow`, `proxy_scopes`,
// `allowed_redirects`, `consent` and `compat`. Lists are apart by white space; `allow` has a rule in each line.
type Draft map[string]string

// Problem is something that is wrong with a draft.
type Problem struct {
	// Field is the name of the field, empty where it is about the configuration as a whole.
	Field string `json:"field,omitempty"`

	// Text says what is wrong, and what to write instead.
	Text string `json:"text"`
}

// Addition is what a draft adds to the configuration.
type Addition struct {
	// Provider is the provider's name, and ProviderJSON its configuration: nil for one that exists.
	Provider     string
	ProviderJSON json.RawMessage

	// Proxy is the proxy's id, and ProxyJSON its configuration.
	Proxy     string
	ProxyJSON json.RawMessage
}

// Result is what a draft comes to.
type Result struct {
	// Problems are everything that is wrong. Where there are any, the rest is empty.
	Problems []Problem `json:"problems,omitempty"`

	// Caddyfile is what to add: the provider and the proxy in the global option, the server in the site. For a gateway that does not
	// exist yet, it is all of it.
	Caddyfile string `json:"caddyfile,omitempty"`

	// JSON is the same for Caddy's config API: what to add, by its path there. The place of `route` depends on the site: it goes
	// behind the handler oauth_proxy.
	JSON map[string]json.RawMessage `json:"json,omitempty"`

	// RedirectURI is what to register at the provider. Empty for a provider that exists.
	RedirectURI string `json:"redirect_uri,omitempty"`

	// Template is the provider's type, and Resource the URL for chatbots.
	Template string `json:"template,omitempty"`
	Resource string `json:"resource,omitempty"`

	// global and site are the parts of Caddyfile.
	global, site string

	addition *Addition
	route    json.RawMessage
}

// Draw turns a draft into configuration, or says what is wrong with it.
func (a *Assistant) Draw(draft Draft) *Result {
	w := &writing{draft: maps.Clone(draft), existing: a.o.Providers}
	w.read(a.o.Issuer)
	addition, err := w.addition()
	if err != nil {
		return &Result{Problems: []Problem{{Text: err.Error()}}}
	}
	for _, p := range a.o.Check(addition) {
		w.problem(p.Field, p.Text)
	}
	if len(w.problems) > 0 {
		return &Result{Problems: w.problems}
	}
	whole := w.caddyfile(a.o.Issuer, true)
	adapted, err := a.o.Adapt(whole)
	if err != nil {
		return &Result{Problems: []Problem{w.refusal(err)}}
	}
	route, err := w.readBack(adapted, addition)
	if err != nil {
		return &Result{Problems: []Problem{{Text: err.Error()}}}
	}
	r := &Result{
		JSON:     map[string]json.RawMessage{"apps/oauth_proxy/proxies/" + addition.Proxy: addition.ProxyJSON, "route": route},
		Template: w.template.Name, Resource: w.proxy.Resource,
		global: w.global(2), site: w.site(1), addition: addition, route: route,
	}
	r.Caddyfile = whole
	if len(a.o.Providers) > 0 {
		r.Caddyfile = w.caddyfile("", false)
	}
	if addition.ProviderJSON != nil {
		r.JSON["apps/oauth_proxy/providers/"+addition.Provider] = addition.ProviderJSON
		r.RedirectURI = w.redirectURI(a.o.Issuer, a.o.Callback)
	}
	return r
}

// assist is POST /assistant. What is wrong with a draft is an answer, too, and no error.
func (s *Server) assist(w http.ResponseWriter, r *http.Request) (any, error) {
	var draft Draft
	if err := readJSON(w, r, &draft, "fields by name, each with a text"); err != nil {
		return nil, err
	}
	return s.options.Assistant.Draw(draft), nil
}

// writing is a draft on its way to a Result.
type writing struct {
	draft    Draft
	existing map[string]string
	problems []Problem

	template upstream.Template
	name     string
	provider *providerConfig // nil for one that exists
	id       string
	proxy    proxyConfig
	upstream string
}

// problem notes what is wrong with a field. The first that is said of a field is the one that counts.
func (w *writing) problem(field, text string) {
	if field != "" && slices.ContainsFunc(w.problems, func(p Problem) bool { return p.Field == field }) {
		return
	}
	w.problems = append(w.problems, Problem{field, text})
}

// take takes a field out of the draft.
func (w *writing) take(name string) string {
	v := strings.TrimSpace(w.draft[name])
	delete(w.draft, name)
	if why := unwritable(v, name == "allow"); why != "" {
		w.problem(name, name+" "+why)
		return ""
	}
	return v
}

func (w *writing) list(name string) []string {
	v := w.draft[name]
	w.draft[name] = strings.Join(strings.Fields(v), " ")
	return strings.Fields(w.take(name))
}

// yes reads a field that is chosen or not.
func (w *writing) yes(name string) bool {
	switch v := w.take(name); v {
	case "", "off", "false", "0":
		return false
	case "on", "true", "1":
		return true
	default:
		w.problem(name, fmt.Sprintf("%s takes on or off, not %q", name, v))
		return false
	}
}

// read reads the draft.
func (w *writing) read(issuer string) {
	template := w.take("template")
	w.name = w.take("provider")
	if template == "" && w.name != "" && w.existing[w.name] != "" {
		w.template, _ = upstream.TemplateNamed(w.existing[w.name])
	} else {
		w.readProvider(template)
	}
	w.id = w.take("proxy")
	w.upstream = w.take("upstream")
	if err := checkUpstream(w.upstream); err != nil {
		w.problem("upstream", err.Error())
	}
	w.proxy = proxyConfig{
		Name: w.take("name"), Resource: w.take("resource"), Provider: w.name, Scopes: w.list("proxy_scopes"), AllowedRedirects: w.list("allowed_redirects"),
		Consent: w.take("consent"), Compat: w.yes("compat"), Allow: w.allow(),
	}
	if w.proxy.Resource == "" && w.id != "" {
		w.proxy.Resource = issuer + "/" + w.id + "/mcp"
	}
	for _, s := range w.proxy.Scopes {
		if !upstream.ValidScope(s) {
			w.problem("proxy_scopes", fmt.Sprintf("proxy_scopes: %q is not a scope: write them apart, without quotes or backslashes", s))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.draft)) {
		if strings.TrimSpace(w.draft[name]) == "" {
			continue
		}
		if !slices.Contains(draftFields, name) {
			w.problem("", fmt.Sprintf("unknown field %s; known are %s", clipped(name), strings.Join(draftFields, ", ")))
		} else {
			w.problem(name, fmt.Sprintf("%s is for a new provider: provider %q exists, and is left as it is", name, w.name))
		}
	}
}

func (w *writing) readProvider(template string) {
	var known bool
	if w.template, known = upstream.TemplateNamed(template); !known {
		text := fmt.Sprintf("template %s is unknown; known are %s", clipped(template), strings.Join(upstream.Types(), ", "))
		if template == "" {
			text = "template is missing: write one of " + strings.Join(upstream.Types(), ", ") + ", or as provider the name of one that exists: " + cmp.Or(strings.Join(slices.Sorted(maps.Keys(w.existing)), ", "), "none")
		}
		w.problem("template", text)
	}
	w.name = cmp.Or(w.name, template)
	w.provider = &providerConfig{
		Type: template, ClientID: w.take("client_id"), ClientSecret: w.take("client_secret"), Server: w.take("server"), PrivateNetwork: w.yes("private_network"), Issuer: w.take("issuer"),
		Domain: w.take("domain"), AuthorizationServer: w.take("authorization_server"), Audience: w.take("audience"), Tenant: w.take("tenant"),
		AuthorizationURL: w.take("authorization_url"), TokenURL: w.take("token_url"), UserinfoURL: w.take("userinfo_url"), SubjectField: w.take("subject_field"),
		RevocationURL: w.take("revocation_url"), Scopes: w.list("scopes"), TokenEndpointAuthMethod: w.take("token_endpoint_auth_method"),
	}
	if w.provider.Type == w.name {
		w.provider.Type = ""
	}
}

// allow reads the rules for who may come in: a kind and, for groups and organisations, one name to the line's end; for others one or more values.
func (w *writing) allow() (p authserver.Policy) {
	for line := range strings.Lines(w.take("allow")) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		var list *[]string
		values := strings.Fields(rest)
		switch kind {
		case "":
			continue
		case "email_domain":
			list = &p.EmailDomains
		case "email":
			list = &p.Emails
		case "user":
			list = &p.Users
		case "login":
			list = &p.Logins
		case "group":
			list, values = &p.Groups, []string{rest}
		case "org":
			list, values = &p.Orgs, []string{rest}
		default:
			w.problem("allow", fmt.Sprintf("allow knows email, email_domain, group, login, org and user, not %s", clipped(kind)))
			continue
		}
		if rest == "" {
			w.problem("allow", fmt.Sprintf("allow %s takes one or more values", kind))
			continue
		}
		*list = append(*list, values...)
	}
	return p
}

// addition is the JSON of what was read.
func (w *writing) addition() (*Addition, error) {
	a := &Addition{Provider: w.name, Proxy: w.id}
	var err error
	if w.provider != nil {
		if a.ProviderJSON, err = plainJSON(w.provider); err != nil {
			return nil, err
		}
	}
	a.ProxyJSON, err = plainJSON(w.proxy)
	return a, err
}

// plainJSON is JSON for people to read: < and & stay what they are.
func plainJSON(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// redirectURI is what the provider must know.
func (w *writing) redirectURI(issuer, callback string) string {
	u, err := url.Parse(issuer)
	if err != nil {
		return ""
	}
	if w.template.Registers {
		return authserver.OwnRedirectURI(u, w.name)
	}
	return authserver.RedirectURI(u, callback)
}

// refusal puts what the adapter says beside the field that it is about. What is left to it by the checks before is about the server's URL.
func (w *writing) refusal(err error) Problem {
	text, _, _ := strings.Cut(err.Error(), ", at Caddyfile:")
	if strings.Contains(text, "its resource") {
		return Problem{"resource", text}
	}
	return Problem{"upstream", text}
}

// clipped quotes what somebody sent, and not all of it where it is long.
func clipped(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}
