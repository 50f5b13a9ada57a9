package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// The chatbot that knows no discovery, as a reader of the README runs it; the test is the user at the browser. The others are in chatbots_test.go.
func TestExamplePlainbotLogsInAndCalls(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	output := withPerson(t, exec.CommandContext(t.Context(), "go", "run", "../../examples/plainbot", "-gateway", w.URL, "-proxy", "demo"), loginAs(t, testenv.Bob))
	for _, want := range []string{"ok: register", "ok: log in", "You are bob", "ok: refresh", "ok: call again"} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in:\n%s", want, output)
		}
	}
}
