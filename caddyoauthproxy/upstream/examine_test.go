package upstream

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
)

// levels joins what was found, for comparing.
func levels(found []Finding) string {
	var all []string
	for _, f := range found {
		all = append(all, string(f.Level)+": "+f.What+" → "+f.Fix)
	}
	return strings.Join(all, "\n")
}

func TestExaminationSaysWhatToFix(t *testing.T) {
	t.Parallel()
	token := func(status int, body string) func(*fakeProvider) {
		return func(p *fakeProvider) {
			p.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			}
		}
	}
	metadata := func(name string, value any) func(*fakeProvider) {
		return func(p *fakeProvider) { p.metadata = map[string]any{name: value} }
	}
	for name, c := range map[string]struct {
		change func(*fakeProvider)
		want   string
	}{
		"all is well":            {token(400, `{"error":"invalid_grant"}`), "ok: token endpoint: answers, and does not refuse the gateway"},
		"client unknown":         {token(401, `{"error":"invalid_client"}`), "problem: token endpoint: refuses the gateway as a client: invalid_client → check client_id"},
		"redirect URI unknown":   {token(400, `{"error":"redirect_uri_mismatch"}`), "problem: token endpoint: does not know the redirect URI → register https://gw.example/cb"},
		"says nothing":           {token(400, `{"error":"invalid_request"}`), "note: token endpoint: answers, but does not tell"},
		"down":                   {token(503, ``), "warning: token endpoint: "},
		"too generous":           {token(200, `{"access_token":"a","token_type":"Bearer"}`), "problem: token endpoint: gives tokens for a made-up code"},
		"other issuer":           {metadata("issuer", "https://elsewhere.example"), "problem: "},
		"other authentication":   {metadata("token_endpoint_auth_methods_supported", []string{"private_key_jwt"}), "problem: the provider does not offer client_secret_basic"},
		"scopes not listed":      {metadata("scopes_supported", []string{"openid", "email"}), "warning: the provider does not list these scopes: profile, offline_access"},
		"no PKCE":                {metadata("code_challenge_methods_supported", []string{"plain"}), "warning: the provider does not list PKCE S256"},
		"no revocation endpoint": {metadata("revocation_endpoint", ""), "note: the provider has no revocation endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := serve(t)
			idp.set(c.change)
			found := levels(idp.provider(t).Examine(t.Context(), "https://gw.example/cb"))
			if !strings.Contains(found, c.want) || strings.Contains(found, clientSecret) {
				t.Errorf("found\n%s\nwant %s", found, c.want)
			}
		})
	}
}

func TestExaminationClaimsNothingAboutASecretThatMayNotHaveBeenLookedAt(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	idp.set(func(p *fakeProvider) {
		p.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		}
	})
	const plain = "ok: token endpoint: answers, and does not refuse the gateway as a client"
	for want, c := range map[string]Config{
		plain + "; where it looks at the made-up code first, a wrong client_secret shows at the first login alone →": {ClientSecret: clientSecret},
		plain + " →": {AuthMethod: AuthNone},
	} {
		c.Type, c.Issuer, c.ClientID = "oidc", idp.base, clientID
		p, err := New("x", c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if found := levels(p.Examine(t.Context(), "https://gw.example/cb")); !strings.Contains(found, want) {
			t.Errorf("found\n%s\nwant %s", found, want)
		}
	}
}

func TestExaminationNoticesAWrongClock(t *testing.T) {
	t.Parallel()
	for skew, want := range map[time.Duration]Level{0: "", 5 * time.Second: "", -40 * time.Second: Warning, 10 * time.Minute: Problem, -10 * time.Minute: Problem} {
		idp := serve(t)
		p, err := New("x", Config{Type: "oidc", Issuer: idp.base, ClientID: clientID, ClientSecret: clientSecret, Now: func() time.Time { return time.Now().Add(skew) }}, nil)
		if err != nil {
			t.Fatal(err)
		}
		found := levels(p.Examine(t.Context(), "https://gw.example/cb"))
		if said := strings.Contains(found, "clock: "); said != (want != "") || said && !strings.Contains(found, string(want)+": clock") {
			t.Errorf("%s apart: %s", skew, found)
		}
	}
}

