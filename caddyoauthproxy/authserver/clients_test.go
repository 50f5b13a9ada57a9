package authserver_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func from(address string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("X-Test-Address", address) }
}

// addressed lets a request say where it comes from, as Caddy would after trusting a proxy.
func addressed(o *authserver.Options) {
	o.ClientIP = func(r *http.Request) string {
		if a := r.Header.Get("X-Test-Address"); a != "" {
			return a
		}
		return "192.0.2.1"
	}
}

func unlimited(o *authserver.Options) {
	off := authserver.Rate{Events: -1, Window: time.Second}
	o.Limits = authserver.Limits{Register: off, Authorize: off, Login: off, Token: off, Client: off}
}

const plainRegistration = `{"redirect_uris":["` + redirectURI + `"],"token_endpoint_auth_method":"client_secret_post"}`

func (w *world) clientExists(id string) bool {
	w.t.Helper()
	_, err := w.vault.Client(w.t.Context(), id)
	return err == nil
}

func (w *world) sweep() {
	w.t.Helper()
	if _, err := w.vault.Sweep(w.t.Context(), w.vault.Now(), 10_000); err != nil {
		w.t.Fatal(err)
	}
}

func TestT20ClientInUseIsKeptAndAnUnusedOneIsNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	unused := w.register("")
	b, got := w.session()
	for range 12 { // four months, a refresh every ten days
		w.turn(10 * 24 * time.Hour)
		w.sweep()
		if w.get(endpoints+"/a/authorize?"+authorizeParams(b).Encode()).status != http.StatusOK {
			t.Fatal("the client in use is gone")
		}
		answer := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh))
		if answer.status != http.StatusOK { // the grant's 90 days are over: log in again, with the same client
			got = w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
			continue
		}
		got = w.tokens(answer)
	}
	if w.clientExists(unused.id) {
		t.Error("the client that never came back is still there")
	}
	w.turn(91 * 24 * time.Hour)
	for range 50 {
		w.get(endpoints + "/a/authorize?" + authorizeParams(b).Encode()) // visits without a login keep nobody
	}
	w.turn(31 * 24 * time.Hour)
	w.sweep()
	if w.clientExists(b.id) {
		t.Error("the client that has not been used for months is still there")
	}
}

func TestT20ClientOutlivesItsGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		o.Registration = authserver.Registration{TTL: time.Hour, UnusedTTL: time.Minute}
	})
	b, got := w.session()
	w.turn(29 * 24 * time.Hour)
	w.sweep()
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
}

func TestUsedClientIsNotWrittenForEveryToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	version := func() uint64 {
		c, err := w.vault.Client(t.Context(), b.id)
		if err != nil {
			t.Fatal(err)
		}
		return c.Version
	}
	before := version()
	for range 5 {
		w.turn(time.Hour)
		got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	}
	if n := version() - before; n != 0 {
		t.Errorf("%d writes in five hours", n)
	}
	w.turn(5 * 24 * time.Hour)
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	if n := version() - before; n != 1 {
		t.Errorf("%d writes after five days, want 1", n)
	}
}

func TestT19RegistrationFloodGivesWayToOthersAndKeepsClientsInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, unlimited, addressed, func(o *authserver.Options) {
		o.Registration = authserver.Registration{MaxUnused: 60, MaxPerAddress: 20}
	})
	used, got := w.session()
	waiting := w.register("") // of 192.0.2.1
	flood := func(address string, n int) {
		t.Helper()
		for range n {
			w.turn(time.Millisecond)
			if a := w.postJSON(endpoints+"/a/register", plainRegistration, from(address)); a.status != http.StatusCreated {
				t.Fatalf("%s: %d %s", address, a.status, a.body)
			}
		}
	}
	count := func() int {
		t.Helper()
		n, err := w.vault.CountClients(t.Context(), tokenstore.RefUnused)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	flood("198.51.100.7", 100)
	if n := count(); n > 21 {
		t.Errorf("%d unused clients after a flood from one address", n)
	}
	if !w.clientExists(waiting.id) {
		t.Error("one address pushed out a client of another")
	}
	for i := range 100 {
		flood(fmt.Sprintf("2001:db8:0:%x::1", i), 2)
	}
	if n := count(); n > 60 {
		t.Errorf("%d unused clients after a flood from everywhere", n)
	}
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(used, got.refresh)))
	fresh := w.register("")
	w.tokens(w.postForm(endpoints+"/a/token", codeForm(fresh, w.login(fresh))))
}

