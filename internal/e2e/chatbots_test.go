package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// What the chatbots of examples/chatbot say by their exit codes.
const (
	exitFailed = iota + 1
	exitUsage
	exitNotLoggedIn
	exitLoginExpired
	exitScopeNeeded
)

// chatbot is one of them: they take the same arguments, say the same, and keep the same file.
type chatbot struct {
	command []string
	tokens  string // the file
	server  string
}

// forEachChatbot runs a test with each of them at once, each in a world of its own.
func forEachChatbot(t *testing.T, o testenv.Options, test func(*testing.T, *testenv.World, *chatbot)) {
	t.Helper()
	t.Parallel()
	for language, find := range map[string]func(*testing.T) []string{
		"Go": func(t *testing.T) []string {
			program := filepath.Join(t.TempDir(), "chatbot")
			if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../examples/chatbot").CombinedOutput(); err != nil {
				t.Fatalf("build: %v\n%s", err, out)
			}
			return []string{program}
		},
		"Python": func(t *testing.T) []string {
			needPython(t)
			return []string{"python3", "../../examples/chatbot/chatbot.py"}
		},
		"TypeScript": func(t *testing.T) []string {
			needNode(t)
			return []string{"js/node_modules/.bin/node", "../../examples/chatbot/chatbot.ts"}
		},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			command := find(t)
			w := testenv.Start(t, o)
			test(t, w, &chatbot{command: command, tokens: filepath.Join(t.TempDir(), "tokens.json"), server: w.ProxyURL("demo")})
		})
	}
}

// needPython skips the test where there is no Python; in CI it fails.
func needPython(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		missing(t, "the chatbot in Python needs python3 (3.9 or later) in the PATH")
	}
}

// run runs the chatbot, has the person do what there is to do at each address that it prints, and returns what it said and how it ended.
// What the person returns is typed into the chatbot.
func (b *chatbot) run(t *testing.T, person func(address string) string, args ...string) (said string, code int) {
	t.Helper()
	all := append(b.command[1:len(b.command):len(b.command)], "--tokens", b.tokens)
	all = append(all, args...)
	p := startProgram(t, "", b.command[0], all...)
	var output strings.Builder
	for p.lines.Scan() {
		fmt.Fprintln(&output, p.lines.Text())
		address := strings.TrimSpace(p.lines.Text())
		if !strings.HasPrefix(address, "http") {
			continue
		}
		if person == nil {
			t.Fatalf("%v asks for a login:\n%s", args, output.String())
		}
		if _, err := io.WriteString(p.stdin, person(address)); err != nil {
			t.Fatal(err)
		}
	}
	err := p.cmd.Wait()
	said = output.String() + p.stderr.String()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for name, value := range b.kept(t) {
		if secret, ok := value.(string); ok && strings.HasSuffix(name, "_token") && strings.Contains(said, secret) {
			t.Errorf("%v tells the %s:\n%s", args, name, said)
		}
	}
	return said, p.cmd.ProcessState.ExitCode()
}

// expect runs the chatbot and checks how it ended, and some of what it said.
func (b *chatbot) expect(t *testing.T, code int, said string, person func(address string) string, args ...string) {
	t.Helper()
	got, gotCode := b.run(t, person, args...)
	if gotCode != code || !strings.Contains(got, said) {
		t.Fatalf("%v: exit code %d, want %d, and %q in:\n%s", args, gotCode, code, said, got)
	}
}

// kept is what the chatbot's file holds.
func (b *chatbot) kept(t *testing.T) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(b.tokens)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var kept map[string]any
	if err != nil || json.Unmarshal(raw, &kept) != nil {
		t.Fatalf("%s: %v %s", b.tokens, err, raw)
	}
	return kept
}

