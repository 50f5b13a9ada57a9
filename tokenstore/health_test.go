package tokenstore_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestHealthOfGrants(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	// grant has lived for 10 of its 20 days, and is good for 50.
	grant := func(edit func(*tokenstore.Grant)) *tokenstore.Grant {
		g := &tokenstore.Grant{
			State: tokenstore.StateActive, Created: now.Add(-40 * day), Expires: now.Add(10 * day), Ends: now.Add(50 * day),
			Family: tokenstore.RefreshFamily{Generation: 2, Rotated: now.Add(-10 * day)},
		}
		if edit != nil {
			edit(g)
		}
		return g
	}
	for name, tt := range map[string]struct {
		edit   func(*tokenstore.Grant)
		at     time.Duration
		want   tokenstore.Health
		reason string
	}{
		"half of its life left":         {nil, 0, tokenstore.HealthValid, ""},
		"before the last tenth":         {nil, 8*day - time.Second, tokenstore.HealthValid, ""},
		"in the last tenth":             {nil, 8 * day, tokenstore.HealthExpiring, "2026-12-01T12:00:00Z"},
		"at its end":                    {nil, 10 * day, tokenstore.HealthExpired, "nobody renewed it"},
		"long life, four days left":     {func(g *tokenstore.Grant) { g.Expires = now.Add(100 * day) }, 96 * day, tokenstore.HealthValid, ""},
		"long life, three days left":    {func(g *tokenstore.Grant) { g.Expires = now.Add(100 * day) }, 97 * day, tokenstore.HealthExpiring, "unless it is renewed"},
		"code that waits":               {func(g *tokenstore.Grant) { g.Family, g.Expires = tokenstore.RefreshFamily{}, now.Add(time.Second) }, 0, tokenstore.HealthValid, ""},
		"code that nobody redeemed":     {func(g *tokenstore.Grant) { g.Family, g.Expires = tokenstore.RefreshFamily{}, now }, 0, tokenstore.HealthExpired, "never redeemed"},
		"broken":                        {func(g *tokenstore.Grant) { g.Broken = "refused" }, 0, tokenstore.HealthBroken, "refused"},
		"broken, and in the last tenth": {func(g *tokenstore.Grant) { g.Broken = "refused" }, 9 * day, tokenstore.HealthBroken, "refused"},
		"broken, and at its end":        {func(g *tokenstore.Grant) { g.Broken = "refused" }, 10 * day, tokenstore.HealthExpired, "nobody renewed it"},
		"upstream token lasts":          {func(g *tokenstore.Grant) { g.UpstreamEnds = now.Add(5 * day) }, 0, tokenstore.HealthValid, ""},
		"upstream token ends soon":      {func(g *tokenstore.Grant) { g.UpstreamEnds = now.Add(2 * day) }, 0, tokenstore.HealthExpiring, "the upstream token ends at 2026-11-23T12:00:00Z"},
		"upstream token has ended":      {func(g *tokenstore.Grant) { g.UpstreamEnds = now }, 0, tokenstore.HealthBroken, "the upstream token has ended"},
		"ended":                         {func(g *tokenstore.Grant) { g.State, g.Reason = tokenstore.StateRevoked, "laptop lost" }, 20 * day, tokenstore.HealthRevoked, "laptop lost"},
		"ended without a word":          {func(g *tokenstore.Grant) { g.State = tokenstore.StateRevoked }, 0, tokenstore.HealthRevoked, "ended"},
		"ended and broken":              {func(g *tokenstore.Grant) { g.State, g.Broken = tokenstore.StateRevoked, "refused" }, 0, tokenstore.HealthRevoked, "ended"},
		"nothing known of it":           {func(g *tokenstore.Grant) { *g = tokenstore.Grant{State: tokenstore.StateActive} }, 0, tokenstore.HealthValid, ""},
	} {
		h, reason := grant(tt.edit).Health(now.Add(tt.at))
		if h != tt.want || !strings.Contains(reason, tt.reason) || (reason == "") != (tt.reason == "") {
			t.Errorf("%s: %s, %q; want %s, %q", name, h, reason, tt.want, tt.reason)
		}
	}
}

