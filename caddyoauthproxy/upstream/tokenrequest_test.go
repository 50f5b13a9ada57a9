package upstream

import (
	"bytes"
	"compress/gzip"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	jsonType = "application/json"
	formType = "application/x-www-form-urlencoded"
)

// Every answer that a token endpoint was seen to give is either tokens, or an error of the right class.
func TestT32TokenAnswers(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]struct {
		status            int
		contentType, body string
		class             Class // empty: tokens
		code              string
		lifetime          time.Duration
		refresh           string
		scopes            []string
	}{
		"complete":                     {200, jsonType, `{"access_token":"a","refresh_token":"r","token_type":"Bearer","expires_in":3600,"scope":"x y"}`, "", "", time.Hour, "r", []string{"x", "y"}},
		"with charset":                 {200, "Application/JSON; charset=utf-8", `{"access_token":"a","token_type":"bearer","expires_in":60}`, "", "", time.Minute, "", nil},
		"no lifetime":                  {200, jsonType, `{"access_token":"a"}`, "", "", 0, "", nil},
		"lifetime as string":           {200, jsonType, `{"access_token":"a","expires_in":"3600"}`, "", "", time.Hour, "", nil},
		"lifetime with fraction":       {200, jsonType, `{"access_token":"a","expires_in":1.5}`, "", "", 1500 * time.Millisecond, "", nil},
		"lifetime zero":                {200, jsonType, `{"access_token":"a","expires_in":0}`, "", "", 0, "", nil},
		"lifetime negative":            {200, jsonType, `{"access_token":"a","expires_in":-1}`, "", "", 0, "", nil},
		"lifetime huge":                {200, jsonType, `{"access_token":"a","expires_in":1e300}`, "", "", 0, "", nil},
		"lifetime in words":            {200, jsonType, `{"access_token":"a","expires_in":"soon"}`, "", "", 0, "", nil},
		"lifetime null":                {200, jsonType, `{"access_token":"a","expires_in":null}`, "", "", 0, "", nil},
		"lifetime not a number":        {200, jsonType, `{"access_token":"a","expires_in":"NaN"}`, "", "", 0, "", nil},
		"form":                         {200, formType, `access_token=a&scope=repo%2Cgist&token_type=bearer&expires_in=60&refresh_token=r`, "", "", time.Minute, "r", []string{"repo", "gist"}},
		"form called text":             {200, "text/plain", `access_token=a`, "", "", 0, "", nil},
		"JSON called text":             {200, "text/html", ` {"access_token":"a"}`, "", "", 0, "", nil},
		"empty scope":                  {200, jsonType, `{"access_token":"a","scope":""}`, "", "", 0, "", nil},
		"error null":                   {200, jsonType, `{"access_token":"a","error":null}`, "", "", 0, "", nil},
		"created":                      {201, jsonType, `{"access_token":"a"}`, "", "", 0, "", nil},
		"error with 200":               {200, jsonType, `{"error":"bad_refresh_token","error_description":"The refresh token passed is incorrect or expired."}`, Rejected, "bad_refresh_token", 0, "", nil},
		"error with 200 as form":       {200, formType, `error=bad_refresh_token`, Rejected, "bad_refresh_token", 0, "", nil},
		"error beside a token":         {200, jsonType, `{"access_token":"a","error":"invalid_grant"}`, Rejected, "invalid_grant", 0, "", nil},
		"error as object":              {200, jsonType, `{"access_token":"a","error":{"code":1}}`, Unreachable, "unreadable", 0, "", nil},
		"access token empty":           {200, jsonType, `{"access_token":""}`, Malformed, "", 0, "", nil},
		"access token is a number":     {200, jsonType, `{"access_token":5}`, Malformed, "", 0, "", nil},
		"access token with line break": {200, jsonType, `{"access_token":"a\r\nX: y"}`, Malformed, "", 0, "", nil},
		"names in other case":          {200, jsonType, `{"Access_Token":"a"}`, Malformed, "", 0, "", nil},
		"field twice":                  {200, jsonType, `{"access_token":"a","access_token":"b"}`, Malformed, "", 0, "", nil},
		"form field twice":             {200, formType, `access_token=a&access_token=b`, Malformed, "", 0, "", nil},
		"more behind":                  {200, jsonType, `{"access_token":"a"}{}`, Malformed, "", 0, "", nil},
		"cut off":                      {200, jsonType, `{"access_token":"a"`, Malformed, "", 0, "", nil},
		"array":                        {200, jsonType, `[{"access_token":"a"}]`, Malformed, "", 0, "", nil},
		"page":                         {200, "text/html", `<html>Sign in</html>`, Malformed, "", 0, "", nil},
		"empty":                        {200, jsonType, ``, Malformed, "", 0, "", nil},
		"other kind of token":          {200, jsonType, `{"access_token":"a","token_type":"DPoP"}`, Malformed, "", 0, "", nil},
		"redirect":                     {302, "text/html", ``, Malformed, "", 0, "", nil},
		"tokens with 400":              {400, jsonType, `{"access_token":"a"}`, Unreachable, "", 0, "", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mediaType, _, _ := strings.Cut(strings.ToLower(tt.contentType), ";")
			tokens, err := parseTokens(&answer{status: tt.status, mediaType: mediaType, body: []byte(tt.body)}, now)
			var e *Error
			if errors.As(err, &e); (e == nil) != (tt.class == "") || e != nil && (e.Class != tt.class || e.Code != tt.code) {
				t.Fatalf("got %v, want class %q code %q", err, tt.class, tt.code)
			}
			if tt.class != "" {
				return
			}
			if tokens.AccessToken != "a" || tokens.RefreshToken != tt.refresh || tokens.Lifetime != tt.lifetime || !slices.Equal(tokens.Scopes, tt.scopes) {
				t.Errorf("got %+v", tokens)
			}
			if want := now.Add(tt.lifetime); tt.lifetime > 0 && !tokens.Expires.Equal(want) || tt.lifetime == 0 && !tokens.Expires.IsZero() {
				t.Errorf("expires %v", tokens.Expires)
			}
		})
	}
}

