package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// said is the text that a tool answered in a JSON-RPC response.
func said(t *testing.T, a testenv.Answer, err error) string {
	t.Helper()
	var m struct {
		Result struct{ Content []struct{ Text string } }
	}
	if err != nil || a.Status != http.StatusOK || json.Unmarshal([]byte(a.Body), &m) != nil || len(m.Result.Content) != 1 {
		t.Fatalf("%d %s, %v", a.Status, a.Body, err)
	}
	if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Mcp-Session-Id") != "" {
		t.Errorf("headers %v", a.Header)
	}
	return m.Result.Content[0].Text
}

// sessionsSeen are the sessions in which the server was sent requests with an HTTP method.
func sessionsSeen(w *testenv.World, method string) map[string]bool {
	seen := make(map[string]bool)
	for _, r := range w.MCP.Requests() {
		if id := r.Header.Get("Mcp-Session-Id"); id != "" && r.Method == method {
			seen[id] = true
		}
	}
	return seen
}

func TestSimpleChatbotCallsToolsThroughCompat(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Proxy: "compat"})
	alice, bob := w.NewPlainBot(t), w.NewPlainBot(t)
	alice.Login(t, testenv.NewBrowser(testenv.Alice))
	bob.Login(t, testenv.NewBrowser(testenv.Bob))
	for range 2 {
		for user, b := range map[string]*testenv.PlainBot{"alice": alice, "bob": bob} {
			list, err := b.SendSimply(t.Context(), "tools/list", "{}")
			if err != nil || list.Status != http.StatusOK || !strings.HasPrefix(list.Body, "{") || !strings.Contains(list.Body, `"whoami"`) {
				t.Fatalf("tools/list: %d %s, %v", list.Status, list.Body, err)
			}
			a, err := b.SendSimply(t.Context(), "tools/call", `{"name":"whoami","arguments":{}}`)
			if got := said(t, a, err); !strings.Contains(got, "You are "+user) {
				t.Errorf("%s: %s", user, got)
			}
		}
		alice.Refresh(t)
	}
	if n := len(sessionsSeen(w, http.MethodPost)); n != 2 {
		t.Errorf("%d sessions", n)
	}

	// A script with a session token is another client, and so has another session.
	token := sessionToken(t, w, testenv.Alice)
	status, _, m := post(t, w.ProxyURL("demo")+"/tools/list", "application/json", `{"jsonrpc":"2.0","id":"x","method":"tools/list"}`, func(r *http.Request) {
		r.Header.Set("X-Session-Token", token)
	})
	if status != http.StatusOK || m["id"] != "x" || m["result"] == nil {
		t.Errorf("with a session token: %d %v", status, m)
	}
	if n := len(sessionsSeen(w, http.MethodPost)); n != 3 {
		t.Errorf("%d sessions", n)
	}
	for _, r := range w.MCP.Requests() {
		if r.Path != "/mcp" {
			t.Errorf("the server saw %s %s", r.Method, r.Path)
		}
		if id := r.Header.Get("Mcp-Session-Id"); id != "" && strings.Contains(w.Log(), id) {
			t.Error("the log has a session id")
		}
	}

	// The official SDK's client is served as ever.
	for _, version := range []string{testenv.Stateful, testenv.Stateless} {
		s := w.Connect(t, testenv.NewBrowser(testenv.Alice), w.ProxyURL("demo"), version)
		if who, err := testenv.Call(t.Context(), s, "whoami", nil); err != nil || !strings.Contains(who, "You are alice") {
			t.Errorf("%s: %q, %v", version, who, err)
		}
		_ = s.Close()
	}

	// When the process leaves it says good-bye.
	opened := sessionsSeen(w, http.MethodPost)
	w.Terminate()
	for id := range opened {
		if !sessionsSeen(w, http.MethodDelete)[id] {
			t.Errorf("session %s was not ended", id)
		}
	}
}

func TestReloadEndsSessionsOfCompatAndLosesNoCall(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Proxy: "compat"})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	a, err := b.SendSimply(t.Context(), "tools/call", `{"name":"echo","arguments":{"text":"first"}}`)
	if got := said(t, a, err); got != "first" {
		t.Fatal(got)
	}
	before := len(w.MCP.Requests())
	type result struct {
		answer testenv.Answer
		err    error
	}
	slow := make(chan result)
	go func() {
		a, err := b.SendSimply(t.Context(), "tools/call", `{"name":"count","arguments":{"to":20,"ms":100}}`)
		slow <- result{a, err}
	}()
	testenv.Eventually(t, "the slow call to arrive", func() bool { return len(w.MCP.Requests()) > before })
	if err := w.Reload(w.CaddyfileWith("retention 80d")); err != nil {
		t.Fatal(err)
	}
	a, err = b.SendSimply(t.Context(), "tools/call", `{"name":"echo","arguments":{"text":"second"}}`)
	if got := said(t, a, err); got != "second" {
		t.Error(got)
	}
	if ended := sessionsSeen(w, http.MethodDelete); len(ended) != 0 {
		t.Error("the session was ended while a call was under way in it")
	}
	r := <-slow
	if got := said(t, r.answer, r.err); got != "Counted to 20." {
		t.Error(got)
	}
	testenv.Eventually(t, "the session to be ended", func() bool { return len(sessionsSeen(w, http.MethodDelete)) == 1 })
	if opened := sessionsSeen(w, http.MethodPost); len(opened) != 2 {
		t.Errorf("%d sessions", len(opened))
	}
	onlyTokensOf(t, w, "alice")
}