// A grant is due just when its health turns, never before, and by each saving it comes one turn nearer to its end.
func TestGrantIsDueWhenItsHealthTurns(t *testing.T) {
	t.Parallel()
	vaults, s, clock := nodes(t, 1)
	v := vaults[0]
	g := newGrant("grant-1")
	g.Created, g.Expires, g.Family.Rotated = now, now.Add(100*time.Hour+time.Nanosecond), now
	g.UpstreamEnds = now.Add(50 * time.Hour)
	commit(t, v, tokenstore.Save(g))
	var turns []string
	for range 10 {
		row, err := s.Get(t.Context(), tokenstore.KindGrant, g.ID)
		if err != nil {
			t.Fatal(err)
		}
		health, _ := g.Health(v.Now())
		if !slices.Contains(row.Refs, "health:"+string(health)) {
			t.Errorf("a grant that is %s is found by %v", health, row.Refs)
		}
		turns = append(turns, string(health))
		if row.Due.IsZero() {
			break
		}
		clock.turn(row.Due.Sub(v.Now()))
		if due, err := v.DueGrants(t.Context(), 10); len(due) != 0 || err != nil {
			t.Errorf("at %s it is due already, %v", row.Due, err)
		}
		clock.turn(time.Millisecond)
		due, err := v.DueGrants(t.Context(), 10)
		if err != nil || len(due) != 1 {
			t.Fatalf("after %s %d are due, %v", row.Due, len(due), err)
		}
		g = due[0]
		commit(t, v, tokenstore.Save(g))
	}
	// It is broken when its upstream token ends; that it would be expiring then turns nothing.
	if got := strings.Join(turns, " "); got != "valid expiring broken broken expired" {
		t.Errorf("it was %s", got)
	}
}

func TestWordsOfATextAreTakenApart(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                              "",
		" - , . ":                       "",
		"Ada Lovelace":                  "ada|lovelace",
		"ada ADA Ada":                   "ada",
		"Claude (Desktop), v2.1":        "claude|desktop|v2.1",
		"Ada.Lovelace@Example.COM":      "ada.lovelace@example.com",
		"<ada@example.com>;b@x.test":    "ada@example.com|b@x.test",
		"O’Brien Jean-Luc":              "o’brien|jean-luc",
		"ΟΔΟΣ Straße":                   "οδοσ|straße",
		"e\u0301cole \u00c9COLE":        "\u00e9cole",
		"ＦＵＬＬ width":                    "full|width",
		"山田 太郎":                         "山田|太郎",
		"a\x00b\xff":                    "a\x00b",
		strings.Repeat("x", 5000):       strings.Repeat("x", 5000),
		"'quoted' \"too\" [and] {this}": "quoted|too|and|this",
	} {
		if got := strings.Join(tokenstore.Words(text), "|"); got != want {
			t.Errorf("Words(%.40q) = %.60q; want %.60q", text, got, want)
		}
	}
}

func TestWordsInTheStoreAreHashesAndBounded(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	v, other := openVault(t, s, tokenstore.NewRootKey()), openVault(t, newStore(t), tokenstore.NewRootKey())
	g := newGrant("grant-1")
	g.User.Name, g.Client = strings.Repeat("many different words of one name a b c d e f g h i j k l m n o p q r s t ", 3), "Bot"
	commit(t, v, tokenstore.Save(g))
	row, err := s.Get(t.Context(), tokenstore.KindGrant, g.ID)
	if err != nil {
		t.Fatal(err)
	}
	words := slices.DeleteFunc(slices.Clone(row.Refs), func(ref string) bool { return !strings.HasPrefix(ref, "word:") })
	if len(words) != 22 || len(row.Refs) > 32 {
		t.Errorf("%d words of %d references", len(words), len(row.Refs))
	}
	for _, ref := range words {
		if len(ref) != len("word:")+11 {
			t.Errorf("reference %q is not a hash", ref)
		}
	}
	for _, ref := range row.Refs {
		if strings.Contains(ref, "different") || strings.Contains(ref, "example") {
			t.Errorf("reference %q says who the user is", ref)
		}
	}
	again := newGrant("grant-1")
	again.User, again.Client = g.User, g.Client
	commit(t, other, tokenstore.Save(again))
	if found, err := v.Grants(t.Context(), tokenstore.GrantQuery{Text: "DIFFERENT many"}); err != nil || len(found) != 1 {
		t.Errorf("found %d, %v", len(found), err)
	}
	if found, err := v.Grants(t.Context(), tokenstore.GrantQuery{Text: "ann@example.com"}); err != nil || len(found) != 0 {
		t.Errorf("found %d by an address that nobody vouches for, %v", len(found), err)
	}
}

func FuzzWords(f *testing.F) {
	f.Add("Ada (Lovelace) <ada@example.com>")
	f.Add("ΑΔΑ ada\u0301 ß İ ﬁ")
	f.Fuzz(func(t *testing.T, text string) {
		for _, word := range tokenstore.Words(text) {
			if word == "" || len(tokenstore.Words(word)) != 1 {
				t.Errorf("word %q of %q is taken apart once more", word, text)
			}
		}
	})
}