func TestT19RegistrationIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if a := w.postJSON(endpoints+"/a/register", `{"client_name":"`+strings.Repeat("x", 1<<20)+`"}`); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("1 MiB: %d", a.status)
	}
	deep := strings.Repeat(`{"x":`, 2000) + "1" + strings.Repeat("}", 2000)
	if a := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"],"x":`+deep+`}`); a.status >= 500 {
		t.Errorf("deeply nested: %d", a.status)
	}
}

func TestDeletedClientIsInvalidClientAtTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	c, err := w.vault.Client(t.Context(), b.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.vault.Commit(t.Context(), tokenstore.Delete(c)); err != nil {
		t.Fatal(err)
	}
	a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh))
	if a.status != http.StatusUnauthorized || a.oauthError(t) != "invalid_client" {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

func TestT18InitialAccessTokenGuardsRegistration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		o.Registration.Tokens = []string{"first-initial-token", "second-initial-token"}
	})
	for token, want := range map[string]int{"": 401, "Bearer wrong": 401, "Basic Zmlyc3Q6": 401, "Bearer ": 401, "Bearer first-initial-token": 201, "bearer second-initial-token": 201} {
		a := w.postJSON(endpoints+"/a/register", plainRegistration, func(r *http.Request) {
			if token != "" {
				r.Header.Set("Authorization", token)
			}
		})
		if a.status != want || want == 401 && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%q: %d %s", token, a.status, a.body)
		}
	}
	closed := newWorld(t, func(o *authserver.Options) { o.Registration.Off = true })
	if a := closed.postJSON(endpoints+"/a/register", plainRegistration); a.status != http.StatusForbidden {
		t.Errorf("registration off: %d", a.status)
	}
	if m := closed.get("/.well-known/oauth-authorization-server").json(t); m["registration_endpoint"] != nil {
		t.Error("metadata names an endpoint that is off")
	}
}

func (w *world) manage(method, uri, token, body string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, uri, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return do(w.t, noRedirect(), req)
}

