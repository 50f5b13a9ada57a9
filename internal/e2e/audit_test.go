package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// openTrail opens the vault of a world whose Caddy does not run.
func openTrail(t *testing.T, w *testenv.World) (v *tokenstore.Vault, done func()) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.Dir(), "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := tokenstore.ParseRootKey(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	store, err := bbolt.Open(w.VaultPath(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	v, err = tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	return v, func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// trail reads all events, the newest first, and insists on a whole trail.
func trail(t *testing.T, v *tokenstore.Vault, f tokenstore.EventFilter) (all []*tokenstore.Event) {
	t.Helper()
	report, err := v.VerifyAudit(t.Context(), "")
	if err != nil || !report.Whole() {
		t.Fatalf("the trail is not whole: %+v, %v", report, err)
	}
	for f.Limit = 1000; ; {
		page, next, err := v.Events(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if f.After = next; next == "" {
			return all
		}
	}
}

// jtiOf is the id of a gateway token.
func jtiOf(t testing.TB, token string) string {
	t.Helper()
	var claims struct {
		JTI string `json:"jti"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("no JWT: %q", token)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil || claims.JTI == "" {
		t.Fatalf("no jti: %v", err)
	}
	return claims.JTI
}

// Chatbots log in and refresh while Caddy is killed, again and again. Whatever a chatbot got is in the trail, and the trail is whole.
func TestKillInMidLoadLosesNoEventOfWhatAChatbotGot(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Global: "rate_limit token 10000 1s"})
	var mu sync.Mutex
	held := make(map[string]bool) // ids of access tokens that chatbots got
	const rounds, bots = 5, 4
	for range rounds {
		var ready, ended sync.WaitGroup
		for range bots {
			b := w.NewPlainBot(t)
			b.Login(t, testenv.NewBrowser(testenv.Alice))
			ready.Add(1)
			ended.Go(func() {
				loaded := sync.OnceFunc(ready.Done)
				defer loaded()
				for n := range 10_000 {
					mu.Lock()
					held[jtiOf(t, b.Access())] = true
					mu.Unlock()
					if n == 20 {
						loaded()
					}
					if b.TryRefresh() != nil { // the process is gone
						return
					}
				}
			})
		}
		ready.Wait()
		w.Kill()
		ended.Wait()
		v, done := openTrail(t, w)
		found := make(map[string]int)
		for _, e := range trail(t, v, tokenstore.EventFilter{Types: []string{tokenstore.EventTokenIssued}}) {
			found[e.JTI]++
		}
		done()
		for jti := range held {
			if found[jti] == 0 {
				t.Errorf("the trail does not know token %s, which a chatbot holds", jti)
			}
		}
		w.Run()
	}
	t.Logf("%d tokens held after %d kills", len(held), rounds)
	if len(held) < rounds*bots*20 {
		t.Errorf("only %d tokens were issued: the test is no good", len(held))
	}
}

// callLine is the line of a call to an MCP server.
func callLine(t *testing.T, w *testenv.World) (line struct {
	Msg, Decision, JTI, Grant, User string
}) {
	t.Helper()
	testenv.Eventually(t, "the line of the call", func() bool {
		for text := range strings.Lines(w.Log()) {
			if strings.Contains(text, `"http.handlers.mcp_filter.audit"`) && json.Unmarshal([]byte(text), &line) == nil && line.Decision == "allowed" {
				return true
			}
		}
		return false
	})
	return line
}

// An auditor has the line of one call, and finds out what the user agreed to.
func TestCallIsTracedBackToConsentAndProvider(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Global: "consent remember"})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	b.Refresh(t)
	works(t, b)
	call := callLine(t, w)
	w.Terminate()
	v, done := openTrail(t, w)
	defer done()
	issued := trail(t, v, tokenstore.EventFilter{JTI: call.JTI})
	if len(issued) != 1 || issued[0].Type != tokenstore.EventTokenIssued || issued[0].Details["grant_type"] != "refresh_token" || issued[0].Grant != call.Grant {
		t.Fatalf("events with jti %s: %+v", call.JTI, issued)
	}
	consent, err := v.Event(t.Context(), issued[0].Consent)
	if err != nil {
		t.Fatal(err)
	}
	if consent.Type != tokenstore.EventConsentGiven || consent.ClientID != b.ID || consent.Client != "Plain bot" || consent.Proxy != "demo" || consent.Provider != "demo" ||
		consent.Details["redirect_host"] != "localhost:8888" || consent.Details["resource"] != w.ProxyURL("demo") || consent.Details["upstream_scopes"] == "" || consent.Address == "" {
		t.Errorf("consent %+v", consent)
	}
	var types []string
	for _, e := range slices.Backward(trail(t, v, tokenstore.EventFilter{Grant: call.Grant})) {
		types = append(types, e.Type)
		if e.UserID == "" || e.User != "alice@example.com" || e.Consent != consent.ID {
			t.Errorf("%s: %+v", e.Type, e)
		}
	}
	if want := []string{tokenstore.EventLoginFinished, tokenstore.EventTokenIssued, tokenstore.EventTokenIssued}; !slices.Equal(types, want) {
		t.Errorf("the grant's events are %v; want %v", types, want)
	}
	if len(trail(t, v, tokenstore.EventFilter{Types: []string{tokenstore.EventConfigLoaded}})) != 1 {
		t.Error("the configuration that was loaded is not in the trail")
	}
}

// checkEvents insists that events hold what docs/audit.md says of their type and no more, and no secret.
func checkEvents(t *testing.T, s *secrets, all []*tokenstore.Event) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	fields := make(map[string][]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\|.*\\| ([^|]*) \\|$").FindAllStringSubmatch(string(doc), -1) {
		fields[row[1]] = append(strings.Split(strings.ReplaceAll(row[2], "`", ""), " "), "id", "time", "type", "outcome", "actor", "address")
	}
	seen := make(map[string]bool)
	for _, e := range all {
		seen[e.Type] = true
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		s.check(t, "the event "+e.Type, string(text))
		var members map[string]any
		if err := json.Unmarshal(text, &members); err != nil {
			t.Fatal(err)
		}
		if details, _ := members["details"].(map[string]any); details != nil {
			for name := range details {
				members["details."+name] = true
			}
			delete(members, "details")
		}
		for name := range members {
			if !slices.Contains(fields[e.Type], name) {
				t.Errorf("docs/audit.md does not say that %s has %s: %s", e.Type, name, text)
			}
		}
	}
	if len(seen) < 12 {
		t.Errorf("only events of the types %v were seen: the test is no good", slices.Sorted(maps.Keys(seen)))
	}
}

func init() { caddy.RegisterModule(new(noteEvents)) }

// noteEvents is a handler of the events app that writes what it gets into a file, line by line.
type noteEvents struct {
	File string `json:"file,omitempty"`
}

func (*noteEvents) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.note", New: func() caddy.Module { return new(noteEvents) }}
}

