//go:build slow

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// watched is a provider together with what stands before it at its issuer's address and keeps what the gateway asks, and what it gets.
type watched struct {
	issuer, tokenURL, userinfoURL string

	mu                     sync.Mutex
	refreshes, revocations []asked
	accessTokens           []string
	refreshToken           string
}

// asked is a request about a token, and how it was answered.
type asked struct {
	token  string
	status int
}

// watch starts a provider at an address that is found for it, and waits until it answers.
func watch(t *testing.T, start func(issuer string) http.Handler) *watched {
	t.Helper()
	p := new(watched)
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(handler, w, r) }))
	t.Cleanup(server.Close)
	p.issuer = strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	handler = start(p.issuer)
	var discovery struct {
		TokenURL    string `json:"token_endpoint"`
		UserinfoURL string `json:"userinfo_endpoint"`
	}
	testenv.Eventually(t, "the provider to answer", func() bool {
		resp, err := http.Get(p.issuer + "/.well-known/openid-configuration")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK && json.NewDecoder(resp.Body).Decode(&discovery) == nil
	})
	p.tokenURL, p.userinfoURL = discovery.TokenURL, discovery.UserinfoURL
	return p
}

// serve lets the provider answer, and keeps what is said before anybody can act on it.
func (p *watched) serve(provider http.Handler, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	provider.ServeHTTP(answer, r)
	if form, err := url.ParseQuery(string(body)); err == nil && r.Method == http.MethodPost {
		p.keep(form, answer)
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func (p *watched) keep(form url.Values, answer *httptest.ResponseRecorder) {
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if json.Unmarshal(answer.Body.Bytes(), &tokens) == nil && tokens.Access != "" {
		p.accessTokens, p.refreshToken = append(p.accessTokens, tokens.Access), tokens.Refresh
	}
	switch {
	case form.Get("grant_type") == "refresh_token":
		p.refreshes = append(p.refreshes, asked{form.Get("refresh_token"), answer.Code})
	case form.Has("token_type_hint"):
		p.revocations = append(p.revocations, asked{form.Get("token"), answer.Code})
	}
}

// all is what was asked so far, of one kind.
func (p *watched) all(kind *[]asked) []asked {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(*kind)
}

// newest are the tokens that the provider gave out last.
func (p *watched) newest() (access, refresh string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accessTokens[len(p.accessTokens)-1], p.refreshToken
}

// issued says whether this is an access token that the provider gave out.
func (p *watched) issued(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.accessTokens, token)
}

// waitForEnd waits until the provider refuses the newest access token.
func (p *watched) waitForEnd(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, "the access token to end", func() bool {
		access, _ := p.newest()
		_, live := p.userOf(t.Context(), access)
		now, _ := p.newest()
		return !live && now == access
	})
}

// userOf asks the provider whose access token this is.
func (p *watched) userOf(ctx context.Context, accessToken string) (user string, live bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.userinfoURL, http.NoBody)
	if err != nil {
		return "", false
	}
	req.Header.Set("Authorization", "Bearer "+accessToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	var info struct{ Email string }
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&info) != nil {
		return "", false
	}
	return strings.TrimSuffix(info.Email, "@example.com"), true
}

// refresh presents a refresh token as the gateway would, and returns how it was answered.
func (p *watched) refresh(t *testing.T, token string) (status int, code string) {
	t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.tokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(testenv.ClientID, testenv.ClientSecret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var refused struct{ Error string }
	if err := json.NewDecoder(resp.Body).Decode(&refused); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, refused.Error
}
