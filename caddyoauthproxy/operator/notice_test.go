package operator_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// What a page says that was done was done by the one who reads it.
func TestT80NoLinkMakesAPageSayThatSomethingWasDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(2)
	told := func(path string, form url.Values) string {
		a := w.visit(path, form)
		if a.status != http.StatusSeeOther {
			t.Fatalf("%s: %d %s", path, a.status, bodyText(a.body))
		}
		return strings.TrimPrefix(a.header.Get("Location"), w.issuer.String())
	}
	rotated, ended := told("/admin/keys/rotate", url.Values{}), told("/admin/sessions/signin-0001/end", url.Values{})
	for path, says := range map[string]bool{
		rotated: true, ended: true, strings.Replace(rotated, "rotated", "cut", 1): false, rotated + "x": false,
		"/admin/keys?done=revoked": false, "/admin/keys?done=rotated": false, "/admin/keys?done=cut": false, "/admin/keys?done=cut.": false,
		"/admin/sessions?done=ended": false, "/admin/grants/grant-0001?done=revoked": false, "/admin/revoked?id=nothing": false,
	} {
		if a := w.visit(path, nil); a.status != http.StatusOK || strings.Contains(a.body, `role="status"`) != says {
			t.Errorf("%s: %d %s", path, a.status, bodyText(a.body))
		}
	}

	s := newSite(t)
	alice, bob := s.person(), s.person()
	s.grant(alice.signIn("alice"), "g1", "c1", "Bot", "alice")
	cut := alice.post("/connections/cut", url.Values{"grant": {"g1"}, "csrf": {alice.signedIn().CSRF}}).header.Get("Location")
	bob.signIn("bob")
	for _, c := range []struct {
		who  *person
		to   string
		says bool
	}{{alice, cut, true}, {bob, cut, false}, {bob, s.url + "/connections?done=grant", false}, {bob, s.url + "/connections?done=account", false}} {
		if a := c.who.send(http.MethodGet, c.to, nil); a.status != http.StatusOK || strings.Contains(a.body, `role="status"`) != c.says {
			t.Errorf("%s: %d %s", c.to, a.status, bodyText(a.body))
		}
	}
}

func TestChosenGrantsThatAreNotThereAreNotSaidToBeRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(3)
	w.visit("/admin/grants/grant-0001/revoke", url.Values{})
	for query, want := range map[string]string{
		"id=nothing":                             "None of these grants is there",
		"id=nothing&id=grant-0001":               "1 grant is revoked. 1 is not there any more.",
		"id=nothing&id=grant-0001&id=grant-0002": "1 of 2 grants are revoked: see which are not. 1 is not there any more.",
		"id=grant-0001":                          "1 grant is revoked. All grants",
	} {
		if text := bodyText(w.page("/admin/revoked?" + query)); !strings.Contains(text, want) {
			t.Errorf("%s: %s", query, text)
		}
	}
}
