package upstream

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConfigErrorsNameTheFieldAndTheFix(t *testing.T) {
	t.Parallel()
	oidc := Config{Type: "oidc", Issuer: "https://idp.example", ClientID: "c", ClientSecret: "s"}
	oauth2 := Config{Type: "oauth2", ClientID: "c", ClientSecret: "s", AuthorizationURL: "https://a.example/a", TokenURL: "https://a.example/t", UserinfoURL: "https://a.example/u"}
	with := func(c Config, change func(*Config)) Config { change(&c); return c }
	tests := map[string]struct {
		config Config
		want   []string
	}{
		"unknown type":             {with(oidc, func(c *Config) { c.Type = "facebook" }), []string{"type", "facebook", "oidc", "github"}},
		"no client id":             {with(oidc, func(c *Config) { c.ClientID = "" }), []string{"client_id is missing"}},
		"no secret":                {with(oidc, func(c *Config) { c.ClientSecret = "" }), []string{"client_secret is missing", "none"}},
		"secret and none":          {with(oidc, func(c *Config) { c.AuthMethod = AuthNone }), []string{"client_secret", "remove"}},
		"unknown auth method":      {with(oidc, func(c *Config) { c.AuthMethod = "tls" }), []string{"token_endpoint_auth_method", AuthBasic}},
		"no issuer":                {with(oidc, func(c *Config) { c.Issuer = "" }), []string{"issuer is missing", "https://"}},
		"issuer without scheme":    {with(oidc, func(c *Config) { c.Issuer = "idp.example" }), []string{"issuer", "https://"}},
		"issuer in clear":          {with(oidc, func(c *Config) { c.Issuer = "http://idp.example" }), []string{"issuer", "https"}},
		"issuer with query":        {with(oidc, func(c *Config) { c.Issuer = "https://idp.example/?a=b" }), []string{"issuer", "query"}},
		"issuer with fragment":     {with(oidc, func(c *Config) { c.Issuer = "https://idp.example/#" }), []string{"issuer", "fragment"}},
		"issuer with password":     {with(oidc, func(c *Config) { c.Issuer = "https://a:b@idp.example" }), []string{"issuer", "password"}},
		"domain for oidc":          {with(oidc, func(c *Config) { c.Domain = "acme.okta.com" }), []string{"domain does not apply to type oidc"}},
		"URLs for oidc":            {with(oidc, func(c *Config) { c.TokenURL = "https://a.example/t" }), []string{"token_url does not apply"}},
		"no domain":                {Config{Type: "okta", ClientID: "c", ClientSecret: "s"}, []string{"domain is missing", "acme.okta.com"}},
		"domain as URL":            {Config{Type: "okta", ClientID: "c", ClientSecret: "s", Domain: "https://acme.okta.com/"}, []string{"domain", "host name"}},
		"domain with user":         {Config{Type: "okta", ClientID: "c", ClientSecret: "s", Domain: "a@evil.example"}, []string{"domain"}},
		"server with path":         {Config{Type: "okta", ClientID: "c", ClientSecret: "s", Domain: "acme.okta.com", AuthorizationServer: "../x"}, []string{"authorization_server"}},
		"no tenant":                {Config{Type: "microsoft", ClientID: "c", ClientSecret: "s"}, []string{"tenant is missing", "organizations"}},
		"tenant by domain":         {Config{Type: "azure_ad", ClientID: "c", ClientSecret: "s", Tenant: "acme.example"}, []string{"tenant", "00000000-"}},
		"no token URL":             {with(oauth2, func(c *Config) { c.TokenURL = "" }), []string{"token_url is missing"}},
		"no userinfo URL":          {with(oauth2, func(c *Config) { c.UserinfoURL = "" }), []string{"userinfo_url is missing"}},
		"token URL in clear":       {with(oauth2, func(c *Config) { c.TokenURL = "http://a.example/t" }), []string{"token_url", "https"}},
		"subject field for okta":   {Config{Type: "okta", ClientID: "c", ClientSecret: "s", Domain: "acme.okta.com", SubjectField: "id"}, []string{"subject_field does not apply"}},
		"scope with quotes":        {with(oidc, func(c *Config) { c.Scopes = []string{`"a`} }), []string{"scopes"}},
		"scopes in one":            {with(oidc, func(c *Config) { c.Scopes = []string{"a b"} }), []string{"scopes"}},
		"state as parameter":       {with(oidc, func(c *Config) { c.AuthorizeParams = map[string]string{"state": "x"} }), []string{"authorize_param", "state"}},
		"grant as token parameter": {with(oidc, func(c *Config) { c.TokenParams = map[string]string{"grant_type": "x"} }), []string{"token_param", "grant_type"}},
		"audience for okta":        {Config{Type: "okta", ClientID: "c", ClientSecret: "s", Domain: "acme.okta.com", Audience: "x"}, []string{"audience does not apply"}},
		"negative timeout":         {with(oidc, func(c *Config) { c.Timeout = -time.Second }), []string{"timeout"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := New("corp", tt.config, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range append(tt.want, `provider "corp"`) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
	for name, c := range map[string]Config{
		"oidc":             oidc,
		"oidc here":        with(oidc, func(c *Config) { c.Issuer = "http://localhost:9400" }),
		"oidc over IPv6":   with(oidc, func(c *Config) { c.Issuer = "http://[::1]:9400/realms/x" }),
		"oauth2":           oauth2,
		"oauth2 by issuer": with(oauth2, func(c *Config) { c.Issuer, c.SubjectField = "https://a.example", "id" }),
		"public client":    with(oidc, func(c *Config) { c.ClientSecret, c.AuthMethod = "", AuthNone }),
		"gitlab":           {Type: "gitlab", ClientID: "c", ClientSecret: "s"},
		"own gitlab":       {Type: "gitlab", ClientID: "c", ClientSecret: "s", Domain: "git.example.com:8443"},
		"auth0":            {Type: "auth0", ClientID: "c", ClientSecret: "s", Domain: "acme.eu.auth0.com", Audience: "https://api.example.com"},
		"slack":            {Type: "slack", ClientID: "c", ClientSecret: "s"},
		"okta":             {Type: "okta", ClientID: "c", ClientSecret: "s", Domain: "acme.okta.com", AuthorizationServer: "aus1x"},
		"entra":            {Type: "azure_ad", ClientID: "c", ClientSecret: "s", Tenant: "0000AAAA-0000-0000-0000-000000000000"},
	} {
		if _, err := New("corp", c, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTypesAreTheTemplatesAndTheirAliases(t *testing.T) {
	t.Parallel()
	want := []string{"atlassian", "auth0", "azure_ad", "generic", "github", "gitlab", "google", "keycloak", "linear", "mcp", "microsoft", "notion", "oauth2", "oidc", "okta", "slack"}
	if got := Types(); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for _, name := range want {
		if !KnownType(name) {
			t.Errorf("%s is not known", name)
		}
	}
	if KnownType("") || KnownType("Okta") {
		t.Error("knows what is no type")
	}
}

// A discovery document does not send the gateway to other addresses of its own network.
func TestT23DiscoveredEndpointsStayWhereTheOperatorMeant(t *testing.T) {
	t.Parallel()
	const public, local = "https://idp.example", "http://127.0.0.1:9400"
	tests := []struct {
		issuer, endpoint string
		ok               bool
	}{
		{public, "https://idp.example/token", true},
		{public, "https://tokens.idp-cdn.example/token", true},
		{public, "http://idp.example/token", false},
		{public, "http://127.0.0.1:2019/load", false},
		{public, "https://127.0.0.1:2019/load", false},
		{public, "https://localhost/load", false},
		{public, "https://[::1]/load", false},
		{public, "https://10.0.0.1/token", false},
		{public, "https://169.254.169.254/latest", false},
		{public, "https://user:pass@idp.example/token", false},
		{public, "https://idp.example/token#x", false},
		{public, "file:///etc/passwd", false},
		{public, "//idp.example/token", false},
		{public, "/token", false},
		{public, "", false},
		{"https://10.0.0.1", "https://10.0.0.1/token", true},
		{"https://10.0.0.1", "https://10.0.0.2/token", false},
		{local, "http://127.0.0.1:9400/token", true},
		{local, "http://localhost:9401/token", true},
		{local, "http://idp.example/token", false},
		{local, "https://10.0.0.1/token", false},
	}
	for _, tt := range tests {
		if err := checkEndpoint(tt.issuer, tt.endpoint); (err == nil) != tt.ok {
			t.Errorf("issuer %s, endpoint %q: %v", tt.issuer, tt.endpoint, err)
		}
	}
}
