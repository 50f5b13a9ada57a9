package authserver_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestT37T38EachBindingOfTheCodeRefusesByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, other := w.register(""), w.register("")
	code := w.login(b)
	for name, c := range map[string]struct {
		edit  func(url.Values)
		error string
	}{
		"other client":          {func(v url.Values) { v.Set("client_id", other.id); v.Set("client_secret", other.secret) }, "invalid_grant"},
		"other redirect URI":    {func(v url.Values) { v.Set("redirect_uri", redirectURI+"2") }, "invalid_grant"},
		"wrong verifier":        {func(v url.Values) { v.Set("code_verifier", strings.Repeat("x", 43)) }, "invalid_grant"},
		"challenge as verifier": {func(v url.Values) { v.Set("code_verifier", challenge()) }, "invalid_grant"},
		"no verifier":           {func(v url.Values) { v.Del("code_verifier") }, "invalid_request"},
		"empty verifier":        {func(v url.Values) { v.Set("code_verifier", "") }, "invalid_request"},
		"other code":            {func(v url.Values) { v.Set("code", strings.Repeat("A", 43)) }, "invalid_grant"},
		"no code":               {func(v url.Values) { v.Del("code") }, "invalid_request"},
		"other resource":        {func(v url.Values) { v.Set("resource", w.url+"/mcp/b") }, "invalid_target"},
		"repeated parameter":    {func(v url.Values) { v.Add("grant_type", "authorization_code") }, "invalid_request"},
		"other grant type":      {func(v url.Values) { v.Set("grant_type", "password") }, "unsupported_grant_type"},
		"no grant type":         {func(v url.Values) { v.Del("grant_type") }, "invalid_request"},
	} {
		f := codeForm(b, code)
		c.edit(f)
		if a := w.postForm(endpoints+"/a/token", f); a.status != http.StatusBadRequest || a.oauthError(t) != c.error {
			t.Errorf("%s: got %d %s, want %s", name, a.status, a.body, c.error)
		}
	}
	if a := w.postForm(endpoints+"/b/token", codeForm(b, code)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("at another proxy's endpoint: %s", a.body)
	}
	// T40: none of that used the code up.
	w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, code)))

	late := w.login(b)
	w.turn(61 * time.Second)
	if a := w.postForm(endpoints+"/a/token", codeForm(b, late)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("expired code: %s", a.body)
	}
}

func TestT39CodeIsRedeemedOnceAndALateReplayEndsTheGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, other := w.register(""), w.register("")
	code := w.login(b)
	var mu sync.Mutex
	var won []tokens
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a := w.postForm(endpoints+"/a/token", codeForm(b, code))
			mu.Lock()
			defer mu.Unlock()
			if a.status == http.StatusOK {
				won = append(won, w.tokens(a))
			} else if a.oauthError(t) != "invalid_grant" {
				t.Errorf("a loser got %d %s", a.status, a.body)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d of 50 parallel redemptions succeeded", len(won))
	}
	if !w.works(won[0].access) {
		t.Error("a replay within the tolerance ended the grant")
	}
	w.turn(11 * time.Second)
	stranger := codeForm(other, code)
	noProof := codeForm(b, code)
	noProof.Set("code_verifier", strings.Repeat("x", 43))
	for _, f := range []url.Values{stranger, noProof} {
		if a := w.postForm(endpoints+"/a/token", f); a.oauthError(t) != "invalid_grant" || !w.works(won[0].access) {
			t.Errorf("a replay without proof: %s, grant alive: %v", a.body, w.works(won[0].access))
		}
	}
	if a := w.postForm(endpoints+"/a/token", codeForm(b, code)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("replay: %s", a.body)
	}
	if w.works(won[0].access) {
		t.Error("the tokens still work after a full replay")
	}
}

