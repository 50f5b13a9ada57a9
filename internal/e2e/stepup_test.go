package e2e_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// A call needs a scope that the user has not allowed so far. The client is told so, asks for what it has and what it needs, and calls again: all by itself, in one session.
func TestClientsAskForTheScopeThatACallNeeds(t *testing.T) {
	t.Parallel()
	for _, version := range []string{testenv.Stateful, testenv.Stateless} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			w := testenv.Start(t, testenv.Options{Proxy: `
				scopes read write
				policy {
					allow tool whoami {
						scope read
					}
					allow tool echo {
						scope write
					}
				}`})
			var asked []string
			s := w.ConnectAsking(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("demo"), version, func(scopes []string) []string {
				asked = append(asked, strings.Join(scopes, " "))
				if len(asked) == 1 {
					return []string{"read"}
				}
				return scopes
			})
			defer func() { _ = s.Close() }()
			if got, err := testenv.Call(t.Context(), s, "whoami", nil); err != nil || !strings.Contains(got, "alice") {
				t.Fatalf("whoami: %q, %v", got, err)
			}
			for range 2 {
				if got, err := testenv.Call(t.Context(), s, "echo", map[string]any{"text": "hello"}); err != nil || got != "hello" {
					t.Fatalf("echo: %q, %v", got, err)
				}
			}
			if got, err := testenv.Call(t.Context(), s, "whoami", nil); err != nil || !strings.Contains(got, "alice") {
				t.Errorf("whoami, with more allowed: %q, %v", got, err)
			}
			if !slices.Equal(asked, []string{"read write", "read write"}) {
				t.Errorf("asked for %q", asked)
			}
			if _, err := testenv.Call(t.Context(), s, "count", map[string]any{"to": 1}); err == nil || !strings.Contains(err.Error(), "does not let you use") || len(asked) != 2 {
				t.Errorf("a call that no scope helps: %v, asked for %q", err, asked)
			}
		})
	}
}
