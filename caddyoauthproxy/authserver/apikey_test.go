package authserver_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// forKeys opens proxy a to API keys, with two scopes, and a third proxy, c, with one of these.
func forKeys(o *authserver.Options) {
	a := o.Proxies[0]
	a.Machines, a.Scopes = true, []string{"read", "write"}
	c := *a
	c.ID, c.Resource, c.Scopes = "c", strings.TrimSuffix(a.Resource, "a")+"c", []string{"read"}
	c.ResourceURL, _ = url.Parse(c.Resource)
	o.Proxies = append(o.Proxies, &c)
}

func (w *world) newKey(n authserver.NewAPIKey) (string, *authserver.APIKey) {
	w.t.Helper()
	if n.Name == "" {
		n.Name = "nightly report"
	}
	if n.Proxies == nil {
		n.Proxies = []string{"a"}
	}
	key, made, err := w.server.CreateAPIKey(w.t.Context(), n)
	if err != nil {
		w.t.Fatal(err)
	}
	return key, made
}

func (w *world) refuses(token, proxy string) bool {
	w.t.Helper()
	_, _, err := w.server.Authenticate(w.t.Context(), token, proxy)
	if err != nil && !errors.Is(err, authserver.ErrInvalidToken) {
		w.t.Errorf("a fault, not a refusal: %v", err)
	}
	return err != nil
}

func TestAPIKeyStandsForNoUserAtItsProxies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forKeys, func(o *authserver.Options) { o.Proxies[0].Allow.Emails = []string{"bob@example.com"} })
	key, made := w.newKey(authserver.NewAPIKey{Proxies: []string{"a"}, Scopes: []string{"read"}})
	if !regexp.MustCompile(`^gwk_[0-9a-f]{16}_[0-9a-f]{64}$`).MatchString(key) || !strings.Contains(key, made.ID) {
		t.Errorf("key %q of id %q", key, made.ID)
	}
	g, c, err := w.server.Authenticate(t.Context(), key, "a")
	if err != nil {
		t.Fatal(err)
	}
	client := "api-key:" + made.ID
	if g.ID != made.ID || g.ClientID != client || g.Client != "nightly report" || g.Proxy != "a" || g.Resource != w.url+"/mcp/a" || g.AccountID != "" ||
		g.UserID != client || !reflect.DeepEqual(g.User, tokenstore.User{Subject: client, Login: client, Name: "nightly report"}) || !g.Ends.Equal(made.Expires) {
		t.Errorf("grant %+v", g)
	}
	if c.JTI != made.ID || c.GrantID != made.ID || c.ClientID != client || c.Subject != client || c.Audience != g.Resource || c.Scope != "read" || c.Expires != made.Expires.Unix() {
		t.Errorf("claims %+v", c)
	}
	if left := time.Until(made.Expires); left < 89*24*time.Hour || left > 90*24*time.Hour {
		t.Errorf("expires in %s", left)
	}
	for _, proxy := range []string{"b", "c", "nobody"} {
		if !w.refuses(key, proxy) {
			t.Errorf("good at proxy %s", proxy)
		}
	}
	if _, err := w.vault.Grant(t.Context(), made.ID); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("a grant is in the vault: %v", err)
	}
}

func TestT55APIKeyHasOneSpelling(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forKeys)
	key, made := w.newKey(authserver.NewAPIKey{})
	other, _ := w.newKey(authserver.NewAPIKey{})
	secret := key[len("gwk_")+17:]
	flipped := func(i int) string {
		b := []byte(key)
		if b[i]++; b[i] == '9'+1 || b[i] == 'f'+1 {
			b[i] = '0'
		}
		return string(b)
	}
	bad := map[string]string{
		"prefix alone": "gwk_", "no secret": "gwk_" + made.ID, "empty secret": "gwk_" + made.ID + "_", "secret alone": "gwk_" + secret,
		"another key's secret": "gwk_" + made.ID + other[len(other)-65:], "cut": key[:len(key)-1], "longer": key + "0", "line break": key + "\n",
		"first of the id": flipped(4), "first of the secret": flipped(21), "last of the secret": flipped(len(key) - 1), "no such id": flipped(19),
		"upper case": strings.ToUpper(key), "secret in upper case": key[:21] + strings.ToUpper(key[21:]), "prefix in upper case": "GWK_" + key[4:],
		"without prefix": key[4:], "padded": key + "=", "another separator": strings.Replace(key, made.ID+"_", made.ID+".", 1), "two separators": key + "_",
		"id with a path": "gwk_../../../../x000_" + secret, "long": key + strings.Repeat("0", 1<<16),
	}
	for name, text := range bad {
		if !w.refuses(text, "a") {
			t.Errorf("%s is accepted", name)
		}
	}
	if w.refuses(key, "a") {
		t.Error("the key itself is refused")
	}
	if _, err := w.server.RevokeAPIKey(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	bad["itself"] = key
	for name, text := range bad {
		if !w.refuses(text, "a") {
			t.Errorf("%s is accepted after the key was revoked", name)
		}
	}
	if w.refuses(other, "a") {
		t.Error("another key is refused after the key was revoked")
	}
}

