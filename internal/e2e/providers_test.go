//go:build slow

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// tokenLife is how long the access tokens of these providers live: long enough for a login, short enough to wait for the end of some.
const tokenLife = 5 * time.Second

// setup is what a provider is told, as its administrator would.
type setup struct {
	Port                                        int
	Issuer, ClientID, ClientSecret, RedirectURI string
	TokenSeconds                                int
	Users                                       []account
	Strict                                      bool // oidc-provider: with its own rule of who gets refresh tokens
}

type account struct{ Name, Password, FullName, Email string }

// realProviders are implementations that share no code with each other or with the gateway's side of the protocol.
var realProviders = []struct {
	name    string
	start   func(*testing.T, setup) http.Handler
	strict  bool
	extra   string // what must be written beside the issuer and the client
	byEmail bool   // users log in with their e-mail address
	revokes bool   // has a revocation endpoint
}{
	{name: "zitadel", start: startZitadel, revokes: true},
	{name: "oidc-provider", start: startOIDCProvider, revokes: true},
	{name: "oidc-provider, strict", start: startOIDCProvider, strict: true, extra: "authorize_param prompt consent", revokes: true},
	{name: "dex", start: startDex, byEmail: true},
}

// startZitadel makes a provider of the server side of github.com/zitadel/oidc.
func startZitadel(t *testing.T, s setup) http.Handler {
	t.Helper()
	p, err := provider.New(provider.Options{
		Issuer: s.Issuer, ClientID: s.ClientID, ClientSecret: s.ClientSecret, RedirectURIs: []string{s.RedirectURI},
		Users: []provider.User{testenv.Alice, testenv.Bob}, AccessTokenLife: time.Duration(s.TokenSeconds) * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startOIDCProvider runs npm's oidc-provider. It is the strict one: a refresh token that comes twice ends the whole grant.
func startOIDCProvider(t *testing.T, s setup) http.Handler {
	t.Helper()
	needNode(t)
	startNode(t, "oidcprovider.mjs", inJSON(t, s))
	return forward(s.Port)
}

// startDex builds and runs dex.
func startDex(t *testing.T, s setup) http.Handler {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "dex")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", exe, ".")
	build.Dir = "dex"
	build.Env = append(os.Environ(), "GOFLAGS=") // those of the tests are for another module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	startProgram(t, ".", exe, inJSON(t, s))
	return forward(s.Port)
}

func inJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// forward hands requests to a provider that runs as a process of its own, under the name at which they came.
func forward(port int) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)})
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
}

// What the documentation tells a reader to write for any provider is enough for providers that this project has not made: for logging in
// at their own pages, for refreshing what they rotate, and for ending it there. That is an issuer and a client, and a line more where the
// provider gives refresh tokens only to whom it has asked.
func TestSlowRealProvidersWorkFromDiscoveryAlone(t *testing.T) {
	for _, p := range realProviders {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			var idp *watched
			w := testenv.Start(t, testenv.Options{
				Proxy: "allow email_domain example.com", // so that an address that the provider vouches for must come along
				Caddyfile: func(w *testenv.World) string {
					return strings.Replace(w.CaddyfileWith(""), "scopes        offline_access\n", p.extra+"\n", 1)
				},
				Provider: func(w *testenv.World) (string, testenv.UserOf) {
					idp = watch(t, func(issuer string) http.Handler {
						return p.start(t, setup{
							Port: testenv.FreePort(t), Issuer: issuer, ClientID: testenv.ClientID, ClientSecret: testenv.ClientSecret,
							RedirectURI: w.RedirectURI(), TokenSeconds: int(tokenLife / time.Second),
							Users: []account{accountOf(testenv.Alice), accountOf(testenv.Bob)}, Strict: p.strict,
						})
					})
					return idp.issuer, idp.userOf
				},
			})
			browser := func(u provider.User) *testenv.Browser {
				if p.byEmail {
					u.Name = u.Email()
				}
				return testenv.NewBrowser(u)
			}
			ready := time.Now()

			doctorFindsNoProblem(t, w)
			sdkListsTools(t, w, browser(testenv.Bob))
			b := w.NewPlainBot(t)
			b.Login(t, browser(testenv.Alice))
			tokensEndAndAreRenewedOnce(t, b, idp)
			for _, r := range w.MCP.Requests() {
				if _, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); !idp.issued(token) {
					t.Errorf("%s %s: the server got something else than an access token of the provider", r.Method, r.Path)
				}
			}
			revocationReaches(t, b, idp, p.revokes)
			t.Logf("%s to start, %s for the rest", ready.Sub(begun).Round(time.Millisecond), time.Since(ready).Round(time.Millisecond))
		})
	}
}

