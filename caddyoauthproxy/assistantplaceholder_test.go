package caddyoauthproxy

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// Whoever may ask the assistant may not for that read the environment of Caddy, or its files.
func TestT79AssistantLooksBehindNoPlaceholderAndReadsNoFile(t *testing.T) {
	t.Parallel()
	const secret = "value-behind-the-placeholder"
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	variable := os.Getenv("PATH")
	if len(variable) < 4 {
		t.Fatal("no PATH, which it would look for")
	}
	app := &App{
		Issuer: "https://gw.test", Providers: map[string]*Provider{"okta": {Domain: "acme.okta.com", ClientID: "{file." + path + "}", ClientSecret: "{file." + path + "}"}},
		Proxies: map[string]*Proxy{"jira": {Resource: "https://gw.test/jira/mcp", Provider: "okta"}},
	}
	values := []string{
		"{file." + path + "}", "{env.PATH}", "https://{file." + path + "}/x", "https://{env.PATH}/x", "{$PATH}", "{$PATH:x}", "{%PATH%}", "group {env.PATH}", "email_domain {file." + path + "}",
		"import " + path, "a\nimport " + path, "email a\n}\nimport " + path + "\n{", "https://h.test/\" {\n import " + path, "<<X\nimport " + path + "\nX",
		"{", "}", "x}", "{args[0]}", "{blocks.x}", "(snippet)", "&(x)", "`", "\\", "\"", "a#b", strings.Repeat("{env.PATH} ", 100),
	}
	fields := strings.Fields(`allow allowed_redirects audience authorization_server authorization_url client_id client_secret compat consent domain issuer name private_network provider proxy
		proxy_scopes resource revocation_url scopes server subject_field template tenant token_endpoint_auth_method token_url upstream userinfo_url unknown`)
	for _, template := range append(upstream.Types(), "") {
		whole := operator.Draft{
			"template": template, "provider": "new", "proxy": "wiki", "upstream": "https://wiki.test/mcp", "client_id": "id", "client_secret": "{env.X}", "domain": "acme.test", "issuer": "https://idp.test",
			"server": "https://s.test/mcp", "authorization_url": "https://a.test/a", "token_url": "https://a.test/t", "userinfo_url": "https://a.test/u",
		}
		if template == "" {
			whole = operator.Draft{"provider": "okta", "proxy": "wiki", "upstream": "https://wiki.test/mcp"}
		}
		for _, field := range fields {
			for _, value := range values {
				draft := maps.Clone(whole)
				draft[field] = value
				result := app.assistant().Draw(draft)
				raw, err := json.Marshal(result)
				if err != nil {
					t.Fatal(err)
				}
				if said := fmt.Sprintf("%+v", result) + string(raw); strings.Contains(said, secret) || strings.Contains(said, variable) {
					t.Errorf("%s, %s=%q: %s", template, field, value, said)
				}
			}
		}
	}
}
