package operator

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// AdminPagesOptions configures AdminPages.
type AdminPagesOptions struct {
	// Server is the admin API, whose gateway, vault and providers the pages show.
	Server *Server

	// Health is how a provider has answered, as upstream.Accounts.Health.
	Health func(provider string) (upstream.ProviderHealth, bool)

	// Cleaned is when the clean-up last ran, zero when it never did, and CleanupEvery how often it does; zero where it is off.
	Cleaned      func(context.Context) (time.Time, error)
	CleanupEvery time.Duration

	// ClientIP is the address of a request that the audit trail has.
	ClientIP func(*http.Request) string

	// ApplyConfig says that operators may change the running config with the assistant, and Endpoint how to get to Caddy's admin endpoint, or why nobody can.
	ApplyConfig bool
	Endpoint    func() (*AdminEndpoint, error)

	// NoAdmins says that the configuration names no operator: then the paths below /admin are the site's own.
	NoAdmins bool
}

// AdminPages are the pages of operators below /admin/, for those who have signed in. They are safe for concurrent use.
type AdminPages struct {
	AdminPagesOptions
	options Options
	base    string // of links
	prefix  string // of paths
	mux     *http.ServeMux

	verified atomic.Pointer[verification] // the last one
}

// adminPath is where the pages are, below the issuer's path.
const adminPath = "/admin"

// NewAdminPages makes the pages.
func NewAdminPages(o AdminPagesOptions) *AdminPages {
	p := &AdminPages{
		AdminPagesOptions: o, options: o.Server.options, base: strings.TrimSuffix(o.Server.options.Issuer.String(), "/"),
		prefix: strings.TrimSuffix(o.Server.options.Issuer.EscapedPath(), "/"), mux: http.NewServeMux(),
	}
	for path, methods := range byPath(p.routes()) {
		p.mux.HandleFunc(path, func(_ http.ResponseWriter, r *http.Request) { visitOf(r).serve(methods) })
	}
	p.mux.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) {
		visitOf(r).fail(errNoPage())
	})
	return p
}

// pageRoute is one method of one page. Pages that are read change nothing; those that are posted have read the form and its token before.
type pageRoute struct {
	method, path, section string
	handle                func(*visit) error
}

// routes are all pages.
func (p *AdminPages) routes() []pageRoute {
	return []pageRoute{
		{"GET", "/admin/{$}", "overview", p.overview},
		{"GET", "/admin/grants", "grants", p.grants},
		{"GET", "/admin/grants/{id}", "grants", p.grant},
		{"GET", "/admin/grants/{id}/revoke", "grants", p.askGrant},
		{"POST", "/admin/grants/{id}/revoke", "grants", p.endGrant},
		{"GET", "/admin/revoke", "grants", p.askMany},
		{"POST", "/admin/revoke", "grants", p.revokeMany},
		{"GET", "/admin/revoked", "grants", p.chosen},
		{"GET", "/admin/revocations", "grants", p.orders},
		{"GET", "/admin/revocations/{id}", "grants", p.order},
		{"GET", "/admin/clients", "clients", p.clients},
		{"GET", "/admin/client", "clients", p.client},
		{"GET", "/admin/client/delete", "clients", p.askClient},
		{"POST", "/admin/client/delete", "clients", p.deleteClient},
		{"GET", "/admin/sessions", "sessions", p.sessions},
		{"GET", "/admin/sessions/{id}/end", "sessions", p.askSession},
		{"POST", "/admin/sessions/{id}/end", "sessions", p.endSession},
		{"GET", "/admin/keys", "keys", p.keys},
		{"GET", "/admin/keys/new", "keys", p.askNewKey},
		{"POST", "/admin/keys/new", "keys", p.createKey},
		{"GET", "/admin/keys/rotate", "keys", p.askRotation},
		{"POST", "/admin/keys/rotate", "keys", p.rotate},
		{"GET", "/admin/keys/{id}/revoke", "keys", p.askKey},
		{"POST", "/admin/keys/{id}/revoke", "keys", p.revokeKey},
		{"GET", "/admin/audit", "audit", p.audit},
		{"GET", "/admin/audit/verify", "audit", p.verify},
		{"GET", "/admin/audit/{id}", "audit", p.event},
		{"GET", "/admin/providers", "providers", p.providers},
		{"GET", assistantPath, "assistant", p.assistant},
		{"POST", assistantPath, "assistant", p.assist},
	}
}

