package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// fakeServer is an MCP server and its authorization server, which can be told to differ from the usual.
type fakeServer struct {
	base string

	mu            sync.Mutex
	challenge     string            // WWW-Authenticate of the MCP server; %s is base
	documents     map[string]any    // by path, where they differ
	registered    []map[string]any  // requests to register
	clients       map[string]string // secrets by id
	posts         []url.Values      // at the token endpoint
	authorization []string          // of those
	method        string            // token_endpoint_auth_method of registrations, when not as asked for
	fetched       []string          // paths of GETs
	refreshes     int
	expires       time.Time // of secrets
	down          bool      // the token endpoint
	slips         int       // requests to the token endpoint that are refused by mistake
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	s := &fakeServer{challenge: `Bearer resource_metadata="%s/.well-known/oauth-protected-resource/mcp"`, clients: map[string]string{}, documents: map[string]any{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.base = srv.URL
	s.documents["/.well-known/oauth-protected-resource/mcp"] = map[string]any{"resource": s.base + "/mcp", "authorization_servers": []string{s.base}}
	s.documents["/.well-known/oauth-authorization-server"] = s.metadata(nil)
	return s
}

// metadata is the authorization server's, changed.
func (s *fakeServer) metadata(changes map[string]any) map[string]any {
	m := map[string]any{
		"issuer": s.base, "authorization_endpoint": s.base + "/as/authorize", "token_endpoint": s.base + "/as/token", "registration_endpoint": s.base + "/as/register",
		"revocation_endpoint": s.base + "/as/revoke", "code_challenge_methods_supported": []string{"S256"}, "token_endpoint_auth_methods_supported": []string{"client_secret_post", "none"},
	}
	for name, value := range changes {
		m[name] = value
		if value == nil {
			delete(m, name)
		}
	}
	return m
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.URL.Path == "/mcp":
		if s.challenge != "" {
			w.Header().Set("WWW-Authenticate", strings.ReplaceAll(s.challenge, "%s", s.base))
		}
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/as/register" || r.URL.Path == "/register":
		var m map[string]any
		_ = json.NewDecoder(r.Body).Decode(&m)
		s.registered = append(s.registered, m)
		id := fmt.Sprintf("client-%d", len(s.registered))
		s.clients[id] = "secret-of-" + id
		m["client_id"] = id
		if s.method != "" {
			m["token_endpoint_auth_method"] = s.method
		}
		if m["token_endpoint_auth_method"] != AuthNone {
			m["client_secret"], m["client_secret_expires_at"] = s.clients[id], 0
			if !s.expires.IsZero() {
				m["client_secret_expires_at"] = s.expires.Unix()
			}
		}
		writeJSON(w, http.StatusCreated, m)
	case r.URL.Path == "/as/token" || r.URL.Path == "/token":
		s.serveToken(w, r)
	case r.Method == http.MethodGet:
		s.fetched = append(s.fetched, r.URL.Path)
		if doc := s.documents[r.URL.Path]; doc != nil {
			writeJSON(w, http.StatusOK, doc)
			return
		}
		http.NotFound(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *fakeServer) serveToken(w http.ResponseWriter, r *http.Request) {
	id := r.PostForm.Get("client_id")
	if user, _, ok := r.BasicAuth(); ok {
		id = user
	}
	if s.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if s.slips > 0 {
		s.slips--
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return
	}
	if _, known := s.clients[id]; !known && !strings.HasPrefix(id, "https://") {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return
	}
	if strings.HasPrefix(r.PostForm.Get("code"), "examination-") {
		writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
		return
	}
	s.posts, s.authorization = append(s.posts, r.PostForm), append(s.authorization, r.Header.Get("Authorization"))
	s.refreshes++
	writeJSON(w, http.StatusOK, map[string]any{"access_token": fmt.Sprintf("at-%d", s.refreshes), "refresh_token": fmt.Sprintf("rt-%d", s.refreshes), "token_type": "Bearer", "expires_in": 3600})
}

func (s *fakeServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// provider is one of type mcp, over the vault.
func (s *fakeServer) provider(t *testing.T, v *tokenstore.Vault, changes ...func(*Config)) *Provider {
	t.Helper()
	c := Config{Type: "mcp", Server: s.base + "/mcp", RedirectURI: "http://localhost:8080/api/v1/oauth/callback", ClientName: "MCP gateway localhost", Retries: -1}
	for _, change := range changes {
		change(&c)
	}
	p, err := New("remote", c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v != nil {
		p.clients.keepIn(v)
	}
	return p
}

func mcpVault(t *testing.T) *tokenstore.Vault {
	t.Helper()
	return openVault(t, newMemStore(), new(clock).now)
}

func begin(t *testing.T, p *Provider) (Authorization, url.Values) {
	t.Helper()
	begun, err := p.Begin(t.Context(), authRequest())
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(begun.URL)
	if err != nil {
		t.Fatal(err)
	}
	return begun, u.Query()
}

func exchange(t *testing.T, p *Provider, begun Authorization) (Tokens, error) {
	t.Helper()
	tokens, user, err := p.Exchange(t.Context(), CodeResponse{Code: "code-1", Verifier: "verifier", RedirectURI: "http://localhost:8080/api/v1/oauth/callback", Binding: begun.Binding})
	if err == nil && (user.Subject == "" || user.Email != "") {
		t.Errorf("user %+v", user)
	}
	return tokens, err
}

func TestMCPServerIsFoundAndTheGatewayRegistersItself(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	v := mcpVault(t)
	p := s.provider(t, v)
	begun, q := begin(t, p)
	if !strings.HasPrefix(begun.URL, s.base+"/as/authorize?") || q.Get("client_id") != "client-1" || q.Get("resource") != s.base+"/mcp" || q.Get("code_challenge_method") != "S256" || q.Has("scope") || q.Has("prompt") {
		t.Errorf("asks for %v", q)
	}
	if r := s.registered[0]; r["application_type"] != "native" || fmt.Sprint(r["redirect_uris"]) != "[http://localhost:8080/api/v1/oauth/callback]" || r["token_endpoint_auth_method"] != AuthPost {
		t.Errorf("registered as %v", r)
	}
	tokens, err := exchange(t, p, begun)
	if err != nil {
		t.Fatal(err)
	}
	post := s.posts[0]
	if post.Get("resource") != s.base+"/mcp" || post.Get("client_id") != "client-1" || post.Get("client_secret") != "secret-of-client-1" {
		t.Errorf("exchanged with %v", post)
	}
	if tokens.Binding.Issuer != s.base || tokens.Binding.ClientID != "client-1" {
		t.Errorf("tokens %+v", tokens)
	}
	if _, err := p.Refresh(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	if post := s.posts[1]; post.Get("resource") != s.base+"/mcp" {
		t.Errorf("refreshed with %v", post)
	}
	// Another node, and after a restart.
	if _, q := begin(t, s.provider(t, v)); q.Get("client_id") != "client-1" || len(s.registered) != 1 {
		t.Errorf("registered %d times", len(s.registered))
	}
}

// Each row is a way in which servers differ; SPEC of MCP authorization, discovery and scope selection.
func TestMCPServersOfEveryKindAreFound(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(s *fakeServer)
		config func(*Config)
		check  func(t *testing.T, s *fakeServer, q url.Values)
	}{
		"no challenge, metadata at the path": {func(s *fakeServer) { s.challenge = "" }, nil, nil},
		"no challenge, metadata at the root": {func(s *fakeServer) {
			s.challenge = ""
			s.documents["/.well-known/oauth-protected-resource"] = s.documents["/.well-known/oauth-protected-resource/mcp"]
			delete(s.documents, "/.well-known/oauth-protected-resource/mcp")
		}, nil, nil},
		"metadata elsewhere": {func(s *fakeServer) {
			s.challenge = `Bearer realm="x", resource_metadata="%s/custom"`
			s.documents["/custom"] = map[string]any{"resource": s.base, "authorization_servers": []string{s.base}}
		}, nil, func(t *testing.T, s *fakeServer, q url.Values) {
			if q.Get("resource") != s.base || slices.Contains(s.fetched, "/.well-known/oauth-protected-resource/mcp") {
				t.Errorf("resource %s, fetched %v", q.Get("resource"), s.fetched)
			}
		}},
		"issuer with a path": {func(s *fakeServer) {
			s.documents["/.well-known/oauth-protected-resource/mcp"] = map[string]any{"resource": s.base + "/mcp", "authorization_servers": []string{s.base + "/tenant1"}}
			s.documents["/.well-known/oauth-authorization-server/tenant1"] = s.metadata(map[string]any{"issuer": s.base + "/tenant1"})
		}, nil, nil},
		"OpenID Connect, path inserted": {func(s *fakeServer) {
			s.documents["/.well-known/oauth-protected-resource/mcp"] = map[string]any{"resource": s.base + "/mcp", "authorization_servers": []string{s.base + "/tenant1"}}
			s.documents["/.well-known/openid-configuration/tenant1"] = s.metadata(map[string]any{"issuer": s.base + "/tenant1"})
		}, nil, nil},
		"OpenID Connect, path appended": {func(s *fakeServer) {
			s.documents["/.well-known/oauth-protected-resource/mcp"] = map[string]any{"resource": s.base + "/mcp", "authorization_servers": []string{s.base + "/tenant1"}}
			s.documents["/tenant1/.well-known/openid-configuration"] = s.metadata(map[string]any{"issuer": s.base + "/tenant1"})
		}, nil, nil},
		"2025-03-26, metadata": {func(s *fakeServer) {
			s.challenge = ""
			delete(s.documents, "/.well-known/oauth-protected-resource/mcp")
		}, nil, nil},
		"2025-03-26, nothing at all": {func(s *fakeServer) {
			s.challenge = ""
			clear(s.documents)
		}, nil, func(t *testing.T, s *fakeServer, _ url.Values) {
			if len(s.registered) != 1 {
				t.Error("not registered at /register")
			}
		}},
		"scopes of the challenge": {func(s *fakeServer) {
			s.challenge += `, scope="files:read files:write"`
			s.documents["/.well-known/oauth-protected-resource/mcp"].(map[string]any)["scopes_supported"] = []string{"all"}
		}, nil, func(t *testing.T, _ *fakeServer, q url.Values) {
			if q.Get("scope") != "files:read files:write" {
				t.Errorf("scope %s", q.Get("scope"))
			}
		}},
		"scopes of the metadata, and offline_access": {func(s *fakeServer) {
			s.documents["/.well-known/oauth-protected-resource/mcp"].(map[string]any)["scopes_supported"] = []string{"all"}
			s.documents["/.well-known/oauth-authorization-server"] = s.metadata(map[string]any{"scopes_supported": []string{"all", "offline_access"}})
		}, nil, func(t *testing.T, _ *fakeServer, q url.Values) {
			if q.Get("scope") != "all offline_access" || q.Get("prompt") != "consent" {
				t.Errorf("scope %s, prompt %s", q.Get("scope"), q.Get("prompt"))
			}
		}},
		"scopes of the operator": {func(s *fakeServer) { s.challenge += `, scope="files:read"` }, func(c *Config) { c.Scopes = []string{"mine"} },
			func(t *testing.T, _ *fakeServer, q url.Values) {
				if q.Get("scope") != "mine" {
					t.Errorf("scope %s", q.Get("scope"))
				}
			}},
		"a metadata document": {func(s *fakeServer) {
			s.documents["/.well-known/oauth-authorization-server"] = s.metadata(map[string]any{"client_id_metadata_document_supported": true})
		}, func(c *Config) { c.ClientMetadataURL = "https://gw.example/oauth/client-metadata.json" }, func(t *testing.T, s *fakeServer, q url.Values) {
			if q.Get("client_id") != "https://gw.example/oauth/client-metadata.json" || len(s.registered) != 0 || s.posts[0].Has("client_secret") {
				t.Errorf("client %s, registered %v", q.Get("client_id"), s.registered)
			}
		}},
		"no metadata document without https": {func(s *fakeServer) {
			s.documents["/.well-known/oauth-authorization-server"] = s.metadata(map[string]any{"client_id_metadata_document_supported": true})
		}, nil, func(t *testing.T, _ *fakeServer, q url.Values) {
			if q.Get("client_id") != "client-1" {
				t.Errorf("client %s", q.Get("client_id"))
			}
		}},
		"registered by hand": {func(s *fakeServer) { s.clients["mine"] = "s" }, func(c *Config) { c.ClientID, c.ClientSecret = "mine", "s" }, func(t *testing.T, s *fakeServer, q url.Values) {
			if q.Get("client_id") != "mine" || len(s.registered) != 0 {
				t.Errorf("client %s, registered %v", q.Get("client_id"), s.registered)
			}
		}},
		"basic alone": {func(s *fakeServer) {
			s.documents["/.well-known/oauth-authorization-server"] = s.metadata(map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_basic"}})
		}, nil, func(t *testing.T, s *fakeServer, _ url.Values) {
			if !strings.HasPrefix(s.authorization[0], "Basic ") || s.posts[0].Has("client_secret") {
				t.Errorf("authenticated by %v", s.posts[0])
			}
		}},
		"public alone": {func(s *fakeServer) {
			s.documents["/.well-known/oauth-authorization-server"] = s.metadata(map[string]any{"token_endpoint_auth_methods_supported": []string{"none"}})
		}, nil, func(t *testing.T, s *fakeServer, _ url.Values) {
			if s.authorization[0] != "" || s.posts[0].Has("client_secret") {
				t.Errorf("authenticated by %v", s.posts[0])
			}
		}},
		"another method than asked for": {func(s *fakeServer) { s.method = AuthBasic }, nil, func(t *testing.T, s *fakeServer, _ url.Values) {
			if !strings.HasPrefix(s.authorization[0], "Basic ") {
				t.Errorf("authenticated by %v", s.posts[0])
			}
		}},
		"resource off": {func(*fakeServer) {}, func(c *Config) { c.NoResource = true }, func(t *testing.T, s *fakeServer, q url.Values) {
			if q.Has("resource") || s.posts[0].Has("resource") {
				t.Errorf("resource is sent: %v", q)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t)
			tt.change(s)
			config := tt.config
			if config == nil {
				config = func(*Config) {}
			}
			p := s.provider(t, mcpVault(t), config)
			begun, q := begin(t, p)
			if _, err := exchange(t, p, begun); err != nil {
				t.Fatal(err)
			}
			if tt.check != nil {
				tt.check(t, s, q)
			}
		})
	}
}

func TestT23HostileMCPServersAreRefused(t *testing.T) {
	t.Parallel()
	prm := "/.well-known/oauth-protected-resource/mcp"
	asm := "/.well-known/oauth-authorization-server"
	for name, tt := range map[string]struct {
		change func(s *fakeServer)
		want   string
	}{
		"metadata of another resource": {func(s *fakeServer) {
			s.documents[prm] = map[string]any{"resource": "https://evil.example/mcp", "authorization_servers": []string{s.base}}
		}, "resource"},
		"metadata of a neighbouring path": {func(s *fakeServer) {
			s.documents[prm] = map[string]any{"resource": s.base + "/mc", "authorization_servers": []string{s.base}}
		}, "resource"},
		"metadata without a resource":   {func(s *fakeServer) { s.documents[prm] = map[string]any{"authorization_servers": []string{s.base}} }, "resource"},
		"metadata on a private address": {func(s *fakeServer) { s.challenge = `Bearer resource_metadata="https://169.254.169.254/x"` }, "169.254.169.254"},
		"metadata in clear":             {func(s *fakeServer) { s.challenge = `Bearer resource_metadata="http://mcp.example/x"` }, "https"},
		"metadata as a file":            {func(s *fakeServer) { s.challenge = `Bearer resource_metadata="file:///etc/passwd"` }, "URL"},
		"no authorization server":       {func(s *fakeServer) { s.documents[prm] = map[string]any{"resource": s.base + "/mcp"} }, "names no authorization server"},
		"authorization server in clear": {func(s *fakeServer) {
			s.documents[prm] = map[string]any{"resource": s.base + "/mcp", "authorization_servers": []string{"http://as.example"}}
		}, "https"},
		"metadata of another issuer": {func(s *fakeServer) { s.documents[asm] = s.metadata(map[string]any{"issuer": "https://evil.example"}) }, "issuer"},
		"no issuer":                  {func(s *fakeServer) { s.documents[asm] = s.metadata(map[string]any{"issuer": nil}) }, "issuer"},
		"no PKCE": {func(s *fakeServer) {
			s.documents[asm] = s.metadata(map[string]any{"code_challenge_methods_supported": nil})
		}, "PKCE"},
		"PKCE plain": {func(s *fakeServer) {
			s.documents[asm] = s.metadata(map[string]any{"code_challenge_methods_supported": []string{"plain"}})
		}, "PKCE"},
		"token endpoint in clear": {func(s *fakeServer) {
			s.documents[asm] = s.metadata(map[string]any{"token_endpoint": "http://as.example/token"})
		}, "token_endpoint"},
		"registration on a private address": {func(s *fakeServer) {
			s.documents[asm] = s.metadata(map[string]any{"registration_endpoint": "https://10.0.0.1/r"})
		}, "registration_endpoint"},
		"nowhere to register": {func(s *fakeServer) { s.documents[asm] = s.metadata(map[string]any{"registration_endpoint": nil}) }, "client_id"},
		"not JSON":            {func(s *fakeServer) { s.documents[prm] = "x" }, "metadata of the MCP server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t)
			tt.change(s)
			_, err := s.provider(t, mcpVault(t)).Begin(t.Context(), authRequest())
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `provider "remote"`) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// RFC 9207 §2.4, the four rows.
func TestT28AnswersOfAnotherIssuerAreNotRedeemed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		announced bool
		iss       string
		fine      bool
	}{
		"announced and right":      {true, "%s", true},
		"announced and missing":    {true, "", false},
		"announced and wrong":      {true, "https://evil.example", false},
		"announced, with a slash":  {true, "%s/", false},
		"not announced, missing":   {false, "", true},
		"not announced, and right": {false, "%s", true},
		"not announced, and wrong": {false, "https://evil.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t)
			if tt.announced {
				s.documents["/.well-known/oauth-authorization-server"] = s.metadata(map[string]any{"authorization_response_iss_parameter_supported": true})
			}
			p := s.provider(t, mcpVault(t))
			begun, _ := begin(t, p)
			_, _, err := p.Exchange(t.Context(), CodeResponse{Code: "c", Verifier: "v", Issuer: strings.ReplaceAll(tt.iss, "%s", s.base), Binding: begun.Binding})
			if (err == nil) != tt.fine || (len(s.posts) == 1) != tt.fine {
				t.Errorf("got %v, %d requests", err, len(s.posts))
			}
		})
	}
}

// A server of somebody's whose authorization endpoint is somebody else's would be sent the code that the user brings from there (RFC 9700 §4.4).
func TestT28UsersAreNotSentToAnotherServersLogin(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		announced bool
		issuer    bool
		fine      bool
	}{
		"silently":                   {false, false, false},
		"and the answers say whose":  {true, false, true},
		"and the operator knows why": {false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			honest, evil := newFakeServer(t), newFakeServer(t)
			evil.documents["/.well-known/oauth-authorization-server"] = evil.metadata(map[string]any{
				"authorization_endpoint": honest.base + "/as/authorize", "authorization_response_iss_parameter_supported": tt.announced})
			p := evil.provider(t, mcpVault(t), func(c *Config) {
				if tt.issuer {
					c.Issuer = evil.base
				}
			})
			begun, err := p.Begin(t.Context(), authRequest())
			if (err == nil) != tt.fine {
				t.Fatalf("got %v", err)
			}
			if err != nil || tt.issuer {
				return
			}
			for _, iss := range []string{"", honest.base} { // what the honest one sends
				if _, _, err := p.Exchange(t.Context(), CodeResponse{Code: "code-of-honest", Verifier: "v", Issuer: iss, Binding: begun.Binding}); err == nil || len(evil.posts) != 0 {
					t.Errorf("iss %q: the code went to %v", iss, evil.posts)
				}
			}
		})
	}
}

// The operator's secret must not go to whichever authorization server the MCP server names today.
func TestConfiguredClientStaysWithItsAuthorizationServer(t *testing.T) {
	t.Parallel()
	for name, pinned := range map[string]bool{"where it was first used": false, "where issuer says": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, other := newFakeServer(t), newFakeServer(t)
			for _, s := range []*fakeServer{old, other} {
				s.clients["mine"] = "s"
			}
			v := mcpVault(t)
			config := func(c *Config) {
				c.ClientID, c.ClientSecret = "mine", "secret-of-the-operator"
				if pinned {
					c.Issuer = old.base
				}
			}
			p := old.provider(t, v, config)
			begun, _ := begin(t, p)
			tokens, err := exchange(t, p, begun)
			if err != nil {
				t.Fatal(err)
			}
			old.set(func() {
				old.documents["/.well-known/oauth-protected-resource/mcp"] = map[string]any{"resource": old.base + "/mcp", "authorization_servers": []string{other.base}}
			})
			for _, p := range []*Provider{p, old.provider(t, v, config)} { // and after a restart
				if _, err := p.Begin(t.Context(), authRequest()); err == nil || !strings.Contains(err.Error(), "issuer") {
					t.Errorf("got %v", err)
				}
				_, _ = p.ClientCredentials(t.Context(), TokenRequest{})
			}
			if len(other.posts) != 0 {
				t.Errorf("the other server was sent %v", other.posts)
			}
			moved := old.provider(t, v, config, func(c *Config) { c.Issuer = other.base })
			if _, err := moved.Begin(t.Context(), authRequest()); err != nil {
				t.Errorf("the operator says that it is right: %v", err)
			}
			// What was given before is of the old one, where the secret of now does not belong.
			posts := len(old.posts)
			if _, err := moved.Refresh(t.Context(), tokens); err == nil || len(old.posts) != posts {
				t.Errorf("the secret is sent to the old server: %v", err)
			}
		})
	}
}

func TestOperatorsRevocationEndpointIsKnownWhereverTheTokensAreOf(t *testing.T) {
	t.Parallel()
	s, revocation := newFakeServer(t), serve(t)
	s.documents["/.well-known/oauth-authorization-server"] = s.metadata(map[string]any{"revocation_endpoint": nil})
	v := mcpVault(t)
	config := func(c *Config) { c.RevocationURL = revocation.base + "/revoke" }
	p := s.provider(t, v, config)
	begun, _ := begin(t, p)
	tokens, err := exchange(t, p, begun)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Provider{p, s.provider(t, v, config)} { // and after a restart
		before := len(revocation.told())
		if err := p.Revoke(t.Context(), tokens); err != nil || len(revocation.told()) != before+2 {
			t.Errorf("told of %v, %v", revocation.told()[before:], err)
		}
	}
}

// An authorization server that is gone is no reason to leave another one alone, where the MCP server has moved.
func TestServersThatAreGoneDoNotHoldUpTheirSuccessors(t *testing.T) {
	t.Parallel()
	s, old := newFakeServer(t), newFakeServer(t)
	w := realWorld(t)
	p := s.provider(t, w.vault, func(c *Config) { c.Now = w.clock.now })
	for id, as := range map[string]*fakeServer{"old": old, "young": s} {
		s.set(func() {
			s.documents["/.well-known/oauth-protected-resource/mcp"] = map[string]any{"resource": s.base + "/mcp", "authorization_servers": []string{as.base}}
		})
		begun, _ := begin(t, p)
		tokens, err := exchange(t, p, begun)
		if err != nil {
			t.Fatal(err)
		}
		w.provider = p
		w.add(id, 2*time.Hour, time.Hour, func(a *tokenstore.Account) { a.RefreshToken, a.Binding = tokens.RefreshToken, tokens.Binding })
	}
	w.provider = s.provider(t, w.vault, func(c *Config) { c.Now = w.clock.now })
	real := w.provider.client.Transport
	w.provider.client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		if "http://"+r.URL.Host == old.base {
			return nil, errRefused
		}
		return real.RoundTrip(r)
	})
	w.accounts = w.node()
	if _, err := w.accounts.Token(t.Context(), "old"); !isUnavailable(err) {
		t.Errorf("old: %v", err)
	}
	w.token("young")
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A client that others use all the while is not refused for good because one of them was told so twice.
func TestTwoSlipsWithSuccessesBetweenCostNoLogin(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	clock := new(clock)
	v := openVault(t, newMemStore(), clock.now)
	nodes := []*Provider{s.provider(t, v, func(c *Config) { c.Now = clock.now }), s.provider(t, v, func(c *Config) { c.Now = clock.now })}
	begun, _ := begin(t, nodes[0])
	tokens, err := exchange(t, nodes[0], begun)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.set(func() { s.slips = 1 })
		_, err := nodes[0].Refresh(t.Context(), tokens)
		var e *Error
		if !errors.As(err, &e) || e.Class != Misconfigured {
			t.Errorf("a slip: %v", err)
		}
		for range 3 {
			clock.turn(3 * time.Minute)
			if _, err := nodes[1].Refresh(t.Context(), tokens); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, q := begin(t, nodes[1]); q.Get("client_id") != "client-1" {
		t.Errorf("new logins are by %s", q.Get("client_id"))
	}
}

// Strangers can have the gateway register wherever their MCP server says, at every login that they begin.
func TestRegistrationsWithoutATokenEndSoon(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	store := newMemStore()
	clock := new(clock)
	p := s.provider(t, openVault(t, store, clock.now), func(c *Config) { c.Now = clock.now })
	ends := func() time.Duration {
		t.Helper()
		for _, row := range store.rows {
			if row.Kind == tokenstore.KindRegistration {
				return row.DeleteAfter.Sub(clock.now()).Round(time.Minute)
			}
		}
		t.Fatal("no registration")
		return 0
	}
	begun, _ := begin(t, p)
	if got := ends(); got != unusedFor {
		t.Errorf("unused, it ends in %s", got)
	}
	store.failWrites(errRefused)
	tokens, err := exchange(t, p, begun)
	if err != nil {
		t.Fatal(err)
	}
	store.failWrites(nil)
	if tokens, err = p.Refresh(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	if got := ends(); got != usedFor {
		t.Errorf("used, it ends in %s", got)
	}
	clock.turn(usedFor * 2 / 3)
	if _, err := p.Refresh(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	if got := ends(); got != usedFor {
		t.Errorf("used again, it ends in %s", got)
	}
}

// The MCP server's metadata decide at each login; logins under way and tokens stay with the authorization server that they began at.
func TestMCPServerThatMovesIsFollowedByNewLoginsOnly(t *testing.T) {
	t.Parallel()
	old, young := newFakeServer(t), newFakeServer(t)
	clock := new(clock)
	v := openVault(t, newMemStore(), clock.now)
	p := old.provider(t, v, func(c *Config) { c.Now = clock.now })
	begun, _ := begin(t, p)
	tokens, err := exchange(t, p, begun)
	if err != nil {
		t.Fatal(err)
	}
	late, _ := begin(t, p)
	old.set(func() {
		old.documents["/.well-known/oauth-protected-resource/mcp"] = map[string]any{"resource": old.base + "/mcp", "authorization_servers": []string{young.base}}
	})
	clock.turn(time.Minute)
	again, q := begin(t, p)
	if again.Binding.Issuer != young.base || !strings.HasPrefix(again.URL, young.base) || q.Get("client_id") != "client-1" || len(young.registered) != 1 {
		t.Errorf("the new login goes to %s", again.URL)
	}
	if _, err := exchange(t, p, late); err != nil {
		t.Errorf("a code of the old server: %v", err)
	}
	if _, err := p.Refresh(t.Context(), tokens); err != nil {
		t.Errorf("a refresh token of the old server: %v", err)
	}
	if repeated, err := p.Begin(t.Context(), AuthRequest{State: "s", Verifier: "v", RedirectURI: "http://localhost:8080/cb", Binding: late.Binding}); err != nil || repeated.Binding != late.Binding {
		t.Errorf("a login that is begun again goes to %s, %v", repeated.URL, err)
	}
	if len(young.posts) != 0 || len(old.posts) != 3 {
		t.Errorf("the new server was sent %v", young.posts)
	}
	// Another node, or after a restart, also when the MCP server is gone.
	old.set(func() {
		clear(old.documents)
		old.challenge = ""
		old.documents["/.well-known/oauth-authorization-server"] = old.metadata(nil)
	})
	if _, err := old.provider(t, v).Refresh(t.Context(), tokens); err != nil || old.posts[3].Get("resource") != old.base+"/mcp" {
		t.Errorf("without the MCP server: %v", err)
	}
}

// A server that is down, or somebody before it who says no to everything, is not one that protects itself.
func TestMCPServerInMaintenanceEndsNoLogin(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNotFound, http.StatusForbidden, http.StatusOK} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			as := newFakeServer(t)
			var down atomic.Bool
			var base string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case down.Load():
					w.WriteHeader(status)
				case r.URL.Path == "/mcp":
					w.WriteHeader(http.StatusUnauthorized)
				case r.URL.Path == "/.well-known/oauth-protected-resource/mcp":
					writeJSON(w, 200, map[string]any{"resource": base + "/mcp", "authorization_servers": []string{as.base}})
				default:
					http.NotFound(w, r)
				}
			}))
			t.Cleanup(srv.Close)
			base = srv.URL
			w := realWorld(t)
			w.provider = as.provider(t, w.vault, func(c *Config) { c.Server, c.Now = base+"/mcp", w.clock.now })
			w.accounts = w.node()
			begun, _ := begin(t, w.provider)
			tokens, err := exchange(t, w.provider, begun)
			if err != nil {
				t.Fatal(err)
			}
			w.add("a", 2*time.Hour, time.Hour, func(a *tokenstore.Account) { a.RefreshToken, a.Binding = tokens.RefreshToken, tokens.Binding })
			down.Store(true)
			w.clock.turn(time.Minute)
			if _, err := w.provider.Begin(t.Context(), authRequest()); err == nil || len(as.registered) != 1 {
				t.Errorf("a login begins: %v", err)
			}
			if got := w.token("a"); !strings.HasPrefix(got, "at-") {
				t.Errorf("meanwhile the token is %s", got)
			}
		})
	}
}