func TestT42T43LostAnswersAreRepeatedAndReuseEndsTheGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, first := w.session()
	refresh := func(token string) answer { return w.postForm(endpoints+"/a/token", refreshForm(b, token)) }

	var mu sync.Mutex
	got := make(map[string]int)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a := refresh(first.refresh)
			mu.Lock()
			defer mu.Unlock()
			got[w.tokens(a).refresh]++
		})
	}
	wg.Wait()
	if len(got) != 1 {
		t.Fatalf("50 parallel refreshes made %d successors", len(got))
	}
	w.turn(50 * time.Second)
	second := w.tokens(refresh(first.refresh))
	if got[second.refresh] == 0 {
		t.Error("a retry within the grace got another successor")
	}
	if again := w.tokens(refresh(first.refresh)); again != second {
		t.Error("a retry within the grace did not get the very same pair")
	}
	third := w.tokens(refresh(second.refresh))
	if !w.works(third.access) {
		t.Error("the newest token does not work")
	}
	w.turn(61 * time.Second)
	if a := refresh(second.refresh); a.oauthError(t) != "invalid_grant" {
		t.Errorf("reuse after the grace: %s", a.body)
	}
	if a := refresh(third.refresh); a.oauthError(t) != "invalid_grant" {
		t.Errorf("the newest token after reuse: %s", a.body)
	}
	if w.works(third.access) {
		t.Error("the access token outlived the family")
	}
}

// Several processes share one token file, and some of them are late.
func TestT43WhoComesLateWithinTheGraceGetsTheNewestToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, first := w.session()
	refresh := func(token string) answer { return w.postForm(endpoints+"/a/token", refreshForm(b, token)) }
	second := w.tokens(refresh(first.refresh))
	w.turn(20 * time.Second)
	third := w.tokens(refresh(second.refresh))
	w.turn(20 * time.Second)
	late := w.tokens(refresh(first.refresh))
	if late.refresh != third.refresh || !w.works(late.access) {
		t.Error("a late process was not brought up to date")
	}
	w.turn(30 * time.Second) // the first token's grace is over, the second one's is not
	if again := w.tokens(refresh(second.refresh)); again.refresh != third.refresh {
		t.Error("the second token is not answered within its own grace")
	}
	if a := refresh(first.refresh); a.oauthError(t) != "invalid_grant" || w.works(third.access) {
		t.Errorf("the first token after its grace: %s", a.body)
	}
}

func TestT43GraceSwitchedOffForgivesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.Lifetimes.RefreshGrace = -1 })
	b, first := w.session()
	second := w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, first.refresh)))
	w.turn(time.Millisecond)
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, first.refresh)); a.oauthError(t) != "invalid_grant" || w.works(second.access) {
		t.Errorf("got %s", a.body)
	}
}

func TestT42MuchOlderTokenEndsTheGrantAndAForgedOneDoesNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, first := w.session()
	newest := first
	for range 5 {
		w.turn(2 * time.Minute)
		newest = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, newest.refresh)))
	}
	// The part before the dot names grant and generation and is no secret.
	head, _, _ := strings.Cut(first.refresh, ".")
	forged := head + "." + strings.Repeat("A", 43)
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, forged)); a.oauthError(t) != "invalid_grant" || !w.works(newest.access) {
		t.Errorf("forged: %s, grant alive: %v", a.body, w.works(newest.access))
	}
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, first.refresh)); a.oauthError(t) != "invalid_grant" || w.works(newest.access) {
		t.Errorf("much older: %s, grant alive: %v", a.body, w.works(newest.access))
	}
}

func TestT41RefreshTokenIsBoundToItsClientAndNeverWidened(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	other := w.register("")
	if a := w.postForm(endpoints+"/a/token", refreshForm(other, got.refresh)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("another client: %s", a.body)
	}
	with := func(name, value string) url.Values {
		f := refreshForm(b, got.refresh)
		f.Set(name, value)
		return f
	}
	if a := w.postForm(endpoints+"/a/token", with("scope", "admin")); a.oauthError(t) != "invalid_scope" {
		t.Errorf("wider scope: %s", a.body)
	}
	if a := w.postForm(endpoints+"/a/token", with("resource", w.url+"/mcp/b")); a.oauthError(t) != "invalid_target" {
		t.Errorf("other resource: %s", a.body)
	}
	if a := w.postForm(endpoints+"/b/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("other proxy's endpoint: %s", a.body)
	}
	// T40: none of that rotated the token.
	w.turn(2 * time.Minute)
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
}

func TestT41RefreshAsksThePolicyOfNow(t *testing.T) {
	t.Parallel()
	var p *authserver.Proxy
	w := newWorld(t, func(o *authserver.Options) { p = o.Proxies[0] })
	b, got := w.session()
	p.Allow = authserver.Policy{Emails: []string{"bob@example.com"}}
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("a user who may no longer come in: %s", a.body)
	}
}