func TestT58APIKeyIsJudgedOnEveryRequestAndWhileOneLasts(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *world, id string){
		"revoked": func(w *world, id string) {
			if _, err := w.server.RevokeAPIKey(w.t.Context(), id); err != nil {
				w.t.Error(err)
			}
		},
		"revoked on another node": func(w *world, id string) {
			if _, err := w.node().RevokeAPIKey(w.t.Context(), id); err != nil {
				w.t.Error(err)
			}
		},
		"expired": func(w *world, _ string) { w.turn(time.Hour) },
		"gone": func(w *world, _ string) {
			if n, err := w.vault.Sweep(w.t.Context(), time.Now().AddDate(2, 0, 0), 10); n != 1 || err != nil {
				w.t.Errorf("swept %d, %v", n, err)
			}
		},
		"of a proxy without a token for it": func(w *world, _ string) {
			w.reload(func(o *authserver.Options) { o.Proxies[0].Machines = false })
		},
		"of a proxy with other scopes": func(w *world, _ string) {
			w.reload(func(o *authserver.Options) { o.Proxies[0].Scopes = []string{"other"} })
		},
		"of a proxy that is gone": func(w *world, _ string) {
			w.reload(func(o *authserver.Options) { o.Proxies = o.Proxies[1:] })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, forKeys)
			key, made := w.newKey(authserver.NewAPIKey{Lifetime: time.Hour})
			w.turn(59 * time.Minute)
			if err := w.server.CheckGrant(t.Context(), made.ID, "a"); err != nil || w.refuses(key, "a") {
				t.Errorf("before: %v", err)
			}
			if err := w.server.CheckGrant(t.Context(), made.ID, "c"); !errors.Is(err, authserver.ErrInvalidToken) {
				t.Errorf("at a proxy that it is not for: %v", err)
			}
			end(w, made.ID)
			if err := w.server.CheckGrant(t.Context(), made.ID, "a"); !errors.Is(err, authserver.ErrInvalidToken) || !w.refuses(key, "a") {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestAPIKeyIsNoTokenForTheOAuthEndpoints(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forKeys)
	key, made := w.newKey(authserver.NewAPIKey{})
	b := w.register("")
	with := func(name string) url.Values {
		return url.Values{name: {key}, "token": {key}, "client_id": {b.id}, "client_secret": {b.secret}, "grant_type": {"refresh_token"}}
	}
	if a := w.postForm(endpoints+"/introspect", with("token")); a.status != http.StatusOK || a.body != `{"active":false}` {
		t.Errorf("introspection: %d %q", a.status, a.body)
	}
	if a := w.postForm(endpoints+"/revoke", with("token")); a.status != http.StatusOK {
		t.Errorf("revocation: %d %s", a.status, a.body)
	}
	if a := w.postForm(endpoints+"/a/token", with("refresh_token")); a.oauthError(t) != "invalid_grant" {
		t.Errorf("token: %d %s", a.status, a.body)
	}
	session := `{"session_token":"` + key + `"}`
	if m := w.postJSON("/api/v1/oauth/validate", session).json(t); m["valid"] != false {
		t.Errorf("validate: %v", m)
	}
	if a := w.postJSON("/api/v1/oauth/refresh", session); a.status != http.StatusUnauthorized {
		t.Errorf("refresh: %d %s", a.status, a.body)
	}
	w.postJSON("/api/v1/oauth/logout", session)
	if w.refuses(key, "a") {
		t.Error("the key has ended")
	}
	if keys, err := w.server.APIKeys(t.Context()); err != nil || len(keys) != 1 || keys[0].ID != made.ID || keys[0].State != "active" {
		t.Errorf("listed: %+v, %v", keys, err)
	}
}

func TestAPIKeyIsMadeOnlyAsItCanBeUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forKeys)
	const open = "open to API keys are: a, c"
	good := func(edit func(*authserver.NewAPIKey)) authserver.NewAPIKey {
		n := authserver.NewAPIKey{Name: "nightly report", Proxies: []string{"a"}}
		edit(&n)
		return n
	}
	for name, c := range map[string]struct {
		edit func(*authserver.NewAPIKey)
		want string
	}{
		"no name":           {func(n *authserver.NewAPIKey) { n.Name = " " }, "name is missing"},
		"long name":         {func(n *authserver.NewAPIKey) { n.Name = strings.Repeat("ü", 101) }, "at most 100 printable characters"},
		"line break":        {func(n *authserver.NewAPIKey) { n.Name = "a\nb" }, "at most 100 printable characters"},
		"turned around":     {func(n *authserver.NewAPIKey) { n.Name = "a\u202eb" }, "at most 100 printable characters"},
		"no UTF-8":          {func(n *authserver.NewAPIKey) { n.Name = "a\xffb" }, "at most 100 printable characters"},
		"no proxy":          {func(n *authserver.NewAPIKey) { n.Proxies = nil }, "name those that the key is for; " + open},
		"no such proxy":     {func(n *authserver.NewAPIKey) { n.Proxies = []string{"a", "x"} }, `proxy "x" is not declared; ` + open},
		"proxy for users":   {func(n *authserver.NewAPIKey) { n.Proxies = []string{"b"} }, "set its machine_token, or its upstream_token to client_credentials or static; " + open},
		"foreign scope":     {func(n *authserver.NewAPIKey) { n.Scopes = []string{"read", "admin"} }, `"admin" is none of the proxies', which have read, write`},
		"scope for another": {func(n *authserver.NewAPIKey) { n.Proxies, n.Scopes = []string{"a", "c"}, []string{"write"} }, `none is one of proxy "c", which has read`},
		"too short":         {func(n *authserver.NewAPIKey) { n.Lifetime = 59 * time.Second }, "for 1m to 365d"},
		"too long":          {func(n *authserver.NewAPIKey) { n.Lifetime = 365*24*time.Hour + 1 }, "for 1m to 365d"},
		"over already":      {func(n *authserver.NewAPIKey) { n.Lifetime = -time.Hour }, "for 1m to 365d"},
	} {
		key, made, err := w.server.CreateAPIKey(t.Context(), good(c.edit))
		var refused *authserver.Error
		if key != "" || made != nil || !errors.As(err, &refused) || refused.Code != "invalid_request" || !strings.Contains(refused.Description, c.want) {
			t.Errorf("%s: %q, %v; want it to say %q", name, key, err, c.want)
		}
	}
	if keys, err := w.server.APIKeys(t.Context()); len(keys) != 0 || err != nil {
		t.Errorf("refused keys are listed: %v, %v", keys, err)
	}
	for name, c := range map[string]struct {
		new             authserver.NewAPIKey
		proxies, scopes []string
	}{
		"all scopes":      {good(func(n *authserver.NewAPIKey) { n.Proxies = []string{"c", "a", "c"} }), []string{"c", "a"}, []string{"read", "write"}},
		"some":            {good(func(n *authserver.NewAPIKey) { n.Scopes = []string{"write", "write"} }), []string{"a"}, []string{"write"}},
		"shortest":        {good(func(n *authserver.NewAPIKey) { n.Lifetime = time.Minute }), []string{"a"}, []string{"read", "write"}},
		"longest":         {good(func(n *authserver.NewAPIKey) { n.Lifetime = 365 * 24 * time.Hour }), []string{"a"}, []string{"read", "write"}},
		"name is trimmed": {good(func(n *authserver.NewAPIKey) { n.Name = " nightly report\n" }), []string{"a"}, []string{"read", "write"}},
	} {
		_, made := w.newKey(c.new)
		if made.Name != "nightly report" || !reflect.DeepEqual(made.Proxies, c.proxies) || !reflect.DeepEqual(made.Scopes, c.scopes) {
			t.Errorf("%s: %+v", name, made)
		}
	}
}