func byPath(routes []pageRoute) map[string]map[string]pageRoute {
	paths := make(map[string]map[string]pageRoute)
	for _, r := range routes {
		if paths[r.path] == nil {
			paths[r.path] = make(map[string]pageRoute)
		}
		paths[r.path][r.method] = r
	}
	return paths
}

// Handles reports whether a request is for the pages. Ask it after those who have paths of their own below /admin/.
func (p *AdminPages) Handles(r *http.Request) bool {
	path := strings.TrimPrefix(r.URL.EscapedPath(), p.prefix)
	return !p.NoAdmins && strings.HasPrefix(r.URL.EscapedPath(), p.prefix+"/") && (path == adminPath || strings.HasPrefix(path, adminPath+"/"))
}

// MayBeAdminPage reports whether a path looks like that of a page for operators, while there is no gateway to ask.
func MayBeAdminPage(r *http.Request) bool {
	return strings.Contains(r.URL.Path+"/", adminPath+"/")
}

// ServeHTTP answers operators who have signed in.
func (p *AdminPages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := &visit{AdminPages: p, w: w, r: r}
	if !v.admitted() {
		return
	}
	if r.URL.Path == strings.TrimSuffix(p.options.Issuer.Path, "/")+adminPath {
		v.redirect(adminPath+"/", nil)
		return
	}
	ctx := tokenstore.WithActor(r.Context(), tokenstore.Actor{Kind: tokenstore.ActorOperator, ID: v.signIn.UserID, Label: v.signIn.User.Label()})
	if p.ClientIP != nil {
		ctx = tokenstore.WithAddress(ctx, p.ClientIP(r))
	}
	v.r = r.WithContext(context.WithValue(ctx, visitKey{}, v))
	// The mux would redirect a path that is not written as it should be, without the prefix, to where the pages need not be.
	if escaped := r.URL.EscapedPath(); path.Clean("/"+escaped) != strings.TrimSuffix(escaped, "/") {
		v.fail(errNoPage())
		return
	}
	http.StripPrefix(p.prefix, p.mux).ServeHTTP(w, v.r)
}

func errNoPage() error { return denied(http.StatusNotFound, "not_found", "There is no such page.") }

// admitted lets operators pass, and answers all others. Those who read are sent to sign in and come back.
func (v *visit) admitted() bool {
	reads := v.r.Method == http.MethodGet || v.r.Method == http.MethodHead
	if !sameHost(v.options.Issuer, v.r.Host) {
		v.options.Pages.Problem(v.w, http.StatusForbidden, console.Problem{
			Title: "Not here", Text: "This host is not the gateway’s own.", Advice: "Open " + v.base + adminPath + "/ instead.", Code: "access_denied",
		})
		return false
	}
	signIn, err := v.options.SignedIn(v.r)
	switch {
	case errors.Is(err, authserver.ErrNotSignedIn) && reads:
		v.w.Header().Set("Cache-Control", "no-store")
		v.w.Header().Set("Location", v.options.Gateway.SignInURL(v.here()))
		v.w.WriteHeader(http.StatusSeeOther)
		return false
	case errors.Is(err, authserver.ErrNotSignedIn):
		v.options.Pages.Problem(v.w, http.StatusUnauthorized, console.Problem{
			Title: "You are not signed in", Text: "Your sign-in has ended, and nothing was done.", Advice: "Sign in again, and do it once more.", Code: "login_required",
			Retry: v.options.Gateway.SignInURL(adminPath + "/"), RetryText: "Sign in again",
		})
		return false
	case err != nil || signIn == nil:
		v.options.Logger.Error("sign-in cannot be checked", zap.Error(err))
		v.w.Header().Set("Retry-After", "2")
		v.options.Pages.Problem(v.w, http.StatusServiceUnavailable, console.Problem{
			Title: "Not available", Text: "The gateway cannot check your sign-in at the moment.", Advice: "Try again in a minute.", Code: "temporarily_unavailable",
		})
		return false
	}
	v.signIn = signIn
	if !signIn.Admin {
		v.options.Logger.Info("page of operators refused to a user", zap.String("user_id", signIn.UserID), zap.String("path", v.r.URL.Path))
		v.options.Pages.FramedProblem(v.w, http.StatusForbidden, v.frame(), console.Problem{
			Title: "This is for the operators of the gateway", Text: "You are signed in as " + signIn.User.Label() + " at " + signIn.User.Provider + ", whom its configuration does not name as one.",
			Advice: "If you should be, ask whoever runs it to add you to allow in its option admin. If you have another account, sign out and sign in with that.", Code: "access_denied",
		})
		return false
	}
	return true
}