func TestDemandsThatNoAddressCarriesAreLeftToTheAuthorizationServer(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	scopes := make([]string, 20_000)
	for i := range scopes {
		scopes[i] = fmt.Sprint("scope-", i)
	}
	s.documents["/.well-known/oauth-protected-resource/mcp"].(map[string]any)["scopes_supported"] = scopes
	if begun, q := begin(t, s.provider(t, mcpVault(t))); q.Has("scope") || len(begun.URL) > 4096 {
		t.Errorf("an address of %d bytes", len(begun.URL))
	}
}

// What a user was told of is asked for, whatever the server has come to want since.
func TestScopesAreThoseThatTheUserWasToldOf(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	s.challenge += `, scope="a b"`
	p := s.provider(t, mcpVault(t))
	asked, err := p.Asks(t.Context())
	if err != nil || !slices.Equal(asked, []string{"a", "b"}) {
		t.Fatalf("%v, %v", asked, err)
	}
	s.set(func() { s.challenge += `, scope="delete:everything"` })
	for _, told := range [][]string{asked, {}} {
		r := authRequest()
		r.Scopes = told
		begun, err := p.Begin(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := url.Parse(begun.URL); err != nil || u.Query().Get("scope") != strings.Join(told, " ") {
			t.Errorf("told of %v, asks for %s", told, begun.URL)
		}
	}
}

// A server that slips for a moment does not cost a registration.
func TestOneSlipOfTheServerIsNoReasonToRegisterAgain(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	clock := new(clock)
	p := s.provider(t, openVault(t, newMemStore(), clock.now), func(c *Config) { c.Now = clock.now })
	begin(t, p)
	clock.turn(2 * provedFor)
	s.set(func() { s.slips = 1 })
	if _, q := begin(t, p); q.Get("client_id") != "client-1" || len(s.registered) != 1 {
		t.Errorf("client %s, registered %d times", q.Get("client_id"), len(s.registered))
	}
}

// A server that has forgotten the gateway tells the user and not the gateway, so the gateway asks before.
func TestForgottenGatewayRegistersAgainBeforeTheNextLogin(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	clock := new(clock)
	v := openVault(t, newMemStore(), clock.now)
	p := s.provider(t, v, func(c *Config) { c.Now = clock.now })
	begin(t, p)
	s.set(func() { clear(s.clients) })
	clock.turn(2 * provedFor)
	if _, q := begin(t, p); q.Get("client_id") != "client-2" || len(s.registered) != 2 {
		t.Errorf("client %s, registered %d times", q.Get("client_id"), len(s.registered))
	}
	if _, q := begin(t, p); q.Get("client_id") != "client-2" || len(s.registered) != 2 {
		t.Errorf("then client %s, registered %d times", q.Get("client_id"), len(s.registered))
	}
}

// An authorization server that is down does not say whether it knows the gateway.
func TestOutageDoesNotProveThatTheGatewayIsKnown(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	clock := new(clock)
	p := s.provider(t, openVault(t, newMemStore(), clock.now), func(c *Config) { c.Now = clock.now })
	begin(t, p)
	clock.turn(2 * provedFor)
	s.set(func() { clear(s.clients); s.down = true })
	if _, q := begin(t, p); q.Get("client_id") != "client-1" {
		t.Errorf("while it is down: client %s", q.Get("client_id"))
	}
	s.set(func() { s.down = false })
	if _, q := begin(t, p); q.Get("client_id") != "client-2" {
		t.Errorf("then client %s", q.Get("client_id"))
	}
}

// One refusal of the client may be a slip; one that lasts ends the tokens that the client was given.
func TestRefusedClientCostsNoLoginUntilItLasts(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	clock := new(clock)
	v := openVault(t, newMemStore(), clock.now)
	p := s.provider(t, v, func(c *Config) { c.Now = clock.now })
	begun, _ := begin(t, p)
	tokens, err := exchange(t, p, begun)
	if err != nil {
		t.Fatal(err)
	}
	class := func() Class {
		t.Helper()
		_, err := p.Refresh(t.Context(), tokens)
		var e *Error
		errors.As(err, &e)
		if e == nil {
			return ""
		}
		return e.Class
	}
	secret := s.clients["client-1"]
	s.set(func() { delete(s.clients, "client-1") })
	if got := class(); got != Misconfigured {
		t.Errorf("first refusal: %s", got)
	}
	s.set(func() { s.clients["client-1"] = secret })
	if got := class(); got != "" {
		t.Errorf("after the slip: %s", got)
	}
	s.set(func() { delete(s.clients, "client-1") })
	for range 3 {
		clock.turn(refusedFor / 4)
		if got := class(); got != Misconfigured {
			t.Errorf("within a minute: %s", got)
		}
	}
	clock.turn(refusedFor)
	if got := class(); got != Rejected {
		t.Errorf("after a minute: %s", got)
	}
	if _, q := begin(t, p); q.Get("client_id") != "client-2" {
		t.Errorf("the next login is that of %s", q.Get("client_id"))
	}
}

// A new registration does not take the tokens of the old one along.
func TestOlderRegistrationsServeTheirTokens(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	v := mcpVault(t)
	p := s.provider(t, v)
	begun, _ := begin(t, p)
	tokens, err := exchange(t, p, begun)
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.metadata.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.clients.replace(t.Context(), m, "client-1"); err != nil {
		t.Fatal(err)
	}
	if _, q := begin(t, p); q.Get("client_id") != "client-2" {
		t.Errorf("new logins are by %s", q.Get("client_id"))
	}
	if _, err := p.Refresh(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	if last := s.posts[len(s.posts)-1]; last.Get("client_id") != "client-1" || last.Get("client_secret") != "secret-of-client-1" {
		t.Errorf("refreshed with %v", last)
	}
}

// Authorization servers come to write a slash at the end of their issuer, or to leave it out, with their next release.
func TestSlashAtTheEndOfAnIssuerCostsNoLogin(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]func(*Config){"registered": func(*Config) {}, "by hand": func(c *Config) { c.ClientID, c.ClientSecret = "mine", "s" }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFakeServer(t)
			s.clients["mine"] = "s"
			v := mcpVault(t)
			p := s.provider(t, v, config)
			begun, _ := begin(t, p)
			tokens, err := exchange(t, p, begun)
			if err != nil {
				t.Fatal(err)
			}
			s.set(func() {
				s.documents["/.well-known/oauth-protected-resource/mcp"] = map[string]any{"resource": s.base + "/mcp", "authorization_servers": []string{s.base + "/"}}
				s.documents["/.well-known/oauth-authorization-server"] = s.metadata(map[string]any{"issuer": s.base + "/"})
			})
			for _, p := range []*Provider{p, s.provider(t, v, config)} {
				if tokens, err = p.Refresh(t.Context(), tokens); err != nil {
					t.Fatal(err)
				}
				if _, q := begin(t, p); q.Get("client_id") != tokens.Binding.ClientID {
					t.Errorf("registered again, as %s", q.Get("client_id"))
				}
			}
		})
	}
}

