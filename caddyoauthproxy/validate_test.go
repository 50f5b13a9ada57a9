package caddyoauthproxy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// base is a complete configuration in JSON, which each case changes.
func base(dir string) map[string]any {
	return map[string]any{
		"issuer": "https://gw.test",
		"vault":  map[string]any{"module": "bbolt", "path": filepath.Join(dir, "vault.db")},
		"providers": map[string]any{"idp": map[string]any{
			"type": "oidc", "issuer": "https://idp.test", "client_id": "gateway", "client_secret": "{file." + filepath.Join(dir, "secret") + "}",
		}},
		"proxies": map[string]any{"jira": map[string]any{"resource": "https://gw.test/jira/mcp"}},
	}
}

func validate(t *testing.T, app map[string]any) error {
	t.Helper()
	raw, err := json.Marshal(app)
	if err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		AppsRaw: caddy.ModuleMap{"oauth_proxy": raw},
	})
}

func set(path string, value any) func(map[string]any) {
	return func(m map[string]any) {
		keys := strings.Split(path, "/")
		for _, k := range keys[:len(keys)-1] {
			m = m[k].(map[string]any)
		}
		if value == nil {
			delete(m, keys[len(keys)-1])
			return
		}
		m[keys[len(keys)-1]] = value
	}
}

