package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// block is a fenced part of a page.
type block struct{ language, text string }

// blocksOf are those of a page of the documentation, or of one section of it, with some of its words in other words.
func blocksOf(t *testing.T, page, section string, inOtherWords func(string) string) (blocks []block) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	text := inOtherWords(string(content))
	if section != "" {
		_, text, _ = strings.Cut(text, "\n## "+section+"\n")
		text, _, _ = strings.Cut(text, "\n## ")
	}
	for _, m := range regexp.MustCompile("(?s)\n```([a-z]+)\n(.*?\n)```\n").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, block{m[1], m[2]})
	}
	if len(blocks) == 0 {
		t.Fatalf("%s has no blocks in %q", page, section)
	}
	return blocks
}

// goEnv is a setting of the go command, which has another home directory in the script.
func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// fits reports whether a text is what a pattern says, in which … stands for anything.
func fits(text, pattern string) bool {
	parts := strings.Split(strings.TrimSpace(pattern), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(strings.TrimSpace(parts[i]))
	}
	return regexp.MustCompile(`(?s)^\s*` + strings.Join(parts, ".*") + `\s*$`).MatchString(text)
}

// made are the parts of what is printed that differ from run to run.
var made = regexp.MustCompile(`20\d\d-\d\d-\d\dT[\d:.]+Z|gateway_[0-9a-f]{16}|\b[A-Z2-7]{26}\b|"[\w-]{43}"`)

// What the page about administration shows on a terminal is what one sees there: two users have logged in by the same chatbot, before each of its blocks.
func TestAdminPageShowsWhatIsPrinted(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool+" is not installed")
		}
	}
	commands := 0
	for _, b := range blocksOf(t, "docs/admin.md", "", func(page string) string { return page }) {
		if b.language != "console" {
			continue
		}
		w := testenv.Start(t, testenv.Options{})
		admin := strings.TrimPrefix(w.AdminURL(), "http://")
		b.text = w.InPlaceOfQuickstart(strings.ReplaceAll(b.text, "localhost:2019", admin))
		for _, user := range []provider.User{testenv.Alice, testenv.Bob} {
			w.NewPlainBot(t).Login(t, testenv.NewBrowser(user))
		}
		is := make(map[string]string) // what is made, by what the page has for it
		for part := range strings.SplitSeq(strings.TrimPrefix("\n"+b.text, "\n$ "), "\n$ ") {
			commands++
			end := regexp.MustCompile(`[^\\]\n|$`).FindStringIndex(part)[1]
			command, want := part[:end], part[end:]
			for shown, real := range is {
				command = strings.ReplaceAll(command, shown, real)
			}
			cmd := w.Command(t.Context())
			run := exec.CommandContext(t.Context(), "bash", "-c", fmt.Sprintf("caddy() { %q \"$@\" --address %s; }\n%s", cmd.Path, admin, command))
			run.Env = cmd.Env
			out, err := run.Output()
			if err != nil {
				t.Fatalf("%s: %v", command, err)
			}
			shown, real := made.FindAllString(want, -1), made.FindAllString(string(out), -1)
			for i := range min(len(shown), len(real)) {
				is[shown[i]] = real[i]
			}
			if got, want := strings.Fields(made.ReplaceAllString(string(out), "…")), strings.Fields(made.ReplaceAllString(want, "…")); !slices.Equal(got, want) {
				t.Errorf("%s\nprints\n%s\nand the page shows\n%s", command, out, part[end:])
			}
		}
	}
	if commands < 8 {
		t.Errorf("only %d commands were found: the test is no good", commands)
	}
}

// Calls of both eras are answered as docs/endpoints.md shows, and a registration with the members that it has there.
func TestCallsAreAnsweredAsThePageOfEndpointsShows(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool+" is not installed")
		}
	}
	w := testenv.Start(t, testenv.Options{})
	bot := w.NewPlainBot(t)
	bot.Login(t, testenv.NewBrowser(testenv.Alice))
	here := strings.NewReplacer("https://gateway.example.com/jira/mcp", w.ProxyURL("demo"), "https://gateway.example.com/api/v1/oauth-proxy/jira/", w.URL+"/api/v1/oauth-proxy/demo/", "https://chatbot.example.com/oauth/callback", "https://bot.example.com/cb").Replace
	run := func(commands string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "bash", "-c", "set -euo pipefail\n"+commands)
		cmd.Env = append(os.Environ(), "ACCESS_TOKEN="+bot.Access())
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", commands, err)
		}
		return string(out)
	}
	calls := blocksOf(t, "docs/endpoints.md", "A call", here)
	if len(calls) != 4 {
		t.Fatalf("there are no longer two calls and what each answers: %q", calls)
	}
	for i := 0; i < len(calls); i += 2 {
		if said := run(calls[i].text); !fits(said, calls[i+1].text) {
			t.Errorf("%s\nanswers\n%s\nand the page shows\n%s", calls[i].text, said, calls[i+1].text)
		}
	}
	registration := blocksOf(t, "docs/endpoints.md", "Registration", here)
	members := func(text string) []string {
		t.Helper()
		var answer map[string]any
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return slices.Sorted(maps.Keys(answer))
	}
	if is, shown := members(run(registration[0].text)), members(registration[1].text); !slices.Equal(is, shown) {
		t.Errorf("a registration is answered with %v, and the page shows %v", is, shown)
	}
}

// The doctor's report in docs/configuration.md is what it says when the provider does not know the secret.
func TestDoctorSaysWhatItsPageShows(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{
		Provider: func(*testenv.World) (string, testenv.UserOf) {
			mux := http.NewServeMux()
			s := httptest.NewServer(mux)
			t.Cleanup(s.Close)
			mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"issuer": %[1]q, "authorization_endpoint": "%[1]s/authorize", "token_endpoint": "%[1]s/token", "revocation_endpoint": "%[1]s/revoke", "jwks_uri": "%[1]s/keys"}`, s.URL)
			})
			mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys": []}`) })
			mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusUnauthorized)
				fmt.Fprint(w, `{"error": "invalid_client"}`)
			})
			return s.URL, func(context.Context, string) (string, bool) { return "", false }
		},
		Env: []string{"VAULT_KEY=" + strings.TrimSpace(testenv.NewKey())},
		Caddyfile: func(w *testenv.World) string {
			return strings.NewReplacer(
				"provider demo", "provider okta", "proxy demo", "proxy jira", "mcp_proxy demo", "mcp_proxy jira", "/demo/mcp", "/jira/mcp", "issuer "+w.URL+"\n", "issuer "+w.URL+"\nencryption_key {env.VAULT_KEY}\n",
			).Replace(w.CaddyfileWith(""))
		},
	})
	var want string
	for _, b := range blocksOf(t, "docs/configuration.md", "Checking a configuration", strings.NewReplacer("https://gateway.example.com", w.URL, "https://acme.okta.com", w.ProviderURL).Replace) {
		if b.language == "text" {
			want = b.text
		}
	}
	cmd := w.Command(t.Context(), "oauth-proxy", "doctor", "--config", filepath.Join(w.Dir(), "Caddyfile"), "--adapter", "caddyfile")
	out, err := cmd.Output()
	if err == nil || !fits(string(out), want) {
		t.Errorf("%v, says\n%s\nthe page shows\n%s", err, out, want)
	}
}