// alter changes the chatbot's file.
func (b *chatbot) alter(t *testing.T, name string, value any) {
	t.Helper()
	kept := b.kept(t)
	kept[name] = value
	raw, err := json.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.tokens, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// loginAs is a person who logs in at the address.
func loginAs(t *testing.T, user provider.User) func(string) string {
	return func(address string) string {
		browser := testenv.NewBrowser(user)
		browser.Visit(t, browser.Login(t, address, "http://127.0.0.1:").String())
		return ""
	}
}

// From the registration to the revocation. What is old is refreshed, once, a minute before its end; what is over is told from what was never there and from what only failed.
func TestExampleChatbotsLiveThroughALogin(t *testing.T) {
	forEachChatbot(t, testenv.Options{}, func(t *testing.T, w *testenv.World, b *chatbot) {
		b.expect(t, exitNotLoggedIn, "nobody has logged in", nil, "--no-login", b.server)

		said, code := b.run(t, loginAs(t, testenv.Bob), b.server)
		for _, want := range []string{"whoami", "echo", "count", "You are bob"} {
			if code != 0 || !strings.Contains(said, want) {
				t.Fatalf("exit code %d, no %q in:\n%s", code, want, said)
			}
		}
		if strings.Contains(said, "chatbot:") {
			t.Errorf("a first login sounds like a failure:\n%s", said)
		}
		if info, err := os.Stat(b.tokens); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file: %v %v", info.Mode(), err)
		}
		first := b.kept(t)

		// refreshed runs the chatbot and says how often it has refreshed.
		refreshed := func() int {
			t.Helper()
			// Requests, not tokens: who asks twice at once is given the same.
			count := func() int { return strings.Count(w.Log(), `"path":"/api/v1/oauth-proxy/token"`) }
			before, tokens := count(), b.kept(t)
			b.expect(t, 0, "You are bob", nil, "--no-login", b.server)
			n, after := count()-before, b.kept(t)
			if (n > 0) != (after["refresh_token"] != tokens["refresh_token"]) || (n > 0) != (after["access_token"] != tokens["access_token"]) || after["client_id"] != first["client_id"] {
				t.Errorf("after %d refreshes the file does not hold what it should", n)
			}
			return n
		}
		b.alter(t, "expires_at", time.Now().Add(70*time.Second).Unix())
		if n := refreshed(); n != 0 {
			t.Errorf("a token that is good was refreshed %d times", n)
		}
		b.alter(t, "expires_at", time.Now().Add(50*time.Second).Unix())
		if n := refreshed(); n != 1 {
			t.Errorf("a token that is old was refreshed %d times", n)
		}
		b.alter(t, "access_token", "spoiled")
		if n := refreshed(); n != 1 {
			t.Errorf("a token that the server rejects was refreshed %d times", n)
		}
		b.alter(t, "expires_at", 0)
		if n := refreshed(); n != 1 {
			t.Errorf("the second refresh token refreshed %d times", n)
		}

		b.expect(t, 0, "hello", nil, "--no-login", b.server, "echo", `{"text":"hello"}`)
		b.expect(t, exitFailed, "nonsense", nil, "--no-login", b.server, "nonsense")
		b.expect(t, exitUsage, "usage", nil)
		b.expect(t, exitUsage, "usage", nil, b.server, "echo", "{")
		b.expect(t, exitFailed, "another file", nil, "--no-login", w.ProxyURL("other"))

		tokens := b.kept(t)
		b.alter(t, "expires_at", 0)
		w.Terminate()
		b.expect(t, exitFailed, "cannot be reached", nil, b.server)
		w.Run()
		if got := b.kept(t); got["refresh_token"] != tokens["refresh_token"] {
			t.Error("a failure has cost the login")
		}
		b.expect(t, 0, "You are bob", nil, "--no-login", b.server)

		tokens = b.kept(t)
		b.expect(t, 0, "Logged out", nil, "--logout", b.server)
		if b.kept(t) != nil {
			t.Error("the file is still there")
		}
		old, err := json.Marshal(tokens)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.tokens, old, 0o600); err != nil {
			t.Fatal(err)
		}
		b.expect(t, exitLoginExpired, "the login is over", nil, "--no-login", b.server)
		b.expect(t, 0, "You are alice", loginAs(t, testenv.Alice), b.server)
		if got := b.kept(t); got["client_id"] != first["client_id"] {
			t.Error("registered again, without need")
		}
	})
}

