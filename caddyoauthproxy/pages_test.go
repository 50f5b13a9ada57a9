package caddyoauthproxy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Mistakes in what people see, and in who may see it. Those in files name the file, and the line where there is one.
func TestMistakesOfPagesAndAdminsAreNamed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("secret", "s3cret-of-the-gateway\n")
	logo := write("logo.svg", `<svg xmlns="http://www.w3.org/2000/svg"/>`)
	write("broken/home.html", "{{define \"body\"}}\n{{.Nothing}}\n{{end}}")
	write("good/home.html", "{{define \"body\"}}<h1>Hello</h1>{{end}}")
	allow := map[string]any{"emails": []string{"alice@example.com"}}
	second := func(m map[string]any) {
		set("providers/second", map[string]any{"type": "oidc", "issuer": "https://two.test", "client_id": "x", "client_secret": "{file." + filepath.Join(dir, "secret") + "}"})(m)
		set("proxies/jira/provider", "idp")(m)
	}
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   string // empty for none
	}{
		"admin":                    {set("admin", map[string]any{"allow": allow, "session_ttl": "30m", "apply_config": true}), ""},
		"admin, address of no use": {set("admin", map[string]any{"allow": allow, "admin_address": "localhost:2020"}), "admin: admin_address and admin_origin are for apply_config"},
		"admin, no address":        {set("admin", map[string]any{"allow": allow, "apply_config": true, "admin_address": "localhost"}), `admin: the address of Caddy's admin endpoint, "localhost", is none that can be called`},
		"admin, no origin":         {set("admin", map[string]any{"allow": allow, "apply_config": true, "admin_origin": "/"}), `admin: "/" is no origin`},
		"admin without allow":      {set("admin", map[string]any{}), `admin: an admin page that anybody may open is no admin page: name who may, for example allow email alice@example.com`},
		"admin, other provider":    {set("admin", map[string]any{"allow": allow, "provider": "okta"}), `admin: provider "okta" is not declared; declared are: idp`},
		"admin, several providers": {func(m map[string]any) {
			second(m)
			set("admin", map[string]any{"allow": allow})(m)
		}, `admin: provider is missing, and there are several: idp, second`},
		"admin, several and one named": {func(m map[string]any) {
			second(m)
			set("admin", map[string]any{"allow": allow, "provider": "second"})(m)
		}, ""},
		"admin, mcp provider": {func(m map[string]any) {
			set("providers/remote", map[string]any{"type": "mcp", "server": "https://mcp.test/mcp"})(m)
			set("proxies/jira/provider", "idp")(m)
			set("admin", map[string]any{"allow": allow, "provider": "remote"})(m)
		}, `admin: provider "remote" does not say who a user is: name one that does`},
		"admin, mcp provider passed over": {func(m map[string]any) {
			set("providers/remote", map[string]any{"type": "mcp", "server": "https://mcp.test/mcp"})(m)
			set("proxies/jira/provider", "idp")(m)
			set("admin", map[string]any{"allow": allow})(m)
		}, ""},
		"admin, logins that repeat": {set("admin", map[string]any{"allow": map[string]any{"logins": []string{"alice"}}}), `admin: allow login: login names at provider "idp" may repeat`},
		"admin, long session":       {set("admin", map[string]any{"allow": allow, "session_ttl": "25h"}), `admin: session_ttl 25h0m0s is out of range: 5m0s to 24h0m0s`},
		"admin, short session":      {set("admin", map[string]any{"allow": allow, "session_ttl": "1m"}), `out of range`},
		"admin, negative session":   {set("admin", map[string]any{"allow": allow, "session_ttl": -1}), `out of range`},
		"connections off":           {set("connections", map[string]any{"off": true}), ""},
		"brand and logo":            {set("console", map[string]any{"brand": "Acme", "logo": logo, "accent": "#7a1fa2"}), ""},
		"long brand":                {set("console", map[string]any{"brand": strings.Repeat("x", 61)}), `console: brand: is longer than 60 characters`},
		"accent":                    {set("console", map[string]any{"accent": "blue"}), `console: accent: "blue" is no colour`},
		"accent for the dark alone": {set("console", map[string]any{"accent_dark": "#ffffff"}), `console: accent: `},
		"no logo":                   {set("console", map[string]any{"logo": filepath.Join(dir, "none.svg")}), `none.svg: no such file`},
		"logo of another kind":      {set("console", map[string]any{"logo": filepath.Join(dir, "secret")}), `console: logo: is no SVG, PNG or WebP picture`},
		"templates":                 {set("console", map[string]any{"templates": filepath.Join(dir, "good")}), ""},
		"no templates":              {set("console", map[string]any{"templates": filepath.Join(dir, "none")}), `none: no such file`},
		"templates are a file":      {set("console", map[string]any{"templates": logo}), `logo.svg is no directory`},
		"broken template":           {set("console", map[string]any{"templates": filepath.Join(dir, "broken")}), `home.html:2`},
	} {
		t.Run(name, func(t *testing.T) {
			app := base(dir)
			c.change(app)
			err := validate(t, app)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got  %v\nwant … %s …", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret-of-the-gateway") {
				t.Errorf("the message holds a secret: %v", err)
			}
		})
	}
}
