//go:build slow

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// The lines that the documentation gives to servers believe the gateway, and nobody else.
func TestSlowRecipeOfTheDocumentationChecksAssertions(t *testing.T) {
	needNode(t)
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, _ := strings.Cut(string(doc), "\n```js\n")
	recipe, _, found := strings.Cut(recipe, "\n```\n")
	if !found || !strings.Contains(recipe, "jwtVerify") {
		t.Fatal("the documentation has no recipe")
	}
	w := testenv.Start(t, testenv.Options{Proxy: "identity_assertion"})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	works(t, b)
	assertion := w.MCP.Requests()[0].Header.Get(assertionHeader)
	signature := strings.LastIndex(assertion, ".") + 1

	node, err := filepath.Abs("js/node_modules/.bin/node")
	if err != nil {
		t.Fatal(err)
	}
	run := func(resource string, texts ...string) []string {
		t.Helper()
		code := strings.NewReplacer("https://gateway.example.com/jira/mcp", resource, "https://gateway.example.com", w.URL).Replace(recipe) + `
for (const text of process.argv.slice(1)) {
	console.log(await caller({ headers: { "x-gateway-assertion": text } }).then((who) => who.email, (err) => err.code))
}`
		p := startProgram(t, "js", node, append([]string{"--input-type=module", "-e", code, "--"}, texts...)...)
		var printed []string
		for p.lines.Scan() {
			printed = append(printed, p.lines.Text())
		}
		return printed
	}
	got := run(w.ProxyURL("demo"), assertion, b.Access(), assertion[:signature]+"AAAA"+assertion[signature+4:])
	if want := []string{"alice@example.com", "ERR_JWT_CLAIM_VALIDATION_FAILED", "ERR_JWS_SIGNATURE_VERIFICATION_FAILED"}; !slices.Equal(got, want) {
		t.Errorf("the server reads %q, want %q", got, want)
	}
	if got := run(w.ProxyURL("other"), assertion); !slices.Equal(got, []string{"ERR_JWT_CLAIM_VALIDATION_FAILED"}) {
		t.Errorf("another server reads %q", got)
	}
}
