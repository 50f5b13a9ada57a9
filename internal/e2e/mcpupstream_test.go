package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// gatewayBefore is the Caddyfile of a gateway in front of an MCP server that is protected by OAuth itself, and of which it knows nothing but the
// address.
func gatewayBefore(server, lines string) func(*testenv.World) string {
	return func(w *testenv.World) string {
		whole := w.CaddyfileWith("")
		begin, end := strings.Index(whole, "\t\tprovider demo {"), strings.Index(whole, "\t\tproxy demo {")
		whole = whole[:begin] + fmt.Sprintf("\t\tprovider mcp {\n\t\t\tserver %s\n\t\t\t%s\n\t\t}\n", server, lines) + whole[end:]
		return strings.Replace(whole, "mcp_proxy demo "+w.MCPURL+"/mcp", "mcp_proxy demo "+server, 1)
	}
}

// A gateway stands in front of a server that another gateway protects: found, registered at and logged in at by itself.
func TestGatewayInFrontOfAnotherGateway(t *testing.T) {
	t.Parallel()
	far := testenv.Start(t, testenv.Options{Proxy: "allowed_redirects loopback"})
	near := testenv.Start(t, testenv.Options{Caddyfile: gatewayBefore(far.ProxyURL("demo"), "")})
	for _, version := range []string{testenv.Stateful, testenv.Stateless} {
		session := near.Connect(t, testenv.NewBrowser(testenv.Alice), near.ProxyURL("demo"), version)
		got, err := testenv.Call(t.Context(), session, "whoami", nil)
		if err != nil || !strings.Contains(got, "alice") {
			t.Errorf("%s: %s, %v", version, got, err)
		}
	}
	bot := near.NewPlainBot(t)
	bot.Login(t, testenv.NewBrowser(testenv.Bob))
	if got, err := bot.WhoAmI(t.Context()); err != nil || !strings.Contains(got, "bob") {
		t.Errorf("%s, %v", got, err)
	}
	if n := strings.Count(far.Log(), `"msg":"client registered"`); n != 1 {
		t.Errorf("registered %d times for three logins", n)
	}
	if _, _, err := bot.Form("revoke", "token", bot.Token()); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the other gateway to end its grant, too", func() bool { return strings.Contains(far.Log(), `"msg":"grant ended"`) })
}

// Who the user is comes from one provider, and the tokens from whoever protects the MCP server.
func TestUserLogsInElsewhereThanAtTheMCPServersProvider(t *testing.T) {
	t.Parallel()
	far := testenv.Start(t, testenv.Options{Proxy: "allowed_redirects loopback"})
	near := testenv.Start(t, testenv.Options{Caddyfile: func(w *testenv.World) string {
		whole := w.CaddyfileWith("\t\tprovider mcp {\n\t\t\tserver " + far.ProxyURL("demo") + "\n\t\t}\n")
		whole = strings.Replace(whole, "\t\tproxy demo {", "\t\tproxy demo {\n\t\t\tprovider mcp\n\t\t\tlogin demo\n\t\t\tallow email alice@example.com", 1)
		return strings.Replace(whole, "mcp_proxy demo "+w.MCPURL+"/mcp", "mcp_proxy demo "+far.ProxyURL("demo"), 1)
	}})
	browser := testenv.NewBrowser(testenv.Alice)
	bot := near.NewPlainBot(t)
	bot.Login(t, browser)
	if got, err := bot.WhoAmI(t.Context()); err != nil || !strings.Contains(got, "alice") {
		t.Errorf("%s, %v", got, err)
	}
	if near.Provider.Stats().Logins != 1 || far.Provider.Stats().Logins != 1 {
		t.Errorf("%d logins here, %d there", near.Provider.Stats().Logins, far.Provider.Stats().Logins)
	}
	if _, err := testenv.TryConnect(t.Context(), testenv.NewBrowser(testenv.Bob), near.ProxyURL("demo"), testenv.Stateless); err == nil {
		t.Error("somebody came in whom allow does not name")
	}
	if far.Provider.Stats().Logins != 1 {
		t.Error("somebody was sent on whom allow does not name")
	}
}
