package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

const assertionHeader = "X-Gateway-Assertion"

// caller is what an MCP server reads in an assertion.
type caller struct {
	jwt.Claims
	Email         string `json:"email"`
	EmailVerified bool   `json:"email_verified"`
	ClientID      string `json:"client_id"`
	Grant         string `json:"sid"`
}

// verifier is an MCP server that knows the gateway's issuer and its own address, and nothing else.
type verifier struct {
	issuer, resource string
	now              time.Time
}

// check does what the documentation tells servers to do.
func (v verifier) check(t *testing.T, assertion string) (caller, error) {
	t.Helper()
	var metadata struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := json.Unmarshal([]byte(get(t, v.issuer+"/.well-known/oauth-authorization-server")), &metadata); err != nil {
		t.Fatal(err)
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(get(t, metadata.JWKS)), &keys); err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return caller{}, err
	}
	if token.Headers[0].ExtraHeaders[jose.HeaderType] != "gateway-identity+jwt" {
		return caller{}, errors.New("not an identity assertion")
	}
	var c caller
	if err := token.Claims(keys, &c); err != nil {
		return caller{}, err
	}
	return c, c.Validate(jwt.Expected{Issuer: v.issuer, AnyAudience: jwt.Audience{v.resource}, Time: v.now})
}

func TestServersCheckWhoCallsWithThePublishedKeys(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Proxy: "identity_header X-Caller email\n identity_header X-Caller-Name name\n identity_header X-Caller-Org org\n identity_assertion"})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	before := len(w.MCP.Requests())
	if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"), func(r *http.Request) {
		for _, name := range []string{assertionHeader, "x_gateway_assertion", "X-Caller", "X-Caller-Org"} {
			r.Header[name] = []string{"mallory"}
		}
		r.Header.Set("Connection", "X-Caller, "+assertionHeader)
	}); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%+v, %v", a, err)
	}
	h := w.MCP.Requests()[before].Header
	if h.Get("X-Caller") != "alice@example.com" || h.Get("X-Caller-Name") != "Alice Liddell" || h["X-Caller-Org"] != nil || len(h[assertionHeader]) != 1 {
		t.Fatalf("the server is told %v", h)
	}
	assertion, now := h.Get(assertionHeader), time.Now()
	here := verifier{w.URL, w.ProxyURL("demo"), now}
	c, err := here.check(t, assertion)
	if err != nil || c.Email != "alice@example.com" || !c.EmailVerified || c.ClientID != b.ID || c.Subject == "" || c.Grant == "" {
		t.Errorf("the server reads %+v, %v", c, err)
	}
	parts := strings.Split(assertion, ".")
	for name, bad := range map[string]struct {
		by   verifier
		text string
	}{
		"another server":  {verifier{w.URL, w.ProxyURL("other"), now}, assertion},
		"after its end":   {verifier{w.URL, w.ProxyURL("demo"), now.Add(7 * time.Minute)}, assertion},
		"another payload": {here, parts[0] + "." + strings.Split(b.Access(), ".")[1] + "." + parts[2]},
		"access token":    {here, b.Access()},
	} {
		if c, err := bad.by.check(t, bad.text); err == nil {
			t.Errorf("%s: the server believes %+v", name, c)
		}
	}
	// What the server has been given opens nothing at the gateway.
	for name, edit := range map[string]func(*http.Request){
		"bearer":  func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+assertion) },
		"session": func(r *http.Request) { r.Header.Del("Authorization"); r.Header.Set("X-Session-Token", assertion) },
	} {
		if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami"), edit); err != nil || a.Status != http.StatusUnauthorized {
			t.Errorf("as %s token: %d, %v", name, a.Status, err)
		}
	}
}

