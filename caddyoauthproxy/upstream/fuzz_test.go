package upstream

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// What a stranger's authorization server says of itself sends the gateway nowhere but over https, and not into its own network.
func FuzzServerMetadata(f *testing.F) {
	const issuer = "https://as.example"
	f.Add([]byte(`{"issuer":"https://as.example","authorization_endpoint":"https://as.example/a","token_endpoint":"https://as.example/t","code_challenge_methods_supported":["S256"]}`))
	f.Add([]byte(`{"issuer":"https://as.example","token_endpoint":"http://127.0.0.1/t","registration_endpoint":"https://10.0.0.1/r","code_challenge_methods_supported":["S256"]}`))
	f.Add([]byte(`{"issuer":"https://as.example/","authorization_endpoint":"https://a@b/","token_endpoint":"https://as.example#"}`))
	p := &Provider{config: Config{Server: "https://mcp.example/mcp"}, now: time.Now}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := p.parseServerMetadata(body, issuer)
		if err != nil {
			return
		}
		for _, address := range []string{m.AuthorizationEndpoint, m.TokenEndpoint, m.RegistrationEndpoint, m.RevocationEndpoint} {
			if u, err := url.Parse(address); address != "" && (err != nil || u.Scheme != "https" || u.User != nil || strings.Contains(address, "#") || isLoopback(u.Hostname())) {
				t.Errorf("%q is accepted", address)
			}
		}
	})
}

// What it answers to a registration can stand in a form, a header and the vault.
func FuzzRegistrationAnswer(f *testing.F) {
	f.Add([]byte(`{"client_id":"c","client_secret":"s","token_endpoint_auth_method":"client_secret_basic","client_secret_expires_at":0}`))
	f.Add([]byte(`{"client_id":"c d","client_secret_expires_at":-1}`))
	f.Add([]byte(`{"client_id":1,"client_secret":"s","client_secret_expires_at":"99999999999999999999"}`))
	p := &Provider{now: time.Now, template: templateFor("mcp")}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := p.parseRegistration(&answer{status: 201, body: body}, &metadata{})
		if err != nil {
			return
		}
		if c.ID == "" || !isCredential(c.ID) || !isCredential(c.Secret) || (c.Secret == "") != (c.AuthMethod == AuthNone) {
			t.Errorf("%+v is accepted", c)
		}
	})
}

// A resource that covers a server is on its origin, and no neighbour's.
func FuzzCoveringResource(f *testing.F) {
	f.Add("https://mcp.example/mcp")
	f.Add("https://mcp.example/mc")
	f.Add("https://mcp.example:443/..%2f")
	server, err := url.Parse("https://mcp.example/a/mcp")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, resource string) {
		if !covers(resource, server) {
			return
		}
		u, err := url.Parse(resource)
		if err != nil || !strings.EqualFold(u.Host, server.Host) || !strings.HasPrefix("/a/mcp/", strings.TrimSuffix(u.EscapedPath(), "/")+"/") {
			t.Errorf("%q is taken for the server's", resource)
		}
	})
}