func TestAPIKeyHasTheScopesOfThenThatTheProxyHasNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forKeys)
	key, _ := w.newKey(authserver.NewAPIKey{Proxies: []string{"a", "c"}})
	scope := func(proxy string) string {
		t.Helper()
		g, c, err := w.server.Authenticate(t.Context(), key, proxy)
		if err != nil || strings.Join(g.Scopes, " ") != c.Scope {
			t.Fatalf("at %s: %v", proxy, err)
		}
		return c.Scope
	}
	if a, c := scope("a"), scope("c"); a != "read write" || c != "read" {
		t.Errorf("scopes %q and %q", a, c)
	}
	w.reload(func(o *authserver.Options) { o.Proxies[0].Scopes = []string{"admin", "write"} })
	if a := scope("a"); a != "write" {
		t.Errorf("scopes after the proxy's changed: %q", a)
	}
}

func TestAPIKeysAreListedUntilTheyAreSwept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forKeys, func(o *authserver.Options) { o.Lifetimes.Retention = 48 * time.Hour })
	w.newKey(authserver.NewAPIKey{Name: "short", Lifetime: time.Hour})
	w.turn(time.Second)
	_, revoked := w.newKey(authserver.NewAPIKey{Name: "revoked"})
	w.turn(time.Second)
	w.newKey(authserver.NewAPIKey{Name: "long"})
	if again, err := w.server.RevokeAPIKey(t.Context(), revoked.ID); err != nil || again.State != "revoked" || again.Revoked.IsZero() {
		t.Errorf("revoked: %+v, %v", again, err)
	}
	w.turn(2 * time.Hour)
	first, err := w.server.RevokeAPIKey(t.Context(), revoked.ID)
	if err != nil || first.Revoked.After(time.Now().Add(time.Hour)) {
		t.Errorf("revoked again: %+v, %v; want it as it was", first, err)
	}
	var refused *authserver.Error
	for _, id := range []string{"", "0123456789abcdef", "../x", strings.Repeat("x", 500)} {
		if _, err := w.server.RevokeAPIKey(t.Context(), id); !errors.As(err, &refused) || refused.Status != http.StatusNotFound {
			t.Errorf("revoke %.20q: %v", id, err)
		}
	}
	listed := func(want ...string) {
		t.Helper()
		keys, err := w.server.APIKeys(t.Context())
		var got []string
		for _, k := range keys {
			got = append(got, k.Name+" "+k.State)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("listed %q, %v; want %q", got, err, want)
		}
	}
	sweep := func(want int) {
		t.Helper()
		if n, err := w.vault.Sweep(t.Context(), w.vault.Now(), 10); n != want || err != nil {
			t.Errorf("swept %d, %v; want %d", n, err, want)
		}
	}
	listed("long active", "revoked revoked", "short expired")
	sweep(0)
	w.turn(46*time.Hour + time.Minute) // 48 since the one was revoked, 47 since the other expired
	sweep(1)
	listed("long active", "short expired")
	w.turn(time.Hour)
	sweep(1)
	listed("long active")
}

