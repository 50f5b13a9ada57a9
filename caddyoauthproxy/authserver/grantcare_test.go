package authserver_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// as has the provider say that another user logs in.
func (w *world) as(user map[string]any) {
	w.provider.mu.Lock()
	defer w.provider.mu.Unlock()
	w.provider.user = user
}

var (
	alice = map[string]any{"sub": "u1", "email": "alice@example.com", "email_verified": true, "name": "Alice Liddell", "preferred_username": "alice.l"}
	bob   = map[string]any{"sub": "u2", "email": "Bob.Dodgson@Oxford.example", "email_verified": true, "name": "Bob Dødgson"}
	carol = map[string]any{"sub": "u3", "email": "ceo@example.com", "preferred_username": "carol-3"} // any address, which nobody vouches for
)

// grantAt logs the provider's user in for a bot at a proxy, and returns the grant's id and the tokens.
func (w *world) grantAt(b bot, proxy string) (string, tokens) {
	w.t.Helper()
	w.turn(time.Second) // so that the order of the grants is known
	br := w.browser()
	page := br.get(w.url + endpoints + "/" + proxy + "/authorize?" + authorizeParams(b).Encode())
	back := location(w.t, br.get(w.callbackURL(br.allow(page))))
	got := w.tokens(w.postForm(endpoints+"/"+proxy+"/token", codeForm(b, back.Query().Get("code"))))
	g, _, err := w.server.Authenticate(w.t.Context(), got.access, proxy)
	if err != nil {
		w.t.Fatal(err)
	}
	return g.ID, got
}

func (w *world) grants(f authserver.GrantFilter) *authserver.GrantPage {
	w.t.Helper()
	page, err := w.server.Grants(w.t.Context(), f)
	if err != nil {
		w.t.Fatalf("%+v: %v", f, err)
	}
	return page
}

// listed are the names that the test has given the grants of a page, in its order.
func listed(page *authserver.GrantPage, names map[string]string) string {
	var list []string
	for _, g := range page.Grants {
		list = append(list, names[g.ID])
	}
	return strings.Join(list, " ")
}

func (w *world) info(id string) *authserver.GrantInfo {
	w.t.Helper()
	g, err := w.server.GrantInfo(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

func TestGrantsAreFoundByWhoAndWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.register("")
	m := w.postJSON(endpoints+"/register", `{"redirect_uris":["`+redirectURI+`"],"client_name":"Deep Thought (Beta)","token_endpoint_auth_method":"client_secret_post"}`).json(t)
	two := bot{m["client_id"].(string), m["client_secret"].(string)}
	names := map[string]string{}
	grant := func(name string, user map[string]any, b bot, proxy string) *authserver.GrantInfo {
		w.as(user)
		id, _ := w.grantAt(b, proxy)
		names[id] = name
		return w.info(id)
	}
	a1 := grant("a1", alice, one, "a")
	b1 := grant("b1", bob, one, "b")
	grant("b2", bob, two, "a")
	c1 := grant("c1", carol, two, "b")
	ended := grant("a2", alice, two, "a")
	if _, err := w.server.EndGrant(t.Context(), ended.ID, ""); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		filter authserver.GrantFilter
		want   string
	}{
		{authserver.GrantFilter{}, "a2 c1 b2 b1 a1"},
		{authserver.GrantFilter{UserID: a1.User.ID}, "a2 a1"},
		{authserver.GrantFilter{ClientID: two.id}, "a2 c1 b2"},
		{authserver.GrantFilter{Proxy: "b"}, "c1 b1"},
		{authserver.GrantFilter{Provider: "idp"}, "a2 c1 b2 b1 a1"},
		{authserver.GrantFilter{Provider: "other"}, ""},
		{authserver.GrantFilter{AccountID: b1.Account.ID}, "b1"},
		{authserver.GrantFilter{Health: tokenstore.HealthValid}, "c1 b2 b1 a1"},
		{authserver.GrantFilter{Health: tokenstore.HealthRevoked}, "a2"},
		{authserver.GrantFilter{Health: tokenstore.HealthBroken}, ""},
		{authserver.GrantFilter{UserID: b1.User.ID, ClientID: two.id, Proxy: "a"}, "b2"},
		{authserver.GrantFilter{UserID: a1.User.ID, Health: tokenstore.HealthValid}, "a1"},
		{authserver.GrantFilter{UserID: c1.User.ID, Proxy: "a"}, ""},
		{authserver.GrantFilter{Text: "alice"}, "a2 a1"},
		{authserver.GrantFilter{Text: "LIDDELL"}, "a2 a1"},
		{authserver.GrantFilter{Text: "  liddell, alice "}, "a2 a1"},
		{authserver.GrantFilter{Text: "alice@example.com"}, "a2 a1"},
		{authserver.GrantFilter{Text: "example.com"}, "a2 a1"},
		{authserver.GrantFilter{Text: "oxford.example"}, "b2 b1"},
		{authserver.GrantFilter{Text: "bob.dodgson"}, "b2 b1"},
		{authserver.GrantFilter{Text: "dodgson"}, "b2 b1"},
		{authserver.GrantFilter{Text: "DØDGSON"}, "b2 b1"},
		{authserver.GrantFilter{Text: "dodg"}, ""},
		{authserver.GrantFilter{Text: "ceo@example.com"}, ""},
		{authserver.GrantFilter{Text: "u3"}, ""},
		{authserver.GrantFilter{Text: "bot"}, "b1 a1"},
		{authserver.GrantFilter{Text: "deep beta"}, "a2 c1 b2"},
		{authserver.GrantFilter{Text: "deep alice"}, "a2"},
		{authserver.GrantFilter{Text: "deep", Proxy: "b"}, "c1"},
		{authserver.GrantFilter{UserID: "no such user"}, ""},
		{authserver.GrantFilter{UserID: "ÿ\x00"}, ""},
		{authserver.GrantFilter{Limit: 2}, "a2 c1"},
		{authserver.GrantFilter{Sort: "user"}, "a1 a2 b1 b2 c1"},
		{authserver.GrantFilter{Sort: "-user", Health: tokenstore.HealthValid}, "c1 b2 b1 a1"},
		{authserver.GrantFilter{Sort: "-proxy"}, "c1 b1 a2 b2 a1"},
		{authserver.GrantFilter{Sort: "health", UserID: a1.User.ID}, "a2 a1"},
	} {
		got := listed(w.grants(tt.filter), names)
		if tt.filter.Sort == "user" || tt.filter.Sort == "-user" { // those of one user are in the order of the page
			got, tt.want = order(got), order(tt.want)
		}
		if got != tt.want {
			t.Errorf("%+v finds %q; want %q", tt.filter, got, tt.want)
		}
	}
}

