package tokenstore_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func newOrder(id string) *tokenstore.RevocationOrder {
	return &tokenstore.RevocationOrder{
		Meta: tokenstore.Meta{ID: id}, Filter: tokenstore.RevocationFilter{UserID: "user-1"}, By: "ann", Reason: "a leak", Created: now, Matched: 3,
	}
}

func TestRevocationOrdersComeBackAsTheyWereSaved(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	v := openVault(t, s, tokenstore.NewRootKey())
	o, closed := newOrder("order-1"), newOrder("order-2")
	closed.Done, closed.Closed, closed.DeleteAfter = now, now, now.Add(time.Hour)
	closed.Ended, closed.Unreadable, closed.UnreadableIDs = 2, 1, []string{"grant-7"}
	commit(t, v, tokenstore.Save(o), tokenstore.Save(closed))
	if got, err := v.RevocationOrder(t.Context(), "order-2"); err != nil || !reflect.DeepEqual(got, closed) {
		t.Errorf("came back as\n%+v, %v; want\n%+v", got, err, closed)
	}
	for inForce, want := range map[bool]int{false: 2, true: 1} {
		if orders, err := v.RevocationOrders(t.Context(), inForce); err != nil || len(orders) != want || orders[0].ID != "order-1" {
			t.Errorf("in force %t: %v, %v", inForce, orders, err)
		}
	}
	if _, err := v.RevocationOrder(t.Context(), "order-3"); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("an order that is not there: %v", err)
	}
	if n, err := v.Sweep(t.Context(), now.AddDate(1, 0, 0), 100); n != 1 || err != nil {
		t.Errorf("swept %d, %v; want the closed one alone", n, err)
	}
	row, err := s.Get(t.Context(), tokenstore.KindRevocationOrder, "order-1")
	if err != nil || strings.Contains(string(row.Sealed), "leak") {
		t.Errorf("row %+v, %v; want it sealed", row, err)
	}
	row.Kind, row.Version = tokenstore.KindRevocationOrder, 2
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: row}); err != nil {
		t.Fatal(err)
	}
	commit(t, v, tokenstore.Save(newOrder("order-4")))
	if orders, err := v.RevocationOrders(t.Context(), true); !errors.Is(err, tokenstore.ErrTampered) || !strings.Contains(err.Error(), "order-1") || len(orders) != 1 {
		t.Errorf("beside a damaged one: %v, %v", orders, err)
	}
}

func TestRevocationOrdersMeanWhatTheirFilterSays(t *testing.T) {
	t.Parallel()
	f := func(user, client, proxy, provider string) tokenstore.RevocationFilter {
		return tokenstore.RevocationFilter{UserID: user, ClientID: client, Proxy: proxy, Provider: provider}
	}
	for name, c := range map[string]struct {
		filter tokenstore.RevocationFilter
		edit   func(*tokenstore.Grant)
		means  bool
	}{
		"nobody":                         {filter: tokenstore.RevocationFilter{}},
		"all":                            {filter: tokenstore.RevocationFilter{All: true}, means: true},
		"user":                           {filter: f("user-1", "", "", ""), means: true},
		"other user":                     {filter: f("user-2", "", "", "")},
		"part of a user":                 {filter: f("user-", "", "", "")},
		"client":                         {filter: f("", "client-1", "", ""), means: true},
		"other client":                   {filter: f("", "client-2", "", "")},
		"proxy":                          {filter: f("", "", "github", ""), means: true},
		"other proxy":                    {filter: f("", "", "jira", "")},
		"provider of the login":          {filter: f("", "", "", "okta"), means: true},
		"provider of the account":        {filter: f("", "", "", "github"), means: true},
		"provider of the account alone":  {filter: f("", "", "", "github"), edit: func(g *tokenstore.Grant) { g.Providers = nil }, means: true},
		"part of a provider":             {filter: f("", "", "", "okt")},
		"other provider":                 {filter: f("", "", "", "google")},
		"all four":                       {filter: f("user-1", "client-1", "github", "okta"), means: true},
		"all four, other provider":       {filter: f("user-1", "client-1", "github", "google")},
		"all four, other user":           {filter: f("user-2", "client-1", "github", "okta")},
		"user, other client":             {filter: f("user-1", "client-2", "", "")},
		"made later":                     {filter: tokenstore.RevocationFilter{All: true}, edit: func(g *tokenstore.Grant) { g.Created = now.Add(1) }},
		"made later, agreed before":      {filter: tokenstore.RevocationFilter{All: true}, edit: func(g *tokenstore.Grant) { g.Created, g.Agreed = now.Add(1), now }, means: true},
		"agreed later, by another clock": {filter: tokenstore.RevocationFilter{All: true}, edit: func(g *tokenstore.Grant) { g.Agreed = now.Add(1) }},
		"no user, provider":              {filter: f("", "", "", "okta"), edit: func(g *tokenstore.Grant) { g.User, g.Providers, g.Provider = tokenstore.User{}, nil, "" }},
	} {
		g := newGrant("grant-1")
		g.Provider, g.Providers = "github", []string{"okta https://okta.test", "github https://github.test/token"}
		if c.edit != nil {
			c.edit(g)
		}
		if got := (&tokenstore.RevocationOrder{Filter: c.filter, Created: now}).MeansGrant(g); got != c.means {
			t.Errorf("%s: means the grant %t, want %t", name, got, c.means)
		}
	}
}

