package caddyoauthproxy

import (
	"net/url"
	"testing"
)

// A path that looks like another's is never shown to those who know which are the gateway's own. Each that they know must not look so, in any spelling.
func TestEveryPathOfTheGatewayLooksLikeOne(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/api/v1/oauth-proxy/register", "/api/v1/oauth-proxy/demo/token", "/api/v1/oauth-proxy/consent", "/api/v1/oauth/callback", "/api/v1/oauth/callback/okta", "/oauth/callback",
		"/oauth/", "/oauth/signin", "/oauth/signout", "/oauth/client-metadata/okta", "/oauth/authorize/demo", "/oauth/live", "/oauth/ready",
		"/api/v1/oauth/clients/1", "/api/v1/oauth/authorize/okta", "/api/v1/oauth/validate", "/api/v1/oauth/refresh", "/api/v1/oauth/logout",
		"/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/.well-known/oauth-authorization-server/demo", "/.well-known/openid-configuration",
		"/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/demo/mcp",
		"/admin", "/admin/", "/admin/grants", "/admin/assistant", "/admin/oauth/grants", "/connections", "/connections/cut",
	} {
		for _, spelled := range []string{path, "/base" + path, path + "/", "/%6Fauth" + path, "/." + path, "/x/.." + path} {
			u, err := url.Parse("https://gateway.test" + spelled)
			if err != nil {
				t.Fatal(err)
			}
			if !looksOurs(u.Path) {
				t.Errorf("%s looks like another's", spelled)
			}
		}
	}
	for _, path := range []string{"/", "/mcp", "/demo/mcp", "/github/mcp/messages", "/.well-known", "/health"} {
		if looksOurs(path) {
			t.Errorf("%s looks like the gateway's", path)
		}
	}
}