func accountOf(u provider.User) account { return account{u.Name, u.Password, u.FullName, u.Email()} }

func doctorFindsNoProblem(t *testing.T, w *testenv.World) {
	t.Helper()
	out, err := w.Command(t.Context(), "oauth-proxy", "doctor", "--config", filepath.Join(w.Dir(), "Caddyfile"), "--adapter", "caddyfile").CombinedOutput()
	if err != nil || strings.Contains(string(out), "problem") || !strings.Contains(string(out), "ok       token endpoint: answers, and does not refuse the gateway as a client") {
		t.Errorf("doctor: %v\n%s", err, out)
	}
}

// sdkListsTools is the life of a client that finds everything by itself.
func sdkListsTools(t *testing.T, w *testenv.World, b *testenv.Browser) {
	t.Helper()
	s := w.Connect(t, b, w.ProxyURL("demo"), testenv.Stateless)
	if tools, err := s.ListTools(t.Context(), nil); err != nil || len(tools.Tools) != 3 {
		t.Errorf("tools/list: %v, %v", tools, err)
	}
	if who, err := testenv.Call(t.Context(), s, "whoami", nil); err != nil || !strings.Contains(who, "You are bob") {
		t.Errorf("whoami: %q, %v", who, err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// tokensEndAndAreRenewedOnce waits for the end of several access tokens, each time with one more refresh for however many calls. A
// refresh token that rotates and is lost or spent twice would show by the next end.
func tokensEndAndAreRenewedOnce(t *testing.T, b *testenv.PlainBot, idp *watched) {
	t.Helper()
	call := func() {
		if who, err := b.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "You are alice") {
			t.Errorf("whoami: %q, %v", who, err)
		}
	}
	call()
	for _, parallel := range []int{1, 6, 1} {
		idp.waitForEnd(t)
		before := len(idp.all(&idp.refreshes))
		var wg sync.WaitGroup
		for range parallel {
			wg.Go(call)
		}
		wg.Wait()
		if n := len(idp.all(&idp.refreshes)) - before; n != 1 {
			t.Errorf("%d calls after the end of a token: %d refreshes", parallel, n)
		}
	}
	spent := make(map[string]bool)
	for _, r := range idp.all(&idp.refreshes) {
		if spent[r.token] || r.status != http.StatusOK {
			t.Errorf("a refresh was answered %d; its token was spent before: %v", r.status, spent[r.token])
		}
		spent[r.token] = true
	}
}

// revocationReaches ends the chatbot's grant, which then is good for nothing, here and at a provider that offers to hear of it.
func revocationReaches(t *testing.T, b *testenv.PlainBot, idp *watched, offered bool) {
	t.Helper()
	access, refresh := idp.newest()
	if status, m, err := b.Form("revoke", "token", b.Token()); err != nil || status != http.StatusOK {
		t.Fatalf("revoke: %d %v %v", status, m, err)
	}
	if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
		t.Errorf("call with a revoked grant: %+v, %v", a, err)
	}
	if !offered {
		if said := idp.all(&idp.revocations); len(said) != 0 {
			t.Errorf("a provider without revocation was told: %+v", said)
		}
		return
	}
	testenv.Eventually(t, "the provider to be told", func() bool { return len(idp.all(&idp.revocations)) == 2 })
	if said := idp.all(&idp.revocations); !slices.Equal(said, []asked{{refresh, http.StatusOK}, {access, http.StatusOK}}) {
		t.Errorf("the provider was told something else than the newest refresh and access token, or did not accept it")
	}
	if user, live := idp.userOf(t.Context(), access); live {
		t.Errorf("the access token still works for %s", user)
	}
	if status, code := idp.refresh(t, refresh); status != http.StatusBadRequest || code != "invalid_grant" {
		t.Errorf("the refresh token, presented again: %d %s", status, code)
	}
}