// Mistakes that only show with the values, or in a configuration that never was a Caddyfile.
func TestConfigurationMistakesAreNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("s3cret-of-the-gateway\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "short.key"), []byte("c2hvcnQ=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "typed.key"), []byte("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := validate(t, base(dir)); err != nil {
		t.Fatalf("the base itself: %v", err)
	}
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"no issuer":              {set("issuer", nil), `issuer is missing: set it to the gateway's public URL`},
		"http issuer":            {set("issuer", "http://gw.test"), `issuer "http://gw.test" must be https`},
		"issuer with fragment":   {set("issuer", "https://gw.test/#x"), `must have no query, fragment`},
		"callback elsewhere":     {set("callback_path", "/callback"), `callback_path "/callback" must be /api/v1/oauth/callback or /oauth/callback`},
		"no providers":           {set("providers", nil), `no provider: declare one`},
		"no proxies":             {set("proxies", nil), `no proxy: declare one`},
		"unknown member":         {set("isuer", "x"), `isuer`},
		"empty provider":         {set("providers/idp", nil), `no provider`},
		"provider without name":  {set("providers/", map[string]any{"type": "github", "client_id": "x"}), `provider "": the name becomes a part of URLs`},
		"provider named by dots": {set("providers/..", map[string]any{"type": "github", "client_id": "x"}), `provider "..": the name becomes a part of URLs`},
		"retention too short":    {set("retention", "90m"), `retention`},
		"audit off and kept":     {set("audit", map[string]any{"off": true, "retention": "30d"}), `audit: off keeps no events, so it has no retention`},
		"audit too short":        {set("audit", map[string]any{"retention": "1m"}), `audit retention 1m0s is out of range: 1h0m0s to`},
		"no client_id":           {set("providers/idp/client_id", nil), `provider "idp": client_id`},
		"unset client_id":        {set("providers/idp/client_id", "{env.OAUTH_PROXY_TEST_UNSET}"), `client_id: {env.OAUTH_PROXY_TEST_UNSET} is not set`},
		"literal secret":         {set("providers/idp/client_secret", "literal"), `client_secret: must be a placeholder`},
		"missing secret file":    {set("providers/idp/client_secret", "{file."+dir+"/nothing}"), `nothing} is not set or cannot be read`},
		"unset secret":           {set("providers/idp/client_secret", "{env.OAUTH_PROXY_TEST_UNSET}"), `is not set or cannot be read`},
		"unknown type":           {set("providers/idp/type", "openid"), `type "openid" is unknown; known are`},
		"no type":                {set("providers/idp/type", nil), `type is missing`},
		"missing key file":       {set("encryption_keys", []string{"{file." + dir + "/nothing}"}), `encryption_key 1: {file.`},
		"short key":              {set("encryption_keys", []string{"{file." + dir + "/short.key}"}), `openssl rand -base64 32`},
		"typed key":              {set("encryption_keys", []string{"{file." + dir + "/typed.key}"}), `instead of 32 random bytes`},
		"literal key":            {set("encryption_keys", []string{"c2VjcmV0"}), `must be a placeholder`},
		"no resource":            {set("proxies/jira/resource", nil), `proxy "jira": resource is missing`},
		"http resource":          {set("proxies/jira/resource", "http://gw.test/jira"), `must be https`},
		"resource with query":    {set("proxies/jira/resource", "https://gw.test/jira?x=1"), `must have no query`},
		"undeclared provider":    {set("proxies/jira/provider", "okta"), `provider "okta" is not declared; declared are: idp`},
		"bad redirect":           {set("proxies/jira/allowed_redirects", []string{"http://bot.test/cb"}), `allowed_redirects: "http://bot.test/cb" uses http`},
		"reserved id":            {set("proxies/token", map[string]any{"resource": "https://gw.test/x"}), `this id is the name of an endpoint`},
		"same resource":          {set("proxies/wiki", map[string]any{"resource": "https://GW.test:443/jira/mcp/"}), `is proxy "jira"'s already`},
		"login names of anybody": {set("proxies/jira/allow", map[string]any{"logins": []string{"alice"}}), `proxy "jira": allow login: login names at provider "idp" may repeat or be chosen freely; write allow user`},
		"organisation untold":    {set("proxies/jira/allow", map[string]any{"orgs": []string{"acme"}}), `proxy "jira": allow org: provider "idp" does not tell its users' organisation; write allow email`},
		"undeclared login":       {set("proxies/jira/login", "okta"), `provider "okta" is not declared; declared are: idp`},
		"too many grants":        {set("proxies/jira/max_grants", 20_000), `max_grants 20000 is out of range: 1 to 10000`},
		"unknown word":           {set("providers/idp/auto_refresh", "no"), `auto_refresh "no" is unknown: write on or off`},
		"allow at an MCP server": {func(m map[string]any) {
			set("providers/idp", map[string]any{"type": "mcp", "server": "https://mcp.test/mcp"})(m)
			set("proxies/jira/allow", map[string]any{"users": []string{"alice"}})(m)
		}, `proxy "jira": allow: provider "idp" does not say who a user is: add login`},
		"unknown identity field":   {set("proxies/jira/identity_headers", map[string]string{"X-User": "mail"}), `proxy "jira": identity_header X-User: "mail" is unknown; known are client_id`},
		"identity header twice":    {set("proxies/jira/identity_headers", map[string]string{"X-User": "email", "x-user": "login"}), `identity_header: x-user is the header of an identity_header already`},
		"identity header reserved": {set("proxies/jira/identity_headers", map[string]string{"Cookie": "email"}), `identity_header: Cookie carries credentials, or belongs to HTTP or MCP: choose a name of your own, such as X-User-Email`},
		"identity assertion":       {set("proxies/jira/identity_assertion", "X_Assertion"), `identity_assertion: "X_Assertion" is no name for a header of the gateway's`},
		"identity of nobody": {func(m map[string]any) {
			set("providers/idp", map[string]any{"type": "mcp", "server": "https://mcp.test/mcp"})(m)
			set("proxies/jira/identity_headers", map[string]string{"X-User": "email"})(m)
		}, `proxy "jira": identity_header X-User: provider "idp" does not say the email of a user: add login`},
		"identity header of the token": {func(m map[string]any) {
			set("proxies/jira/upstream_token", map[string]any{"source": "static", "token": "{env.X}", "header": "X-Service-Key"})(m)
			set("proxies/jira/identity_assertion", "x-service-key")(m)
		}, `identity_assertion: x-service-key is the header of upstream_token already`},
		"remembered consent at an MCP server": {func(m map[string]any) {
			set("providers/idp", map[string]any{"type": "mcp", "server": "https://mcp.test/mcp"})(m)
			set("proxies/jira/consent", "remember")(m)
		}, `proxy "jira": consent remember: provider "idp" does not say whose consent it would be`},
		"login at an MCP server": {func(m map[string]any) {
			set("providers/mcp", map[string]any{"type": "mcp", "server": "https://mcp.test/mcp"})(m)
			set("proxies/jira/provider", "idp")(m)
			set("proxies/jira/login", "mcp")(m)
		}, `proxy "jira": login: provider "mcp" does not say who a user is`},
		"private network of an OpenID provider": {set("providers/idp/private_network", true), `private_network does not apply to type oidc`},
		"exchange at an MCP server": {func(m map[string]any) {
			set("providers/idp", map[string]any{"type": "mcp", "server": "https://mcp.test/mcp"})(m)
			set("proxies/jira/upstream_token", map[string]any{"source": "exchange"})(m)
		}, `upstream_token: exchange is not for provider "idp" of type mcp`},
		"long code":                    {set("code_ttl", "1h"), `code_ttl 1h0m0s is out of range`},
		"vault in a missing directory": {set("vault/path", filepath.Join(dir, "no", "vault.db")), `its directory does not exist`},
		"vault is a directory":         {set("vault/path", dir), `is a directory`},
		"unknown vault":                {set("vault/module", "sqlite"), `sqlite`},
	} {
		t.Run(name, func(t *testing.T) {
			app := base(dir)
			c.change(app)
			err := validate(t, app)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant … %s …", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret-of-the-gateway") {
				t.Errorf("the message holds a secret: %v", err)
			}
		})
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("validation touched the disk: %v, %v", entries, err)
	}
}