// Every request of a session says whose it is: calls, its event stream and its end.
func TestIdentityComesWithEveryRequestOfASession(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Proxy: "identity_header X-Caller email\n identity_assertion X-Who"})
	subjects := make(map[string]string)
	for _, user := range []provider.User{testenv.Alice, testenv.Bob} {
		before := len(w.MCP.Requests())
		s := w.Connect(t, testenv.NewBrowser(user), w.ProxyURL("demo"), testenv.Stateful)
		if _, err := testenv.Call(t.Context(), s, "whoami", nil); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "the session's stream", func() bool { return methods(w, before)[http.MethodGet] })
		_ = s.Close()
		testenv.Eventually(t, "the session's end", func() bool { return methods(w, before)[http.MethodDelete] })
		for _, r := range w.MCP.Requests()[before:] {
			c, err := verifier{w.URL, w.ProxyURL("demo"), time.Now()}.check(t, r.Header.Get("X-Who"))
			if err != nil || c.Email != user.Name+"@example.com" || r.Header.Get("X-Caller") != c.Email {
				t.Errorf("%s of %s: %+v, %q, %v", r.Method, user.Name, c, r.Header.Get("X-Caller"), err)
			}
			subjects[user.Name] = c.Subject
		}
	}
	if subjects["alice"] == subjects["bob"] {
		t.Errorf("subjects: %v", subjects)
	}
}

// methods are those of the requests that the server has seen since.
func methods(w *testenv.World, since int) map[string]bool {
	seen := make(map[string]bool)
	for _, r := range w.MCP.Requests()[since:] {
		seen[r.Method] = true
	}
	return seen
}

func TestAssertionsFollowTheSigningKeyAndTheMachineHasItsOwn(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{
		Env:    []string{"MACHINE_SECRET=secret-of-the-machine-client", "MACHINE_TOKEN=upstream-token-of-the-machine"},
		Global: "client machine {\n name Reports\n client_secret {env.MACHINE_SECRET}\n grant_types client_credentials\n}",
		Proxy:  "machine_token {env.MACHINE_TOKEN}\n identity_assertion\n identity_header X-Caller user_id\n identity_header X-Client client_name",
	})
	here := verifier{w.URL, w.ProxyURL("demo"), time.Now()}
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	sent := func() string {
		t.Helper()
		before := len(w.MCP.Requests())
		works(t, b)
		return w.MCP.Requests()[before].Header.Get(assertionHeader)
	}
	first := sent()
	rotate(t.Context(), t, w)
	if c, err := here.check(t, first); err == nil {
		t.Errorf("the compromised key's is believed: %+v", c)
	}
	b.Refresh(t)
	if c, err := here.check(t, sent()); err != nil || c.Email != "alice@example.com" {
		t.Errorf("with the new key: %+v, %v", c, err)
	}

	status, _, m := post(t, w.URL+"/api/v1/oauth-proxy/token", "application/x-www-form-urlencoded",
		url.Values{"grant_type": {"client_credentials"}, "resource": {w.ProxyURL("demo")}}.Encode(),
		func(r *http.Request) { r.SetBasicAuth("machine", "secret-of-the-machine-client") })
	access, _ := m["access_token"].(string)
	if status != http.StatusOK {
		t.Fatalf("token: %d %v", status, m)
	}
	before := len(w.MCP.Requests())
	post(t, w.ProxyURL("demo"), "application/json", testenv.ToolCall("whoami"), func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+access) })
	h := w.MCP.Requests()[before].Header
	c, err := here.check(t, h.Get(assertionHeader))
	if err != nil || c.Subject != "machine" || c.ClientID != "machine" || c.Email != "" || h["X-Caller"] != nil || h.Get("X-Client") != "Reports" {
		t.Errorf("the machine: %+v, %v; the server is told %v", c, err, h)
	}
}

// rotate drops the signing key as compromised.
func rotate(ctx context.Context, t *testing.T, w *testenv.World) {
	t.Helper()
	cmd := w.Command(ctx, "oauth-proxy", "rotate-signing-key", "--compromised", "--address", strings.TrimPrefix(w.AdminURL(), "http://"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestT78AssertionsAreInNoLogEvenWithCredentialsLogged(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Servers: "log_credentials", Proxy: "identity_assertion"})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	works(t, b)
	w.Provider.ExpireTokens() // forces a repetition
	works(t, b)
	post(t, w.ProxyURL("demo"), "application/json", testenv.ToolCall("whoami"), func(r *http.Request) {
		r.Header.Set("X-Session-Token", sessionToken(t, w, testenv.Bob))
	})
	s := &secrets{values: make(map[string]string)}
	for _, r := range w.MCP.Requests() {
		s.add("assertion", r.Header.Get(assertionHeader))
	}
	if s.count() < 2 || !strings.Contains(w.Log(), b.Access()) || !strings.Contains(w.Log(), "upstream roundtrip") {
		t.Fatalf("%d assertions were seen, or the log is not one of all headers: the test is no good", s.count())
	}
	s.check(t, "the log", w.Log())
}