func TestGrantEndsWhenIdleAndInAnyCase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) {
		o.Lifetimes = authserver.Lifetimes{RefreshIdle: 24 * time.Hour, RefreshTotal: 48 * time.Hour}
	})
	b, got := w.session()
	for range 2 {
		w.turn(20 * time.Hour)
		got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	}
	w.turn(9 * time.Hour)
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("after the total: %s", a.body)
	}
	b, got = w.session()
	w.turn(25 * time.Hour)
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("after idling: %s", a.body)
	}
}

func TestT45TokenTypesAreNotExchangeable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	code := w.login(b)
	for name, v := range map[string]string{"refresh token": got.refresh, "code": code, "client secret": b.secret, "client id": b.id, "nothing": ""} {
		if w.works(v) {
			t.Errorf("%s works as an access token", name)
		}
		if name == "refresh token" {
			continue
		}
		if a := w.postForm(endpoints+"/a/token", refreshForm(b, v)); a.oauthError(t) != "invalid_grant" {
			t.Errorf("%s as refresh token: %s", name, a.body)
		}
	}
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.access)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("access token as refresh token: %s", a.body)
	}
	if a := w.postForm(endpoints+"/a/token", codeForm(b, got.access)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("access token as code: %s", a.body)
	}
}

func TestT46ClientAuthentication(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	public := w.postJSON(endpoints+"/a/register", `{"redirect_uris":["`+redirectURI+`"],"token_endpoint_auth_method":"none"}`).json(t)
	if public["client_secret"] != nil || public["client_secret_expires_at"] != nil {
		t.Errorf("a public client got a secret: %v", public)
	}
	basic := func(id, secret string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(id, secret) }
	}
	header := func(v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set("Authorization", v) } }
	without := func(names ...string) url.Values {
		f := refreshForm(b, "gwr_x")
		for _, n := range names {
			f.Del(n)
		}
		return f
	}
	for name, c := range map[string]struct {
		form   url.Values
		edit   func(*http.Request)
		status int
		error  string
	}{
		"post":                    {without(), nil, 400, "invalid_grant"},
		"basic":                   {without("client_id", "client_secret"), basic(b.id, b.secret), 400, "invalid_grant"},
		"basic and id in body":    {without("client_secret"), basic(b.id, b.secret), 400, "invalid_grant"},
		"basic, encoded":          {without("client_id", "client_secret"), header("basic " + base64.StdEncoding.EncodeToString([]byte(strings.ReplaceAll(b.id, "_", "%5F")+":"+b.secret))), 400, "invalid_grant"},
		"basic and post":          {without(), basic(b.id, b.secret), 400, "invalid_request"},
		"basic and another id":    {url.Values{"client_id": {"x"}, "grant_type": {"refresh_token"}}, basic(b.id, b.secret), 400, "invalid_request"},
		"malformed basic":         {without("client_id", "client_secret"), header("Basic %%%"), 401, "invalid_client"},
		"bearer":                  {without("client_id", "client_secret"), header("Bearer x"), 401, "invalid_client"},
		"wrong secret":            {url.Values{"client_id": {b.id}, "client_secret": {"gw_secret_0"}}, nil, 401, "invalid_client"},
		"no secret":               {without("client_secret"), nil, 401, "invalid_client"},
		"unknown client":          {url.Values{"client_id": {"gateway_ffffffffffffffff"}, "client_secret": {b.secret}}, nil, 401, "invalid_client"},
		"strange client id":       {url.Values{"client_id": {"../../x"}}, nil, 401, "invalid_client"},
		"nobody":                  {url.Values{"grant_type": {"refresh_token"}}, nil, 401, "invalid_client"},
		"public":                  {url.Values{"client_id": {public["client_id"].(string)}, "grant_type": {"refresh_token"}, "refresh_token": {"x"}}, nil, 400, "invalid_grant"},
		"public with a secret":    {url.Values{"client_id": {public["client_id"].(string)}, "client_secret": {b.secret}}, nil, 401, "invalid_client"},
		"text body":               {without(), func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 400, "invalid_request"},
		"JSON body":               {without(), func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 400, "invalid_request"},
		"no content type":         {without(), func(r *http.Request) { r.Header.Del("Content-Type") }, 400, "invalid_request"},
		"form with charset":       {without(), func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded;charset=UTF-8") }, 400, "invalid_grant"},
		"two authorization lines": {without("client_id", "client_secret"), func(r *http.Request) { r.Header["Authorization"] = []string{"Basic a", "Basic b"} }, 400, "invalid_request"},
	} {
		edits := []func(*http.Request){}
		if c.edit != nil {
			edits = append(edits, c.edit)
		}
		a := w.postForm(endpoints+"/a/token", c.form, edits...)
		if a.status != c.status || a.oauthError(t) != c.error {
			t.Errorf("%s: got %d %s, want %d %s", name, a.status, a.body, c.status, c.error)
		}
		if a.status == http.StatusUnauthorized && c.edit != nil && a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: 401 to an Authorization header without a challenge", name)
		}
	}
}

