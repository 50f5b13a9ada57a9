package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// The official SDK's client, given nothing but the server's URL, in both eras of the protocol.
func TestSDKClientDiscoversRegistersLogsInAndCallsTools(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	for _, version := range []string{testenv.Stateful, testenv.Stateless} {
		t.Run(version, func(t *testing.T) {
			s := w.Connect(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("demo"), version)
			tools, err := s.ListTools(t.Context(), nil)
			if err != nil || len(tools.Tools) != 3 {
				t.Fatalf("tools/list: %v, %v", tools, err)
			}
			if got := s.InitializeResult().ProtocolVersion; got != version {
				t.Errorf("protocol version %s, want %s", got, version)
			}
			who, err := testenv.Call(t.Context(), s, "whoami", nil)
			if err != nil || !strings.Contains(who, "You are alice") {
				t.Errorf("whoami: %q, %v", who, err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	methods := make(map[string]int)
	onlyTokensOf(t, w, "alice")
	for _, r := range w.MCP.Requests() {
		methods[r.Method]++
	}
	for _, m := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
		if methods[m] == 0 {
			t.Errorf("the server saw no %s", m)
		}
	}
}

// onlyTokensOf fails the test when the MCP server ever got anything else than the user's token of the provider.
func onlyTokensOf(t *testing.T, w *testenv.World, user string) {
	t.Helper()
	for _, r := range w.MCP.Requests() {
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if got, _ := w.Provider.UserOf(t.Context(), token); got != user || len(r.Header["Authorization"]) != 1 {
			t.Errorf("%s %s: the server got something else than %s's token of the provider", r.Method, r.Path, user)
		}
	}
}

func TestTwoUsersGetTheirOwnTokens(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	alice := w.Connect(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("demo"), testenv.Stateless)
	bob := w.Connect(t, testenv.NewBrowser(testenv.Bob), w.ProxyURL("demo"), testenv.Stateless)
	for range 5 {
		for user, s := range map[string]*mcp.ClientSession{"alice": alice, "bob": bob} {
			if who, err := testenv.Call(t.Context(), s, "whoami", nil); err != nil || !strings.Contains(who, "You are "+user) {
				t.Errorf("%s: %q, %v", user, who, err)
			}
		}
	}
}

func TestPlainChatbotPassesEndToEnd(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Bob))
	for range 2 {
		if who, err := b.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "You are bob") {
			t.Fatalf("whoami: %q, %v", who, err)
		}
		b.Refresh(t)
	}
}

// The MCP servers on a listener of their own, which answers the well-known documents for them.
func TestMCPServersOnAListenerOfTheirOwn(t *testing.T) {
	t.Parallel()
	site := fmt.Sprintf("http://localhost:%d", testenv.FreePort(t))
	w := testenv.Start(t, testenv.Options{Caddyfile: func(w *testenv.World) string {
		c := strings.Replace(w.CaddyfileWith(""), "\n\t\tmcp_proxy demo "+w.MCPURL+"/mcp", "", 1)
		c = strings.Replace(c, "resource "+w.URL+"/demo/mcp", "resource "+site+"/one/mcp", 1)
		c = strings.Replace(c, "\t\tproxy demo {", "\t\tproxy 9 {\n resource "+site+"/two\n}\n\t\tproxy demo {", 1)
		return c + site + " {\n mcp_proxy demo " + w.MCPURL + "/mcp\n mcp_proxy 9 " + w.MCPURL + "/mcp\n}\n"
	}})
	for _, resource := range []string{site + "/one/mcp", site + "/two"} {
		s := w.Connect(t, testenv.NewBrowser(testenv.Alice), resource, testenv.Stateless)
		if who, err := testenv.Call(t.Context(), s, "whoami", nil); err != nil || !strings.Contains(who, "alice") {
			t.Errorf("%s: %q, %v", resource, who, err)
		}
	}
	for path, want := range map[string]string{
		"/.well-known/oauth-protected-resource/one/mcp":      `"resource":"` + site + `/one/mcp"`,
		"/.well-known/oauth-protected-resource/two":          `"resource":"` + site + `/two"`,
		"/.well-known/oauth-authorization-server":            `"issuer":"` + w.URL + `"`,
		"/.well-known/oauth-authorization-server?proxy_id=9": `/api/v1/oauth-proxy/9/token"`,
	} {
		if body := get(t, site+path); !strings.Contains(body, want) {
			t.Errorf("%s: %s", path, body)
		}
	}
	if body := get(t, site+"/.well-known/oauth-protected-resource"); strings.Contains(body, "resource\"") {
		t.Errorf("which of the two is the root's? %s", body)
	}
}

func TestProgressArrivesEventByEvent(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	for _, version := range []string{testenv.Stateful, testenv.Stateless} {
		var first, last atomic.Int64
		client := w.ConnectWith(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("demo"), version, &mcp.ClientOptions{
			ProgressNotificationHandler: func(_ context.Context, _ *mcp.ProgressNotificationClientRequest) {
				now := time.Now().UnixMilli()
				first.CompareAndSwap(0, now)
				last.Store(now)
			},
		})
		params := &mcp.CallToolParams{Name: "count", Arguments: map[string]any{"to": 5, "ms": 200}}
		params.SetProgressToken("p")
		if _, err := client.CallTool(t.Context(), params); err != nil {
			t.Fatal(err)
		}
		if spread := last.Load() - first.Load(); spread < 400 {
			t.Errorf("%s: the five notifications came within %d ms: they were held back", version, spread)
		}
	}
}

func TestUpstream401IsRefreshedAndRepeatedUnseen(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{TokenLife: time.Hour})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	w.Provider.ExpireTokens()
	if who, err := b.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "You are alice") {
		t.Fatalf("whoami: %q, %v", who, err)
	}
	if s := w.Provider.Stats(); s.Refreshes != 1 || s.Replays != 0 {
		t.Errorf("%+v", s)
	}
	if n := len(w.MCP.Requests()); n != 2 {
		t.Errorf("the server saw %d requests, want the refused one and its repetition", n)
	}
	onlyTokensOf(t, w, "alice")
}