func TestNodesThatRegisterTogetherEndWithOneClient(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	v := mcpVault(t)
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		p := s.provider(t, v)
		wg.Go(func() {
			begun, err := p.Begin(context.WithoutCancel(t.Context()), authRequest())
			if err != nil {
				t.Error(err)
			}
			ids[i] = begun.Binding.ClientID
		})
	}
	wg.Wait()
	last, _ := begin(t, s.provider(t, v))
	if slices.Sort(ids); len(slices.Compact(ids)) != 1 || ids[0] != last.Binding.ClientID {
		t.Errorf("clients %v, then %s", ids, last.Binding.ClientID)
	}
	if n := len(s.registered); n != 1 {
		t.Errorf("registered %d times", n)
	}
}

// A node that dies while it registers the gateway keeps the others from it for a while, and not for ever.
func TestRegistrationOfADeadNodeIsMadeByAnother(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	clock := new(clock)
	v := openVault(t, newMemStore(), clock.now)
	p := s.provider(t, v)
	m, err := p.metadata.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dead := &tokenstore.Registration{Meta: tokenstore.Meta{ID: p.clients.id(v, m)}, Issuer: m.Issuer,
		Registering: tokenstore.Lease{Owner: "dead", Until: clock.now().Add(p.timeout + registerMore)}}
	if err := v.Commit(t.Context(), tokenstore.Save(dead)); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 3*registerPoll)
	defer cancel()
	if _, err := p.Begin(soon, authRequest()); err == nil || len(s.registered) != 0 {
		t.Errorf("registered %d times, %v", len(s.registered), err)
	}
	clock.turn(p.timeout + registerMore)
	if begun, _ := begin(t, p); begun.Binding.ClientID != "client-1" || len(s.registered) != 1 {
		t.Errorf("client %s, registered %d times", begun.Binding.ClientID, len(s.registered))
	}
	// One that fails leaves the next its turn at once.
	failing := newFakeServer(t)
	failing.set(func() {
		failing.documents["/.well-known/oauth-authorization-server"] = failing.metadata(map[string]any{"registration_endpoint": failing.base + "/nowhere"})
	})
	for range 2 {
		began := time.Now()
		if _, err := failing.provider(t, v).Begin(t.Context(), authRequest()); err == nil || time.Since(began) > 10*registerPoll {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	}
}