// maxReturnTo is how long the address of a page may be that a sign-in leads back to, in bytes.
const maxReturnTo = 1000

// here is the page that is asked for, as a sign-in is told to lead back to: without what it would not take.
func (v *visit) here() string {
	path := strings.TrimPrefix(v.r.URL.EscapedPath(), v.prefix)
	if q := v.r.URL.RawQuery; q != "" && len(path)+len(q) < maxReturnTo && !strings.ContainsFunc(q, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '\\' || c == '#' }) {
		return path + "?" + q
	}
	if len(path) >= maxReturnTo || strings.Contains(path, "%") || strings.Contains(path, "//") {
		return adminPath + "/"
	}
	return path
}

// visit is one request of somebody who is signed in.
type visit struct {
	*AdminPages
	w       http.ResponseWriter
	r       *http.Request
	signIn  *authserver.SignIn
	section string
	form    url.Values // of a POST

	mistakes []console.Mistake
	result   *console.Result
}

type visitKey struct{}

// visitOf is the visit that a request belongs to, with what the mux found out about it.
func visitOf(r *http.Request) *visit {
	v := r.Context().Value(visitKey{}).(*visit)
	v.r = r
	return v
}

// serve answers one page.
func (v *visit) serve(methods map[string]pageRoute) {
	method := v.r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	route, known := methods[method]
	if !known {
		var allowed []string
		for _, m := range []string{"GET", "POST"} {
			if _, ok := methods[m]; ok {
				allowed = append(allowed, m)
			}
		}
		v.w.Header().Set("Allow", strings.Join(allowed, ", "))
		v.fail(denied(http.StatusMethodNotAllowed, "invalid_request", "This page takes "+strings.Join(allowed, " and ")+" alone."))
		return
	}
	v.section = route.section
	if method == http.MethodPost {
		var err error
		if v.form, err = v.options.Gateway.ReadForm(v.w, v.r, v.signIn); err != nil {
			v.fail(err)
			return
		}
	}
	if !slices.Contains(thorough, route.path) {
		ctx, cancel := context.WithTimeout(v.r.Context(), requestTime)
		defer cancel()
		v.r = v.r.WithContext(ctx)
	}
	if err := route.handle(v); err != nil {
		v.fail(err)
	}
}

func (v *visit) ctx() context.Context { return v.r.Context() }

func (v *visit) now() time.Time { return v.options.Vault.Now() }

// frame is what surrounds the page.
func (v *visit) frame() console.Frame {
	return console.Frame{
		Base: v.base, Section: v.section, User: v.signIn.User.Label(), Provider: v.signIn.User.Provider, Admin: v.signIn.Admin, CSRF: v.signIn.CSRF,
		NoConnections: v.options.NoConnections, Result: v.result,
	}
}

// link is the address of a page.
func (p *AdminPages) link(path string, query url.Values) string {
	for name, values := range query {
		if len(values) == 0 || values[0] == "" {
			delete(query, name)
		}
	}
	if len(query) == 0 {
		return p.base + path
	}
	return p.base + path + "?" + query.Encode()
}

