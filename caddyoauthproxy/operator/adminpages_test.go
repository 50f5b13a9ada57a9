package operator_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// visit asks for a page of operators, as an admin unless it is edited. A form makes it a POST, with the token and from the page itself.
func (w *world) visit(path string, form url.Values, edit ...func(*http.Request)) answer {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, w.issuer.String()+path, nil)
	if form != nil {
		if !form.Has("csrf") {
			form.Set("csrf", csrf)
		}
		r = httptest.NewRequestWithContext(w.t.Context(), http.MethodPost, w.issuer.String()+path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	r.Header.Set("X-Test-Cookie", "admin")
	for _, f := range edit {
		f(r)
	}
	rec := httptest.NewRecorder()
	w.pages.ServeHTTP(rec, r)
	return answer{rec.Code, rec.Header(), rec.Body.String()}
}

// page is visit where the page must be there.
func (w *world) page(path string) string {
	w.t.Helper()
	a := w.visit(path, nil)
	if a.status != http.StatusOK {
		w.t.Fatalf("%s: %d %s", path, a.status, bodyText(a.body))
	}
	return a.body
}

// bodyText is what people read of a page.
func bodyText(body string) string {
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		return body
	}
	var b strings.Builder
	for n := range doc.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "style" {
			b.WriteString(n.Data + " ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// rows is how many rows the tables of a page have.
func rows(body string) int {
	return strings.Count(body, `<tr role="row">`) - strings.Count(body, "<thead")
}

// pagePath is the path of a page with an id of something that is there.
func pagePath(path string) string {
	switch {
	case strings.HasPrefix(path, "/admin/grants/"):
		return strings.ReplaceAll(path, "{id}", "grant-0001")
	case strings.HasPrefix(path, "/admin/client"):
		return path + "?client_id=gateway_0001"
	case path == "/admin/revoke":
		return path + "?id=grant-0001"
	case path == "/admin/{$}":
		return "/admin/"
	}
	return strings.ReplaceAll(path, "{id}", "0123456789abcdef")
}

// Whatever page is added is protected: this walks all that there are.
func TestT80EveryPageOfOperatorsRefusesWhoIsNoAdminAndEveryFormWhatAnotherSiteMaySend(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(3)
	nobody := func(r *http.Request) { r.Header.Del("X-Test-Cookie") }
	for _, route := range operator.PageRoutes() {
		path := pagePath(route.Path)
		var form func() url.Values
		if form = func() url.Values { return nil }; route.Method == http.MethodPost {
			form = func() url.Values { return url.Values{"reason": {"x"}} }
		}
		a := w.visit(path, form(), nobody)
		switch location := a.header.Get("Location"); {
		case route.Method == http.MethodPost && (a.status != http.StatusUnauthorized || location != ""):
			t.Errorf("%s %s, not signed in: %d %s", route.Method, path, a.status, location)
		case route.Method == http.MethodGet && (a.status != http.StatusSeeOther || location != w.issuer.String()+"/oauth/signin?"+url.Values{"return_to": {path}}.Encode()):
			t.Errorf("%s %s, not signed in: %d %s", route.Method, path, a.status, location)
		}
		if a := w.visit(path, form(), header("X-Test-Cookie", "alice")); a.status != http.StatusForbidden || !strings.Contains(a.body, "alice@example.com") {
			t.Errorf("%s %s, a user: %d", route.Method, path, a.status)
		}
		if a := w.visit(path, form(), header("Host", "evil.test")); a.status != http.StatusForbidden {
			t.Errorf("%s %s, another host: %d", route.Method, path, a.status)
		}
		if a := w.visit(path, form()); a.status == http.StatusUnauthorized || a.status == http.StatusForbidden || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s, an admin: %d %v", route.Method, path, a.status, a.header)
		}
		if route.Method != http.MethodPost {
			continue
		}
		for name, edit := range map[string]func(*http.Request){
			"another site":   header("Sec-Fetch-Site", "cross-site"),
			"a sister site":  header("Sec-Fetch-Site", "same-site"),
			"another origin": func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "https://evil.test") },
			"JSON":           header("Content-Type", "application/json"),
		} {
			if a := w.visit(path, form(), edit); a.status != http.StatusForbidden && (name != "JSON" || a.status != http.StatusBadRequest) {
				t.Errorf("%s %s, %s: %d", route.Method, path, name, a.status)
			}
		}
		for name, token := range map[string][]string{"a wrong token": {csrf + "x"}, "an empty token": {""}, "two tokens": {csrf, csrf}} {
			if a := w.visit(path, url.Values{"csrf": token}); a.status != http.StatusForbidden && a.status != http.StatusBadRequest {
				t.Errorf("%s %s, %s: %d", route.Method, path, name, a.status)
			}
		}
		if a := w.visit(path+map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]+"csrf="+csrf, url.Values{"csrf": {"x"}}); a.status != http.StatusForbidden {
			t.Errorf("%s %s, a token in the address: %d", route.Method, path, a.status)
		}
	}
}

