package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// plainProvider is an OAuth server without a login page: whoever comes is u1.
func plainProvider(t *testing.T) *httptest.Server {
	t.Helper()
	var mu sync.Mutex
	issued := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/authorize":
			http.Redirect(w, r, r.Form.Get("redirect_uri")+"?"+url.Values{"code": {"c"}, "state": {r.Form.Get("state")}}.Encode(), http.StatusFound)
		case "/token":
			mu.Lock()
			defer mu.Unlock()
			issued++
			token := map[string]string{
				"authorization_code":                              "token-of-the-user",
				"client_credentials":                              fmt.Sprintf("token-of-the-gateway-%d-for-%s", issued, r.Form.Get("audience")),
				"urn:ietf:params:oauth:grant-type:token-exchange": "exchanged-for-" + r.Form.Get("subject_token"),
			}[r.Form.Get("grant_type")]
			_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":600,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, token)
		case "/me":
			_, _ = fmt.Fprint(w, `{"sub":"u1","email":"u1@example.com"}`)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

// sessionOf logs a user in at a provider that asks nothing.
func sessionOf(t *testing.T, w *testenv.World, provider string) string {
	t.Helper()
	_, _, m := post(t, w.URL+"/api/v1/oauth/authorize/"+provider, "application/json", "")
	data, _ := m["data"].(map[string]any)
	callback := testenv.NewBrowser(testenv.Alice).Login(t, data["authorization_url"].(string), w.URL+"/api/v1/oauth/callback")
	var answer struct {
		Data struct {
			Token string `json:"session_token"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(get(t, callback.String()+"&format=json")), &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Data.Token
}

func TestServersGetTheTokenOfTheirSource(t *testing.T) {
	t.Parallel()
	idp := plainProvider(t)
	var mu sync.Mutex
	seen := make(map[string]http.Header)
	refuse := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.Path] = r.Header.Clone()
		if refuse != "" && strings.Contains(r.Header.Get("Authorization")+r.Header.Get("X-Service-Key"), refuse) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{}`))
	}))
	t.Cleanup(server.Close)
	var global, site strings.Builder
	fmt.Fprintf(&global, "provider plain {\n type oauth2\n client_id gateway\n client_secret {env.PLAIN_SECRET}\n authorization_url %[1]s/authorize\n token_url %[1]s/token\n userinfo_url %[1]s/me\n}\n", idp.URL)
	for id, source := range map[string]string{
		"user":     "user",
		"static":   "static {env.STATIC_TOKEN}",
		"key":      "static {env.STATIC_TOKEN} X-Service-Key",
		"machine":  "client_credentials {\n param audience jira\n scopes read\n}",
		"fresh":    "client_credentials plain {\n fresh\n}",
		"exchange": "exchange {\n param audience jira\n}",
	} {
		fmt.Fprintf(&global, "proxy %[1]s {\n resource {{URL}}/%[1]s/mcp\n provider plain\n upstream_token %[2]s\n}\n", id, source)
		fmt.Fprintf(&site, "mcp_proxy %s %s\n", id, server.URL)
	}
	w := testenv.Start(t, testenv.Options{
		Env: []string{"PLAIN_SECRET=secret-at-the-plain-provider", "STATIC_TOKEN=static-token-of-the-operator"},
		Caddyfile: func(w *testenv.World) string {
			c := w.CaddyfileWith("provider" + strings.TrimPrefix(strings.ReplaceAll(global.String(), "{{URL}}", w.URL), "provider"))
			c = strings.Replace(c, "proxy demo {", "proxy demo {\n provider demo", 1)
			return strings.Replace(c, "\n\t\tmcp_proxy demo", "\n"+site.String()+"\n\t\tmcp_proxy demo", 1)
		},
	})
	token := sessionOf(t, w, "plain")
	call := func(id string) int {
		t.Helper()
		status, _, _ := post(t, w.ProxyURL(id), "application/json", `{"jsonrpc":"2.0","id":1,"method":"ping"}`, func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+token)
			r.Header.Set("X_Service_Key", "smuggled")
			r.Header.Set("X-Service-Key", "smuggled")
		})
		return status
	}
	header := func(id string) http.Header {
		mu.Lock()
		defer mu.Unlock()
		return seen["/"+id+"/mcp"]
	}
	for id, want := range map[string]string{
		"user": "Bearer token-of-the-user", "static": "Bearer static-token-of-the-operator", "key": "",
		"exchange": "Bearer exchanged-for-token-of-the-user",
	} {
		if status := call(id); status != http.StatusOK || header(id).Get("Authorization") != want {
			t.Errorf("%s: %d, the server saw %v", id, status, header(id))
		}
	}
	if h := header("key"); h.Get("X-Service-Key") != "static-token-of-the-operator" || len(h["X-Service-Key"]) != 1 || h["X_service_key"] != nil {
		t.Errorf("key: the server saw %v", h)
	}
	tokens := make(map[string]map[string]bool)
	for _, id := range []string{"machine", "machine", "fresh", "fresh"} {
		if status := call(id); status != http.StatusOK {
			t.Errorf("%s: %d", id, status)
		}
		if tokens[id] == nil {
			tokens[id] = make(map[string]bool)
		}
		tokens[id][header(id).Get("Authorization")] = true
	}
	if len(tokens["machine"]) != 1 || len(tokens["fresh"]) != 2 {
		t.Errorf("the server saw %v", tokens)
	}
	// What no login of the user can mend is an outage, not a reason to log in again.
	mu.Lock()
	refuse = "static-token"
	mu.Unlock()
	for _, id := range []string{"static", "key"} {
		if status := call(id); status != http.StatusServiceUnavailable {
			t.Errorf("%s refused by the server: %d", id, status)
		}
	}
	mu.Lock()
	refuse = "token-of-the-gateway-"
	mu.Unlock()
	if status := call("machine"); status != http.StatusServiceUnavailable {
		t.Errorf("machine refused by the server: %d", status)
	}
	if log := w.Log(); strings.Contains(log, "static-token-of-the-operator") || strings.Contains(log, "token-of-the-gateway-") || strings.Contains(log, "exchanged-for") {
		t.Error("the log holds a token")
	}
}
