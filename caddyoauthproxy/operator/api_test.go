package operator_test

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A filter that is misspelt must not list everything, let alone end it.
func TestWhatARouteDoesNotKnowIsRefusedByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(3)
	for _, r := range operator.Routes() {
		path := strings.ReplaceAll(r.Path, "{id}", "grant-0001")
		body := ""
		if r.Method == http.MethodPost {
			body = `{"filter":{"all":true}}`
		}
		for query, want := range map[string]string{"usr_id=x": `"usr_id" is unknown`, "%zz=1": "cannot be read", "a;b=1": "cannot be read"} {
			if a := w.ask(r.Method, path+"?"+query, body); a.status != 400 || !strings.Contains(a.body, want[1:]) && !strings.Contains(strings.ReplaceAll(a.body, `\`, ""), want) {
				t.Errorf("%s %s?%s: %d %s", r.Method, path, query, a.status, a.body)
			}
		}
		for _, method := range []string{"PUT", "PATCH", "OPTIONS", "TRACE"} {
			a := w.ask(method, path, "")
			allow := strings.Split(a.header.Get("Allow"), ", ")
			if a.status != 405 || !slices.Contains(allow, r.Method) || !strings.Contains(a.body, `"error":"invalid_request"`) {
				t.Errorf("%s %s: %d %v %s", method, path, a.status, allow, a.body)
			}
		}
	}
	for path, want := range map[string]string{
		"/tokens?user_id=":                         `"user_id" is empty`,
		"/tokens?user_id=a&user_id=b":              `"user_id" is there more than once`,
		"/tokens?limit=0":                          "limit must be 1 to 1000",
		"/tokens?limit=1001":                       "limit must be 1 to 1000",
		"/tokens?limit=many":                       "limit must be 1 to 1000",
		"/tokens?health=fine":                      `"fine" is none of valid, expiring`,
		"/tokens?sort=age":                         `"age" is none of client`,
		"/tokens?text=%00":                         "control characters",
		"/tokens?text=" + strings.Repeat("x", 600): "too long",
		"/clients?kind=odd":                        `"odd" is none: write registered`,
		"/sessions?after=nobody":                   "begin again",
		"/revocations?after=nothing":               "begin again",
		"/audit?type=grant.end":                    `"grant.end" is none: there are client.registered`,
		"/audit?from=yesterday":                    `"yesterday" is no time`,
		"/audit?after=x":                           "not a place in the audit trail",
		"/audit/export?format=xml":                 `"xml" is unknown`,
		"/audit/export?limit=1":                    `"limit" is unknown`,
		"/audit/verify?anchor=x":                   "an anchor is",
	} {
		if a := w.ask("GET", path, ""); a.status != 400 || !strings.Contains(strings.ReplaceAll(a.body, `\`, ""), want) {
			t.Errorf("%s: %d %s; want it to say %s", path, a.status, a.body, want)
		}
	}
	for body, want := range map[string]string{
		`{}`:                                      "filter is missing",
		`{"filter":{}}`:                           "the filter is empty",
		`{"filter":null}`:                         "filter is missing",
		`{"filter":{"user":"x"}}`:                 `unknown field "user"`,
		`{"filter":{"all":true},"dryrun":true}`:   `unknown field "dryrun"`,
		`{"filter":{"all":true,"proxy":"jira"}}`:  "all stands alone",
		`{"filter":{"user_id":"a b"}}`:            "is none",
		`{"filter":{"all":true}} {}`:              "send one JSON object",
		`[]`:                                      "send a JSON object",
		`{"filter":{"all":"yes"}}`:                "send a JSON object",
		`{"filter":{"all":true},"reason":"a\nb"}`: "printable characters",
	} {
		if a := w.ask("POST", "/revocations", body); a.status != 400 || !strings.Contains(strings.ReplaceAll(a.body, `\`, ""), want) {
			t.Errorf("%s: %d %s; want it to say %s", body, a.status, a.body, want)
		}
	}
	if a := w.ask("POST", "/revocations", `{"reason":"`+strings.Repeat("x", 1<<20)+`"}`); a.status != 413 {
		t.Errorf("a huge body: %d %s", a.status, a.body)
	}
	if a := w.send("POST", w.admin.URL+"/revocations", `{"filter":{"all":true}}`, header("Content-Type", "text/plain")); a.status != 415 {
		t.Errorf("text: %d %s", a.status, a.body)
	}
	if a := w.send("POST", w.admin.URL+"/signing_keys/rotate", "compromised=true", header("Content-Type", "application/x-www-form-urlencoded")); a.status != 200 || strings.Count(a.body, `"id"`) != 2 {
		t.Errorf("what a form says is no parameter: %d %s", a.status, a.body)
	}
	var page struct{ Grants []struct{ Health string } }
	if w.ask("GET", "/tokens", "").decode(t, &page); len(page.Grants) != 3 || slices.ContainsFunc(page.Grants, func(g struct{ Health string }) bool { return g.Health != "valid" }) {
		t.Errorf("a mistake has ended something: %+v", page)
	}
}

func TestIDsOfNothingAreNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(1)
	for _, r := range operator.Routes() {
		if !strings.Contains(r.Path, "{id}") {
			continue
		}
		for _, id := range []string{"nothing", "grant-0000/../grant-0001", "..", "%", "a b", "ä", "\x00", strings.Repeat("x", 2000), "https://bot.test/none.json", "=1+1", "'--"} {
			if a := w.ask(r.Method, strings.Replace(r.Path, "{id}", url.PathEscape(id), 1), ""); a.status != 404 && a.status != 409 || !strings.Contains(a.body, `"error":`) {
				t.Errorf("%s %s of %q: %d %s", r.Method, r.Path, id, a.status, a.body)
			}
		}
	}
}

// follow walks all pages of a list by their Link headers, and returns the ids in the order of the pages.
func (w *world) follow(path, list, id string) (ids []string, pages int) {
	w.t.Helper()
	address := w.admin.URL + path
	for address != "" {
		a := w.send("GET", address, "")
		var page map[string]json.RawMessage
		a.decode(w.t, &page)
		var items []map[string]any
		if err := json.Unmarshal(page[list], &items); err != nil {
			w.t.Fatalf("%s: %v", a.body, err)
		}
		for _, item := range items {
			ids = append(ids, item[id].(string))
		}
		pages++
		link, rel, _ := strings.Cut(a.header.Get("Link"), ">; ")
		if (link == "") != (page["next"] == nil) || link != "" && rel != `rel="next"` {
			w.t.Errorf("%s: Link %q beside next %s", address, a.header.Get("Link"), page["next"])
		}
		if link == "" {
			return ids, pages
		}
		base, err := url.Parse(address)
		if err != nil {
			w.t.Fatal(err)
		}
		next, err := base.Parse(strings.TrimPrefix(link, "<"))
		if err != nil {
			w.t.Fatal(err)
		}
		address = next.String()
	}
	return ids, pages
}

func TestPagesOfEveryListHoldEverythingOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(23)
	for i := range 6 {
		w.ask("POST", "/revocations", fmt.Sprintf(`{"filter":{"user_id":"nobody-%d"}}`, i))
	}
	events := w.record(17)
	for path, c := range map[string]struct {
		list, id string
		items    int
	}{
		"/tokens":                          {"grants", "id", 23},
		"/tokens?proxy=jira":               {"grants", "id", 12},
		"/grants?sort=user":                {"grants", "id", 23},
		"/clients":                         {"clients", "client_id", 24},
		"/clients?kind=registered":         {"clients", "client_id", 23},
		"/clients?kind=configured":         {"clients", "client_id", 1},
		"/sessions":                        {"sessions", "id", 23},
		"/revocations":                     {"revocations", "id", 6},
		"/audit?text=sum":                  {"events", "id", 17},
		"/audit?type=grant.ended&text=sum": {"events", "id", 17},
		"/audit?grant=grant-0003":          {"events", "id", 1},
		"/audit?type=token.refused":        {"events", "id", 0},
	} {
		mark := "?"
		if strings.Contains(path, "?") {
			mark = "&"
		}
		for _, limit := range []int{1, 5, 23, 1000} {
			ids, pages := w.follow(fmt.Sprintf("%s%slimit=%d", path, mark, limit), c.list, c.id)
			distinct := slices.Compact(slices.Sorted(slices.Values(ids)))
			if len(ids) != c.items || len(distinct) != c.items || limit == 5 && c.items > 5 && pages < c.items/5 {
				t.Errorf("%s, %d at a time: %d items, %d distinct, on %d pages; want %d", path, limit, len(ids), len(distinct), pages, c.items)
			}
		}
	}
	if ids, _ := w.follow("/audit?text=sum&limit=4", "events", "id"); !slices.Equal(ids, backwards(events)) {
		t.Errorf("events in the order %v", ids)
	}
}

func backwards(s []string) []string {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}

func TestGrantsEndOneByOneAndMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(10)
	health := func(id string) string {
		var g struct{ Health, Reason string }
		w.ask("GET", "/tokens/"+id, "").decode(t, &g)
		return g.Health
	}
	for range 2 { // a second time is no error
		a := w.ask("DELETE", "/tokens/grant-0000?reason=lost+laptop", "")
		var g struct{ ID, Health, Reason string }
		if a.decode(t, &g); a.status != 200 || g.ID != "grant-0000" || g.Health != "revoked" || g.Reason != "lost laptop" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	var dry struct{ Matched int }
	if w.ask("POST", "/revocations", `{"filter":{"proxy":"wiki"},"dry_run":true}`).decode(t, &dry); dry.Matched != 5 || health("grant-0001") != "valid" {
		t.Errorf("dry run: %+v", dry)
	}
	a := w.ask("POST", "/revocations", `{"filter":{"proxy":"wiki"},"reason":"breach"}`)
	var order struct {
		ID, Reason string
		Matched    int
		Filter     map[string]string
	}
	a.decode(t, &order)
	if a.status != 202 || order.Matched != 5 || order.Reason != "breach" || order.Filter["proxy"] != "wiki" || a.header.Get("Location") != "revocations/"+order.ID {
		t.Errorf("%d %s %v", a.status, a.body, a.header)
	}
	for i := range 10 { // at once, whatever the rows say yet
		if got, want := health(fmt.Sprintf("grant-%04d", i)), i%2 == 1 || i == 0; (got == "revoked") != want {
			t.Errorf("grant %d: %s", i, got)
		}
	}
}

func TestNumbersAreThoseOfTheVault(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(7)
	w.ask("DELETE", "/tokens/grant-0000", "")
	var stats operator.Stats
	w.ask("GET", "/stats", "").decode(t, &stats)
	if stats.Grants[tokenstore.HealthValid] != 6 || stats.Grants[tokenstore.HealthRevoked] != 1 || stats.Clients != 7 || stats.UnusedClients != 0 || stats.APIKeys != 1 || stats.Sessions != 7 ||
		stats.Proxies["jira"] != 3 || stats.Proxies["wiki"] != 3 {
		t.Errorf("%+v", stats)
	}
	var vault operator.VaultInfo
	w.ask("GET", "/vault", "").decode(t, &vault)
	for kind, want := range map[tokenstore.Kind]int{tokenstore.KindGrant: 7, tokenstore.KindAccount: 7, tokenstore.KindClient: 7, tokenstore.KindKeyring: 1, tokenstore.KindCode: 0} {
		if vault.Records[kind] != want {
			t.Errorf("%s: %d records, want %d", kind, vault.Records[kind], want)
		}
	}
	if vault.Module != "bbolt" || vault.Path != "/var/lib/caddy/vault.db" || vault.Keys != 1 || vault.Format != 1 || len(vault.EncryptionKey) != 16 {
		t.Errorf("%+v", vault)
	}
	var providers operator.ProviderList
	if w.ask("GET", "/providers", "").decode(t, &providers); len(providers.Providers) != 1 || providers.Providers[0].Accounts != 7 || !slices.Equal(providers.Providers[0].Proxies, []string{"jira", "wiki"}) {
		t.Errorf("%+v", providers)
	}
}

func TestClientIsDeletedWithItsGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(3)
	a := w.ask("DELETE", "/clients/gateway_0001?reason=malware", "")
	var order struct {
		Matched int
		Reason  string
		Filter  map[string]string
	}
	if a.decode(t, &order); a.status != 200 || order.Matched != 1 || order.Reason != "malware" || order.Filter["client_id"] != "gateway_0001" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.ask("GET", "/clients/gateway_0001", ""); a.status != 404 {
		t.Errorf("after that: %d %s", a.status, a.body)
	}
	if a := w.ask("GET", "/tokens/grant-0001", ""); !strings.Contains(a.body, `"health":"revoked"`) {
		t.Errorf("its grant: %s", a.body)
	}
	if a := w.ask("GET", "/tokens/grant-0002", ""); !strings.Contains(a.body, `"health":"valid"`) {
		t.Errorf("another's grant: %s", a.body)
	}
	for id, want := range map[string]string{"report-bot": "stands in the configuration", "https://bot.test/client.json": "describes itself"} {
		if a := w.ask("DELETE", "/clients/"+url.PathEscape(id), ""); a.status != 409 || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s", id, a.status, a.body)
		}
	}
}

func TestT79ExportsAreDataWhateverStrangersCallThemselves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(2)
	events := w.record(2500)
	a := w.ask("GET", "/audit/export?format=csv&text=sum", "")
	if a.header.Get("Content-Disposition") != `attachment; filename="audit.csv"` || !strings.HasPrefix(a.header.Get("Content-Type"), "text/csv") {
		t.Errorf("%v", a.header)
	}
	rows, err := csv.NewReader(strings.NewReader(a.body)).ReadAll()
	if err != nil || len(rows) != 1+len(events) || rows[0][0] != "id" || rows[1][0] != events[len(events)-1] {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, row := range rows[1:] {
		for i, cell := range row {
			if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
				t.Fatalf("%s is %q", rows[0][i], cell)
			}
		}
	}
	row := rows[1]
	if !strings.HasPrefix(row[slices.Index(rows[0], "client")], "'=cmd|") || row[slices.Index(rows[0], "user")] != "'-2+3" || row[slices.Index(rows[0], "reason")] != "'@SUM(A1)" {
		t.Errorf("%q", row)
	}
	a = w.ask("GET", "/audit/export?type=grant.ended&from=2020-01-01&text=sum", "")
	lines := bufio.NewScanner(strings.NewReader(a.body))
	n := 0
	for ; lines.Scan(); n++ {
		var e tokenstore.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.ID != events[len(events)-1-n] || !strings.HasPrefix(e.Client, "=cmd|' /C calc'!A0 <script>{env.SECRET}") {
			t.Fatalf("line %d: %s, %v", n, lines.Text(), err)
		}
	}
	if n != len(events) || a.header.Get("Content-Type") != "application/jsonl" {
		t.Errorf("%d lines as %s", n, a.header.Get("Content-Type"))
	}
	if a := w.send("HEAD", w.admin.URL+"/audit/export", ""); a.status != 200 || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
	var report struct {
		Whole  bool
		Events int
		Hash   string
		Number int
	}
	if w.ask("GET", "/audit/verify", "").decode(t, &report); !report.Whole || report.Events < len(events)-1 {
		t.Errorf("%+v", report)
	}
	if a := w.ask("GET", fmt.Sprintf("/audit/verify?anchor=%d:%s", report.Number, report.Hash), ""); !strings.Contains(a.body, `"whole":true`) {
		t.Errorf("%s", a.body)
	}
	if a := w.ask("GET", fmt.Sprintf("/audit/verify?anchor=%d:%s", report.Number, strings.Repeat("0", 64)), ""); !strings.Contains(a.body, `"whole":false`) {
		t.Errorf("%s", a.body)
	}
}
