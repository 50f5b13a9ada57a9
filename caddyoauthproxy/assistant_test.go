package caddyoauthproxy

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// runningApp is a gateway with one provider and one proxy, as it stands in a configuration.
func runningApp() *App {
	return &App{
		Issuer:    "https://gw.test",
		Providers: map[string]*Provider{"github": {ClientID: "id", ClientSecret: "{env.GITHUB_SECRET}"}},
		Proxies:   map[string]*Proxy{"code": {Resource: "https://gw.test/code/mcp", Provider: "github"}},
	}
}

// drafts are one for each template.
func drafts() map[string]operator.Draft {
	all := make(map[string]operator.Draft)
	for _, t := range upstream.Templates() {
		d := operator.Draft{
			"template": t.Name, "provider": "new", "client_id": "{env.ID}", "client_secret": "{file./run/secrets/x}", "scopes": strings.Join(t.Recommended, " "),
			"proxy": "jira", "upstream": "https://jira.test/v1/mcp", "allow": "user 1 2\r\nuser three", "proxy_scopes": "read write", "consent": "off unsafe", "compat": "on",
			"name": "Jira & \"friends\"", "allowed_redirects": "claude https://bot.test/cb",
		}
		for _, field := range slices.Concat(t.Needs, t.Takes) {
			d[field] = map[string]string{
				"issuer": "https://idp.test/a", "server": "https://mcp.test/mcp", "domain": "acme.test", "authorization_server": "default", "tenant": "organizations", "audience": "https://api.test/#x",
				"authorization_url": "https://idp.test/authorize", "token_url": "https://idp.test/token", "userinfo_url": "https://idp.test/me", "subject_field": "id", "revocation_url": "https://idp.test/revoke",
			}[field]
		}
		if t.Registers {
			d["client_id"], d["client_secret"], d["allow"], d["private_network"] = "", "", "", "on"
		}
		all[t.Name] = d
	}
	return all
}

