package upstream

import (
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// The answers are those of the providers' public documentation.
func TestTemplatesOfPlainOAuthProvidersKnowTheUser(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answers map[string]string // by address
		want    tokenstore.User
		refresh string
	}{
		"github": {map[string]string{
			"https://github.com/login/oauth/access_token": `{"access_token":"a","token_type":"bearer","scope":"repo,read:user"}`,
			"https://api.github.com/user":                 `{"login":"octocat","id":583231,"name":"The Octocat","email":"octocat@github.com"}`,
		}, tokenstore.User{Issuer: "https://github.com/login/oauth", Subject: "583231", Login: "octocat", Name: "The Octocat", Email: "octocat@github.com"}, ""},
		"atlassian": {map[string]string{
			"https://auth.atlassian.com/oauth/token": `{"access_token":"a","refresh_token":"r","expires_in":3600,"token_type":"Bearer","scope":"read:me offline_access"}`,
			"https://api.atlassian.com/me":           `{"account_type":"atlassian","account_id":"112233aa-bb11","email":"mia@example.com","name":"Mia Krystof"}`,
		}, tokenstore.User{Issuer: "https://auth.atlassian.com", Subject: "112233aa-bb11", Name: "Mia Krystof", Email: "mia@example.com"}, "r"},
		"slack": {map[string]string{
			"https://slack.com/api/oauth.v2.user.access": `{"ok":true,"access_token":"xoxe.xoxp-1","refresh_token":"xoxe-1","token_type":"user","scope":"users:read,channels:history","expires_in":43200}`,
			"https://slack.com/api/auth.test":            `{"ok":true,"url":"https://acme.slack.com/","team":"Acme","user":"grace","team_id":"T12345678","user_id":"W12345678"}`,
		}, tokenstore.User{Issuer: "https://slack.com", Subject: "T12345678/W12345678", Login: "grace", Org: "T12345678"}, "xoxe-1"},
		"linear": {map[string]string{
			"https://api.linear.app/oauth/token": `{"access_token":"a","refresh_token":"r","token_type":"Bearer","expires_in":86399,"scope":"read write"}`,
			"https://api.linear.app/graphql":     `{"data":{"viewer":{"id":"3f1e","name":"Ada Lovelace","displayName":"ada","email":"ada@example.com","organization":{"urlKey":"acme"}}}}`,
		}, tokenstore.User{Issuer: "https://linear.app", Subject: "3f1e", Login: "ada", Name: "Ada Lovelace", Email: "ada@example.com", Org: "acme"}, "r"},
		"notion": {map[string]string{
			"https://api.notion.com/v1/oauth/token": `{"access_token":"ntn_1","token_type":"bearer","refresh_token":"nrt_1","bot_id":"b3","workspace_id":"j5","owner":{"type":"user","user":{"object":"user","id":"d40e767c","name":"Ada","type":"person","person":{"email":"ada@example.com"}}}}`,
		}, tokenstore.User{Issuer: "https://api.notion.com", Subject: "d40e767c", Name: "Ada", Email: "ada@example.com"}, "nrt_1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen []string
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				address := "https://" + r.URL.Host + r.URL.Path
				var body []byte
				if r.Body != nil {
					body, _ = io.ReadAll(r.Body)
				}
				seen = append(seen, r.Method+" "+address+" "+r.Header.Get("Content-Type")+" "+string(body))
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, c.answers[address])
			})
			p, err := New("x", Config{Type: name, ClientID: clientID, ClientSecret: clientSecret}, &http.Client{Transport: &inMemory{handler: handler}})
			if err != nil {
				t.Fatal(err)
			}
			tokens, user, err := p.Exchange(t.Context(), codeResponse())
			if err != nil {
				t.Fatal(err)
			}
			c.want.Provider = "x"
			if !reflect.DeepEqual(user, c.want) {
				t.Errorf("got  %+v\nwant %+v", user, c.want)
			}
			if tokens.RefreshToken != c.refresh {
				t.Errorf("tokens %+v", tokens)
			}
			if name == "notion" && (!strings.Contains(seen[0], "application/json {") || len(seen) != 1) {
				t.Errorf("requests %q", seen)
			}
			if name == "linear" && !strings.Contains(seen[1], `POST https://api.linear.app/graphql application/json {"query"`) {
				t.Errorf("requests %q", seen)
			}
		})
	}
}

func TestSlackRefusalsAreRecognisedBehindStatus200(t *testing.T) {
	t.Parallel()
	answer := `{"ok":false,"error":"invalid_refresh_token"}`
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	})
	p, err := New("x", Config{Type: "slack", ClientID: clientID, ClientSecret: clientSecret, Retries: -1}, &http.Client{Transport: &inMemory{handler: handler}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Refresh(t.Context(), Tokens{RefreshToken: "xoxe-1"})
	wantClass(t, err, Rejected)
	answer = `{"ok":false,"error":"ratelimited"}`
	_, err = p.Refresh(t.Context(), Tokens{RefreshToken: "xoxe-1"})
	wantClass(t, err, Unreachable)
}

func wantClass(t *testing.T, err error, want Class) {
	t.Helper()
	if e := in("", err); err == nil || e.Class != want {
		t.Errorf("got %v, want class %s", err, want)
	}
}

func TestGroupsAndOrganisationComeFromTheIDToken(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	idp.set(func(p *fakeProvider) {
		p.claims = map[string]any{"groups": []string{"eng", "ops"}, "hd": "example.com"}
	})
	_, user, err := idp.provider(t).Exchange(t.Context(), codeResponse())
	if err != nil || !reflect.DeepEqual(user.Groups, []string{"eng", "ops"}) || user.Org != "" {
		t.Errorf("user %+v, %v", user, err)
	}
}

func TestTokenParamsGoWithEveryTokenRequest(t *testing.T) {
	t.Parallel()
	idp := serve(t)
	config := Config{Type: "oidc", Issuer: idp.base, ClientID: clientID, ClientSecret: clientSecret, TokenParams: map[string]string{"audience": "api"}}
	p, err := New("x", config, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Exchange(t.Context(), codeResponse()); err != nil {
		t.Fatal(err)
	}
	_, _ = p.Refresh(t.Context(), Tokens{RefreshToken: "rt.code.0"})
	for i, form := range idp.posts {
		if form.Get("audience") != "api" {
			t.Errorf("request %d: %v", i, form)
		}
	}
	if len(idp.posts) != 2 {
		t.Errorf("%d requests", len(idp.posts))
	}
}

func TestDocumentationTellsTheHabitsOfEveryTemplate(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	habits := 0
	for _, tmpl := range templates {
		if tmpl.tokens == "" {
			continue
		}
		habits++
		scopes := ""
		if len(tmpl.recommended) > 0 {
			scopes = "`" + strings.Join(tmpl.recommended, " ") + "` "
		}
		if row := "| `" + tmpl.name + "` | " + tmpl.tokens + " | " + scopes + "|\n"; !strings.Contains(string(page), row) {
			t.Errorf("docs/providers.md has no line %s", row)
		}
		own, err := os.ReadFile("../../docs/providers/" + tmpl.name + ".md")
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range []string{"| tokens | " + tmpl.tokens + " |\n", "| `scopes` to begin with | " + scopes + "|\n"} {
			if !strings.Contains(string(own), row) {
				t.Errorf("docs/providers/%s.md has no line %s", tmpl.name, row)
			}
		}
	}
	if want := len(templates) - len([]string{"oidc", "oauth2", "mcp"}); habits != want {
		t.Errorf("%d templates tell of their tokens, want %d", habits, want)
	}
}