func TestUseOfAnAPIKeyIsWrittenOnceADay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forKeys)
	key, made := w.newKey(authserver.NewAPIKey{})
	stored := func() *tokenstore.APIKey {
		t.Helper()
		k, err := w.vault.APIKey(t.Context(), made.ID)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	used := func(version uint64) {
		t.Helper()
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() {
				if w.refuses(key, "a") {
					t.Error("refused")
				}
			})
		}
		wait.Wait()
		for deadline := time.Now().Add(10 * time.Second); stored().Version < version; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the use was never written")
			}
			if w.refuses(key, "a") { // which tries again where one that came late lost the race
				t.Error("refused")
			}
		}
		if w.refuses(key, "a") {
			t.Error("refused")
		}
		if k := stored(); k.Version != version || w.vault.Now().Sub(k.Used) > time.Minute {
			t.Errorf("version %d, used %s; want %d, and now", k.Version, k.Used, version)
		}
	}
	wrong := key[:len(key)-4] + "0000"
	if !w.refuses(wrong, "a") || !w.refuses(key, "b") || !stored().Used.IsZero() {
		t.Error("a refused request counts as use")
	}
	used(2)
	w.turn(23 * time.Hour)
	if w.refuses(key, "a") || stored().Version != 2 {
		t.Error("written twice a day")
	}
	w.turn(time.Hour)
	used(3)
}