func TestPagesOfOperatorsHoldNoSecretAndNothingThatAStrangerWroteIsMoreThanText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(12)
	for _, route := range operator.PageRoutes() {
		if route.Method != http.MethodGet {
			continue
		}
		a := w.visit(pagePath(route.Path), nil)
		for _, secret := range secrets {
			if shown := strings.ReplaceAll(a.body, `name="csrf" value="`+csrf+`"`, ""); strings.Contains(shown, secret) {
				t.Errorf("%s shows %s", route.Path, secret)
			}
		}
		if strings.Contains(a.body, "<script") || strings.ContainsAny(a.body, "\u202e\x1b") || strings.Contains(a.body, " style=") {
			t.Errorf("%s: %s", route.Path, a.body)
		}
		if csp := a.header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "form-action 'self'") || strings.Contains(csp, "script-src") {
			t.Errorf("%s: %s", route.Path, csp)
		}
		if n := strings.Count(a.body, `aria-current="page"`); n != 1 {
			t.Errorf("%s: %d entries of the navigation are the present one", route.Path, n)
		}
		if n := strings.Count(a.body, "<h1"); n != 1 {
			t.Errorf("%s: %d titles", route.Path, n)
		}
	}
}

func TestGrantsAreFoundFilteredSortedAndPaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(120)
	for query, want := range map[string]int{
		"": 50, "?text=user0007": 1, "?text=user0007%40example.com&proxy=wiki": 1, "?text=user0007&proxy=jira": 0, "?user_id=user-0009": 1, "?client_id=gateway_0011": 1, "?account_id=account-0011": 1,
		"?proxy=wiki&provider=&health=&text=": 50, "?health=broken": 0, "?user_id=nobody": 0, "?sort=-user&text=user0003": 1,
	} {
		if body := w.page("/admin/grants" + query); rows(body) != want {
			t.Errorf("%s: %d rows, want %d", query, rows(body), want)
		}
	}
	for _, name := range []string{"proxy", "provider"} {
		if body := w.page("/admin/grants?" + name + "=gone"); rows(body) != 0 || !strings.Contains(body, `id="p-`+name+`"`) {
			t.Errorf("a %s that is not configured: %d rows, %s", name, rows(body), bodyText(body))
		}
	}
	// A page leads to the next, with the filter.
	seen, next := 0, "/admin/grants?proxy=wiki"
	for next != "" {
		body := w.page(next)
		seen += rows(body)
		m := regexp.MustCompile(`rel="next" href="([^"]*)"`).FindStringSubmatch(body)
		if next = ""; m != nil {
			next = strings.TrimPrefix(html.UnescapeString(m[1]), w.issuer.String())
			if !strings.Contains(next, "proxy=wiki") || !strings.Contains(next, "after=") {
				t.Fatalf("the next page is %s", next)
			}
		}
	}
	if seen != 60 {
		t.Errorf("%d grants on all pages, want 60", seen)
	}
	if body := w.page("/admin/grants"); !strings.Contains(bodyText(body), "120 grants, 50 are shown") {
		t.Errorf("how many: %s", bodyText(body))
	}
	sorted := w.page("/admin/grants?sort=-user&proxy=wiki")
	if i, j := strings.Index(sorted, "user0119@"), strings.Index(sorted, "user0117@"); i < 0 || j < i || !strings.Contains(sorted, `aria-sort="descending"`) {
		t.Errorf("not sorted: %d, %d", i, j)
	}
}

