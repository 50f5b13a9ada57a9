//go:build slow

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// hostileName is what a client calls itself that wants to be something else, and to be in the way.
var hostileName = "<script>alert(1)</script>\u202e\"><img src=x> " + strings.Repeat("Donaudampfschifffahrtsgesellschaft", 300)

// manyGrants fills the vault of a world with grants of every health, and with events of them.
func manyGrants(t *testing.T, v *tokenstore.Vault) {
	t.Helper()
	now := v.Now()
	day := 24 * time.Hour
	people := []string{"carol", "dave", "eve", "frank", "grace", "heidi"}
	bots := []string{"Research Assistant", "Terminal helper", "Quarterly reports", hostileName}
	for i := range 64 {
		name := people[i%len(people)]
		created := now.Add(-time.Duration(i+1) * day)
		email := name + "@example.com"
		if i == 3 {
			email = strings.Repeat("very.long.", 9) + "name@department.of.long.names.example.com"
		}
		g := &tokenstore.Grant{
			Meta: tokenstore.Meta{ID: tokenstore.NewID(created), DeleteAfter: now.Add(100 * day)}, State: tokenstore.StateActive, ClientID: fmt.Sprintf("gateway_%016x", i%len(bots)), Client: bots[i%len(bots)],
			Proxy: "demo", Resource: "http://localhost/demo/mcp", Provider: "demo", Scopes: []string{"mcp"}, UserID: "user-" + name,
			User: tokenstore.User{Provider: "demo", Subject: name, Login: name, Name: strings.ToUpper(name[:1]) + name[1:] + " Example", Email: email, EmailVerified: true}, AccountID: "account-of-" + name,
			Created: created, Used: created.Add(20 * time.Hour), Expires: now.Add(30 * day), Ends: now.Add(90 * day), Family: tokenstore.RefreshFamily{Generation: 1, Current: "x", Rotated: created},
		}
		switch i % 11 {
		case 4:
			g.Expires = now.Add(time.Hour)
		case 5:
			g.Broken = "the provider said invalid_grant: the user has to log in again"
		case 7:
			g.State, g.Reason = tokenstore.StateRevoked, "ended by an operator"
		case 9:
			g.Expires = now.Add(-time.Hour)
		}
		e := v.NewEvent(t.Context(), tokenstore.EventTokenIssued)
		if i%5 == 0 {
			e = v.NewEvent(t.Context(), tokenstore.EventRefreshReplayed).Refused("a refresh token was used again that had been replaced; the grant is ended")
		}
		e.Actor = tokenstore.Actor{Kind: tokenstore.ActorClient, ID: g.ClientID, Label: g.Client}
		e.Grant, e.Account, e.JTI, e.UserID, e.User, e.ClientID, e.Client, e.Proxy, e.Provider = g.ID, g.AccountID, tokenstore.NewID(created), g.UserID, g.User.Label(), g.ClientID, g.Client, g.Proxy, "demo"
		e.Details = map[string]string{"grant_type": "refresh_token", "scopes": "mcp"}
		e.Address = "2001:db8::17"
		writes := []tokenstore.Write{tokenstore.Save(g), tokenstore.RecordEvent(e)}
		if i < len(bots) {
			writes = append(writes, tokenstore.Save(&tokenstore.Client{
				Meta: tokenstore.Meta{ID: g.ClientID, DeleteAfter: now.Add(80 * day)}, Name: g.Client, URI: "https://bot.example.com/about/this/assistant", GrantTypes: []string{"authorization_code", "refresh_token"},
				ResponseTypes: []string{"code"}, AuthMethod: "none", Created: created, Used: created,
				RedirectURIs: []string{"https://bot.example.com/cb", "https://" + strings.Repeat("long-name.", 12) + "example.com/oauth/callback/of/the/assistant"},
			}))
		}
		if err := v.Commit(t.Context(), writes...); err != nil {
			t.Fatal(err)
		}
	}
}

