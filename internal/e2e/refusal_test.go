package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// Whatever is refused, the MCP server hears nothing of it.
func TestT51T59T62T65RefusedRequestsNeverReachTheServer(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	if _, err := b.WhoAmI(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := len(w.MCP.Requests())
	auth := func(v ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["Authorization"] = v }
	}
	for name, c := range map[string]struct {
		edit   func(*http.Request)
		status int
		error  string // in the challenge; "-" for a challenge without error
	}{
		"no credential":          {auth(), 401, "-"},
		"another scheme":         {auth("Basic YTpi"), 401, ""},
		"garbage":                {auth("Bearer garbage"), 401, "invalid_token"},
		"refresh token":          {auth("Bearer " + b.Token()), 401, "invalid_token"},
		"authorization code":     {auth("Bearer " + b.Code), 401, "invalid_token"},
		"cut":                    {auth("Bearer " + b.Access()[:len(b.Access())-4]), 401, "invalid_token"},
		"two headers":            {auth("Bearer "+b.Access(), "Bearer "+b.Access()), 400, "invalid_request"},
		"two carriers":           {func(r *http.Request) { r.Header.Set("X-Session-Token", b.Access()) }, 400, "invalid_request"},
		"token in the query":     {func(r *http.Request) { r.Header.Del("Authorization"); r.URL.RawQuery = "access_token=" + b.Access() }, 400, "invalid_request"},
		"and also in the header": {func(r *http.Request) { r.URL.RawQuery = "access_token=" + b.Access() }, 400, "invalid_request"},
	} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			a, err := b.Send(t.Context(), method, testenv.ToolCall("whoami"), c.edit)
			if err != nil || a.Status != c.status {
				t.Errorf("%s, %s: %+v, %v, want %d", name, method, a, err, c.status)
				continue
			}
			challenge := a.Header.Get("WWW-Authenticate")
			if a.Status == http.StatusUnauthorized && !strings.Contains(challenge, `resource_metadata="`+w.URL+`/.well-known/oauth-protected-resource/demo/mcp"`) {
				t.Errorf("%s, %s: challenge %q", name, method, challenge)
			}
			if c.error == "-" && strings.Contains(challenge, "error") || c.error != "-" && c.error != "" && !strings.Contains(challenge+a.Body, c.error) {
				t.Errorf("%s, %s: challenge %q", name, method, challenge)
			}
		}
	}
	for _, path := range []string{"/demo/mcp/", "/demo/mcp%2f", "/demo/mcp;x", "/demo/mcp%00", "//demo/mcp", "/./demo/mcp", "/a/../demo/mcp", "/demo/%6dcp", "/DEMO/MCP", "/demo/mcp/../mcp", "/demo/mcpx", `/demo\mcp`} {
		for _, method := range []string{"GET", "POST", "DELETE", "HEAD", "OPTIONS", "TRACE", "FOO"} {
			line := raw(t, w, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", method, path, strings.TrimPrefix(w.URL, "http://")))
			if strings.Contains(line, " 200 ") || strings.Contains(line, " 202 ") {
				t.Errorf("%s %s without a token: %s", method, path, line)
			}
		}
	}
	if after := w.MCP.Requests(); len(after) != before {
		t.Errorf("the server saw %d requests that were refused, the last one: %+v", len(after)-before, after[len(after)-1])
	}
}

// raw sends bytes as they are and returns the status line.
func raw(t *testing.T, w *testenv.World, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(c).ReadString('\n')
	return line
}