// adaptedParts are the provider, the proxy and the whole config that a Caddyfile adapts to.
func adaptedParts(t *testing.T, text, provider, proxy string) (json.RawMessage, json.RawMessage, string) {
	t.Helper()
	raw, err := adaptCaddyfile(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var config struct {
		Apps struct {
			OAuthProxy struct {
				Providers, Proxies map[string]json.RawMessage
			} `json:"oauth_proxy"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	return config.Apps.OAuthProxy.Providers[provider], config.Apps.OAuthProxy.Proxies[proxy], string(raw)
}

func canonicalJSON(t *testing.T, raw []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestAssistantsCaddyfileIsFormattedAndAdaptsToItsJSON(t *testing.T) {
	t.Parallel()
	for name, draft := range drafts() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fresh := &App{Issuer: "https://gw.test"}
			r := fresh.assistant().Draw(draft)
			if len(r.Problems) > 0 {
				t.Fatalf("%+v", r.Problems)
			}
			if got := string(caddyfile.Format([]byte(r.Caddyfile))); got != r.Caddyfile {
				t.Errorf("caddy fmt makes\n%s\nof\n%s", got, r.Caddyfile)
			}
			provider, proxy, whole := adaptedParts(t, r.Caddyfile, "new", "jira")
			if got, want := canonicalJSON(t, provider), canonicalJSON(t, r.JSON["apps/oauth_proxy/providers/new"]); got != want {
				t.Errorf("provider: got %s, want %s", got, want)
			}
			if got, want := canonicalJSON(t, proxy), canonicalJSON(t, r.JSON["apps/oauth_proxy/proxies/jira"]); got != want {
				t.Errorf("proxy: got %s, want %s", got, want)
			}
			if !strings.Contains(canonicalJSON(t, []byte(whole)), canonicalJSON(t, r.JSON["route"])) {
				t.Errorf("no route %s in %s", r.JSON["route"], whole)
			}
			want := "https://gw.test/api/v1/oauth/callback"
			if name == "mcp" {
				want += "/new"
			}
			if r.RedirectURI != want {
				t.Errorf("redirect URI %s, want %s", r.RedirectURI, want)
			}

			moved := runningApp()
			moved.CallbackPath = "/oauth/callback"
			if r := moved.assistant().Draw(draft); name != "mcp" && r.RedirectURI != "https://gw.test/oauth/callback" || name == "mcp" && r.RedirectURI != want {
				t.Errorf("with callback_path: redirect URI %s", r.RedirectURI)
			}

			added := runningApp().assistant().Draw(draft)
			if len(added.Problems) > 0 {
				t.Fatalf("%+v", added.Problems)
			}
			if strings.Contains(added.Caddyfile, "\tissuer https://gw.test\n") || string(caddyfile.Format([]byte(added.Caddyfile))) != added.Caddyfile {
				t.Errorf("an addition: %s", added.Caddyfile)
			}
		})
	}
}

func TestAssistantAddsAProxyAtAProviderThatExists(t *testing.T) {
	t.Parallel()
	r := runningApp().assistant().Draw(operator.Draft{"provider": "github", "proxy": "wiki", "upstream": "http://localhost:9000", "allow": "login alice", "resource": "https://mcp.test/wiki"})
	want := `{
	oauth_proxy {
		proxy wiki {
			resource https://mcp.test/wiki
			provider github
			allow login alice
		}
	}
}

mcp.test {
	mcp_proxy wiki http://localhost:9000
}
`
	if len(r.Problems) > 0 || r.Caddyfile != want || r.RedirectURI != "" || len(r.JSON) != 2 {
		t.Errorf("%+v\n%s", r, r.Caddyfile)
	}
}

func TestAssistantSaysEveryMistakeBesideItsField(t *testing.T) {
	t.Parallel()
	app := runningApp()
	app.Proxies["old"] = &Proxy{Resource: "https://gw.test/old/mcp"}
	const secret = "s3cr3t-typed-into-the-form"
	r := app.assistant().Draw(operator.Draft{
		"template": "okta", "provider": "github", "client_secret": secret, "domain": "https://acme.okta.com/", "tenant": "x", "scopes": `a"b`, "token_endpoint_auth_method": "private_key_jwt",
		"proxy": "code", "upstream": "jira.internal", "resource": "http://gw.test/x", "allow": "email_domain @acme.com\nteam x", "consent": "sometimes", "allowed_redirects": "javascript:alert(1)",
		"compat": "maybe", "proxy_scopes": `\`, "flavour": "sweet", "name": "a\x00b",
	})
	for field, want := range map[string]string{
		"provider":                   `provider "github" is there already`,
		"client_id":                  "client_id is missing: write the client id",
		"client_secret":              "client_secret must be a placeholder",
		"domain":                     "domain: write the host name alone",
		"tenant":                     "tenant does not apply to type okta",
		"scopes":                     "is not a scope",
		"token_endpoint_auth_method": `token_endpoint_auth_method "private_key_jwt" is unknown`,
		"proxy":                      `proxy "code" is there already`,
		"upstream":                   "is not a URL",
		"resource":                   "must be https",
		"allow":                      "allow knows",
		"consent":                    `not "sometimes"`,
		"allowed_redirects":          "allowed_redirects: ",
		"compat":                     "takes on or off",
		"proxy_scopes":               "",
		"name":                       "control characters",
		"":                           "flavour",
	} {
		if !slices.ContainsFunc(r.Problems, func(p operator.Problem) bool { return p.Field == field && strings.Contains(p.Text, want) }) {
			t.Errorf("%s: no %q in\n%+v", field, want, r.Problems)
		}
	}
	if !slices.ContainsFunc(r.Problems, func(p operator.Problem) bool { return strings.Contains(p.Text, `proxy "old" names no provider`) }) {
		t.Errorf("the proxy that a second provider would break: %+v", r.Problems)
	}
	answer, err := json.Marshal(r)
	if err != nil || bytes.Contains(answer, []byte(secret)) || r.Caddyfile != "" || r.JSON != nil {
		t.Errorf("%s, %v", answer, err)
	}
}

// What the assistant finds nothing wrong with, Caddy takes, and what Caddy would not take, the assistant refuses.
func FuzzAssistantWritesExactlyWhatWasFilledInOrRefuses(f *testing.F) {
	for _, s := range []string{
		"plain", `a"b`, "a`b", "a`\"b", `a\`, `a\"b`, `\\`, "{", "}", "{env.X}", "{$X}", "x{y", "x}y", "{block}", "{blocks.a}", "{args[0]}", "# no", "a # b", "a\nb", "<<END", "<<END\nx\nEND", "import x",
		" a ", "a  b", "é", "\u00a0", "\ufeffx", "\xff", "'", "", "{{x}}", "@m", "*", "/x", "`", `"`, `\`, `""`, "a;b", "\u2028", "{file./etc/passwd} x", "(snippet)", "&(x)", "$", "a\\\n", `\{`, `{ a`, "a {",
	} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		draft := operator.Draft{
			"template": "auth0", "provider": a, "domain": "acme.test", "audience": b, "client_id": a, "client_secret": "{env.SECRET}", "scopes": b,
			"proxy": "jira", "upstream": "https://jira.test/" + a, "name": a, "allow": "group " + b + "\nuser " + a, "proxy_scopes": a,
		}
		for _, drop := range [][]string{nil, {"proxy_scopes", "scopes"}, {"client_id", "upstream", "proxy_scopes", "scopes"}, {"provider", "client_id", "upstream", "proxy_scopes", "scopes", "audience"}} {
			d := maps.Clone(draft)
			for _, k := range drop {
				d[k] = map[string]string{"client_id": "id", "upstream": "https://jira.test", "provider": "idp"}[k]
			}
			r := (&App{Issuer: "https://gw.test"}).assistant().Draw(d)
			if len(r.Problems) > 0 {
				for _, p := range r.Problems {
					if p.Text == "" {
						t.Fatalf("%q, %q: a refusal without words", a, b)
					}
				}
				continue
			}
			if got := string(caddyfile.Format([]byte(r.Caddyfile))); got != r.Caddyfile {
				t.Fatalf("%q, %q: caddy fmt makes\n%s\nof\n%s", a, b, got, r.Caddyfile)
			}
			name := strings.TrimSpace(d["provider"])
			if name == "" {
				name = "auth0"
			}
			rawProvider, rawProxy, _ := adaptedParts(t, r.Caddyfile, name, "jira")
			var provider Provider
			var proxy Proxy
			if err := caddy.StrictUnmarshalJSON(rawProvider, &provider); err != nil {
				t.Fatal(err)
			}
			if err := caddy.StrictUnmarshalJSON(rawProxy, &proxy); err != nil {
				t.Fatal(err)
			}
			got := []string{provider.ClientID, provider.Audience, strings.Join(provider.Scopes, " "), proxy.Name, proxy.Provider, strings.Join(proxy.Allow.Users, " "), strings.Join(proxy.Allow.Groups, " ")}
			var groups, users []string // of the lines of allow, some of which a line break in a value may have made
			for line := range strings.Lines(strings.TrimSpace(d["allow"])) {
				kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
				switch kind {
				case "group":
					groups = append(groups, strings.TrimSpace(rest))
				case "user":
					users = append(users, strings.Fields(rest)...)
				}
			}
			want := []string{
				strings.TrimSpace(d["client_id"]), strings.TrimSpace(d["audience"]), strings.Join(strings.Fields(d["scopes"]), " "), strings.TrimSpace(d["name"]), name,
				strings.Join(users, " "), strings.Join(groups, " "),
			}
			if !slices.Equal(got, want) {
				t.Fatalf("got %q, want %q, of\n%s", got, want, r.Caddyfile)
			}
		}
	})
}