// adminJob is what the browser is told to do.
type adminJob struct {
	Chromium      string      `json:"chromium"`
	Pictures      string      `json:"pictures"`
	Base          string      `json:"base"`
	User          string      `json:"user"`
	Password      string      `json:"password"`
	Other         string      `json:"other"`
	OtherPassword string      `json:"otherPassword"`
	Find          string      `json:"find"`
	Found         int         `json:"found"`
	ChooseText    string      `json:"chooseText"`
	UserID        string      `json:"userID"`
	Pages         []adminPage `json:"pages"`
}

type adminPage struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// listed are the grants that the admin API finds.
func listed(t *testing.T, w *testenv.World, query string) (grants []struct {
	ID   string
	User struct{ ID string }
},
) {
	t.Helper()
	var page struct {
		Grants []struct {
			ID   string
			User struct{ ID string }
		}
	}
	resp, err := http.Get(w.AdminURL() + "/oauth_proxy/grants?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil || len(page.Grants) == 0 {
		t.Fatalf("%s: %v, %d grants", query, err, len(page.Grants))
	}
	return page.Grants
}

// The pages of operators in a real browser: they are judged and their pictures taken, which go to the directory that OAUTH_PROXY_PICTURES names. Then an operator
// finds, filters, opens and revokes, and the chatbots' next calls are refused; the same a user does on their own page.
func TestSlowOperatorsAndUsersSeeAndCutEverythingInABrowser(t *testing.T) {
	needNode(t)
	chromium := needChromium(t)
	w := testenv.Start(t, testenv.Options{
		Env: []string{"STATIC_TOKEN=token-of-the-reports-server"},
		Global: `admin {
			allow user alice
		}
		proxy reports {
			resource http://localhost/reports/mcp
			provider demo
			upstream_token static {env.STATIC_TOKEN}
		}`,
		Proxy: "name \"Company Jira\"\nmachine_token {env.STATIC_TOKEN}",
	})
	w.Terminate()
	inVault(t, w, func(v *tokenstore.Vault) { manyGrants(t, v) })
	w.Run()
	bot := func(user *testenv.Browser) *testenv.PlainBot {
		b := w.NewPlainBot(t)
		b.Login(t, user)
		if _, err := b.WhoAmI(t.Context()); err != nil {
			t.Fatal(err)
		}
		return b
	}
	alice, bob := testenv.NewBrowser(testenv.Alice), testenv.NewBrowser(testenv.Bob)
	hers, his, another := bot(alice), bot(bob), bot(bob)
	bobs := listed(t, w, "text=bob")[0]
	order := struct{ ID string }{}
	if status, body := adminPost(t, w, "revocations", `{"filter":{"user_id":"user-heidi"},"reason":"left the company"}`); status != http.StatusAccepted || json.Unmarshal(body, &order) != nil {
		t.Fatalf("%d %s", status, body)
	}
	key := struct{ ID string }{}
	if status, body := adminPost(t, w, "api_keys", `{"name":"nightly report","proxies":["reports","demo"]}`); status != http.StatusOK || json.Unmarshal(body, &key) != nil {
		t.Fatalf("%d %s", status, body)
	}
	events := struct{ Events []struct{ ID string } }{}
	if body := adminGet(t, w, "audit?type=token.issued&limit=1"); json.Unmarshal(body, &events) != nil || len(events.Events) != 1 {
		t.Fatalf("%s", body)
	}
	client, hostile := hers.ID, "gateway_0000000000000003"
	broken, revoked := listed(t, w, "health=broken")[0], listed(t, w, "health=revoked")[0]
	page := func(name, path string) adminPage { return adminPage{name, w.URL + path} }
	job := adminJob{
		Chromium: chromium, Pictures: pictures(t), Base: w.URL, User: testenv.Alice.Name, Password: testenv.Alice.Password, Other: testenv.Bob.Name, OtherPassword: testenv.Bob.Password,
		Find: "alice", Found: 1, ChooseText: "bob", UserID: bobs.User.ID,
		Pages: []adminPage{
			page("overview", "/admin/"), page("grants", "/admin/grants"), page("grants-filtered", "/admin/grants?health=broken&sort=user"), page("grants-none", "/admin/grants?text=nobody"),
			page("grants-mistake", "/admin/grants?health=ill&helth=valid"), page("grants-user", "/admin/grants?user_id=user-carol"),
			page("grant", "/admin/grants/"+bobs.ID), page("grant-broken", "/admin/grants/"+broken.ID), page("grant-revoke", "/admin/grants/"+broken.ID+"/revoke"),
			page("grant-revoked", "/admin/grants/"+revoked.ID), page("grant-missing", "/admin/grants/nothing"),
			page("revoke-chosen", "/admin/revoke?id="+bobs.ID+"&id="+broken.ID), page("revoke-filter", "/admin/revoke?user_id=user-carol&proxy=demo"), page("revoke-all", "/admin/revoke?all=true"),
			page("revoked", "/admin/revoked?id="+revoked.ID+"&id="+bobs.ID), page("revocations", "/admin/revocations"), page("revocation", "/admin/revocations/"+order.ID),
			page("clients", "/admin/clients"), page("client", "/admin/client?client_id="+client), page("client-hostile", "/admin/client?client_id="+hostile), page("client-delete", "/admin/client/delete?client_id="+client),
			page("sessions", "/admin/sessions"), page("keys", "/admin/keys"), page("key-new", "/admin/keys/new"), page("key-revoke", "/admin/keys/"+key.ID+"/revoke"), page("rotate", "/admin/keys/rotate"),
			page("audit", "/admin/audit"), page("audit-filtered", "/admin/audit?type=refresh.replayed&from=tomorrow"), page("event", "/admin/audit/"+events.Events[0].ID), page("verify", "/admin/audit/verify"),
			page("providers", "/admin/providers"),
		},
	}
	refused := func(b *testenv.PlainBot) {
		t.Helper()
		if a, err := b.Send(t.Context(), http.MethodPost, testenv.ToolCall("whoami")); err != nil || a.Status != http.StatusUnauthorized {
			t.Errorf("a chatbot's next call: %d, %v", a.Status, err)
		}
	}
	works := func(b *testenv.PlainBot) {
		t.Helper()
		if _, err := b.WhoAmI(t.Context()); err != nil {
			t.Error(err)
		}
	}
	var third, fourth *testenv.PlainBot
	lines := drive(t, "admin.mjs", job, map[string]func(){
		"before": func() { works(hers); works(his) },
		"one":    func() { refused(hers); works(his) },
		"chosen": func() {
			refused(his)
			refused(another)
			third, fourth = bot(bob), bot(bob)
		},
		"many":     func() { refused(third); refused(fourth); third = bot(bob) },
		"keyboard": func() { refused(third); fourth = bot(bob) },
		"user":     func() { refused(fourth) },
	})
	if !strings.Contains(lines, fmt.Sprintf(`{"done":%d}`, 4*len(job.Pages))) {
		t.Errorf("it did not come to its end:\n%s", lines)
	}
}

// pictures is where pictures go.
func pictures(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("OAUTH_PROXY_PICTURES"); dir != "" {
		return dir
	}
	return t.TempDir()
}

// drive runs a script that uses a browser, and does its part in between. What the script finds wrong is an error. It returns what the script printed.
func drive(t *testing.T, script string, job any, checks map[string]func()) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "job.json")
	raw, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "js/node_modules/.bin/node", filepath.Join("js", script), file)
	answer, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(&printed, lines.Text())
		var line struct{ Check, What string }
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue
		}
		if line.What != "" {
			t.Error(lines.Text())
		}
		if line.Check != "" {
			checks[line.Check]()
			if _, err := io.WriteString(answer, "\n"); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, printed.String())
	}
	return printed.String()
}

func adminPost(t *testing.T, w *testenv.World, path, body string) (int, []byte) {
	t.Helper()
	resp, err := http.Post(w.AdminURL()+"/oauth_proxy/"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

func adminGet(t *testing.T, w *testenv.World, path string) []byte {
	t.Helper()
	resp, err := http.Get(w.AdminURL() + "/oauth_proxy/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