// T56: when the provider ends the login, the client must find out at both doors.
func TestT56EndedLoginIs401AndInvalidGrant(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{TokenLife: time.Hour})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	w.Provider.EndLogin("alice")
	w.Provider.ExpireTokens()
	a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"))
	if err != nil || a.Status != http.StatusUnauthorized {
		t.Fatalf("%+v, %v", a, err)
	}
	challenge := a.Header.Get("WWW-Authenticate")
	if !strings.Contains(challenge, `error="invalid_token"`) || !strings.Contains(challenge, w.URL+"/.well-known/oauth-protected-resource/demo/mcp") || strings.Contains(challenge, "upstream.invalid") {
		t.Errorf("challenge: %s", challenge)
	}
	status, m, err := b.TokenRequest("refresh_token", b.Token())
	if err != nil || status != http.StatusBadRequest || m["error"] != "invalid_grant" {
		t.Errorf("refresh: %d %v %v", status, m, err)
	}
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	if who, err := b.WhoAmI(t.Context()); err != nil || !strings.Contains(who, "alice") {
		t.Errorf("after logging in again: %q, %v", who, err)
	}
}

// R07: a provider that is down costs nobody their login.
func TestR07ProviderDownIs503AndHeals(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{TokenLife: 2 * time.Second})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	w.Provider.SetFault(func(*http.Request) *provider.Fault {
		return &provider.Fault{Status: http.StatusInternalServerError, Body: "<html>down</html>"}
	})
	testenv.Eventually(t, "the token to run out", func() bool {
		a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"))
		if err != nil || a.Status == http.StatusUnauthorized {
			t.Fatalf("%+v, %v", a, err)
		}
		return a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") != ""
	})
	w.Provider.SetFault(nil)
	testenv.Eventually(t, "calls to work again", func() bool {
		who, err := b.WhoAmI(t.Context())
		return err == nil && strings.Contains(who, "alice")
	})
}
