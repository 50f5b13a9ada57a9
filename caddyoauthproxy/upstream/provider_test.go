package upstream

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func authRequest() AuthRequest {
	return AuthRequest{State: "state-1", Nonce: "nonce-1", Verifier: strings.Repeat("v", 43), RedirectURI: "https://gw.example/api/v1/oauth/callback"}
}

// byHost answers discovery for whatever issuer it is asked for, as the templates' providers do.
type byHost struct{ issuer string }

func (h byHost) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	issuer := strings.TrimSuffix("https://"+r.URL.Host+r.URL.Path, "/.well-known/openid-configuration")
	name := issuer
	if h.issuer != "" {
		name = h.issuer
	}
	writeJSON(w, http.StatusOK, map[string]any{"issuer": name, "authorization_endpoint": issuer + "/authorize",
		"token_endpoint": issuer + "/token", "jwks_uri": issuer + "/jwks"})
}

// Each template asks for what the provider needs to give a refresh token, in its own way.
func TestT34AuthorizationRequestOfEachTemplate(t *testing.T) {
	t.Parallel()
	const oidcScopes = "openid profile email offline_access"
	tests := map[string]struct {
		config  Config
		issuer  string
		address string
		scope   string
		params  map[string]string
		nonce   bool
	}{
		"github":                  {Config{Type: "github", Scopes: []string{"repo", "read:user"}}, "", "https://github.com/login/oauth/authorize", "repo read:user", nil, false},
		"google":                  {Config{Type: "google", Scopes: []string{"openid", "https://www.googleapis.com/auth/drive"}}, "", "https://accounts.google.com/authorize", "openid profile email https://www.googleapis.com/auth/drive", map[string]string{"access_type": "offline", "prompt": "consent"}, true},
		"microsoft":               {Config{Type: "azure_ad", Tenant: "00000000-0000-0000-0000-00000000000A"}, "", "https://login.microsoftonline.com/00000000-0000-0000-0000-00000000000a/v2.0/authorize", oidcScopes, nil, true},
		"microsoft, many tenants": {Config{Type: "microsoft", Tenant: "organizations"}, "https://login.microsoftonline.com/{tenantid}/v2.0", "https://login.microsoftonline.com/organizations/v2.0/authorize", oidcScopes, nil, true},
		"okta":                    {Config{Type: "okta", Domain: "acme.okta.com"}, "", "https://acme.okta.com/authorize", oidcScopes, nil, true},
		"okta, custom server":     {Config{Type: "okta", Domain: "acme.okta.com", AuthorizationServer: "default"}, "", "https://acme.okta.com/oauth2/default/authorize", oidcScopes, nil, true},
		"oidc":                    {Config{Type: "oidc", Issuer: "https://idp.example/realms/x/", AuthorizeParams: map[string]string{"prompt": "login"}}, "https://idp.example/realms/x/", "https://idp.example/realms/x/authorize", oidcScopes, map[string]string{"prompt": "login"}, true},
		"gitlab":                  {Config{Type: "gitlab", Scopes: []string{"api"}}, "", "https://gitlab.com/authorize", "openid profile email api", nil, true},
		"gitlab, own":             {Config{Type: "gitlab", Domain: "git.example.com"}, "", "https://git.example.com/authorize", "openid profile email", nil, true},
		"auth0":                   {Config{Type: "auth0", Domain: "acme.eu.auth0.com", Audience: "https://api.example.com"}, "https://acme.eu.auth0.com/", "https://acme.eu.auth0.com/authorize", oidcScopes, map[string]string{"audience": "https://api.example.com"}, true},
		"keycloak":                {Config{Type: "keycloak", Issuer: "https://kc.example.com/realms/x"}, "", "https://kc.example.com/realms/x/authorize", oidcScopes, nil, true},
		"atlassian":               {Config{Type: "atlassian", Scopes: []string{"read:jira-work"}}, "", "https://auth.atlassian.com/authorize", "read:me offline_access read:jira-work", map[string]string{"audience": "api.atlassian.com", "prompt": "consent"}, false},
		"slack":                   {Config{Type: "slack", Scopes: []string{"channels:history", "users:read"}}, "", "https://slack.com/oauth/v2_user/authorize", "channels:history users:read", map[string]string{"scope": "channels:history,users:read"}, false},
		"linear":                  {Config{Type: "linear", Scopes: []string{"write"}}, "", "https://linear.app/oauth/authorize", "read write", map[string]string{"scope": "read,write"}, false},
		"notion":                  {Config{Type: "notion"}, "", "https://api.notion.com/v1/oauth/authorize", "", map[string]string{"owner": "user"}, false},
		"oauth2":                  {Config{Type: "generic", AuthorizationURL: "https://a.example/auth?tenant=1", TokenURL: "https://a.example/t", UserinfoURL: "https://a.example/u"}, "", "https://a.example/auth", "", map[string]string{"tenant": "1"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.config.ClientID, tt.config.ClientSecret = clientID, clientSecret
			p, err := New("x", tt.config, &http.Client{Transport: &inMemory{handler: byHost{tt.issuer}}})
			if err != nil {
				t.Fatal(err)
			}
			begun, err := p.Begin(t.Context(), authRequest())
			address := begun.URL
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(p.scopes, " "); got != tt.scope || p.Name() != "x" {
				t.Errorf("%s asks for %q", p.Name(), got)
			}
			q := u.Query()
			u.RawQuery = ""
			if u.String() != tt.address {
				t.Errorf("endpoint %s, want %s", u, tt.address)
			}
			want := map[string]string{
				"response_type": "code", "client_id": clientID, "state": "state-1", "redirect_uri": authRequest().RedirectURI,
				"code_challenge_method": "S256", "scope": tt.scope, "nonce": "",
			}
			if tt.nonce {
				want["nonce"] = "nonce-1"
			}
			maps.Copy(want, tt.params)
			for k, v := range want {
				if q.Get(k) != v {
					t.Errorf("%s=%q, want %q", k, q.Get(k), v)
				}
			}
			if len(q.Get("code_challenge")) != 43 || q.Has("code_verifier") || q.Has("client_secret") || q.Has("response_mode") {
				t.Errorf("query %v", q)
			}
		})
	}
}