func TestClientManagesItsOwnRegistration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"],"client_name":"Bot","token_endpoint_auth_method":"client_secret_post"}`).json(t)
	uri, token := first["registration_client_uri"].(string), first["registration_access_token"].(string)
	b := bot{first["client_id"].(string), first["client_secret"].(string)}
	other := w.postJSON(endpoints+"/a/register", plainRegistration).json(t)

	read := w.manage(http.MethodGet, uri, token, "")
	if m := read.json(t); read.status != http.StatusOK || m["client_name"] != "Bot" || m["registration_access_token"] != token || m["registration_client_uri"] != uri || m["client_secret"] != nil {
		t.Errorf("read: %d %s", read.status, read.body)
	}
	for name, c := range map[string]struct{ uri, token string }{
		"no token":             {uri, ""},
		"wrong token":          {uri, "gwreg_AAAAAAAAAAAAAAAAAAAAAAAAAA"},
		"token of another":     {uri, other["registration_access_token"].(string)},
		"client that is not":   {uri + "0", token},
		"client as token":      {uri, b.secret},
		"odd id":               {w.url + "/api/v1/oauth/clients/%2e%2e", token},
		"another one's client": {other["registration_client_uri"].(string), token},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			if a := w.manage(method, c.uri, c.token, plainRegistration); a.status != http.StatusUnauthorized && a.status != http.StatusNotFound {
				t.Errorf("%s %s: %d %s", method, name, a.status, a.body)
			}
		}
	}
	if a := w.manage(http.MethodPatch, uri, token, ""); a.status != http.StatusMethodNotAllowed {
		t.Errorf("PATCH: %d", a.status)
	}

	got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	put := func(members string) answer {
		return w.manage(http.MethodPut, uri, token, `{"client_id":"`+b.id+`","redirect_uris":["`+redirectURI+`"]`+members+`}`)
	}
	for name, c := range map[string]struct{ body, code string }{
		"another client_id": {`{"client_id":"x","redirect_uris":["` + redirectURI + `"]}`, "invalid_client_metadata"},
		"no client_id":      {plainRegistration, "invalid_client_metadata"},
		"bad redirect URI":  {`{"client_id":"` + b.id + `","redirect_uris":["http://evil.test/"]}`, "invalid_redirect_uri"},
		"chosen secret":     {`{"client_id":"` + b.id + `","client_secret":"mine","redirect_uris":["` + redirectURI + `"]}`, "invalid_client_metadata"},
	} {
		if a := w.manage(http.MethodPut, uri, token, c.body); a.oauthError(t) != c.code {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	changed := put(`,"client_name":"New Bot","token_endpoint_auth_method":"client_secret_basic"`)
	if m := changed.json(t); changed.status != http.StatusOK || m["client_name"] != "New Bot" || m["client_secret"] != nil {
		t.Errorf("replace: %d %s", changed.status, changed.body)
	}
	got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	if m := put(`,"token_endpoint_auth_method":"none"`).json(t); m["client_secret"] != nil || m["client_secret_expires_at"] != nil {
		t.Errorf("public now: %v", m)
	}
	if m := put(`,"token_endpoint_auth_method":"client_secret_post"`).json(t); m["client_secret"] == nil {
		t.Errorf("confidential again, without a new secret: %v", m)
	}

	if a := w.manage(http.MethodDelete, uri, token, ""); a.status != http.StatusNoContent || a.body != "" {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	if w.works(got.access) {
		t.Error("the access token outlives its client")
	}
	if a := w.manage(http.MethodGet, uri, token, ""); a.status != http.StatusUnauthorized {
		t.Errorf("read after delete: %d", a.status)
	}
}

// configured adds clients as the configuration would.
func configured(clients ...*authserver.ConfiguredClient) option {
	return func(o *authserver.Options) { o.Clients = append(o.Clients, clients...) }
}

func configuredClient(id, secret string, grantTypes ...string) *authserver.ConfiguredClient {
	c := &authserver.ConfiguredClient{Client: tokenstore.Client{
		Meta: tokenstore.Meta{ID: id}, Name: "Known " + id, RedirectURIs: []string{redirectURI}, GrantTypes: grantTypes, AuthMethod: "none",
	}, Secret: secret}
	if secret != "" {
		c.AuthMethod = "client_secret_basic"
	}
	return c
}

func TestConfiguredClientLogsInAtItsProxiesOnly(t *testing.T) {
	t.Parallel()
	known := configuredClient("reports", "a-secret-of-the-operator", "authorization_code", "refresh_token")
	known.Proxies = []string{"a"}
	w := newWorld(t, configured(known))
	b := bot{"reports", "a-secret-of-the-operator"}
	page := w.browser().authorize(authorizeParams(b))
	if !strings.Contains(page.body, "run this gateway") || !strings.Contains(page.body, "Known reports") {
		t.Errorf("consent page: %s", page.body)
	}
	got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	if a := w.browser().get(w.url + endpoints + "/b/authorize?" + authorizeParams(b).Encode()); a.status != http.StatusBadRequest {
		t.Errorf("at the other proxy: %d", a.status)
	}
	wrong := b
	wrong.secret = "another"
	if a := w.postForm(endpoints+"/a/token", refreshForm(wrong, got.refresh)); a.status != http.StatusUnauthorized {
		t.Errorf("wrong secret: %d", a.status)
	}
	if a := w.postForm(endpoints+"/a/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {b.id}, "client_secret": {b.secret}}); a.oauthError(t) != "unauthorized_client" {
		t.Errorf("client_credentials: %s", a.body)
	}
}

func TestClientCredentialsAreForConfiguredClientsAtProxiesWithAToken(t *testing.T) {
	t.Parallel()
	machine := configuredClient("machine", "a-secret-of-the-operator", "client_credentials")
	w := newWorld(t, configured(machine, configuredClient("public", "", "client_credentials")), func(o *authserver.Options) {
		o.Proxies[0].Machines = true
		o.Proxies[0].Scopes = []string{"read", "write"}
	})
	form := func(changes ...string) url.Values {
		v := url.Values{"grant_type": {"client_credentials"}, "client_id": {"machine"}, "client_secret": {"a-secret-of-the-operator"}}
		for i := 0; i < len(changes); i += 2 {
			v.Set(changes[i], changes[i+1])
		}
		return v
	}
	a := w.postForm(endpoints+"/a/token", form("scope", "read"))
	m := a.json(t)
	access, _ := m["access_token"].(string)
	if a.status != http.StatusOK || m["refresh_token"] != nil || m["scope"] != "read" || !w.works(access) {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(access, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil || claims["sub"] != "machine" || claims["client_id"] != "machine" || claims["aud"] != w.url+"/mcp/a" {
		t.Errorf("claims: %s, %v", payload, err)
	}
	if m := w.postForm(endpoints+"/introspect", form("token", access)).json(t); m["active"] != true {
		t.Errorf("introspection: %v", m)
	}
	if a := w.postForm(endpoints+"/revoke", form("token", access)); a.status != http.StatusOK || w.works(access) {
		t.Errorf("revocation: %d", a.status)
	}
	w.turn(2 * time.Hour)
	for name, c := range map[string]struct {
		path string
		form url.Values
		code string
	}{
		"proxy without a token": {"/b/token", form(), "invalid_target"},
		"no proxy named":        {"/token", form(), "invalid_target"},
		"foreign scope":         {"/a/token", form("scope", "admin"), "invalid_scope"},
		"wrong secret":          {"/a/token", form("client_secret", "x"), "invalid_client"},
		"public client":         {"/a/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {"public"}}, "unauthorized_client"},
	} {
		if a := w.postForm(endpoints+c.path, c.form); a.oauthError(t) != c.code {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	registered := w.register(`,"grant_types":["authorization_code","client_credentials"]`)
	if a := w.postForm(endpoints+"/a/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {registered.id}, "client_secret": {registered.secret}}); a.oauthError(t) != "unauthorized_client" {
		t.Errorf("registered client: %s", a.body)
	}
}

func TestT46SecretOfTheConfigurationMayHaveAnyCharacters(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"aGVsbG8+d29ybGQ/IQ==", "100%25 sure & then+some", "ümlaut-in-the-secret", "colon:in:the:secret"} {
		w := newWorld(t, configured(configuredClient("known", secret, "authorization_code", "refresh_token")))
		got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(bot{"known", secret}, w.login(bot{id: "known"}))))
		for name, presented := range map[string]string{"encoded": url.QueryEscape(secret), "as it is": secret} {
			form := refreshForm(bot{}, got.refresh)
			form.Del("client_id")
			form.Del("client_secret")
			a := w.postForm(endpoints+"/a/token", form, func(r *http.Request) { r.SetBasicAuth("known", presented) })
			if a.status != http.StatusOK {
				t.Errorf("%q %s: %d %s", secret, name, a.status, a.body)
				continue
			}
			got = w.tokens(a)
		}
	}
}

// What chatbots in the field register, as far as it is known in public.
var registrations = map[string]string{
	"claude":      `{"client_name":"Claude","redirect_uris":["https://claude.ai/api/mcp/auth_callback"],"grant_types":["authorization_code","refresh_token"],"response_types":["code"],"token_endpoint_auth_method":"none","scope":"claudeai"}`,
	"claude.com":  `{"client_name":"Claude","redirect_uris":["https://claude.com/api/mcp/auth_callback"],"token_endpoint_auth_method":"client_secret_post"}`,
	"claude code": `{"client_name":"Claude Code","redirect_uris":["http://localhost:54545/callback"],"token_endpoint_auth_method":"none","application_type":"native"}`,
	"chatgpt":     `{"client_name":"ChatGPT","redirect_uris":["https://chatgpt.com/connector/oauth/3fXk_9-a"],"token_endpoint_auth_method":"none"}`,
	"chatgpt old": `{"client_name":"ChatGPT","redirect_uris":["https://chatgpt.com/connector_platform_oauth_redirect"]}`,
	"vscode":      `{"client_name":"Visual Studio Code","redirect_uris":["http://127.0.0.1","https://vscode.dev/redirect","http://127.0.0.1/","http://127.0.0.1:33418","http://127.0.0.1:33418/"],"token_endpoint_auth_method":"none"}`,
	"cursor":      `{"client_name":"Cursor","redirect_uris":["cursor://anysphere.cursor-mcp/oauth/callback","https://www.cursor.com/agents/mcp/oauth/callback","http://localhost:8787/callback"],"token_endpoint_auth_method":"none"}`,
	"cursor old":  `{"client_name":"Cursor","redirect_uris":["cursor://oauth-callback"],"token_endpoint_auth_method":"client_secret_post"}`,
	"inspector":   `{"client_name":"MCP Inspector","redirect_uris":["http://localhost:6274/oauth/callback"],"token_endpoint_auth_method":"none"}`,
	"inspector 2": `{"client_name":"MCP Inspector","redirect_uris":["http://127.0.0.1:6276/oauth/callback"],"scope":"mcp offline_access"}`,
	"mcp-remote":  `{"client_name":"MCP CLI Proxy","redirect_uris":["http://localhost:9703/oauth/callback"],"token_endpoint_auth_method":"none"}`,
	"go sdk":      `{"client_name":"x","redirect_uris":["http://localhost:1/x"],"token_endpoint_auth_method":"client_secret_basic"}`,
}

func TestKnownChatbotsRegisterWithTheDefaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, body := range registrations {
		for _, path := range []string{"/register", "/a/register"} {
			if a := w.postJSON(endpoints+path, body); a.status != http.StatusCreated {
				t.Errorf("%s at %s: %d %s", name, path, a.status, a.body)
			}
		}
	}
}

func TestPresetsLetInWhomTheyNameAndNobodyElse(t *testing.T) {
	t.Parallel()
	members := map[string][]string{
		"claude": {"claude", "claude.com", "claude code"}, "chatgpt": {"chatgpt", "chatgpt old"}, "vscode": {"vscode"},
		"cursor": {"cursor", "cursor old", "claude code"}, "inspector": {"inspector", "inspector 2", "mcp-remote"},
		"loopback": {"claude code", "inspector", "inspector 2", "mcp-remote", "go sdk"},
	}
	for _, preset := range authserver.RedirectPresets() {
		w := newWorld(t, func(o *authserver.Options) { o.Proxies[0].AllowedRedirects = []string{preset} })
		for name, body := range registrations {
			want := http.StatusBadRequest
			if slices.Contains(members[preset], name) {
				want = http.StatusCreated
			}
			if a := w.postJSON(endpoints+"/a/register", body); a.status != want {
				t.Errorf("preset %s, %s: %d %s", preset, name, a.status, a.body)
			}
		}
	}
}

func TestT25OneUserKeepsSoManyGrantsOfAClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.MaxGrants = 3 })
	b := w.register("")
	other, kept := w.session()
	var all []tokens
	for range 5 {
		w.turn(time.Minute)
		all = append(all, w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b)))))
	}
	for i, got := range all[:2] {
		waitFor(t, fmt.Sprintf("login %d of 5 to end", i+1), func() bool { return !w.works(got.access) })
	}
	for i, got := range all[2:] {
		if !w.works(got.access) {
			t.Errorf("login %d of 5 has ended", i+3)
		}
	}
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(other, kept.refresh)))
}

func TestT25OneUserKeepsSoManyGrantsHoweverManyHaveEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.MaxGrants = 1 })
	b, first := w.session()
	grant, _, err := w.server.Authenticate(t.Context(), first.access, "a")
	if err != nil {
		t.Fatal(err)
	}
	var ended []tokenstore.Write
	for i := range 1100 { // more than a page of the vault, and in front of all others
		g := *grant
		g.Meta = tokenstore.Meta{ID: fmt.Sprintf("00000000000000000000%06d", i), DeleteAfter: grant.DeleteAfter}
		g.State = tokenstore.StateRevoked
		ended = append(ended, tokenstore.Save(&g))
	}
	for batch := range slices.Chunk(ended, 200) {
		if err := w.vault.Commit(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	w.turn(time.Minute)
	second := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	waitFor(t, "the first login to end", func() bool { return !w.works(first.access) })
	if !w.works(second.access) {
		t.Error("the second login has ended")
	}
}
