package authserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// forge signs header and claims as given, with the gateway's own key or another.
type forge struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	kid    string
	claims map[string]any
	raw    []string // the segments of a genuine token
}

func newForge(t *testing.T, w *world, access string) *forge {
	t.Helper()
	keys, err := w.vault.SigningKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(keys.Keys[0].JWK); err != nil {
		t.Fatal(err)
	}
	f := &forge{t: t, key: jwk.Key.(*ecdsa.PrivateKey), kid: jwk.KeyID, raw: strings.Split(access, ".")}
	payload, err := base64.RawURLEncoding.DecodeString(f.raw[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &f.claims); err != nil {
		t.Fatal(err)
	}
	return f
}

// sign makes a token with the gateway's key and a header in the gateway's own spelling, whatever the payload.
func (f *forge) sign(payload []byte) string { return f.signWith(f.key, f.kid, "at+jwt", nil, payload) }

func (f *forge) signWith(key any, kid string, typ jose.ContentType, extra map[jose.HeaderKey]any, payload []byte) string {
	f.t.Helper()
	alg := jose.ES256
	if _, symmetric := key.([]byte); symmetric {
		alg = jose.HS256
	}
	o := (&jose.SignerOptions{ExtraHeaders: extra}).WithType(typ)
	if kid != "" {
		o = o.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		f.t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		f.t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		f.t.Fatal(err)
	}
	return token
}

// with returns the genuine claims with one changed; nil removes it.
func (f *forge) with(claim string, value any) []byte {
	f.t.Helper()
	c := make(map[string]any, len(f.claims))
	maps.Copy(c, f.claims)
	c[claim] = value
	if value == nil {
		delete(c, claim)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return payload
}

func TestT51T52T53T54T55ForgedAndOddTokensAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, got := w.session()
	f := newForge(t, w, got.access)
	genuine := f.with("iss", w.url)
	if control := f.sign(genuine); !w.works(control) {
		t.Fatal("the forge is no good: its genuine token does not work")
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	segment := func(v string) string { return base64.RawURLEncoding.EncodeToString([]byte(v)) }
	public, err := json.Marshal(jose.JSONWebKey{Key: &f.key.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	bad := map[string]string{
		"alg none":                  segment(`{"alg":"none","kid":"`+f.kid+`","typ":"at+jwt"}`) + "." + f.raw[1] + ".",
		"alg None":                  segment(`{"alg":"None","typ":"at+jwt"}`) + "." + f.raw[1] + ".",
		"no signature":              f.raw[0] + "." + f.raw[1] + ".",
		"two segments":              f.raw[0] + "." + f.raw[1],
		"four segments":             got.access + "." + f.raw[2],
		"HS256 with the public key": f.signWith(public, f.kid, "at+jwt", nil, genuine),
		"HS256 with the kid":        f.signWith([]byte(f.kid), f.kid, "at+jwt", nil, genuine),
		"another key":               f.signWith(other, f.kid, "at+jwt", nil, genuine),
		"unknown kid":               f.signWith(f.key, "../../etc/passwd", "at+jwt", nil, genuine),
		"no kid":                    f.signWith(f.key, "", "at+jwt", nil, genuine),
		"typ JWT":                   f.signWith(f.key, f.kid, "JWT", nil, genuine),
		"jku":                       f.signWith(f.key, f.kid, "at+jwt", map[jose.HeaderKey]any{"jku": "https://evil.test/jwks"}, genuine),
		"embedded jwk":              f.signWith(other, f.kid, "at+jwt", map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: &other.PublicKey}}, genuine),
		"crit":                      f.signWith(f.key, f.kid, "at+jwt", map[jose.HeaderKey]any{"crit": []string{"x"}, "x": 1}, genuine),
		"other issuer":              f.sign(f.with("iss", "https://other.test")),
		"other audience":            f.sign(f.with("aud", w.url+"/mcp/b")),
		"two audiences":             f.sign(f.with("aud", []string{w.url + "/mcp/a", w.url + "/mcp/b"})),
		"audience in a list":        f.sign(f.with("aud", []string{w.url + "/mcp/a"})),
		"expired":                   f.sign(f.with("exp", now-1)),
		"from the future":           f.sign(f.with("iat", now+3600)),
		"exp as text":               f.sign(f.with("exp", "9999999999")),
		"exp zero":                  f.sign(f.with("exp", 0)),
		"huge exp":                  f.sign([]byte(strings.Replace(string(genuine), `"exp":`, `"exp":1e400,"x":`, 1))),
		"other subject":             f.sign(f.with("sub", "somebody")),
		"other client":              f.sign(f.with("client_id", "gateway_0000000000000000")),
		"other grant":               f.sign(f.with("sid", "AAAAAAAAAAAAAAAAAAAAAAAAAA")),
		"claim twice":               f.sign([]byte(strings.Replace(string(genuine), `{`, `{"aud":"x",`, 1))),
		"not an object":             f.sign([]byte(`"x"`)),
		"leading space":             " " + got.access,
		"line break":                f.raw[0] + "." + f.raw[1] + ".\n" + f.raw[2],
		"padding":                   got.access + "=",
		"huge":                      got.access + strings.Repeat("A", 8000),
		"dots":                      strings.Repeat(".", 3000),
		"empty":                     "",
	}
	for _, claim := range []string{"iss", "aud", "sub", "client_id", "jti", "sid", "iat", "exp"} {
		bad["no "+claim] = f.sign(f.with(claim, nil))
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for _, c := range alphabet {
		if other := got.access[:len(got.access)-1] + string(c); other != got.access {
			bad["last character "+string(c)] = other
		}
	}
	for name, token := range bad {
		_, _, err := w.server.Authenticate(t.Context(), token, "a")
		if !errors.Is(err, authserver.ErrInvalidToken) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, _, err := w.server.Authenticate(t.Context(), got.access, "b"); !errors.Is(err, authserver.ErrInvalidToken) {
		t.Errorf("at another proxy: %v", err)
	}
	if _, _, err := w.server.Authenticate(t.Context(), got.access, "nowhere"); !errors.Is(err, authserver.ErrInvalidToken) {
		t.Errorf("at an unknown proxy: %v", err)
	}
	if !w.works(got.access) {
		t.Error("the genuine token stopped working")
	}
	w.turn(time.Hour)
	if w.works(got.access) {
		t.Error("the token works after its end")
	}
}

func TestT57GatewaysDoNotShareKeys(t *testing.T) {
	t.Parallel()
	one, two := newWorld(t), newWorld(t)
	_, got := one.session()
	if two.works(got.access) {
		t.Error("another gateway accepts the token")
	}
}

func TestT58RevokedGrantRefusesItsTokenAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	grants, err := w.vault.Grants(t.Context(), tokenstore.GrantQuery{ClientID: b.id})
	if err != nil || len(grants) != 1 {
		t.Fatalf("%d grants, %v", len(grants), err)
	}
	grants[0].State = tokenstore.StateRevoked
	if err := w.vault.Commit(t.Context(), tokenstore.Save(grants[0])); err != nil {
		t.Fatal(err)
	}
	if w.works(got.access) {
		t.Error("the token of a revoked grant works")
	}
}

// A request may outlast its token. Its grant is then judged without one.
func TestT58GrantIsJudgedWithoutItsToken(t *testing.T) {
	t.Parallel()
	life := authserver.Lifetimes{AccessToken: time.Minute, Session: time.Minute, RefreshTotal: 24 * time.Hour}
	for name, login := range map[string]func(w *world) string{
		"client":  func(w *world) string { _, got := w.session(); return got.access },
		"session": func(w *world) string { return w.scriptSession()["session_token"].(string) },
	} {
		for reason, end := range map[string]func(w *world, id string){
			"revoked": func(w *world, id string) {
				g, err := w.vault.Grant(w.t.Context(), id)
				if err != nil {
					w.t.Fatal(err)
				}
				g.State = tokenstore.StateRevoked
				if err := w.vault.Commit(w.t.Context(), tokenstore.Save(g)); err != nil {
					w.t.Fatal(err)
				}
			},
			"over": func(w *world, _ string) { w.turn(24 * time.Hour) },
			"of a user who may no longer come in": func(w *world, _ string) {
				w.reload(func(o *authserver.Options) { o.Proxies[0].Allow.Emails = []string{"bob@example.com"} })
			},
			"of a proxy that is gone": func(w *world, _ string) {
				w.reload(func(o *authserver.Options) { o.Proxies = o.Proxies[1:] })
			},
		} {
			t.Run(name+" "+reason, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, func(o *authserver.Options) { o.Lifetimes = life })
				g, _, err := w.server.Authenticate(t.Context(), login(w), "a")
				if err != nil {
					t.Fatal(err)
				}
				w.turn(2 * time.Minute) // the token has expired
				if err := w.server.CheckGrant(t.Context(), g.ID, "a"); err != nil {
					t.Errorf("before: %v", err)
				}
				end(w, g.ID)
				if err := w.server.CheckGrant(t.Context(), g.ID, "a"); !errors.Is(err, authserver.ErrInvalidToken) {
					t.Errorf("afterwards: %v", err)
				}
			})
		}
	}
}

// The grant of a client that acts for itself has the same end as its token.
func TestT58GrantWithoutAUserIsJudgedWithoutItsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, configured(configuredClient("machine", "a-secret-of-the-operator", "client_credentials")), func(o *authserver.Options) {
		o.Proxies[0].Machines = true
		o.Proxies[0].Allow.Emails = []string{"bob@example.com"}
	})
	credentials := url.Values{"grant_type": {"client_credentials"}, "client_id": {"machine"}, "client_secret": {"a-secret-of-the-operator"}}
	access, _ := w.postForm(endpoints+"/a/token", credentials).json(t)["access_token"].(string)
	g, _, err := w.server.Authenticate(t.Context(), access, "a")
	if err != nil {
		t.Fatal(err)
	}
	w.turn(time.Hour + time.Minute)
	if err := w.server.CheckGrant(t.Context(), g.ID, "a"); err != nil {
		t.Errorf("after the token expired: %v", err)
	}
	if err := w.server.CheckGrant(t.Context(), g.ID, "b"); !errors.Is(err, authserver.ErrInvalidToken) {
		t.Errorf("at another proxy: %v", err)
	}
	credentials.Set("token", access)
	if a := w.postForm(endpoints+"/a/revoke", credentials); a.status != http.StatusOK {
		t.Fatalf("revocation: %d %s", a.status, a.body)
	}
	if err := w.server.CheckGrant(t.Context(), g.ID, "a"); !errors.Is(err, authserver.ErrInvalidToken) {
		t.Errorf("after revocation: %v", err)
	}
}