// One table decides what a refusal means.
func TestAnswersAreClassified(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status int
		body   string
		class  Class
	}{
		"invalid_grant":                 {400, `{"error":"invalid_grant"}`, Rejected},
		"invalid_grant with 401":        {401, `{"error":"invalid_grant"}`, Rejected},
		"invalid_client":                {401, `{"error":"invalid_client"}`, Misconfigured},
		"unauthorized_client":           {400, `{"error":"unauthorized_client"}`, Misconfigured},
		"invalid_scope":                 {400, `{"error":"invalid_scope"}`, Misconfigured},
		"invalid_request":               {400, `{"error":"invalid_request"}`, Misconfigured},
		"GitHub's invalid_client":       {200, `{"error":"incorrect_client_credentials"}`, Misconfigured},
		"throttled":                     {429, `{"error":"slow_down"}`, Throttled},
		"throttled, called a bad grant": {429, `{"error":"invalid_grant"}`, Throttled},
		"broken, called a bad grant":    {500, `{"error":"invalid_grant"}`, Unreachable},
		"unavailable":                   {503, `{"error":"temporarily_unavailable"}`, Unreachable},
		"load balancer":                 {502, `<html>Bad gateway</html>`, Unreachable},
		"firewall":                      {403, `<html>Request blocked</html>`, Unreachable},
		"firewall's 401":                {401, `denied`, Unreachable},
		"code that no RFC knows":        {400, `{"error":"nightly_maintenance"}`, Unreachable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parseTokens(&answer{status: tt.status, mediaType: jsonType, body: []byte(tt.body)}, time.Now())
			var e *Error
			if !errors.As(err, &e) || e.Class != tt.class || e.Status != tt.status {
				t.Errorf("got %v, want class %s", err, tt.class)
			}
		})
	}
}