func TestProviderThatCannotBeMadeIsReportedAlone(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"the gateway's own token": set("proxies/jira/upstream_token", map[string]any{"source": "client_credentials"}),
		"that of a named one":     set("proxies/jira/upstream_token", map[string]any{"source": "client_credentials", "provider": "idp"}),
		"exchanged token":         set("proxies/jira/upstream_token", map[string]any{"source": "exchange"}),
		"login there": func(m map[string]any) {
			set("providers/mcp", map[string]any{"type": "mcp", "server": "https://mcp.test/mcp"})(m)
			set("proxies/jira", map[string]any{"resource": "https://gw.test/jira", "provider": "mcp", "login": "idp", "allow": map[string]any{"users": []string{"alice"}}})(m)
		},
	} {
		t.Run(name, func(t *testing.T) {
			app := base(t.TempDir())
			set("providers/idp/client_secret", "{env.OAUTH_PROXY_TEST_UNSET}")(app)
			change(app)
			if err := validate(t, app); err == nil || !strings.Contains(err.Error(), "is not set or cannot be read") || strings.Contains(err.Error(), `proxy "`) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestSiteSaysWhetherTheAppIsMissingOrWrong(t *testing.T) {
	broken := base(t.TempDir())
	set("providers/idp/client_secret", "{env.OAUTH_PROXY_TEST_UNSET}")(broken)
	for name, c := range map[string]struct {
		app  map[string]any
		want string
		not  string
	}{
		"missing": {nil, "add the global option oauth_proxy", "is not set"},
		"wrong":   {broken, "is not set or cannot be read", "add the global option"},
	} {
		t.Run(name, func(t *testing.T) {
			apps := caddy.ModuleMap{"http": json.RawMessage(`{"servers": {"s": {"listen": [":0"], "routes": [{"handle": [{"handler": "oauth_proxy"}]}]}}}`)}
			if c.app != nil {
				raw, err := json.Marshal(c.app)
				if err != nil {
					t.Fatal(err)
				}
				apps["oauth_proxy"] = raw
			}
			err := caddy.Validate(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}, AppsRaw: apps})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), c.not) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestClientThatCanLogInNowhereIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("s3cret-of-the-gateway\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const callback = "https://bot.test/cb"
	for name, c := range map[string]struct {
		client  map[string]any
		allowed []string // by the proxy jira; wiki has https://bot.test/**
		want    string   // empty: nothing is wrong
	}{
		"not in the list": {
			map[string]any{"redirect_uris": []string{callback, "https://bot.test/b"}, "proxies": []string{"jira"}},
			[]string{"claude", "https://other.test/cb"},
			`client "bot": nobody could log in with it: none of its redirect_uris is allowed by a proxy that it may use: ` +
				`https://bot.test/cb is not among the proxy's allowed_redirects (proxy "jira" has allowed_redirects claude https://other.test/cb); https://bot.test/b is not`,
		},
		"in no list":            {map[string]any{"redirect_uris": []string{"https://else.test/cb"}}, []string{"claude"}, `(proxy "wiki" has allowed_redirects https://bot.test/**)`},
		"a scheme without list": {map[string]any{"redirect_uris": []string{"bot://cb"}, "proxies": []string{"jira"}}, nil, `bot://cb uses the scheme "bot"; a private-use scheme needs a dot (RFC 8252 §7.1) or must be listed in the proxy's allowed_redirects (proxy "jira" has no allowed_redirects)`},
		"in another's list":     {map[string]any{"redirect_uris": []string{callback}}, []string{"claude"}, ""},
		"one of them":           {map[string]any{"redirect_uris": []string{"https://else.test/cb", callback}, "proxies": []string{"jira"}}, []string{callback}, ""},
		"without a list":        {map[string]any{"redirect_uris": []string{callback}, "proxies": []string{"jira"}}, nil, ""},
		"loopback, any port":    {map[string]any{"redirect_uris": []string{"http://localhost:8080/callback"}, "proxies": []string{"jira"}}, []string{"claude"}, ""},
		"acts for itself": {
			map[string]any{"redirect_uris": []string{callback}, "proxies": []string{"jira"}, "grant_types": []string{"client_credentials"}, "client_secret": "{file." + filepath.Join(dir, "secret") + "}"},
			[]string{"claude"}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			app := base(dir)
			set("proxies/jira/allowed_redirects", c.allowed)(app)
			set("proxies/wiki", map[string]any{"resource": "https://gw.test/wiki", "allowed_redirects": []string{"https://bot.test/**"}})(app)
			app["clients"] = map[string]any{"bot": c.client}
			switch err := validate(t, app); {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestAllowListsAreOfWhatTheProviderTells(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("s3cret-of-the-gateway\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for kind, tells := range map[string]struct{ groups, orgs bool }{
		"github": {}, "atlassian": {}, "notion": {}, "google": {orgs: true}, "slack": {orgs: true}, "linear": {orgs: true}, "gitlab": {groups: true}, "idp": {groups: true},
	} {
		for member, ok := range map[string]bool{"groups": tells.groups, "orgs": tells.orgs} {
			t.Run(kind+" "+member, func(t *testing.T) {
				app := base(dir)
				if kind != "idp" {
					app["providers"].(map[string]any)[kind] = map[string]any{"type": kind, "client_id": "gateway", "client_secret": "{file." + filepath.Join(dir, "secret") + "}"}
				}
				app["proxies"] = map[string]any{"p": map[string]any{"resource": "https://gw.test/mcp", "provider": kind, "allow": map[string]any{member: []string{"staff"}}}}
				if err := validate(t, app); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), `provider "`+kind+`" does not tell its users' `) {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

func TestT29LoginNamesAreForProvidersWhereTheyAreUnique(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("s3cret-of-the-gateway\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	provider := func(kind string) map[string]any {
		return map[string]any{"type": kind, "client_id": "gateway", "client_secret": "{file." + filepath.Join(dir, "secret") + "}"}
	}
	for name, c := range map[string]struct {
		provider, login string
		ok              bool
	}{
		"github":              {"github", "", true},
		"gitlab":              {"gitlab", "", true},
		"OpenID Connect":      {"idp", "", false},
		"free text":           {"linear", "", false},
		"one workspace's":     {"slack", "", false},
		"the login's":         {"linear", "github", true},
		"the account's alone": {"github", "idp", false},
		"named twice":         {"github", "github", true},
	} {
		t.Run(name, func(t *testing.T) {
			app := base(dir)
			for _, kind := range []string{"github", "gitlab", "linear", "slack"} {
				app["providers"].(map[string]any)[kind] = provider(kind)
			}
			app["proxies"] = map[string]any{"p": map[string]any{
				"resource": "https://gw.test/mcp", "provider": c.provider, "login": c.login, "allow": map[string]any{"logins": []string{"octocat"}},
			}}
			if err := validate(t, app); (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "allow login: ") {
				t.Errorf("got %v", err)
			}
		})
	}
}