// What is wrong with a filter is said beside its field, and nothing is listed: a filter that was left out would show more than was asked for.
func TestBadFiltersOfPagesAreSaidBesideTheFieldAndListNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(3)
	for query, field := range map[string]string{
		"grants?health=ill": "health", "grants?user_id=a+b": "user_id", "grants?client_id=" + strings.Repeat("x", 600): "client_id", "grants?proxy=jira&proxy=wiki": "proxy", "grants?helth=valid": "", "grants?helth=valid&health=ill": "health",
		"grants?text=%00": "text", "grants?text=%21%21": "text", "grants?sort=color": "", "grants?after=a+b": "", "grants?text=a+b+c+d+e+f+g+h+i": "text", "grants?%zz": "",
		"clients?kind=friendly": "kind", "clients?text=x": "", "audit?type=token.stolen": "type", "audit?from=yesterday": "from", "audit?from=2026-07-02&until=2026-07-01": "until", "audit?after=x": "", "audit?user=x": "",
	} {
		a := w.visit("/admin/"+query, nil)
		if a.status != http.StatusBadRequest || rows(a.body) != 0 || !strings.Contains(a.body, `role="alert"`) {
			t.Errorf("%.60s: %d, %d rows", query, a.status, rows(a.body))
		}
		if field != "" && (!strings.Contains(a.body, `id="p-`+field+`"`) || !strings.Contains(a.body, `aria-describedby="p-`+field+`"`) || !strings.Contains(a.body, `href="#f-`+field+`"`)) {
			t.Errorf("%.60s: not said beside %s: %s", query, field, bodyText(a.body))
		}
	}
}

func TestOperatorMakesAnAPIKeyThatIsShownOnceAndRevokesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, form := range map[string]url.Values{
		"name": {"proxy:wiki": {"on"}}, "proxies": {"name": {"x"}}, "scopes": {"name": {"x"}, "proxy:wiki": {"on"}, "scopes": {"fly"}}, "expires_in": {"name": {"x"}, "proxy:wiki": {"on"}, "expires_in": {"soon"}},
	} {
		if a := w.visit("/admin/keys/new", form); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, `id="p-`+name+`"`) {
			t.Errorf("%s: %d %s", name, a.status, bodyText(a.body))
		}
	}
	a := w.visit("/admin/keys/new", url.Values{"name": {"nightly"}, "proxy:wiki": {"on"}, "expires_in": {"30d"}})
	key := regexp.MustCompile(tokenstore.APIKeyPrefix + `([0-9a-f]+)_[0-9a-f]+`).FindStringSubmatch(a.body)
	if a.status != http.StatusOK || key == nil || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", a.status, bodyText(a.body))
	}
	if body := w.page("/admin/keys"); strings.Contains(body, key[0]) || !strings.Contains(body, "nightly") {
		t.Error("the list shows the key, or does not list it")
	}
	w.page("/admin/keys/" + key[1] + "/revoke")
	if a := w.visit("/admin/keys/"+key[1]+"/revoke", url.Values{}); a.status != http.StatusSeeOther {
		t.Fatalf("%d", a.status)
	}
	if keys, err := w.gateway.APIKeys(t.Context()); err != nil || len(keys) != 1 || keys[0].State != "revoked" {
		t.Errorf("%v %+v", err, keys)
	}
	before := w.gateway.SigningKeys()
	if a := w.visit("/admin/keys/rotate", url.Values{}); a.status != http.StatusSeeOther || len(w.gateway.SigningKeys()) != len(before)+1 {
		t.Errorf("rotation: %d", a.status)
	}
	if a := w.visit("/admin/keys/rotate", url.Values{"compromised": {"on"}}); a.status != http.StatusSeeOther || w.gateway.SigningKeys()[0].ID == before[0].ID {
		t.Errorf("rotation of a key that was stolen: %d", a.status)
	}
}