func TestRegistrationsAreSealedAndTheirErrorsHoldNoSecret(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	store := newMemStore()
	p := s.provider(t, openVault(t, store, new(clock).now))
	begin(t, p)
	for key, row := range store.rows {
		if strings.Contains(fmt.Sprint(row), "secret-of-client-1") || strings.Contains(string(row.Sealed), "client-1") {
			t.Errorf("%s holds a secret in clear", key)
		}
	}
	full := newMemStore()
	o := newFakeServer(t).provider(t, openVault(t, full, new(clock).now))
	full.failWrites(errRefused)
	if _, err := o.Begin(t.Context(), authRequest()); err == nil || strings.Contains(err.Error(), "secret-of") {
		t.Errorf("got %v", err)
	}
}

// Registrations whose secret has run out are made again.
func TestExpiredRegistrationIsRenewed(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t)
	clock := new(clock)
	p := s.provider(t, openVault(t, newMemStore(), clock.now), func(c *Config) { c.Now = clock.now })
	s.expires = clock.now().Add(time.Hour)
	begin(t, p)
	if _, q := begin(t, p); q.Get("client_id") != "client-1" {
		t.Errorf("client %s", q.Get("client_id"))
	}
	clock.turn(time.Hour)
	if _, q := begin(t, p); q.Get("client_id") != "client-2" {
		t.Errorf("client %s after the end of the first one's secret", q.Get("client_id"))
	}
}

func TestMalformedRegistrationsAreRefused(t *testing.T) {
	t.Parallel()
	p := &Provider{now: time.Now}
	for _, body := range []string{``, `{}`, `{"client_id":""}`, `{"client_id":"a b"}`, `{"client_id":"c","client_secret":"s","token_endpoint_auth_method":"private_key_jwt"}`} {
		if _, err := p.parseRegistration(&answer{status: 201, body: []byte(body)}, &metadata{}); err == nil {
			t.Errorf("%s is accepted", body)
		}
	}
}
