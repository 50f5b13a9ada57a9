package operator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// world is a gateway with something of everything in its vault, its admin API at both places, and people who are signed in: the header X-Test-Cookie says who.
type world struct {
	t       *testing.T
	vault   *tokenstore.Vault
	gateway *authserver.Server
	site    *httptest.Server // the site, with its routes below the issuer's path
	admin   *httptest.Server // the API alone

	pages  *operator.AdminPages // of which visit asks
	issuer *url.URL
}

const csrf = "the-token-of-the-admins-own-forms"

// secrets are what the vault holds and nobody may be shown.
var secrets = []string{
	"upstream-access-of-", "upstream-refresh-of-", "id-token-of-", "hash-of-the-refresh-token-of-", "hash-of-the-secret-of-", "hash-of-the-registration-token-of-",
	"secret-of-the-configured-client", "secret-of-the-gateway-at-the-provider", csrf,
}

// hostile is what a client may call itself.
const hostile = "=cmd|' /C calc'!A0 <script>{env.SECRET}\r\n{\"level\":\"x\"}\x1b[2J\u202e"

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, func(s tokenstore.Store) tokenstore.Store { return s })
}

// newWorldOn is a world whose store is behind another one.
func newWorldOn(t *testing.T, behind func(tokenstore.Store) tokenstore.Store) *world {
	t.Helper()
	file, err := bbolt.Open(filepath.Join(t.TempDir(), "vault.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	store := behind(file)
	w := &world{t: t}
	if w.vault, err = tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}}); err != nil {
		t.Fatal(err)
	}
	provider, err := upstream.New("idp", upstream.Config{
		Type: "oauth2", ClientID: "gateway", ClientSecret: "secret-of-the-gateway-at-the-provider", AuthorizationURL: "http://localhost:1/a",
		TokenURL: "http://localhost:1/t", UserinfoURL: "http://localhost:1/u", Scopes: []string{"read:jira"}, Retries: -1,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	providers := map[string]*upstream.Provider{"idp": provider}
	accounts := upstream.NewAccounts(upstream.AccountsOptions{Vault: w.vault, Providers: providers, Logger: zap.NewNop()})
	pages, err := console.New(console.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var serving *operator.Server
	w.site = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { serving.ServeHTTP(rw, r) }))
	t.Cleanup(w.site.Close)
	issuer, err := url.Parse(w.site.URL + "/gw")
	if err != nil {
		t.Fatal(err)
	}
	var proxies []*authserver.Proxy
	for _, id := range []string{"jira", "wiki"} {
		resource := issuer.JoinPath(id, "mcp")
		proxies = append(proxies, &authserver.Proxy{
			ID: id, Resource: resource.String(), ResourceURL: resource, Scopes: []string{"mcp"}, Provider: provider, Machines: id == "wiki",
			Consent: authserver.ConsentAlways, MaxGrants: 500,
		})
	}
	w.gateway, err = authserver.New(t.Context(), authserver.Options{
		Issuer: issuer, Vault: w.vault, Accounts: accounts, Pages: pages, Proxies: proxies, Logger: zap.NewNop(),
		Clients: []*authserver.ConfiguredClient{{
			Client: tokenstore.Client{Meta: tokenstore.Meta{ID: "report-bot"}, Name: "Reports", RedirectURIs: []string{"https://reports.test/cb"}, GrantTypes: []string{"authorization_code"}, AuthMethod: "client_secret_post"},
			Secret: "secret-of-the-configured-client", Proxies: []string{"jira"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	serving, err = operator.New(operator.Options{
		Issuer: issuer, Gateway: w.gateway, Vault: w.vault, Accounts: accounts, Providers: providers, Proxies: proxies, SignedIn: signedIn, Logger: zap.NewNop(), Pages: pages,
		Assistant: operator.NewAssistant(operator.AssistantOptions{
			Issuer: issuer.String(), Check: func(*operator.Addition) []operator.Problem { return nil }, Adapt: func(string) ([]byte, error) { return []byte("{}"), nil },
		}),
		Migrations: migrationsOfTests(),
		Compact:    compactionOfTests,
		Backups:    backupsOfTests(),
		Storage:    operator.Storage{Module: "bbolt", Path: "/var/lib/caddy/vault.db", Keys: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.issuer, w.pages = issuer, operator.NewAdminPages(operator.AdminPagesOptions{
		Server: serving, Health: accounts.Health, CleanupEvery: time.Hour, ClientIP: func(*http.Request) string { return "192.0.2.7" },
		Cleaned: func(context.Context) (time.Time, error) { return w.vault.Now().Add(-time.Minute), nil },
	})
	w.admin = httptest.NewServer(serving.API())
	t.Cleanup(w.admin.Close)
	return w
}

func signedIn(r *http.Request) (*authserver.SignIn, error) {
	who := r.Header.Get("X-Test-Cookie")
	if who == "" {
		return nil, authserver.ErrNotSignedIn
	}
	return &authserver.SignIn{
		ID: "s-" + who, UserID: "user-of-" + who, User: tokenstore.User{Provider: "idp", Subject: who, Email: who + "@example.com", EmailVerified: true},
		Admin: who == "admin", CSRF: csrf,
	}, nil
}

// fill puts so many grants of as many users and clients into the vault, and one of everything else.
func (w *world) fill(n int) {
	w.t.Helper()
	now := w.vault.Now()
	for i := range n {
		id := fmt.Sprintf("%04d", i)
		user := tokenstore.User{Provider: "idp", Issuer: "https://idp.test", Subject: "sub-" + id, Email: "user" + id + "@example.com", EmailVerified: true, Login: "user" + id, Groups: []string{"staff"}}
		client := &tokenstore.Client{
			Meta: tokenstore.Meta{ID: "gateway_" + id, DeleteAfter: now.Add(time.Hour)}, Name: hostile, URI: "https://bot.test", LogoURI: "https://bot.test/logo.png", Proxy: "jira",
			RedirectURIs: []string{"https://bot.test/cb"}, GrantTypes: []string{"authorization_code", "refresh_token"}, ResponseTypes: []string{"code"}, AuthMethod: "client_secret_basic",
			SecretHash: "hash-of-the-secret-of-" + id, ManagementHash: "hash-of-the-registration-token-of-" + id, Created: now, Used: now,
		}
		account := &tokenstore.Account{
			Meta: tokenstore.Meta{ID: "account-" + id}, State: tokenstore.StateActive, Provider: "idp", UserID: "user-" + id,
			AccessToken: "upstream-access-of-" + id, RefreshToken: "upstream-refresh-of-" + id, IDToken: "id-token-of-" + id, Obtained: now, Expires: now.Add(time.Hour), Scopes: []string{"read:jira"},
		}
		grant := &tokenstore.Grant{
			Meta: tokenstore.Meta{ID: "grant-" + id, DeleteAfter: now.Add(2 * time.Hour)}, State: tokenstore.StateActive, ClientID: client.ID, Client: client.Name,
			Proxy: []string{"jira", "wiki"}[i%2], Resource: "https://gw.test/mcp", Scopes: []string{"mcp"}, UserID: "user-" + id, User: user, AccountID: account.ID,
			Created: now.Add(time.Duration(i-n) * time.Second), Expires: now.Add(time.Hour), Ends: now.Add(time.Hour), RedirectURI: "https://bot.test/cb",
			Family: tokenstore.RefreshFamily{Generation: 1, Current: "hash-of-the-refresh-token-of-" + id, Rotated: now, JTI: "jti-" + id},
		}
		signIn := &tokenstore.SignIn{Meta: tokenstore.Meta{ID: "signin-" + id, DeleteAfter: now.Add(time.Hour)}, UserID: grant.UserID, User: user, Created: now, Expires: now.Add(time.Hour), Address: "192.0.2.1"}
		if err := w.vault.Commit(w.t.Context(), tokenstore.Save(client), tokenstore.Save(account), tokenstore.Save(grant), tokenstore.Save(signIn)); err != nil {
			w.t.Fatal(err)
		}
	}
	if _, _, err := w.gateway.CreateAPIKey(w.t.Context(), authserver.NewAPIKey{Name: "nightly", Proxies: []string{"wiki"}}); err != nil {
		w.t.Fatal(err)
	}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// decode reads the body as JSON.
func (a answer) decode(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
}

// send sends a request to either place.
func (w *world) send(method, address, body string, edit ...func(*http.Request)) answer {
	w.t.Helper()
	var content io.Reader = http.NoBody
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, address, content)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, f := range edit {
		f(req)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		w.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, b.String()}
}

// ask sends a request to the API as Caddy's admin endpoint has it.
func (w *world) ask(method, path, body string) answer {
	w.t.Helper()
	return w.send(method, w.admin.URL+path, body)
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) {
		if name == "Host" {
			r.Host = value
			return
		}
		r.Header.Set(name, value)
	}
}