func TestT18T54RegistrationTakesOnlyWhatItKnows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ok := `"redirect_uris":["` + redirectURI + `"]`
	a := w.postJSON(endpoints+"/a/register", `{"client_id":"admin","client_secret":"x","grant_types":["password","authorization_code"],"foo":{},`+ok+`}`)
	m := a.json(t)
	if a.status != http.StatusCreated || m["client_id"] == "admin" || m["client_secret"] == "x" || strings.Contains(a.body, "password") {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if m["token_endpoint_auth_method"] != "client_secret_basic" {
		t.Errorf("defaults: %s", a.body)
	}
	for name, c := range map[string]struct{ body, error string }{
		"no redirect URI":          {`{}`, "invalid_redirect_uri"},
		"empty redirect URIs":      {`{"redirect_uris":[]}`, "invalid_redirect_uri"},
		"one bad redirect URI":     {`{"redirect_uris":["` + redirectURI + `","http://evil.test/cb"]}`, "invalid_redirect_uri"},
		"javascript":               {`{"redirect_uris":["javascript:alert(1)"]}`, "invalid_redirect_uri"},
		"too many redirect URIs":   {`{"redirect_uris":[` + strings.Repeat(`"https://a.test/",`, 10) + `"https://a.test/"]}`, "invalid_redirect_uri"},
		"other spelling":           {`{"Redirect_URIs":["` + redirectURI + `"]}`, "invalid_redirect_uri"},
		"member twice":             {`{"redirect_uris":["https://evil.test/"],` + ok + `}`, "invalid_client_metadata"},
		"array":                    {`[]`, "invalid_client_metadata"},
		"not JSON":                 {`redirect_uris=x`, "invalid_client_metadata"},
		"trailing":                 {`{` + ok + `}{}`, "invalid_client_metadata"},
		"wrong type":               {`{"redirect_uris":"` + redirectURI + `"}`, "invalid_client_metadata"},
		"unknown method":           {`{"token_endpoint_auth_method":"private_key_jwt",` + ok + `}`, "invalid_client_metadata"},
		"implicit":                 {`{"response_types":["token"],` + ok + `}`, "invalid_client_metadata"},
		"client credentials alone": {`{"grant_types":["client_credentials"],` + ok + `}`, "invalid_client_metadata"},
		"script as client_uri":     {`{"client_uri":"javascript:alert(1)",` + ok + `}`, "invalid_client_metadata"},
		"strange application_type": {`{"application_type":"x",` + ok + `}`, "invalid_client_metadata"},
		"long name":                {`{"client_name":"` + strings.Repeat("x", 2000) + `",` + ok + `}`, "invalid_client_metadata"},
	} {
		if a := w.postJSON(endpoints+"/a/register", c.body); a.status != http.StatusBadRequest || a.oauthError(t) != c.error {
			t.Errorf("%s: got %d %s, want %s", name, a.status, a.body, c.error)
		}
	}
	if a := w.postJSON(endpoints+"/a/register", `{"client_name":"`+strings.Repeat("x", 1<<20)+`"}`); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("1 MiB: %d", a.status)
	}
	if a := w.postForm(endpoints+"/a/register", url.Values{"redirect_uris": {redirectURI}}); a.oauthError(t) != "invalid_client_metadata" {
		t.Errorf("form: %s", a.body)
	}
}