// The registration is gone, and with it the login: the chatbot registers again.
func TestExampleChatbotsRegisterAgainWhenTheirRegistrationIsGone(t *testing.T) {
	forEachChatbot(t, testenv.Options{}, func(t *testing.T, w *testenv.World, b *chatbot) {
		b.expect(t, 0, "You are bob", loginAs(t, testenv.Bob), b.server)
		b.alter(t, "client_id", "gateway_0000000000000000")
		b.alter(t, "expires_at", 0)
		b.expect(t, exitLoginExpired, "the login is over", nil, "--no-login", b.server)
		b.expect(t, 0, "You are bob", loginAs(t, testenv.Bob), b.server)
	})
}

func TestExampleChatbotsSayWhenRegistrationIsOff(t *testing.T) {
	forEachChatbot(t, testenv.Options{Global: "registration off"}, func(t *testing.T, _ *testenv.World, b *chatbot) {
		b.expect(t, exitFailed, "takes no registrations", nil, b.server)
		b.expect(t, exitNotLoggedIn, "nobody has logged in", nil, "--no-login", b.server)
	})
}

// A tool needs a scope that was not there when the user logged in.
func TestExampleChatbotsAskForTheScopeThatACallNeeds(t *testing.T) {
	before, after := "scopes read\n", `scopes read write delete
		policy {
			allow tool echo {
				scope write
			}
			allow tool * {
				scope read
			}
		}
	`
	forEachChatbot(t, testenv.Options{Proxy: before}, func(t *testing.T, w *testenv.World, b *chatbot) {
		b.expect(t, 0, "You are bob", loginAs(t, testenv.Bob), b.server)
		if err := w.Reload(strings.Replace(w.Caddyfile(), before, after, 1)); err != nil {
			t.Fatal(err)
		}
		b.expect(t, 0, "You are bob", nil, "--no-login", b.server)
		echo := []string{b.server, "echo", `{"text":"hello"}`}
		b.expect(t, exitScopeNeeded, "write", nil, append([]string{"--no-login"}, echo...)...)
		b.alter(t, "scope", "read delete") // as if the server had not told what was allowed before: it need not
		var asked []string
		b.expect(t, 0, "hello", func(address string) string {
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			asked = slices.Sorted(slices.Values(strings.Fields(u.Query().Get("scope"))))
			return loginAs(t, testenv.Bob)(address)
		}, echo...)
		if !slices.Equal(asked, []string{"delete", "read", "write"}) {
			t.Errorf("asked for %q", asked)
		}
		b.expect(t, 0, "hello", nil, append([]string{"--no-login"}, echo...)...)
		b.expect(t, 0, "You are bob", nil, "--no-login", b.server)
	})
}

// Any page in the browser can send requests to the place where the chatbot waits, and a server may have been asked in another's name.
func TestExampleChatbotsTakeNoAnswerThatTheyDidNotAskFor(t *testing.T) {
	forEachChatbot(t, testenv.Options{}, func(t *testing.T, w *testenv.World, b *chatbot) {
		// returning is a person with whose return something is done before the chatbot sees it.
		returning := func(change func(back url.Values) (twice bool)) func(string) string {
			return func(address string) string {
				browser := testenv.NewBrowser(testenv.Bob)
				right := browser.Login(t, address, "http://127.0.0.1:")
				changed, back := *right, right.Query()
				twice := change(back)
				changed.RawQuery = back.Encode()
				resp, err := http.Get(changed.String())
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if twice {
					if resp.StatusCode != http.StatusBadRequest {
						t.Errorf("what was not asked for is answered with %d", resp.StatusCode)
					}
					browser.Visit(t, right.String())
				}
				return ""
			}
		}
		b.expect(t, exitFailed, "another authorization server", returning(func(back url.Values) bool {
			back.Set("iss", "https://attacker.example.com")
			return false
		}), b.server)
		b.expect(t, exitFailed, "another authorization server", returning(func(back url.Values) bool {
			back.Del("iss")
			return false
		}), b.server)
		b.expect(t, exitFailed, "refused: access_denied", returning(func(back url.Values) bool {
			back.Del("code")
			back.Set("error", "access_denied")
			return false
		}), b.server)
		b.expect(t, exitNotLoggedIn, "nobody has logged in", nil, "--no-login", b.server)
		b.expect(t, 0, "You are bob", returning(func(back url.Values) bool {
			back.Set("state", "another")
			back.Set("error", "access_denied")
			return true
		}), b.server)
	})
}