// Tokens that the gateway's own key has signed, and that are still not for this request.
func TestT51T53ForgedTokensNeverReachTheServer(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	sign := signer(t, w)
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(b.Access(), ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	claims := func(edit func(map[string]any)) []byte {
		var c map[string]any
		if err := json.Unmarshal(payload, &c); err != nil {
			t.Fatal(err)
		}
		edit(c)
		forged, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return forged
	}
	same := claims(func(map[string]any) {})
	send := func(token string) testenv.Answer {
		a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"), func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := send(sign("at+jwt", same)); a.Status != http.StatusOK {
		t.Fatalf("the forge is no good: %+v", a)
	}
	before := len(w.MCP.Requests())
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`))
	for name, token := range map[string]string{
		"wrong audience": sign("at+jwt", claims(func(c map[string]any) { c["aud"] = w.URL + "/other/mcp" })),
		"wrong issuer":   sign("at+jwt", claims(func(c map[string]any) { c["iss"] = "https://other.test" })),
		"wrong type":     sign("JWT", same),
		"no algorithm":   none + "." + base64.RawURLEncoding.EncodeToString(same) + ".",
		"expired":        sign("at+jwt", claims(func(c map[string]any) { c["exp"] = time.Now().Unix() - 1 })),
		"no expiry":      sign("at+jwt", claims(func(c map[string]any) { delete(c, "exp") })),
		"another grant":  sign("at+jwt", claims(func(c map[string]any) { c["sid"] = "AAAAAAAAAAAAAAAAAAAAAAAAAA" })),
	} {
		a := send(token)
		if a.Status != http.StatusUnauthorized || !strings.Contains(a.Header.Get("WWW-Authenticate"), `error="invalid_token"`) {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if after := len(w.MCP.Requests()); after != before {
		t.Errorf("the server saw %d of them", after-before)
	}
}

// signer takes the signing key out of the vault, with the encryption key, while the gateway is down.
func signer(t *testing.T, w *testenv.World) func(typ jose.ContentType, payload []byte) string {
	t.Helper()
	w.Terminate()
	defer w.Run()
	text, err := os.ReadFile(filepath.Join(w.Dir(), "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := tokenstore.ParseRootKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	store, err := bbolt.Open(w.VaultPath(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	vault, err := tokenstore.Open(t.Context(), store, tokenstore.Options{Keys: []tokenstore.RootKey{root}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := vault.SigningKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(keys.Keys[0].JWK); err != nil {
		t.Fatal(err)
	}
	return func(typ jose.ContentType, payload []byte) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jwk}, (&jose.SignerOptions{}).WithType(typ))
		if err != nil {
			t.Fatal(err)
		}
		jws, err := s.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
}

func TestT60T61T63ClientHeadersCannotSpeakForTheGateway(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"), func(r *http.Request) {
		r.Header.Set("Connection", "close, Authorization, X-Forwarded-For")
		r.Header.Set("Cookie", "oauth_proxy_browser=x")
		r.Header.Set("Proxy-Authorization", "Bearer x")
		r.Header.Set("X-Forwarded-User", "root")
		r.Header["x_forwarded_user"] = []string{"root"}
		r.Header["X.Forwarded.User"] = []string{"root"}
	})
	if err != nil || a.Status != http.StatusOK || !strings.Contains(a.Body, "alice") {
		t.Fatalf("%+v, %v", a, err)
	}
	seen := w.MCP.Requests()
	for name, values := range seen[len(seen)-1].Header {
		folded := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
		if folded == "cookie" || folded == "proxy-authorization" || folded == "x-forwarded-user" {
			t.Errorf("the server got %s: %v", name, values)
		}
	}
	if a.Header.Get("Set-Cookie") != "" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("answer: %v", a.Header)
	}
}

func TestRevokedTokenIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	if _, err := b.WhoAmI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, m, err := b.Form("revoke", "token", b.Token()); err != nil || status != http.StatusOK {
		t.Fatalf("%d %v %v", status, m, err)
	}
	if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestOtherPathsBelongToTheSite(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	for path, status := range map[string]int{
		"/": 404, "/oauth/": 200, "/demo/mcp": 401, "/demo": 404, "/demo/mcpx": 404, "/.well-known/jwks.json": 200,
		"/.well-known/oauth-protected-resource/demo/mcp": 200, "/.well-known/oauth-protected-resource": 200, "/.well-known/other": 404,
	} {
		resp, err := http.Get(w.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, status)
		}
	}
}
