package operator_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestOperatorRevokesAGrantOnAPageAndTheTrailSaysWho(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(3)
	grant := "/admin/grants/grant-0001"
	if body := w.page(grant + "?done=revoked"); strings.Contains(body, "The grant is revoked") {
		t.Error("a link makes the page say what is not so")
	}
	if body := w.page(grant); !strings.Contains(body, "account-0001") || !strings.Contains(body, grant+"/revoke") || !strings.Contains(body, "user0001@example.com") {
		t.Errorf("the grant: %s", bodyText(body))
	}
	if a := w.visit(grant+"/revoke", url.Values{"reason": {strings.Repeat("x", 201)}}); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, `id="p-reason"`) {
		t.Errorf("a long reason: %d", a.status)
	}
	if g := w.grant("grant-0001"); g.Health == tokenstore.HealthRevoked {
		t.Fatal("it was revoked all the same")
	}
	a := w.visit(grant+"/revoke", url.Values{"reason": {"ticket 17"}})
	if a.status != http.StatusSeeOther || !strings.HasPrefix(a.header.Get("Location"), w.issuer.String()+grant+"?done=revoked.") {
		t.Fatalf("%d %s %s", a.status, a.header.Get("Location"), bodyText(a.body))
	}
	body := w.page(strings.TrimPrefix(a.header.Get("Location"), w.issuer.String()))
	if !strings.Contains(body, `role="status"`) || !strings.Contains(body, "The grant is revoked") || strings.Contains(body, `href="`+w.issuer.String()+grant+`/revoke"`) {
		t.Errorf("after it: %s", bodyText(body))
	}
	events, _, err := w.vault.Events(t.Context(), tokenstore.EventFilter{Grant: "grant-0001", Types: []string{tokenstore.EventGrantEnded}})
	if err != nil || len(events) != 1 || events[0].Actor.ID != "user-of-admin" || events[0].Actor.Kind != tokenstore.ActorOperator || events[0].Address != "192.0.2.7" || events[0].Reason != "ticket 17" {
		t.Fatalf("%v %+v", err, events)
	}
	if !strings.Contains(body, "/admin/audit/"+events[0].ID) {
		t.Error("the page does not lead to the event")
	}
	if event := bodyText(w.page("/admin/audit/" + events[0].ID)); !strings.Contains(event, "admin@example.com") || !strings.Contains(event, "ticket 17") || !strings.Contains(event, "192.0.2.7") {
		t.Errorf("the event: %s", event)
	}
}

func (w *world) grant(id string) *authserver.GrantInfo {
	w.t.Helper()
	g, err := w.gateway.GrantInfo(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// living are the ids of grants that are not revoked.
func (w *world) living() (ids []string) {
	w.t.Helper()
	page, err := w.gateway.Grants(w.t.Context(), authserver.GrantFilter{Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, g := range page.Grants {
		if g.Health != tokenstore.HealthRevoked {
			ids = append(ids, g.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestOperatorRevokesTheChosenAndNoOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(4)
	ask := w.page("/admin/revoke?id=grant-0000&id=grant-0002&id=grant-0002&id=gone")
	if !strings.Contains(ask, "Revoke 2 grants?") || !strings.Contains(ask, `name="ids" value="gone grant-0000 grant-0002"`) || !strings.Contains(ask, "not there any more") {
		t.Fatalf("the question: %s", bodyText(ask))
	}
	a := w.visit("/admin/revoke", url.Values{"ids": {"gone grant-0000 grant-0002"}, "reason": {""}})
	if a.status != http.StatusSeeOther {
		t.Fatalf("%d %s", a.status, bodyText(a.body))
	}
	result := w.page(strings.TrimPrefix(a.header.Get("Location"), w.issuer.String()))
	if !strings.Contains(result, "2 grants are revoked. 1 is not there any more.") || !slices.Equal(w.living(), []string{"grant-0001", "grant-0003"}) {
		t.Errorf("%s %v", bodyText(result), w.living())
	}
	if forged := w.page("/admin/revoked?id=grant-0001"); !strings.Contains(forged, "0 of 1 grant is revoked") {
		t.Errorf("a link makes the page say what is not so: %s", bodyText(forged))
	}
	for name, form := range map[string]url.Values{
		"nothing": {}, "a filter too": {"ids": {"grant-0001"}, "proxy": {"jira"}}, "too many": {"ids": {strings.Repeat("x ", 3) + many(51)}}, "no id": {"ids": {"grant-\u00e9"}},
	} {
		if a := w.visit("/admin/revoke", form); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, a.status)
		}
	}
	if len(w.living()) != 2 {
		t.Errorf("living: %v", w.living())
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "id-%d ", i)
	}
	return b.String()
}

func TestOperatorRevokesAllThatMatchAFilterAndAMisspeltOneEndsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(6)
	list := w.page("/admin/grants?proxy=wiki")
	if !strings.Contains(list, "/admin/revoke?proxy=wiki") {
		t.Fatal("the list does not lead to it")
	}
	if list := w.page("/admin/grants?proxy=wiki&text=user0001"); strings.Contains(list, "/admin/revoke?proxy") {
		t.Error("an order would end more than is listed")
	}
	ask := w.page("/admin/revoke?proxy=wiki")
	if !strings.Contains(ask, "Revoke 3 grants?") || !strings.Contains(ask, `name="proxy" value="wiki"`) {
		t.Fatalf("the question: %s", bodyText(ask))
	}
	for name, form := range map[string]url.Values{
		"misspelt": {"porxy": {"wiki"}}, "one misspelt": {"proxy": {"wiki"}, "usre_id": {"x"}}, "empty": {"proxy": {""}}, "all and one": {"all": {"true"}, "proxy": {"wiki"}, "sure": {"on"}}, "no id": {"proxy": {"wi ki"}},
	} {
		if a := w.visit("/admin/revoke", form); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, a.status, a.header.Get("Location"))
		}
	}
	if a := w.visit("/admin/revoke", url.Values{"all": {"true"}}); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, `id="p-sure"`) {
		t.Errorf("all, and not sure: %d", a.status)
	}
	if len(w.living()) != 6 {
		t.Fatalf("living: %v", w.living())
	}
	a := w.visit("/admin/revoke", url.Values{"proxy": {"wiki"}, "reason": {"the server was broken into"}})
	if a.status != http.StatusSeeOther || !strings.Contains(a.header.Get("Location"), "/admin/revocations/") {
		t.Fatalf("%d %s", a.status, bodyText(a.body))
	}
	if len(w.living()) != 3 {
		t.Errorf("living: %v", w.living())
	}
	order := bodyText(w.page(strings.TrimPrefix(a.header.Get("Location"), w.issuer.String())))
	if !strings.Contains(order, "admin@example.com") || !strings.Contains(order, "the server was broken into") || !strings.Contains(order, " of 3") {
		t.Errorf("the order: %s", order)
	}
	if list := bodyText(w.page("/admin/revocations")); !strings.Contains(list, "proxy wiki") {
		t.Errorf("the orders: %s", list)
	}
	if a := w.visit("/admin/revoke", url.Values{"all": {"true"}, "sure": {"on"}}); a.status != http.StatusSeeOther || len(w.living()) != 0 {
		t.Errorf("all: %d, %v", a.status, w.living())
	}
}