// For scripts: nothing is kept.
func TestExampleChatbotsUseSessionTokens(t *testing.T) {
	forEachChatbot(t, testenv.Options{}, func(t *testing.T, w *testenv.World, b *chatbot) {
		var token string
		said, code := b.run(t, func(address string) string {
			callback := testenv.NewBrowser(testenv.Bob).Login(t, address, w.URL+"/api/v1/oauth/callback")
			var answer struct {
				Data struct {
					Token string `json:"session_token"`
				} `json:"data"`
			}
			if err := json.Unmarshal([]byte(get(t, callback.String()+"&format=json")), &answer); err != nil || answer.Data.Token == "" {
				t.Fatalf("callback: %+v, %v", answer, err)
			}
			token = answer.Data.Token
			return token + "\n"
		}, "--session", "demo", b.server)
		if code != 0 || strings.Count(said, "You are bob") != 2 || !strings.Contains(said, "Logged in as bob@example.com") || !strings.Contains(said, "Logged out") {
			t.Errorf("exit code %d:\n%s", code, said)
		}
		if strings.Contains(said, token) || b.kept(t) != nil {
			t.Error("the session token was told, or kept")
		}
		b.expect(t, exitLoginExpired, "not a good one", func(string) string { return token + "\n" }, "--session", "demo", b.server)
	})
}

// An operator deletes the registration, or the vault is lost. At the authorization endpoint only the person in the browser would be told, so the chatbot asks before it sends anybody there.
func TestExampleChatbotsLearnThatTheirRegistrationWasDeleted(t *testing.T) {
	forEachChatbot(t, testenv.Options{}, func(t *testing.T, w *testenv.World, b *chatbot) {
		b.expect(t, 0, "You are bob", loginAs(t, testenv.Bob), b.server)
		first, _ := b.kept(t)["client_id"].(string)
		if _, stderr, code := exits(t, w, at(w, "delete-client", first)...); code != 0 {
			t.Fatalf("delete-client: %d %s", code, stderr)
		}
		tokens, err := os.ReadFile(b.tokens)
		if err != nil {
			t.Fatal(err)
		}
		b.expect(t, exitLoginExpired, "the login is over", nil, "--no-login", b.server)

		if err := os.WriteFile(b.tokens, tokens, 0o600); err != nil {
			t.Fatal(err)
		}
		b.expect(t, 0, "Logged out", nil, "--logout", b.server)
		if b.kept(t) != nil {
			t.Error("a login that is gone is kept")
		}

		if err := os.WriteFile(b.tokens, tokens, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"access_token", "refresh_token", "expires_at", "scope"} { // as if nobody had come back from the browser
			b.alter(t, name, nil)
		}
		b.expect(t, 0, "You are alice", loginAs(t, testenv.Alice), b.server)
		second := b.kept(t)
		if second["client_id"] == first {
			t.Error("the same registration as before")
		}

		// One that is there is asked about, and kept.
		b.alter(t, "access_token", nil)
		b.expect(t, exitFailed, "the login was refused: access_denied: the user said no", func(address string) string {
			browser := testenv.NewBrowser(testenv.Bob)
			browser.Refuses = true
			browser.Visit(t, browser.Login(t, address, "http://127.0.0.1:").String())
			return ""
		}, b.server)
		if b.kept(t)["client_id"] != second["client_id"] {
			t.Error("registered again, without need")
		}
	})
}

// What an operator revokes is over, and the reason told.
func TestExampleChatbotsSayThatTheLoginWasRevoked(t *testing.T) {
	forEachChatbot(t, testenv.Options{}, func(t *testing.T, w *testenv.World, b *chatbot) {
		b.expect(t, 0, "You are bob", loginAs(t, testenv.Bob), b.server)
		if _, stderr, code := exits(t, w, at(w, "revoke-all", "--everything", "--yes")...); code != 0 {
			t.Fatalf("revoke-all: %d %s", code, stderr)
		}
		b.expect(t, exitLoginExpired, "revoked by the operator", nil, "--no-login", b.server)
		b.expect(t, 0, "You are bob", loginAs(t, testenv.Bob), b.server)
	})
}

