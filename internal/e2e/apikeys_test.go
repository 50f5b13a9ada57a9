package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/mcpserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// keyWorld has proxies that are open to API keys beside demo, which is not: robots, whose token is always the same, and both, whose users have
// their own.
func keyWorld(t *testing.T) *testenv.World {
	t.Helper()
	tokens := map[string]string{"static-token-of-the-operator": "the robot", "machine-token-of-the-operator": "the machine"}
	server := httptest.NewServer(mcpserver.New(mcpserver.Options{UserOf: func(_ context.Context, token string) (string, bool) {
		user, live := tokens[token]
		return user, live
	}}))
	t.Cleanup(server.Close)
	events := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: first\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(events.Close)
	return testenv.Start(t, testenv.Options{
		Env: []string{"STATIC_TOKEN=static-token-of-the-operator", "MACHINE_TOKEN=machine-token-of-the-operator"},
		Caddyfile: func(w *testenv.World) string {
			global := strings.ReplaceAll(`proxy robots {
			resource       {{URL}}/robots/mcp
			scopes         read write
			upstream_token static {env.STATIC_TOKEN}
		}
		proxy both {
			resource      {{URL}}/both/mcp
			machine_token {env.MACHINE_TOKEN}
		}
		proxy events {
			resource       {{URL}}/events/mcp
			upstream_token static {env.STATIC_TOKEN}
		}`, "{{URL}}", w.URL)
			site := "\n\tmcp_proxy robots " + server.URL + "\n\tmcp_proxy both " + server.URL + `
	route /events/* {
		mcp_filter events {
			credential     transport
			stream_recheck off
		}
		reverse_proxy ` + events.URL + ` {
			transport mcp
		}
	}
`
			return strings.Replace(w.CaddyfileWith(global), "\n\t\tmcp_proxy demo", site+"\n\t\tmcp_proxy demo", 1)
		},
	})
}