func TestAllowedRedirectsOfAProxyAreEnforcedTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		o.Proxies[0].AllowedRedirects = []string{"https://listed.test/cb", "http://localhost/cb", "cursor://app/cb"}
	})
	register := func(path, uri string) answer {
		return w.postJSON(endpoints+path, `{"redirect_uris":["`+uri+`"],"token_endpoint_auth_method":"client_secret_post"}`)
	}
	for uri, status := range map[string]int{
		"https://listed.test/cb": 201, "http://localhost:4711/cb": 201, "cursor://app/cb": 201,
		"https://other.test/cb": 400, "http://127.0.0.1:4711/cb": 400, "cursor://app/other": 400,
	} {
		if a := register("/a/register", uri); a.status != status || status == 400 && !strings.Contains(a.body, uri) {
			t.Errorf("%s: got %d %s", uri, a.status, a.body)
		}
	}
	// A client of the gateway-wide endpoint may register for b, and still does not get in at a.
	m := register("/register", redirectURI).json(t)
	params := authorizeParams(bot{id: m["client_id"].(string)})
	if a := w.browser().authorize(params); a.status != http.StatusBadRequest || a.header.Get("Location") != "" {
		t.Errorf("at a: %d %v", a.status, a.header)
	}
	if a := w.browser().get(w.url + endpoints + "/b/authorize?" + params.Encode()); a.status != http.StatusOK {
		t.Errorf("at b: %d", a.status)
	}
}

func TestT29UsersWhoMayNotComeInGetNoCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		o.Proxies[0].Allow = authserver.Policy{EmailDomains: []string{"corp.test"}}
	})
	b := w.register("")
	br := w.browser()
	back := location(t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b)))))).Query()
	if back.Get("error") != "access_denied" || back.Has("code") {
		t.Errorf("got %v", back)
	}
	if grants, err := w.vault.Grants(t.Context(), tokenstore.GrantQuery{ClientID: b.id}); err != nil || len(grants) != 0 {
		t.Errorf("%d grants, %v", len(grants), err)
	}
}