// order leaves of grants those letters that say whose they are.
func order(list string) string {
	return strings.Join(strings.FieldsFunc(list, func(r rune) bool { return r == ' ' || r >= '0' && r <= '9' }), " ")
}

func TestGrantsArePaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	var want []string
	for range 5 {
		id, _ := w.grantAt(b, "a")
		want = append([]string{id}, want...)
	}
	for _, sort := range []string{"", "-expires"} {
		var got []string
		for f := (authserver.GrantFilter{Limit: 2, ClientID: b.id, Sort: sort}); ; {
			page := w.grants(f)
			for _, g := range page.Grants {
				got = append(got, g.ID)
			}
			if f.After = page.Next; f.After == "" {
				break
			}
			if len(page.Grants) != 2 || len(got) > 5 {
				t.Fatalf("sort %q: a page of %d grants, %d in all", sort, len(page.Grants), len(got))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("sort %q: %v, want %v", sort, got, want)
		}
	}
	if page := w.grants(authserver.GrantFilter{Limit: 5}); page.Next != "" {
		t.Error("a page that holds all says that there are more")
	}
}

func TestGrantFilterThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for want, f := range map[string]authserver.GrantFilter{
		"limit":  {Limit: -1},
		"1000":   {Limit: 1001},
		"health": {Health: "fine"},
		"text":   {Text: " - "},
		"words":  {Text: "a b c d e f g h i"},
		"sort":   {Sort: "created"},
		"after":  {Sort: "user", After: "gone"},
	} {
		_, err := w.server.Grants(t.Context(), f)
		var refused *authserver.Error
		if !errors.As(err, &refused) || refused.Code != "invalid_request" || !strings.Contains(refused.Description, want) {
			t.Errorf("%+v: %v; want an error that says %q", f, err, want)
		}
	}
}

func TestSortingTooManyGrantsIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var writes []tokenstore.Write
	for i := range 1001 {
		g := &tokenstore.Grant{Meta: tokenstore.Meta{ID: fmt.Sprintf("grant-%04d", i)}, State: tokenstore.StateActive, Proxy: "a", UserID: fmt.Sprint("user-", i%2)}
		writes = append(writes, tokenstore.Save(g))
	}
	for batch := range slices.Chunk(writes, 200) {
		if err := w.vault.Commit(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.server.Grants(t.Context(), authserver.GrantFilter{Sort: "user", Proxy: "a"})
	var refused *authserver.Error
	if !errors.As(err, &refused) || !strings.Contains(refused.Description, "narrow the filter") {
		t.Errorf("got %v; want a refusal that says what to do", err)
	}
	if page := w.grants(authserver.GrantFilter{Sort: "user", Proxy: "a", UserID: "user-1", Limit: 1000}); len(page.Grants) != 500 {
		t.Errorf("%d grants of 500", len(page.Grants))
	}
}

func TestGrantIsShownWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.as(alice)
	id, got := w.grantAt(w.register(""), "a")
	stored, err := w.vault.Grant(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	g := w.info(id)
	if g.Health != tokenstore.HealthValid || g.Reason != "" || g.User.Label != "alice@example.com" || g.User.Name != "Alice Liddell" || g.User.Provider != "idp" ||
		g.Client != "Bot" || g.Proxy != "a" || g.Resource != w.url+"/mcp/a" || g.Provider != "idp" || !slices.Equal(g.Scopes, []string{"mcp"}) ||
		g.Created.IsZero() || !g.Expires.Equal(stored.Expires) || !g.Ends.Equal(stored.Ends) {
		t.Errorf("shown as %+v", g)
	}
	if a := g.Account; a == nil || a.ID != stored.AccountID || a.State != tokenstore.StateActive || a.Provider != "idp" || a.Obtained.IsZero() || a.Expires.IsZero() {
		t.Errorf("account is shown as %+v", g.Account)
	}
	text, err := json.Marshal([]any{g, w.grants(authserver.GrantFilter{})})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{got.access, got.refresh, "up-access", "up-refresh", stored.Family.Current, stored.ClientHash, stored.Family.JTI} {
		if secret != "" && strings.Contains(string(text), secret) {
			t.Errorf("%q is shown: %s", secret, text)
		}
	}
	w.as(carol)
	id, _ = w.grantAt(w.register(""), "a")
	if g := w.info(id); g.User.Email != "" || g.User.Label != "carol-3" {
		t.Errorf("an address that nobody vouches for is shown: %+v", g.User)
	}
}

func TestGrantEndsWhenTheOperatorSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, got := w.grantAt(w.register(""), "a")
	if g, err := w.server.EndGrant(t.Context(), id, strings.Repeat("x", 201)); err == nil || g != nil || !w.works(got.access) {
		t.Errorf("a reason of 201 bytes: %+v, %v", g, err)
	}
	g, err := w.server.EndGrant(t.Context(), id, " laptop lost ")
	if err != nil || g.Health != tokenstore.HealthRevoked || g.Reason != "laptop lost" || g.Account.State != tokenstore.StateRevoked {
		t.Errorf("EndGrant = %+v, %v", g, err)
	}
	if w.works(got.access) {
		t.Error("its token still works")
	}
	if g, err := w.server.EndGrant(t.Context(), id, "again"); err != nil || g.Reason != "laptop lost" {
		t.Errorf("again: %+v, %v", g, err)
	}
	_, ended := w.server.EndGrant(t.Context(), "no-such-grant", "")
	_, shown := w.server.GrantInfo(t.Context(), "a b")
	for _, err := range []error{ended, shown} {
		var missing *authserver.Error
		if !errors.As(err, &missing) || missing.Status != http.StatusNotFound {
			t.Errorf("grant that does not exist: %v", err)
		}
	}
	eventually(t, "the provider to be told", func() bool {
		w.provider.mu.Lock()
		defer w.provider.mu.Unlock()
		return len(w.provider.revoked) == 2
	})
}

func TestGrantThatDoesNotOpenIsShownAsBroken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.register("")
	fine, _ := w.grantAt(b, "a")
	id, _ := w.grantAt(b, "a")
	row, err := w.store.Get(t.Context(), tokenstore.KindGrant, id)
	if err != nil {
		t.Fatal(err)
	}
	row.Version++ // it is sealed for the version before
	if err := w.store.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: row}); err != nil {
		t.Fatal(err)
	}
	page := w.grants(authserver.GrantFilter{ClientID: b.id})
	if len(page.Grants) != 2 || page.Grants[1].ID != fine {
		t.Fatalf("%d grants are listed", len(page.Grants))
	}
	for _, g := range []*authserver.GrantInfo{page.Grants[0], w.info(id)} {
		if g.ID != id || g.Health != tokenstore.HealthBroken || !strings.Contains(g.Reason, "cannot be read") {
			t.Errorf("shown as %+v", g)
		}
	}
	_, err = w.server.EndGrant(t.Context(), id, "")
	var refused *authserver.Error
	if !errors.As(err, &refused) || refused.Status != http.StatusConflict {
		t.Errorf("EndGrant = %v", err)
	}
}

func TestHealthTurnsWithTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, _ := w.grantAt(w.register(""), "a")
	for _, step := range []struct {
		turn time.Duration
		want tokenstore.Health
	}{
		{0, tokenstore.HealthValid},
		{26 * 24 * time.Hour, tokenstore.HealthValid},
		{25 * time.Hour, tokenstore.HealthExpiring}, // three days before its end
		{71 * time.Hour, tokenstore.HealthExpired},
		{time.Hour, tokenstore.HealthExpired},
	} {
		w.turn(step.turn)
		if err := w.server.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if g := w.info(id); g.Health != step.want || (g.Reason == "") != (g.Health == tokenstore.HealthValid) {
			t.Errorf("after %s more it is %s: %q", step.turn, g.Health, g.Reason)
		}
		for _, h := range tokenstore.Healths() {
			n, err := w.vault.CountGrants(t.Context(), h)
			if found := len(w.grants(authserver.GrantFilter{Health: h}).Grants); err != nil || n != found || (n == 1) != (h == step.want) {
				t.Errorf("after %s more %d are found as %s, and %d counted, %v", step.turn, found, h, n, err)
			}
		}
	}
	before, err := w.vault.Grant(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.server.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, err := w.vault.Grant(t.Context(), id); err != nil || after.Version != before.Version {
		t.Errorf("a grant whose health has not turned is written again: %v", err)
	}
}

// eventually waits for what happens in the background.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