func TestAuthorizationURLNeedsItsParts(t *testing.T) {
	t.Parallel()
	p := serve(t).provider(t)
	for name, change := range map[string]func(*AuthRequest){
		"state":        func(r *AuthRequest) { r.State = "" },
		"nonce":        func(r *AuthRequest) { r.Nonce = "" },
		"verifier":     func(r *AuthRequest) { r.Verifier = "" },
		"redirect URI": func(r *AuthRequest) { r.RedirectURI = "" },
	} {
		r := authRequest()
		change(&r)
		if address, err := p.Begin(t.Context(), r); err == nil {
			t.Errorf("without %s: %s", name, address)
		}
	}
}

// A provider whose discovery document is hostile or broken is not used at all.
func TestT23HostileDiscoveryDocumentIsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		metadata map[string]any
		want     string
	}{
		"another issuer":         {map[string]any{"issuer": "https://evil.example"}, "issuer"},
		"issuer with slash":      {map[string]any{"issuer": "http://127.0.0.1/"}, "issuer"},
		"endpoint in clear":      {map[string]any{"token_endpoint": "http://evil.example/token"}, "token_endpoint"},
		"no token endpoint":      {map[string]any{"token_endpoint": nil}, "token_endpoint"},
		"keys elsewhere":         {map[string]any{"jwks_uri": "http://10.0.0.1/jwks"}, "jwks_uri"},
		"revocation in clear":    {map[string]any{"revocation_endpoint": "http://evil.example/"}, "revocation_endpoint"},
		"userinfo by file":       {map[string]any{"userinfo_endpoint": "file:///etc/passwd"}, "userinfo_endpoint"},
		"only unsafe signatures": {map[string]any{"id_token_signing_alg_values_supported": []string{"none", "HS256"}}, "asymmetric"},
		"wrong types":            {map[string]any{"token_endpoint": []int{1}}, "JSON"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := serve(t)
			idp.metadata = tt.metadata
			p := idp.provider(t)
			_, err := p.Refresh(t.Context(), Tokens{RefreshToken: idp.login("x")})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `provider "idp"`) {
				t.Errorf("got %v", err)
			}
			if _, err := p.Begin(t.Context(), authRequest()); err == nil {
				t.Error("users are sent there")
			}
			if idp.tokenPosts() != 0 {
				t.Error("a secret was posted")
			}
		})
	}
}