// command runs a command of the plugin against a world's Caddy.
func command(t *testing.T, w *testenv.World, args ...string) (stdout, stderr string, ok bool) {
	t.Helper()
	cmd := w.Command(t.Context(), append([]string{"oauth-proxy"}, append(args, "--address", strings.TrimPrefix(w.AdminURL(), "http://"))...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), err == nil
}

// createKey makes a key by command, and returns it and its id.
func createKey(t *testing.T, w *testenv.World, args ...string) (key, id string) {
	t.Helper()
	out, errs, ok := command(t, w, append([]string{"create-api-key", "--name", "nightly report"}, args...)...)
	key = strings.TrimSuffix(out, "\n")
	if m := regexp.MustCompile(`^gwk_([0-9a-f]{16})_[0-9a-f]{64}$`).FindStringSubmatch(key); ok && m != nil {
		return key, m[1]
	}
	t.Fatalf("create-api-key %v: %q, %q, %t", args, out, errs, ok)
	return "", ""
}

// withHeader sets a header on a request.
func withHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// callWith calls the tool whoami at a proxy, and returns what it answers.
func callWith(t *testing.T, w *testenv.World, proxy string, edit ...func(*http.Request)) (int, string) {
	t.Helper()
	edit = append(edit, withHeader("Accept", "application/json, text/event-stream"), withHeader("MCP-Protocol-Version", testenv.Stateless),
		withHeader("Mcp-Method", "tools/call"), withHeader("Mcp-Name", "whoami"))
	status, header, m := post(t, w.ProxyURL(proxy), "application/json", testenv.ToolCall("whoami"), edit...)
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if status == http.StatusUnauthorized && !strings.Contains(header.Get("WWW-Authenticate"), "resource_metadata=") {
		t.Errorf("401 without a challenge: %v", header)
	}
	return status, string(raw)
}

func TestAPIKeyIsMadeUsedListedAndRevokedByCommand(t *testing.T) {
	t.Parallel()
	w := keyWorld(t)
	if out, _, ok := command(t, w, "api-keys", "--json"); !ok || out != "[]\n" {
		t.Errorf("no keys are listed as %q", out)
	}
	key, id := createKey(t, w, "--proxy", "robots", "--proxy", "both", "--scope", "read", "--scope", "mcp", "--expires", "30d")
	for _, edit := range []func(*http.Request){withHeader("Authorization", "Bearer "+key), withHeader("X-API-Key", key)} {
		for proxy, who := range map[string]string{"robots": "the robot", "both": "the machine"} {
			if status, text := callWith(t, w, proxy, edit); status != http.StatusOK || !strings.Contains(text, "You are "+who) {
				t.Errorf("at %s: %d %s", proxy, status, text)
			}
		}
		if status, text := callWith(t, w, "demo", edit); status != http.StatusUnauthorized {
			t.Errorf("at a proxy that the key is not for: %d %s", status, text)
		}
	}
	if status, _ := callWith(t, w, "robots", withHeader("Authorization", "Bearer "+key), withHeader("X-API-Key", key)); status != http.StatusBadRequest {
		t.Errorf("sent twice: %d", status)
	}
	if status, _ := callWith(t, w, "robots", withHeader("X-API-Key", key[:len(key)-8]+"00000000")); status != http.StatusUnauthorized {
		t.Errorf("wrong key: %d", status)
	}

	// OAuth works beside it.
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	works(t, b)

	out, errs, ok := command(t, w, "create-api-key", "--name", "other", "--proxy", "robots", "--json")
	var other struct {
		Key, ID, Name, State string
		Proxies, Scopes      []string
		Created, Expires     time.Time
		Used, Revoked        *time.Time
	}
	if err := json.Unmarshal([]byte(out), &other); err != nil || !ok {
		t.Fatalf("%s%s, %v", out, errs, err)
	}
	if !strings.HasPrefix(other.Key, "gwk_"+other.ID+"_") || other.Name != "other" || other.State != "active" || strings.Join(other.Scopes, " ") != "read write" ||
		other.Expires.Sub(other.Created) != 90*24*time.Hour || other.Used != nil || other.Revoked != nil {
		t.Errorf("made %+v", other)
	}
	var table string
	testenv.Eventually(t, "the use to be listed", func() bool {
		table, _, _ = command(t, w, "api-keys")
		return regexp.MustCompile(`(?m)^` + id + ` .* 20\d\d-\d\d-\d\d +active$`).MatchString(table)
	})
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if len(lines) != 3 || !regexp.MustCompile(`^KEY +NAME +PROXIES +SCOPES +EXPIRES +LAST USED +STATE$`).MatchString(lines[0]) ||
		!regexp.MustCompile(`^`+other.ID+` +other +robots +read write +20\S+Z +never +active$`).MatchString(lines[1]) ||
		!regexp.MustCompile(`^`+id+` +nightly report +robots,both +read mcp +20\S+Z +20\S+ +active$`).MatchString(lines[2]) {
		t.Errorf("listed as\n%s", table)
	}

	if out, errs, ok := command(t, w, "revoke-api-key", id); !ok || !strings.Contains(out, id) || !strings.Contains(out, "revoked") {
		t.Errorf("revoke-api-key: %s%s", out, errs)
	}
	if status, _ := callWith(t, w, "robots", withHeader("X-API-Key", key)); status != http.StatusUnauthorized {
		t.Errorf("after it was revoked: %d", status)
	}
	// Whoever finds a key can end it by itself.
	if out, errs, ok := command(t, w, "revoke-api-key", other.Key, "--json"); !ok || !strings.Contains(out, `"state":"revoked"`) {
		t.Errorf("revoke-api-key with the key: %s%s", out, errs)
	}
	if status, _ := callWith(t, w, "robots", withHeader("X-API-Key", other.Key)); status != http.StatusUnauthorized {
		t.Errorf("the other after it was revoked: %d", status)
	}
	table, _, _ = command(t, w, "api-keys")
	if strings.Count(table, "revoked") != 2 || strings.Contains(table, key[20:40]) {
		t.Errorf("listed as\n%s", table)
	}
	testenv.Eventually(t, "the audit lines", func() bool {
		return strings.Count(w.Log(), `"msg":"api key created"`) == 2 && strings.Count(w.Log(), `"msg":"api key revoked"`) == 2
	})
	for _, what := range []string{key, other.Key} {
		if strings.Contains(w.Log(), what[20:]) {
			t.Error("the log has a key")
		}
	}
}

func TestMistakesWithAPIKeysAreExplained(t *testing.T) {
	t.Parallel()
	w := keyWorld(t)
	key, _ := createKey(t, w, "--proxy", "robots")
	for want, args := range map[string][]string{
		"name is missing":          {"create-api-key", "--proxy", "robots"},
		"proxies is missing":       {"create-api-key", "--name", "x"},
		"nobody\" is not declared": {"create-api-key", "--name", "x", "--proxy", "nobody"},
		"proxy \"demo\" has no upstream token for an API key, which acts for no user: set its machine_token": {"create-api-key", "--name", "x", "--proxy", "demo"},
		"admin\" is none of the proxies', which have read, write":                                            {"create-api-key", "--name", "x", "--proxy", "robots", "--scope", "admin", "--scope", "read"},
		"scopes is empty":                {"create-api-key", "--name", "x", "--proxy", "robots", "--scope", ""},
		"never\" is no time to live":     {"create-api-key", "--name", "x", "--proxy", "robots", "--expires", "never"},
		"a key lives for 1m to 365d":     {"create-api-key", "--name", "x", "--proxy", "robots", "--expires", "366d"},
		"\"0s\" is no time to live":      {"create-api-key", "--name", "x", "--proxy", "robots", "--expires", "0s"},
		"unknown flag: --proxies":        {"create-api-key", "--name", "x", "--proxies", "robots"},
		"unknown command":                {"create-api-key", "robots"},
		"there is no API key of this id": {"revoke-api-key", "0123456789abcdef"},
		"no API key of this id":          {"revoke-api-key", "a/../b?c#d"},
		"not a whole API key":            {"revoke-api-key", key[:40]},
		"accepts 1 arg(s), received 0":   {"revoke-api-key"},
	} {
		out, errs, ok := command(t, w, args...)
		if ok || out != "" || !strings.Contains(strings.ReplaceAll(errs, `\`, ""), want) {
			t.Errorf("%v: %q, %q; want it to say %s", args, out, errs, want)
		}
	}
	keys := w.AdminURL() + "/oauth_proxy/api_keys"
	for name, c := range map[string]struct {
		method, address, contentType, body string
		status                             int
		want                               string
	}{
		"slip of the pen": {"POST", keys, "application/json", `{"name":"x","proxies":["robots"],"scope":["read"]}`, 400, `unknown field \"scope\"`},
		"no scope":        {"POST", keys, "application/json", `{"name":"x","proxies":["robots"],"scopes":[]}`, 400, "scopes is empty"},
		"empty scope":     {"POST", keys, "application/json", `{"name":"x","proxies":["robots"],"scopes":[""]}`, 400, "scopes: none is one of proxy"},
		"no JSON":         {"POST", keys, "application/json", `name=x`, 400, "send a JSON object with name, proxies, scopes and expires_in"},
		"two objects":     {"POST", keys, "application/json", `{"name":"x","proxies":["robots"]}{}`, 400, "send one JSON object"},
		"list":            {"POST", keys, "application/json", `[]`, 400, "send a JSON object"},
		"form":            {"POST", keys, "application/x-www-form-urlencoded", `{"name":"x","proxies":["robots"]}`, 415, "with Content-Type: application/json"},
		"text":            {"POST", keys, "text/plain", `{"name":"x","proxies":["robots"]}`, 415, "with Content-Type: application/json"},
		"without type":    {"POST", keys, "", `{"name":"x","proxies":["robots"]}`, 415, "with Content-Type: application/json"},
		"huge":            {"POST", keys, "application/json", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "too large"},
		"number":          {"POST", keys, "application/json", `{"name":"x","proxies":["robots"],"expires_in":60}`, 400, "send a JSON object with"},
		"replaced":        {"PUT", keys, "application/json", `{}`, 405, "use GET, or POST"},
		"all deleted":     {"DELETE", keys, "", "", 405, "use GET, or POST"},
		"one asked for":   {"GET", keys + "/0123456789abcdef", "", "", 405, "use DELETE"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, c.address, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.contentType != "" {
			req.Header.Set("Content-Type", c.contentType)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(body), c.want) {
			t.Errorf("%s: %d %s, %v; want %d, and it to say %s", name, resp.StatusCode, body, err, c.status, c.want)
		}
	}
	if out, _, _ := command(t, w, "api-keys"); strings.Count(out, "\n") != 2 {
		t.Errorf("a mistake made a key:\n%s", out)
	}
	if strings.Contains(w.Log(), key[20:40]) {
		t.Error("the log has part of the key")
	}
}

// keyTransport sends an API key with each request.
type keyTransport struct{ key string }

func (k keyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-API-Key", k.key)
	return http.DefaultTransport.RoundTrip(r)
}

// The official SDK, with nothing but a header.
func TestSDKClientCallsToolsWithAnAPIKeyAcrossARestart(t *testing.T) {
	t.Parallel()
	w := keyWorld(t)
	key, id := createKey(t, w, "--proxy", "robots")
	w.Terminate()
	w.Run()
	for _, version := range []string{testenv.Stateful, testenv.Stateless} {
		client := mcp.NewClient(&mcp.Implementation{Name: "robot", Version: "1"}, nil)
		session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: w.ProxyURL("robots"), HTTPClient: &http.Client{Transport: keyTransport{key}}},
			&mcp.ClientSessionOptions{ProtocolVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		if text, err := testenv.Call(t.Context(), session, "whoami", nil); err != nil || !strings.Contains(text, "You are the robot") {
			t.Errorf("whoami: %q, %v", text, err)
		}
		_ = session.Close()
	}
	line := `"user":"api-key:` + id + `","user_id":"api-key:` + id + `","client_id":"api-key:` + id + `"`
	testenv.Eventually(t, "a line that says whose request it was", func() bool { return strings.Contains(w.Log(), line) })
}

func TestT58StreamEndsWithItsAPIKey(t *testing.T) {
	t.Parallel()
	w := keyWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for header, scheme := range map[string]string{"X-API-Key": "", "Authorization": "Bearer "} {
		key, id := createKey(t, w, "--proxy", "events")
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.ProxyURL("events"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(header, scheme+key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		if line, err := lines.ReadString('\n'); err != nil || line != "data: first\n" {
			t.Fatalf("%d %q, %v", resp.StatusCode, line, err)
		}
		if _, errs, ok := command(t, w, "revoke-api-key", id); !ok {
			t.Fatal(errs)
		}
		if rest, err := io.ReadAll(lines); err != nil || len(rest) > 1 {
			t.Errorf("%q, %v; want a clean end", rest, err)
		}
	}
}