func TestT47GatewayWideEndpointsTakeTheProxyFromResource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.postJSON(endpoints+"/register", `{"redirect_uris":["`+redirectURI+`"],"token_endpoint_auth_method":"client_secret_post"}`).json(t)
	b := bot{m["client_id"].(string), m["client_secret"].(string)}
	br := w.browser()
	params := authorizeParams(b)
	if q := location(t, br.get(w.url+endpoints+"/authorize?"+params.Encode())).Query(); q.Get("error") != "invalid_target" {
		t.Errorf("two proxies and none named: %v", q)
	}
	params.Set("resource", w.url+"/mcp/b")
	back := location(t, br.get(w.callbackURL(br.allow(br.get(w.url+endpoints+"/authorize?"+params.Encode())))))
	got := w.tokens(w.postForm(endpoints+"/token", codeForm(b, back.Query().Get("code"))))
	if _, _, err := w.server.Authenticate(t.Context(), got.access, "b"); err != nil {
		t.Errorf("at its own proxy: %v", err)
	}
	if w.works(got.access) {
		t.Error("a token for b works at a")
	}
}

func TestT49RevocationChecksWhoseTokenItIs(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"access", "refresh"} {
		w := newWorld(t)
		b, got := w.session()
		other := w.register("")
		token := map[string]string{"access": got.access, "refresh": got.refresh}[kind]
		revoke := func(c bot, token string) answer {
			return w.postForm(endpoints+"/a/revoke", url.Values{"token": {token}, "client_id": {c.id}, "client_secret": {c.secret}})
		}
		if a := revoke(other, token); a.status != http.StatusOK || !w.works(got.access) {
			t.Errorf("%s, another client: %d, works: %v", kind, a.status, w.works(got.access))
		}
		for _, unknown := range []string{"nonsense", "gwr_AAAAAQ.AAAA", got.refresh[:len(got.refresh)-1] + "!"} {
			if a := revoke(b, unknown); a.status != http.StatusOK {
				t.Errorf("unknown token: %d", a.status)
			}
		}
		if a := revoke(bot{b.id, "wrong"}, token); a.status != http.StatusUnauthorized {
			t.Errorf("wrong secret: %d", a.status)
		}
		if a := revoke(b, token); a.status != http.StatusOK || w.works(got.access) {
			t.Errorf("%s: %d, works: %v", kind, a.status, w.works(got.access))
		}
		if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" {
			t.Errorf("refresh after revocation: %s", a.body)
		}
		waitFor(t, "the provider to be told", func() bool {
			w.provider.mu.Lock()
			defer w.provider.mu.Unlock()
			return slices.Contains(w.provider.revoked, "up-refresh-1")
		})
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestIntrospectionIsForTheTokensOwnClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	other := w.register("")
	ask := func(c bot, token string) answer {
		return w.postForm(endpoints+"/a/introspect", url.Values{"token": {token}, "client_id": {c.id}, "client_secret": {c.secret}})
	}
	if m := ask(b, got.access).json(t); m["active"] != any(true) || m["username"] != "alice@example.com" || m["aud"] != w.url+"/mcp/a" || m["token_type"] != "Bearer" {
		t.Errorf("access token: %v", m)
	}
	if m := ask(b, got.refresh).json(t); m["active"] != any(true) || m["client_id"] != b.id {
		t.Errorf("refresh token: %v", m)
	}
	for name, a := range map[string]answer{"another client": ask(other, got.access), "nonsense": ask(b, "x")} {
		if a.status != http.StatusOK || strings.TrimSpace(a.body) != `{"active":false}` {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := ask(bot{b.id, ""}, got.access); a.status != http.StatusUnauthorized {
		t.Errorf("without authentication: %d", a.status)
	}
	w.turn(2 * time.Hour)
	if a := ask(b, got.access); strings.TrimSpace(a.body) != `{"active":false}` {
		t.Errorf("expired: %s", a.body)
	}
}

func TestT56EndedLoginEndsRefreshingToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	grants, err := w.vault.Grants(t.Context(), tokenstore.GrantQuery{ClientID: b.id})
	if err != nil || len(grants) != 1 {
		t.Fatalf("%d grants, %v", len(grants), err)
	}
	account, err := w.vault.Account(t.Context(), grants[0].AccountID)
	if err != nil {
		t.Fatal(err)
	}
	account.State, account.Reason = tokenstore.StateNeedsReauth, "the provider ended the login"
	if err := w.vault.Commit(t.Context(), tokenstore.Save(account)); err != nil {
		t.Fatal(err)
	}
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.status != http.StatusBadRequest || a.oauthError(t) != "invalid_grant" {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

func TestT37PlainPKCEIsForThoseWhoAskForIt(t *testing.T) {
	t.Parallel()
	plain := func(b bot, method string) url.Values {
		p := authorizeParams(b)
		p.Set("code_challenge", verifier)
		p.Set("code_challenge_method", method)
		return p
	}
	w := newWorld(t)
	b := w.register("")
	for _, method := range []string{"plain", ""} {
		if q := location(t, w.browser().authorize(plain(b, method))).Query(); q.Get("error") != "invalid_request" {
			t.Errorf("method %q: %v", method, q)
		}
	}
	w.reload(func(o *authserver.Options) { o.PlainPKCE = true })
	if m := w.get("/.well-known/oauth-authorization-server").json(t); len(m["code_challenge_methods_supported"].([]any)) != 2 {
		t.Errorf("metadata: %v", m["code_challenge_methods_supported"])
	}
	for _, method := range []string{"plain", ""} {
		br := w.browser()
		code := location(t, br.get(w.callbackURL(br.allow(br.authorize(plain(b, method)))))).Query().Get("code")
		wrong := codeForm(b, code)
		wrong.Set("code_verifier", strings.Repeat("x", 43))
		if a := w.postForm(endpoints+"/a/token", wrong); a.oauthError(t) != "invalid_grant" {
			t.Errorf("wrong verifier: %s", a.body)
		}
		w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, code)))
	}
	// S256 is not weakened by it: the challenge is no verifier.
	br := w.browser()
	code := location(t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b)))))).Query().Get("code")
	asVerifier := codeForm(b, code)
	asVerifier.Set("code_verifier", challenge())
	if a := w.postForm(endpoints+"/a/token", asVerifier); a.oauthError(t) != "invalid_grant" {
		t.Errorf("the challenge as verifier: %s", a.body)
	}
	if q := location(t, br.authorize(plain(b, "S512"))).Query(); q.Get("error") != "invalid_request" {
		t.Errorf("unknown method: %v", q)
	}
}