// The gateway starts without the network, and a provider that comes back is used at once or nearly.
func TestR14DiscoveryIsLazySharedAndRetried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		idp := newFakeProvider("https://idp.example")
		transport := &inMemory{handler: idp, refuse: true}
		p := idp.providerOver(t, &http.Client{Transport: transport})
		if transport.dials() != 0 {
			t.Fatal("New used the network")
		}
		ask := func() error {
			_, err := p.Begin(t.Context(), authRequest())
			return err
		}
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() {
				var e *Error
				if err := ask(); !errors.As(err, &e) || e.Class != Unreachable || e.Unknown {
					t.Errorf("got %v", err)
				}
			})
		}
		callers.Wait()
		if n := transport.dials(); n != 1 {
			t.Errorf("%d fetches for 50 callers", n)
		}
		for range 600 { // a minute of callers
			if ask() == nil {
				t.Fatal("no error while the provider is down")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := transport.dials(); n < 10 || n > 25 {
			t.Errorf("%d fetches in a minute", n)
		}
		transport.setRefuse(false)
		time.Sleep(documentPause)
		if err := ask(); err != nil {
			t.Errorf("after recovery: %v", err)
		}
		before := transport.dials()
		for range 10 {
			if err := ask(); err != nil {
				t.Error(err)
			}
		}
		if transport.dials() != before {
			t.Error("metadata is not kept")
		}
	})
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	both := Tokens{AccessToken: "at", RefreshToken: "rt"}
	t.Run("refresh token first", func(t *testing.T) {
		t.Parallel()
		idp := serve(t)
		if err := idp.provider(t).Revoke(t.Context(), both); err != nil {
			t.Fatal(err)
		}
		if len(idp.revoked) != 2 || idp.revoked[0].Get("token") != "rt" || idp.revoked[0].Get("token_type_hint") != "refresh_token" || idp.revoked[1].Get("token") != "at" {
			t.Errorf("revoked %v", idp.revoked)
		}
	})
	t.Run("provider offers none", func(t *testing.T) {
		t.Parallel()
		idp := serve(t)
		idp.metadata = map[string]any{"revocation_endpoint": ""}
		if err := idp.provider(t).Revoke(t.Context(), both); err != nil {
			t.Error(err)
		}
	})
	t.Run("configured endpoint", func(t *testing.T) {
		t.Parallel()
		idp := serve(t)
		idp.metadata = map[string]any{"revocation_endpoint": ""}
		p := idp.provider(t, func(c *Config) { c.RevocationURL = idp.base + "/revoke" })
		if err := p.Revoke(t.Context(), Tokens{AccessToken: "at"}); err != nil || len(idp.revoked) != 1 {
			t.Errorf("%v, revoked %v", err, idp.revoked)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		idp := serve(t)
		p := idp.provider(t, func(c *Config) { c.RevocationURL = idp.base + "/nowhere" })
		var e *Error
		if err := p.Revoke(t.Context(), both); !errors.As(err, &e) || e.Status != http.StatusNotFound {
			t.Errorf("got %v", err)
		}
	})
}

// GitHub has a way of its own, with one token for one account: other accounts of the user stay.
func TestGitHubRevocationDeletesTheOneToken(t *testing.T) {
	t.Parallel()
	for status, fine := range map[int]bool{204: true, 404: true, 401: false, 503: false} {
		var got *http.Request
		var body string
		p, err := New("github", Config{Type: "github", ClientID: "Iv1.x", ClientSecret: clientSecret}, &http.Client{
			Transport: &inMemory{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b := make([]byte, 100)
				n, _ := r.Body.Read(b)
				got, body = r, string(b[:n])
				w.WriteHeader(status)
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Revoke(t.Context(), Tokens{AccessToken: "gho_x"}); (err == nil) != fine {
			t.Errorf("status %d: %v", status, err)
		}
		user, pass, _ := got.BasicAuth()
		if got.Method != http.MethodDelete || got.URL.String() != "https://api.github.com/applications/Iv1.x/token" ||
			user != "Iv1.x" || pass != clientSecret || body != `{"access_token":"gho_x"}` {
			t.Errorf("%s %s %s", got.Method, got.URL, body)
		}
	}
}