func TestExaminationOfAProviderThatIsNotThere(t *testing.T) {
	t.Parallel()
	p, err := New("x", Config{Type: "oidc", Issuer: "http://127.0.0.1:1", ClientID: clientID, ClientSecret: clientSecret}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if found := levels(p.Examine(t.Context(), "https://gw.example/cb")); !strings.Contains(found, "problem: ") || !strings.Contains(found, "check name resolution") {
		t.Errorf("found %s", found)
	}
}

func TestExaminationTellsTheHabitsOfTheProvider(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
	})
	for scope, advised := range map[string]bool{"": true, "write:jira-work": false} {
		p, err := New("x", Config{Type: "atlassian", ClientID: clientID, ClientSecret: clientSecret, Scopes: strings.Fields(scope)}, &http.Client{Transport: &inMemory{handler: handler}})
		if err != nil {
			t.Fatal(err)
		}
		found := levels(p.Examine(t.Context(), "https://gw.example/cb"))
		if !strings.Contains(found, "note: access tokens there, unless set otherwise: 1 hour; refresh tokens work once") {
			t.Errorf("scope %q: %s", scope, found)
		}
		if strings.Contains(found, "for example: scopes read:jira-work") != advised {
			t.Errorf("scope %q: %s", scope, found)
		}
	}
}

func TestExaminationOfAnMCPServer(t *testing.T) {
	t.Parallel()
	const asm = "/.well-known/oauth-authorization-server"
	for name, tt := range map[string]struct {
		change func(s *fakeServer)
		config func(*Config)
		want   string
	}{
		"registers": {func(*fakeServer) {}, func(*Config) {}, "ok: registration: the gateway registers itself when the first user logs in"},
		"describes itself": {func(s *fakeServer) {
			s.documents[asm] = s.metadata(map[string]any{"client_id_metadata_document_supported": true})
		},
			func(c *Config) { c.ClientMetadataURL = "https://gw.example/oauth/client-metadata.json" }, "ok: registration: none is needed, the gateway describes itself at https://gw.example/oauth/client-metadata.json"},
		"cannot register": {func(s *fakeServer) { s.documents[asm] = s.metadata(map[string]any{"registration_endpoint": nil}) },
			func(*Config) {}, "problem: registration: the authorization server offers none → register the gateway there by hand"},
		"scopes": {func(s *fakeServer) { s.challenge += `, scope="a b"` }, func(*Config) {}, "note: scopes: a b"},
		"registered by hand, somewhere": {func(*fakeServer) {}, func(c *Config) { c.ClientID, c.ClientSecret = "mine", "s" },
			"note: token endpoint: not asked whether it knows the client → write issuer http://127.0.0.1"},
		"registered by hand, and unknown there": {func(*fakeServer) {}, func(c *Config) { c.ClientID, c.ClientSecret, c.Issuer = "mine", "s", "{base}" },
			"problem: token endpoint: refuses the gateway as a client: invalid_client"},
		"without PKCE": {func(s *fakeServer) {
			s.documents[asm] = s.metadata(map[string]any{"code_challenge_methods_supported": nil})
		}, func(*Config) {}, "problem: metadata of the authorization server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t)
			tt.change(s)
			found := levels(s.provider(t, nil, tt.config, func(c *Config) { c.Issuer = strings.ReplaceAll(c.Issuer, "{base}", s.base) }).Examine(t.Context(), "https://gw.example/cb"))
			if !strings.Contains(found, tt.want) || len(s.registered) != 0 {
				t.Errorf("found\n%s\nwant %s", found, tt.want)
			}
		})
	}
}

func TestExaminationTellsAPrivateNetworkFromAFault(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	guarded := outbound.NewLike("https://mcp.example/mcp", false, time.Second, 1)
	p, err := New("mcp", Config{Type: "mcp", Server: server.URL + "/mcp"}, guarded)
	if err != nil {
		t.Fatal(err)
	}
	if got := levels(p.Examine(t.Context(), "")); !strings.HasPrefix(got, "problem: ") || !strings.Contains(got, "→ this address lies in a private network: if it should, write private_network") {
		t.Error(got)
	}
}
