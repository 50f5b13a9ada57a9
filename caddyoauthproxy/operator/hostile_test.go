package operator_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// strangers are texts that want to be more than text.
var strangers = []string{
	`"><img src=x onerror=alert(1)>`, `javascript:alert(1)`, `' onmouseover='alert(1)`, "</title></style><script>alert(1)</script>", "{{.CSRF}}{env.HOME}", "a\u202eb\x1b[2J\r\nSet-Cookie: x=y", "https://evil.test/\"onclick=alert(1)", "data:text/html,<script>alert(1)</script>",
}

// plainPage reports what of a page is not its own: elements and attributes that no template has, and addresses that lead elsewhere.
func plainPage(t *testing.T, what, base, body string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type == html.TextNode && strings.ContainsAny(n.Data, "\u202e\x1b\r") {
			t.Errorf("%s: %q", what, n.Data)
		}
		if n.Type != html.ElementNode {
			continue
		}
		if n.Data == "script" || n.Data == "img" || n.Data == "iframe" || n.Data == "object" {
			t.Errorf("%s: <%s>", what, n.Data)
		}
		for _, a := range n.Attr {
			switch {
			case strings.HasPrefix(a.Key, "on"), a.Key == "style", a.Key == "srcdoc":
				t.Errorf("%s: <%s %s=%q>", what, n.Data, a.Key, a.Val)
			case (a.Key == "href" || a.Key == "action" || a.Key == "src" || a.Key == "formaction") && !strings.HasPrefix(a.Val, base) && !strings.HasPrefix(a.Val, "#"):
				t.Errorf("%s: <%s %s=%q>", what, n.Data, a.Key, a.Val)
			case a.Key == "aria-label" && strings.ContainsAny(a.Val, "\u202e\x1b"):
				t.Errorf("%s: <%s %s=%q>", what, n.Data, a.Key, a.Val)
			}
		}
	}
}

func TestT07WhateverStrangersAreCalledPagesOfOperatorsAndUsersHaveNothingOfTheirs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now := w.vault.Now()
	s := newSite(t)
	p := s.person()
	alice := p.signIn("alice")
	for i, text := range strangers {
		id := fmt.Sprintf("h%d", i)
		user := tokenstore.User{Provider: "idp", Issuer: "https://idp.test", Subject: text, Email: text, Login: text, Name: text, Groups: []string{text}, Org: text}
		client := &tokenstore.Client{
			Meta: tokenstore.Meta{ID: "gateway_" + id, DeleteAfter: now.Add(time.Hour)}, Name: text, URI: text, LogoURI: text, JWKSURI: text, ApplicationType: text, RedirectURIs: []string{text, "javascript:alert(1)", "https://bot.test/cb"},
			GrantTypes: []string{text}, AuthMethod: text, Created: now,
		}
		account := &tokenstore.Account{Meta: tokenstore.Meta{ID: "account-" + id}, State: tokenstore.StateActive, Reason: text, Provider: "idp", Owner: text, UserID: "user-" + id, Scopes: []string{text}, Obtained: now}
		grant := &tokenstore.Grant{
			Meta: tokenstore.Meta{ID: "grant-" + id, DeleteAfter: now.Add(time.Hour)}, State: tokenstore.StateActive, ClientID: client.ID, Client: text, Proxy: "jira", Resource: text, Scopes: []string{text}, UserID: "user-" + id, User: user,
			AccountID: account.ID, Broken: text, Created: now, Expires: now.Add(time.Hour), Ends: now.Add(time.Hour), RedirectURI: text, Family: tokenstore.RefreshFamily{Generation: 1, Rotated: now},
		}
		ended := *grant
		ended.ID, ended.State, ended.Reason, ended.AccountID = "ended-"+id, tokenstore.StateRevoked, text, ""
		signIn := &tokenstore.SignIn{Meta: tokenstore.Meta{ID: "signin-" + id, DeleteAfter: now.Add(time.Hour)}, UserID: grant.UserID, User: user, Created: now, Expires: now.Add(time.Hour), Address: text}
		event := w.vault.NewEvent(tokenstore.WithAddress(tokenstore.WithActor(t.Context(), tokenstore.Actor{Kind: tokenstore.ActorClient, ID: text, Label: text}), text), tokenstore.EventLoginFailed).Refused(text)
		event.User, event.UserID, event.Client, event.ClientID, event.Proxy, event.Provider, event.Details = text, text, text, text, text, text, map[string]string{"error": text}
		must(t, w.vault.Commit(t.Context(), tokenstore.Save(client), tokenstore.Save(account), tokenstore.Save(grant), tokenstore.Save(&ended), tokenstore.Save(signIn), tokenstore.RecordEvent(event)))

		for _, route := range operator.PageRoutes() {
			if route.Method != http.MethodGet {
				continue
			}
			path := strings.NewReplacer("{$}", "", "{id}", "grant-"+id).Replace(route.Path)
			switch {
			case strings.HasPrefix(path, "/admin/client/"), path == "/admin/client":
				path += "?client_id=" + client.ID
			case strings.HasPrefix(path, "/admin/sessions/"):
				path = strings.Replace(path, "grant-", "signin-", 1)
			case strings.HasPrefix(path, "/admin/audit/grant-"):
				path = "/admin/audit/" + event.ID
			case path == "/admin/revoke", path == "/admin/revoked":
				path += "?id=grant-" + id
			}
			a := w.visit(path, nil)
			if a.status != http.StatusOK && !strings.Contains(path, "/revocations/") && !strings.Contains(path, "/keys/") {
				t.Errorf("%s: %d %s", path, a.status, bodyText(a.body))
			}
			plainPage(t, path, w.issuer.String(), a.body)
		}
		if shown := bodyText(w.page("/admin/grants/grant-" + id)); i == 0 && !strings.Contains(shown, text) {
			t.Errorf("nothing was shown: %s", shown)
		}
		plainPage(t, "filters", w.issuer.String(), w.visit("/admin/grants?"+url.Values{"text": {text}, "proxy": {text}, "sort": {text}, text: {text}}.Encode(), nil).body)
		plainPage(t, "audit", w.issuer.String(), w.visit("/admin/audit?"+url.Values{"text": {text}, "proxy": {text}, "type": {text}, "consent": {text}}.Encode(), nil).body)
		plainPage(t, "reason", w.issuer.String(), w.visit("/admin/grants/grant-"+id+"/revoke", url.Values{"reason": {text + strings.Repeat("x", 200)}}).body)

		g := *grant
		g.UserID, g.User, g.Provider = alice.UserID, alice.User, "idp"
		g.Version, account.Version = 0, 0
		account.UserID = alice.UserID
		must(t, s.vault.Commit(t.Context(), tokenstore.Save(account), tokenstore.Save(&g)))
		plainPage(t, "/connections", s.url, p.get("/connections").body)
		plainPage(t, "/connections/cut", s.url, p.get("/connections/cut?grant="+g.ID).body)
		plainPage(t, "/connections/cut of what is not there", s.url, p.get("/connections/cut?"+url.Values{"grant": {text}}.Encode()).body)
	}
}
