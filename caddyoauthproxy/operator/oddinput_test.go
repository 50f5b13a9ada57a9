package operator_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
)

// oddValues are what nobody in their right mind sends.
var oddValues = []string{
	"", " ", "\x00", "\r\nSet-Cookie: a=b", "ä", "\xff", "\u202e", "'", `"><img src=x onerror=alert(1)>`, "javascript:alert(1)", "../..", "%", "%00", "*", "-1", "0", "9223372036854775808", "true", "null",
	"{env.HOME}", "s.1.2", "s.99999999999.2", "w.1.2", "user:x", strings.Repeat("x", 170), strings.Repeat("x", 179), strings.Repeat("x", 181), strings.Repeat("x", 500), strings.Repeat("ü", 250), strings.Repeat("a ", 250),
	"9999-12-31", "0001-01-01", "2026-02-30", "https://bot.test/" + strings.Repeat("x", 400), "(session)", "api-key:x",
}

// Whatever is asked for in whatever way, the answer is one, and not the gateway's fault.
func TestOddParametersOfEveryRouteAndPageAreAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(3)
	for _, r := range operator.Routes() {
		for _, name := range operator.Parameters(r) {
			for _, v := range oddValues {
				if a := w.ask(r.Method, strings.ReplaceAll(r.Path, "{id}", "nothing")+"?"+url.Values{name: {v}}.Encode(), ""); a.status >= 500 {
					t.Errorf("%s %s, %s=%.40q: %d %s", r.Method, r.Path, name, v, a.status, a.body)
				}
			}
		}
	}
	visit := func(r operator.Route, id, name, v string) {
		path := strings.ReplaceAll(strings.ReplaceAll(r.Path, "{id}", url.PathEscape(id)), "{$}", "")
		var form url.Values
		if r.Method == http.MethodPost {
			form = url.Values{name: {v}}
		}
		a := w.visit(path+"?"+url.Values{name: {v}}.Encode(), form)
		if a.status >= 500 {
			t.Errorf("%s %.60s, %s=%.40q: %d %s", r.Method, path, name, v, a.status, bodyText(a.body))
		}
		if strings.Contains(a.body, "<img src=x") || strings.Contains(a.body, `href="javascript`) || a.header.Get("Set-Cookie") != "" {
			t.Errorf("%s %.60s, %s=%.40q: %s", r.Method, path, name, v, a.body)
		}
	}
	parameters := map[string][]string{
		"/admin/grants": {"text", "health", "proxy", "provider", "client_id", "user_id", "account_id", "sort", "after"}, "/admin/audit": {"type", "user_id", "grant", "consent", "text", "from", "until", "after"},
		"/admin/clients": {"kind", "after"}, "/admin/revoke": {"id", "ids", "user_id", "provider", "all", "reason"}, "/admin/audit/verify": {"anchor"},
	}
	for _, r := range operator.PageRoutes() {
		for _, v := range oddValues {
			if strings.Contains(r.Path, "{id}") {
				visit(r, v, "id", v)
				continue
			}
			for _, name := range append(parameters[r.Path], "id", "client_id", "after", "done") {
				visit(r, "", name, v)
			}
		}
	}
}