// That a token was verified before says nothing of its time, its proxy and its grant, nor of one that differs by a bit.
func TestTokensThatWereVerifiedBeforeAreJudgedAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, got := w.session()
	for range 3 {
		if !w.works(got.access) {
			t.Fatal("the token does not work")
		}
	}
	if _, _, err := w.server.Authenticate(t.Context(), got.access, "b"); !errors.Is(err, authserver.ErrInvalidToken) {
		t.Errorf("at another proxy: %v", err)
	}
	for _, i := range []int{0, len(got.access) / 2, len(got.access) - 1} {
		forged := []byte(got.access)
		forged[i] ^= 1
		if w.works(string(forged)) {
			t.Errorf("another token is taken for it, which differs at %d", i)
		}
	}
	w.turn(time.Hour + time.Second)
	if w.works(got.access) {
		t.Error("the token works beyond its time")
	}
	next := w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	if !w.works(next.access) {
		t.Fatal("the next token does not work")
	}
	if a := w.postForm(endpoints+"/a/revoke", url.Values{"token": {next.refresh}, "client_id": {b.id}, "client_secret": {b.secret}}); a.status != http.StatusOK || w.works(next.access) {
		t.Errorf("revoked: %d, works: %v", a.status, w.works(next.access))
	}
}

// BenchmarkAuthenticate judges the access tokens of requests: one that came before, by one at a time and by many, and one whose signature is checked.
func BenchmarkAuthenticate(b *testing.B) {
	w := newWorld(b)
	_, got := w.session()
	authenticate := func(b *testing.B) {
		b.Helper()
		if _, _, err := w.server.Authenticate(b.Context(), got.access, "a"); err != nil {
			b.Error(err)
		}
	}
	b.Run("warm", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			authenticate(b)
		}
	})
	b.Run("warm by many", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				authenticate(b)
			}
		})
	})
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.server.ForgetVerified(got.access)
			authenticate(b)
		}
	})
}