// A revocation and the writing of a use can meet; the revocation stands.
func TestRevocationOfAnAPIKeyInUseIsNotLost(t *testing.T) {
	t.Parallel()
	for range 20 {
		w := newWorld(t, forKeys)
		key, made := w.newKey(authserver.NewAPIKey{})
		var wait sync.WaitGroup
		wait.Go(func() { _, _, _ = w.server.Authenticate(t.Context(), key, "a") })
		wait.Go(func() {
			if _, err := w.server.RevokeAPIKey(t.Context(), made.ID); err != nil {
				t.Error(err)
			}
		})
		wait.Wait()
		if err := w.server.Close(t.Context()); err != nil { // the writing is done
			t.Fatal(err)
		}
		if !w.refuses(key, "a") {
			t.Fatal("the key works after it was revoked")
		}
	}
}

func TestT78APIKeyIsInNoLogNoErrorAndNoRecord(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(zapcore.AddSync(&log)), zap.DebugLevel)
	w := newWorld(t, forKeys, func(o *authserver.Options) { o.Logger = zap.New(core) })
	key, made := w.newKey(authserver.NewAPIKey{Lifetime: time.Hour})
	secret := key[len(key)-64:]
	var texts strings.Builder
	for _, text := range []string{key, key + "0", key[:len(key)-1], key[:len(key)-8] + "00000000", "gwk_0000000000000000_" + secret, "gwk_" + secret, strings.ToUpper(key)} {
		for _, proxy := range []string{"a", "b"} {
			if _, _, err := w.server.Authenticate(t.Context(), text, proxy); err != nil {
				texts.WriteString(err.Error() + "\n")
			}
		}
	}
	if _, err := w.server.RevokeAPIKey(t.Context(), key); err != nil { // no id, and never the key
		texts.WriteString(err.Error())
	}
	if _, err := w.server.RevokeAPIKey(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	record, err := w.vault.APIKey(t.Context(), made.ID)
	if err != nil || len(record.Hash) != 43 {
		t.Fatalf("record %+v, %v", record, err)
	}
	texts.WriteString(log.String() + record.Hash + w.events.text())
	for i := range len(secret) - 8 {
		if part := secret[i : i+8]; strings.Contains(strings.ToLower(texts.String()), part) {
			t.Fatalf("%q of the key is in\n%s", part, texts.String())
		}
	}
	for _, eventType := range []string{tokenstore.EventAPIKeyCreated, tokenstore.EventAPIKeyRevoked} {
		found := w.events.of(eventType)
		if len(found) != 1 || found[0].Grant != made.ID || found[0].JTI != made.ID || found[0].Client != "nightly report" || found[0].Details["proxies"] != "a" || found[0].Details["scopes"] != "read write" {
			t.Errorf("%s is recorded as %+v", eventType, found)
		}
	}
}

func TestAPIKeyThatCannotBeLookedUpIsAFaultAndNoRefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forKeys)
	key, made := w.newKey(authserver.NewAPIKey{})
	record, err := w.vault.APIKey(t.Context(), made.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, authenticate := w.server.Authenticate(t.Context(), key, "a")
	_, _, create := w.server.CreateAPIKey(t.Context(), authserver.NewAPIKey{Name: "x", Proxies: []string{"a"}})
	_, list := w.server.APIKeys(t.Context())
	_, revoke := w.server.RevokeAPIKey(t.Context(), made.ID)
	for name, err := range map[string]error{
		"Authenticate": authenticate, "CheckGrant": w.server.CheckGrant(t.Context(), record.ID, "a"), "CreateAPIKey": create, "APIKeys": list, "RevokeAPIKey": revoke,
	} {
		if !errors.Is(err, tokenstore.ErrClosed) || errors.Is(err, authserver.ErrInvalidToken) {
			t.Errorf("%s = %v; want ErrClosed", name, err)
		}
	}
}