// redirect leads on to another page after something was done, so that loading it again does nothing twice.
func (v *visit) redirect(path string, query url.Values) {
	v.w.Header().Set("Cache-Control", "no-store")
	v.w.Header().Set("Location", v.link(path, query))
	v.w.WriteHeader(http.StatusSeeOther)
}

// fail says why a page is not there. What is not the operator's mistake only the log gets the cause of.
func (v *visit) fail(err error) {
	e := v.Server.explain(v.r, err)
	if e.Status == http.StatusServiceUnavailable {
		v.w.Header().Set("Retry-After", "2")
	}
	page := console.Problem{Title: "This cannot be shown", Text: sentence(e.Description), Code: e.Code, Retry: v.link(adminPath+"/", nil), RetryText: "Overview"}
	switch {
	case v.r.Method == http.MethodPost:
		page.Title = "Nothing was done"
	case e.Status == http.StatusNotFound:
		page.Title, page.Advice = "Not found", "It may have been deleted: what is over is kept for the time that the configuration calls retention."
	}
	v.options.Pages.FramedProblem(v.w, cmp.Or(e.Status, http.StatusBadRequest), v.frame(), page)
}

// sentence makes one of an error's description.
func sentence(text string) string {
	if text == "" {
		return text
	}
	text = strings.ToUpper(text[:1]) + text[1:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

func sentences(texts []string) []string {
	all := make([]string, 0, len(texts))
	for _, text := range texts {
		all = append(all, sentence(text))
	}
	return all
}

// mistake notes what is wrong with what was asked for. Field is the name of the input that it stands in.
func (v *visit) mistake(field, text string) {
	v.mistakes = append(v.mistakes, console.Mistake{Field: field, Text: text})
}

// mistaken notes a refusal of the gateway's beside a field, and reports whether the error was one.
func (v *visit) mistaken(field string, err error) bool {
	e, ok := errors.AsType[*authserver.Error](err)
	if !ok || cmp.Or(e.Status, http.StatusBadRequest) != http.StatusBadRequest {
		return false
	}
	v.mistake(field, e.Description)
	return true
}

// mistakeIn is what is wrong with a field.
func (v *visit) mistakeIn(field string) string {
	if i := slices.IndexFunc(v.mistakes, func(m console.Mistake) bool { return m.Field == field }); i >= 0 {
		return v.mistakes[i].Text
	}
	return ""
}

// query reads the parameters of a page. What is unknown, repeated or unreadable is a mistake: left out, it would show more than was asked for.
func (v *visit) query(known ...string) url.Values {
	values, err := url.ParseQuery(v.r.URL.RawQuery)
	if err != nil {
		v.mistake("", "The address cannot be read.")
		return url.Values{}
	}
	read := make(url.Values)
	for name, all := range values {
		switch value := all[0]; {
		case !slices.Contains(known, name):
			v.mistake("", "There is no filter “"+console.Clean(name, 40)+"” here.")
		case len(all) > 1:
			v.mistake(name, "This is there more than once.")
		case len(value) > maxParameter || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f }):
			v.mistake(name, "This is too long, or has control characters.")
		case strings.TrimSpace(value) != "":
			read.Set(name, strings.TrimSpace(value))
		}
	}
	return read
}

// checkID notes that a value is no id.
func (v *visit) checkID(q url.Values, names ...string) {
	for _, name := range names {
		if id := q.Get(name); id != "" && !isID(id) {
			v.mistake(name, "This is no id: ids have no spaces, and no letters but those of ASCII.")
		}
	}
}

func isID(text string) bool {
	return text != "" && len(text) <= 180 && !strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c >= 0x7f })
}

// done shows what the last form has done: one of a few texts, and only where it has.
func (v *visit) done(told string, texts map[string]string) {
	if text := texts[noticed(v.signIn, told)]; text != "" {
		v.result = &console.Result{Text: text}
	}
}
