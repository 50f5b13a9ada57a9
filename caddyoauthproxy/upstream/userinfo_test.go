package upstream

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// GitHub and other providers without ID tokens say who the user is at userinfo.
func TestUserinfoIdentifiesWithoutAnIDToken(t *testing.T) {
	t.Parallel()
	answers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			answerWith(200, formType, "access_token=gho_x&scope=repo%2Cgist&token_type=bearer")(w, r)
		case r.Header.Get("Authorization") != "Bearer gho_x" || r.Header.Get("User-Agent") == "":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			writeJSON(w, 200, map[string]any{"login": "octocat", "id": 583231, "name": "The Octocat", "email": "octo@corp.test", "sub": "not-this"})
		}
	})
	client := &http.Client{Transport: &inMemory{handler: answers}}
	github, err := New("github", Config{Type: "github", ClientID: clientID, ClientSecret: clientSecret}, client)
	if err != nil {
		t.Fatal(err)
	}
	r := codeResponse()
	r.Nonce = ""
	tokens, user, err := github.Exchange(t.Context(), r)
	want := tokenstore.User{Provider: "github", Issuer: "https://github.com/login/oauth", Subject: "583231", Login: "octocat", Name: "The Octocat", Email: "octo@corp.test"}
	if err != nil || !reflect.DeepEqual(user, want) {
		t.Errorf("got %+v, %v", user, err)
	}
	if strings.Join(tokens.Scopes, " ") != "repo gist" || tokens.Lifetime != 0 || !tokens.Expires.IsZero() {
		t.Errorf("tokens %+v", tokens)
	}
	generic := Config{Type: "oauth2", ClientID: clientID, ClientSecret: clientSecret, AuthorizationURL: "https://a.example/a", TokenURL: "https://a.example/t", UserinfoURL: "https://api.a.example/me"}
	for _, tt := range []struct{ field, issuer, iss, subject, wantIssuer string }{
		{"", "", "", "not-this", "https://api.a.example"},
		{"id", "https://a.example", "", "583231", "https://a.example"},
		{"id", "https://a.example", "https://a.example", "583231", "https://a.example"},
		{"id", "https://a.example", "https://other.example", "", ""},
		{"id", "", "https://a.example", "", ""},
		{"absent", "", "", "", ""},
	} {
		generic.SubjectField, generic.Issuer = tt.field, tt.issuer
		p, err := New("generic", generic, client)
		if err != nil {
			t.Fatal(err)
		}
		r.Issuer = tt.iss
		_, user, err := p.Exchange(t.Context(), r)
		if (err == nil) != (tt.subject != "") || user.Subject != tt.subject || user.Issuer != tt.wantIssuer {
			t.Errorf("%+v: got %+v, %v", tt, user, err)
		}
	}
}