// What a provider writes is not repeated: it may hold secrets or line breaks.
func TestErrorsHoldNothingThatTheProviderWrote(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"error":"bad\nlevel=error","error_description":"secret-text"}`,
		`{"error":"secret-text with spaces"}`,
		`secret-text`,
	} {
		_, err := parseTokens(&answer{status: 400, mediaType: jsonType, body: []byte(body)}, time.Now())
		if err == nil || strings.Contains(err.Error(), "secret-text") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestClientAuthenticationIsExplicit(t *testing.T) {
	t.Parallel()
	const oddSecret = "a b:c%d&é"
	tests := map[string]struct {
		method   string
		metadata map[string]any
		basic    bool
		post     bool
	}{
		"default":                {basic: true},
		"provider offers both":   {metadata: map[string]any{"token_endpoint_auth_methods_supported": []string{AuthPost, AuthBasic}}, basic: true},
		"provider offers post":   {metadata: map[string]any{"token_endpoint_auth_methods_supported": []string{"private_key_jwt", AuthPost}}, post: true},
		"configured post":        {method: AuthPost, post: true},
		"configured basic":       {method: AuthBasic, metadata: map[string]any{"token_endpoint_auth_methods_supported": []string{AuthPost}}, basic: true},
		"configured as a public": {method: AuthNone},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := serve(t)
			idp.metadata = tt.metadata
			p := idp.provider(t, func(c *Config) {
				c.AuthMethod, c.ClientSecret = tt.method, oddSecret
				if tt.method == AuthNone {
					c.ClientSecret = ""
				}
			})
			if _, err := p.Refresh(t.Context(), Tokens{RefreshToken: idp.login("x")}); err != nil {
				t.Fatal(err)
			}
			req := http.Request{Header: http.Header{"Authorization": {idp.auth[0]}}}
			user, pass, ok := req.BasicAuth()
			if ok != tt.basic || ok && (user != clientID || pass != url.QueryEscape(oddSecret)) {
				t.Errorf("basic: %q %q", user, pass)
			}
			form := idp.posts[0]
			if tt.basic == form.Has("client_id") || tt.post != (form.Get("client_secret") == oddSecret) || !tt.post && form.Has("client_secret") {
				t.Errorf("form: %v", form)
			}
		})
	}
}

// A refused connection was not processed, so the same refresh may go out again; a cut one may have been.
func TestR02RefreshIsRepeatedOnlyWhenItWasNotProcessed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answer  http.HandlerFunc
		posts   int
		unknown bool
		cut     bool
	}{
		"answered 500":       {answerWith(500, jsonType, `{}`), 1, false, false},
		"answered 400":       {answerWith(400, jsonType, `{"error":"invalid_grant"}`), 1, false, false},
		"429 without a time": {answerWith(429, jsonType, `{}`), 1, false, false},
		"429 for a while":    {answerWith(429, jsonType, `{}`, "Retry-After", "600"), 1, false, false},
		"503 for a moment":   {answerWith(503, jsonType, `{}`, "Retry-After", "1"), 2, false, false},
		"connection cut":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 1, true, true},
		"connection cut in the body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			_, _ = w.Write([]byte("{"))
		}, 1, true, true},
		"connection reset": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}, 1, true, true},
		"no answer in time": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 1, true, false},
		"no end of the answer in time": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("{"))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, 1, true, false},
		"redirected": {answerWith(307, jsonType, `{}`, "Location", "/token"), 1, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := serve(t)
			idp.answer = tt.answer
			p := idp.provider(t, func(c *Config) { c.Retries, c.Timeout = 1, 300*time.Millisecond })
			_, err := p.Refresh(t.Context(), Tokens{RefreshToken: idp.login("x")})
			var e *Error
			if !errors.As(err, &e) || e.Unknown != tt.unknown || e.Cut != tt.cut {
				t.Errorf("got %v, unknown %v, cut %v", err, e != nil && e.Unknown, e != nil && e.Cut)
			}
			if got := idp.tokenPosts(); got != tt.posts {
				t.Errorf("%d requests, want %d", got, tt.posts)
			}
		})
	}
}

func TestRefreshIsRepeatedAfterARefusedConnection(t *testing.T) {
	t.Parallel()
	idp := newFakeProvider("https://idp.example")
	transport := &inMemory{handler: idp}
	p := idp.providerOver(t, &http.Client{Transport: transport}, func(c *Config) { c.Retries = 2 })
	if _, err := p.metadata.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	transport.setRefuse(true)
	before := transport.dials()
	_, err := p.Refresh(t.Context(), Tokens{RefreshToken: idp.login("x")})
	var e *Error
	if !errors.As(err, &e) || e.Class != Unreachable || e.Unknown {
		t.Fatalf("got %v", err)
	}
	if got := transport.dials() - before; got != 3 {
		t.Errorf("%d attempts, want 3", got)
	}
	transport.setRefuse(false)
	if _, err := p.Refresh(t.Context(), Tokens{RefreshToken: "rt.x.0"}); err != nil {
		t.Errorf("after recovery: %v", err)
	}
}

// The scope of a refresh is what was granted, no more, so that no provider narrows it by itself.
func TestT34RefreshAsksForTheGrantedScopes(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	p := idp.provider(t, func(c *Config) { c.Scopes = []string{"read", "write"} })
	if _, err := p.Refresh(t.Context(), Tokens{RefreshToken: idp.login("x"), Scopes: []string{"openid", "read"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Refresh(t.Context(), Tokens{RefreshToken: "rt.x.1"}); err != nil {
		t.Fatal(err)
	}
	if got := idp.posts[0].Get("scope"); got != "openid read" {
		t.Errorf("scope %q", got)
	}
	if idp.posts[1].Has("scope") {
		t.Errorf("scope is sent though none is known")
	}
}

// A provider that has granted no offline_access refuses a refresh that asks for it. Microsoft grants it without saying so.
func TestT34RefreshAsksForOfflineAccessOnlyWhereItWasGranted(t *testing.T) {
	t.Parallel()
	const tenant = "00000000-0000-0000-0000-00000000000a"
	for name, tt := range map[string]struct {
		config  Config
		granted string
		want    string
	}{
		"granted":               {Config{Type: "oidc", Issuer: "https://idp.example"}, "openid offline_access", "openid offline_access"},
		"not granted":           {Config{Type: "oidc", Issuer: "https://idp.example"}, "openid email", "openid email"},
		"not granted by okta":   {Config{Type: "okta", Domain: "acme.okta.com"}, "openid", "openid"},
		"microsoft":             {Config{Type: "microsoft", Tenant: tenant}, "openid", "openid offline_access"},
		"microsoft says so":     {Config{Type: "microsoft", Tenant: tenant}, "offline_access openid", "offline_access openid"},
		"microsoft as oidc":     {Config{Type: "oidc", Issuer: "https://login.microsoftonline.us/" + tenant + "/v2.0"}, "openid", "openid offline_access"},
		"microsoft in the path": {Config{Type: "oidc", Issuer: "https://idp.example/login.microsoftonline.com"}, "openid", "openid"},
		"never asked for":       {Config{Type: "gitlab"}, "openid", "openid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.config.ClientID, tt.config.ClientSecret = clientID, clientSecret
			p, err := New("x", tt.config, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(p.refreshScopes(strings.Fields(tt.granted)), " "); got != tt.want {
				t.Errorf("granted %q: asks for %q, want %q", tt.granted, got, tt.want)
			}
		})
	}
}

// A redirect is not followed: it would carry the client secret and the token elsewhere.
func TestSecretsAreNotCarriedToRedirects(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int32
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(evil.Close)
	idp := serve(t)
	idp.answer = answerWith(307, jsonType, `{}`, "Location", evil.URL+"/token")
	for _, client := range []*http.Client{nil, http.DefaultClient} {
		if _, err := idp.providerOver(t, client).Refresh(t.Context(), Tokens{RefreshToken: "rt.x.0"}); err == nil {
			t.Error("no error")
		}
	}
	if elsewhere.Load() != 0 {
		t.Error("the redirect was followed")
	}
}

// Oversized answers cost bounded memory, also when they are compressed.
func TestR13OversizedAnswersAreRefused(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 8<<20))
	_ = z.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"long":       answerWith(200, jsonType, `{"access_token":"`+strings.Repeat("a", 2<<20)+`"}`),
		"compressed": answerWith(200, jsonType, bomb.String(), "Content-Encoding", "gzip"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			idp := serve(t)
			idp.answer = answer
			_, err := idp.provider(t).Refresh(t.Context(), Tokens{RefreshToken: "rt.x.0"})
			var e *Error
			if !errors.As(err, &e) || e.Class != Malformed {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRetryAfterIsReadAndBounded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "0": 0, "-5": 0, "soon": 0, "99999999": maxRetryAfter, "99999999999999999999": 0,
		now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):       0,
	} {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}

func FuzzParseTokens(f *testing.F) {
	f.Add(200, jsonType, []byte(`{"access_token":"a","expires_in":3600,"scope":"x"}`))
	f.Add(200, formType, []byte(`access_token=a&expires_in=60`))
	f.Add(400, jsonType, []byte(`{"error":"invalid_grant"}`))
	f.Add(200, "text/html", []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, mediaType string, body []byte) {
		tokens, err := parseTokens(&answer{status: status, mediaType: mediaType, body: body}, time.Unix(0, 0))
		var e *Error
		switch {
		case err != nil && (!errors.As(err, &e) || e.Class == ""):
			t.Errorf("error without a class: %v", err)
		case err != nil && tokens.AccessToken != "":
			t.Error("tokens and an error")
		case err == nil && (status < 200 || status > 299 || tokens.AccessToken == "" || !isCredential(tokens.AccessToken+tokens.RefreshToken)):
			t.Errorf("accepted %+v with status %d", tokens, status)
		case err == nil && (tokens.Lifetime < 0 || tokens.Lifetime > maxLifetime):
			t.Errorf("lifetime %v", tokens.Lifetime)
		}
	})
}