func TestMeantGrantsAreListedPageByPage(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	var writes []tokenstore.Write
	for i := range 50 {
		g := newGrant(fmt.Sprintf("grant-%02d", i))
		if g.UserID = "user-1"; i%5 == 0 {
			g.State = tokenstore.StateRevoked
		}
		if i%2 == 0 {
			g.ClientID = "client-2"
		}
		writes = append(writes, tokenstore.Save(g))
	}
	commit(t, v, writes...)
	for filter, want := range map[tokenstore.RevocationFilter]int{
		{All: true}: 40, {UserID: "user-1"}: 40, {UserID: "user-1", ClientID: "client-2"}: 20, {ClientID: "client-1"}: 20, {Proxy: "github"}: 40,
		{Proxy: "jira"}: 0, {Provider: "okta"}: 40, {Provider: "okta", ClientID: "client-2"}: 20,
	} {
		seen := make(map[string]bool)
		for after := ""; ; {
			grants, unreadable, next, err := v.MeantGrants(t.Context(), &tokenstore.RevocationOrder{Filter: filter, Created: now}, after, 7)
			if err != nil || len(unreadable) > 0 {
				t.Fatal(err, unreadable)
			}
			for _, g := range grants {
				seen[g.ID] = true
			}
			if after = next; after == "" {
				break
			}
		}
		if len(seen) != want {
			t.Errorf("%+v: %d grants, want %d", filter, len(seen), want)
		}
	}
}

// What passes the check can be stored, says whom it means, and means somebody.
func FuzzRevocationFilter(f *testing.F) {
	f.Add("", "", "", "", false)
	f.Add("", "", "", "", true)
	f.Add("u", "", "", "", true)
	f.Add("u", "https://client.test/id", "github", "okta", false)
	f.Add("a b", "\n", "ü", strings.Repeat("x", 200), false)
	f.Fuzz(func(t *testing.T, user, client, proxy, provider string, all bool) {
		filter := tokenstore.RevocationFilter{UserID: user, ClientID: client, Proxy: proxy, Provider: provider, All: all}
		err := filter.Check()
		if (user+client+proxy+provider == "") != all {
			if err == nil {
				t.Fatal("accepted, although it is empty or all and more")
			}
			return
		}
		if err != nil {
			return
		}
		g := newGrant("grant-1")
		g.UserID, g.ClientID, g.Proxy, g.User.Provider = user, client, proxy, provider
		o := &tokenstore.RevocationOrder{Meta: tokenstore.Meta{ID: "order"}, Filter: filter, Created: now}
		if !o.MeansGrant(g) {
			t.Error("does not mean a grant of just these")
		}
		v := openVault(t, newStore(t), tokenstore.NewRootKey())
		commit(t, v, tokenstore.Save(g), tokenstore.Save(o))
		if grants, _, _, err := v.MeantGrants(t.Context(), o, "", 10); err != nil || len(grants) != 1 {
			t.Errorf("%d grants are found, %v", len(grants), err)
		}
	})
}