// What a server, or the gateway before it, answers in place of what it was asked for is said as it says it, and costs nobody the login.
func TestExampleChatbotsSayWhatTheServerRefuses(t *testing.T) {
	forEachChatbot(t, testenv.Options{}, func(t *testing.T, w *testenv.World, b *chatbot) {
		b.expect(t, 0, "You are bob", loginAs(t, testenv.Bob), b.server)
		login := b.kept(t)
		var sessions atomic.Int32
		mux := http.NewServeMux()
		answer := func(path string, status int, header http.Header, body string) {
			mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
				maps.Copy(w.Header(), header)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			})
		}
		answer("/forbidden", http.StatusForbidden, nil, "")
		answer("/reason", http.StatusForbidden, http.Header{"Www-Authenticate": {`Bearer error="access_denied", error_description="bob may not"`}}, "")
		answer("/policy", http.StatusForbidden, http.Header{"Content-Type": {"application/json"}}, `{"jsonrpc":"2.0","id":1,"error":{"code":-32003,"message":"not for bob"}}`)
		answer("/nothing", http.StatusNotFound, nil, "")
		answer("/away", http.StatusBadGateway, nil, "")
		answer("/later", http.StatusServiceUnavailable, http.Header{"Retry-After": {"7"}}, `{"error":"temporarily_unavailable","error_description":"the vault rests"}`)
		mux.HandleFunc("/forgetful", func(w http.ResponseWriter, r *http.Request) { // which loses its first session
			var m struct {
				ID     any
				Method string
			}
			_ = json.NewDecoder(r.Body).Decode(&m)
			var result any
			switch {
			case r.Method != http.MethodPost:
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			case m.Method == "initialize":
				w.Header().Set("Mcp-Session-Id", fmt.Sprint(sessions.Add(1)))
				result = map[string]any{"protocolVersion": "2025-06-18", "capabilities": map[string]any{"tools": map[string]any{}}, "serverInfo": map[string]any{"name": "forgetful", "version": "1"}}
			case strings.HasPrefix(m.Method, "notifications/"):
				w.WriteHeader(http.StatusAccepted)
				return
			case r.Header.Get("Mcp-Session-Id") == "1":
				w.WriteHeader(http.StatusNotFound)
				return
			case m.Method == "tools/list":
				result = map[string]any{"tools": []any{}}
			case m.Method == "tools/call":
				result = map[string]any{"content": []any{map[string]any{"type": "text", "text": "You are remembered"}}}
			default: // of a newer MCP than this server speaks
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": m.ID, "result": result})
		})
		server := httptest.NewServer(mux)
		defer server.Close()
		for path, want := range map[string]string{
			"/forbidden": "chatbot: status 403: this is not allowed here", "/reason": "chatbot: status 403: bob may not", "/policy": "not for bob",
			"/nothing": "chatbot: status 404: there is no MCP server", "/away": "chatbot: status 502: the MCP server does not answer", "/later": "chatbot: status 503: the vault rests (try again in 7 s)",
		} {
			b.alter(t, "server", server.URL+path)
			b.expect(t, exitFailed, want, nil, server.URL+path)
		}
		b.alter(t, "server", server.URL+"/forgetful")
		b.expect(t, 0, "You are remembered", nil, server.URL+"/forgetful")

		b.alter(t, "server", b.server)
		if got := b.kept(t); !maps.Equal(got, login) {
			t.Error("what was refused has changed the login")
		}
		b.expect(t, 0, "You are bob", nil, "--no-login", b.server)

		w.Terminate()
		b.expect(t, exitFailed, "chatbot: "+strings.TrimPrefix(w.URL, "http://")+" cannot be reached", nil, b.server)
		b.expect(t, exitFailed, "cannot be reached", nil, "--logout", b.server)
		if got := b.kept(t); !maps.Equal(got, login) {
			t.Error("a gateway that is away has cost the login")
		}
		w.Run()
		b.expect(t, 0, "Logged out", nil, "--logout", b.server)
	})
}