func TestOperatorDeletesAClientAndEndsASession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(3)
	if ask := bodyText(w.page("/admin/client/delete?client_id=gateway_0001")); !strings.Contains(ask, "https://bot.test/cb") || !strings.Contains(ask, "What ends 1 grant") {
		t.Errorf("the question: %s", ask)
	}
	a := w.visit("/admin/client/delete?client_id=gateway_0001", url.Values{})
	if a.status != http.StatusSeeOther || !slices.Equal(w.living(), []string{"grant-0000", "grant-0002"}) {
		t.Errorf("%d %v", a.status, w.living())
	}
	if a := w.visit("/admin/client?client_id=gateway_0001", nil); a.status != http.StatusNotFound {
		t.Errorf("it is there still: %d", a.status)
	}
	if a := w.visit("/admin/client/delete?client_id=report-bot", nil); a.status != http.StatusConflict {
		t.Errorf("a client of the configuration: %d", a.status)
	}
	if body := w.page("/admin/sessions"); rows(body) != 3 || !strings.Contains(body, "/admin/sessions/signin-0001/end") {
		t.Fatalf("sessions: %s", bodyText(body))
	}
	w.page("/admin/sessions/signin-0001/end")
	if a := w.visit("/admin/sessions/signin-0001/end", url.Values{}); a.status != http.StatusSeeOther || rows(w.page("/admin/sessions?done=ended")) != 2 {
		t.Errorf("%d", a.status)
	}
	if a := w.visit("/admin/sessions/signin-0001/end", url.Values{}); a.status != http.StatusNotFound {
		t.Errorf("ended twice: %d", a.status)
	}
	for _, done := range []string{"revoked", "<b>", "Your password has expired"} {
		if body := w.page("/admin/sessions?" + url.Values{"done": {done}}.Encode()); strings.Contains(body, `class="result"`) {
			t.Errorf("a link makes the page say something: %s", done)
		}
	}
}

func TestPagesOfOperatorsSayHowTheGatewayFares(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(7)
	for path, wants := range map[string][]string{
		"/admin/":          {"7 Valid", "0 Broken", "Provider idp Not asked yet", "Clean-up Runs Last run 1 minute ago", "Audit trail Not verified", "Revocations None open"},
		"/admin/providers": {w.issuer.String() + "/api/v1/oauth/callback", w.issuer.String() + "/jira/mcp", "/var/lib/caddy/vault.db", "Records: grant 7"},
		"/admin/clients":   {"Reports", "Registered itself", "bot.test"},
	} {
		text := bodyText(w.page(path))
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q: %s", path, want, text)
			}
		}
	}
	if body := w.page("/admin/providers"); !strings.Contains(body, w.issuer.String()+"/oauth/authorize/jira") {
		t.Error("nothing leads to where one connects")
	}
	if text := bodyText(w.page("/admin/audit/verify")); !strings.Contains(text, "The audit trail is whole") {
		t.Errorf("verification: %s", text)
	}
	if text := bodyText(w.page("/admin/")); !strings.Contains(text, "Audit trail Whole Verified just now") {
		t.Errorf("after the verification: %s", text)
	}
	if body := w.page("/admin/audit?proxy=jira"); !strings.Contains(body, "/admin/oauth/audit/export?format=csv&amp;proxy=jira") {
		t.Error("the export leaves the filter out")
	}
	for path, status := range map[string]int{"/admin": 303, "/admin/nothing": 404, "/admin/grants/nothing": 404, "/admin/audit/nothing": 404, "/admin/client?client_id=%00": 404, "/admin/grants/" + strings.Repeat("x", 500): 404} {
		if a := w.visit(path, nil); a.status != status {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	if a := w.visit("/admin/grants", url.Values{}); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "GET" {
		t.Errorf("POST to a list: %d %s", a.status, a.header.Get("Allow"))
	}
}

func TestTheDocumentationNamesEveryPageOfOperators(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/console.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range operator.PageRoutes() {
		if path := strings.TrimSuffix(route.Path, "{$}"); !strings.Contains(string(raw), "`"+path+"`") {
			t.Errorf("docs/console.md does not say what %s is for", path)
		}
	}
}