func (n *noteEvents) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&n.File) {
		return d.ArgErr()
	}
	return nil
}

func (n *noteEvents) Handle(ctx context.Context, e caddy.Event) error {
	repl, _ := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	f, err := os.OpenFile(n.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, e.Name(), repl.ReplaceAll("{event.data.grant} {event.data.actor.kind} {event.data.client} {event.data.details.grant_type}", "-"))
	return errors.Join(err, f.Close())
}

// An operator has something done when a token was issued, whatever the client calls itself.
func TestT79HandlersOfTheEventsAppGetTheEvents(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "noted")
	w := testenv.Start(t, testenv.Options{
		Env: []string{"GW_SECRET=secret-that-no-client-may-name"},
		Caddyfile: func(w *testenv.World) string {
			on := "\n\tevents {\n\t\ton oauth_proxy.token_issued note " + file + "\n\t\ton oauth_proxy.config_loaded note " + file + "\n\t}"
			return strings.Replace(w.CaddyfileWith(""), "\n\tlog {", on+"\n\tlog {", 1)
		},
	})
	b := w.NewPlainBotNamed(t, "{env.GW_SECRET}{file./etc/passwd}")
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	b.Refresh(t)
	var lines []string
	testenv.Eventually(t, "three events", func() bool {
		content, err := os.ReadFile(file)
		lines = strings.Split(strings.TrimSpace(string(content)), "\n")
		return err == nil && len(lines) == 3
	})
	if !strings.HasPrefix(lines[0], "oauth_proxy.config_loaded - gateway ") {
		t.Errorf("first is %q", lines[0])
	}
	for i, grantType := range []string{"authorization_code", "refresh_token"} {
		if line := lines[i+1]; !regexp.MustCompile(`^oauth_proxy\.token_issued \S{20,} client \{env\.GW_SECRET\}\{file\./etc/passwd\} ` + grantType + `$`).MatchString(line) {
			t.Errorf("noted is %q; want the %s event", line, grantType)
		}
	}
	if strings.Contains(w.Log(), "secret-that-no-client-may-name") {
		t.Error("the client's name was taken for a placeholder")
	}
}

// audit off keeps events out of the vault, and the log as it is.
func TestAuditOffKeepsOnlyTheLog(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Global: "audit off"})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	testenv.Eventually(t, "the event's line", func() bool {
		return regexp.MustCompile(`"logger":"oauth_proxy.audit","msg":"token issued","actor":\{"kind":"client","id":"` + b.ID + `","label":"Plain bot"\}.*"type":"token.issued","outcome":"ok".*"jti":"` + jtiOf(t, b.Access())).MatchString(w.Log())
	})
	w.Terminate()
	v, done := openTrail(t, w)
	defer done()
	if all := trail(t, v, tokenstore.EventFilter{}); len(all) != 0 {
		t.Errorf("the vault keeps %d events", len(all))
	}
}
