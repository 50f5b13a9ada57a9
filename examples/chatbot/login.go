package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"
)

// margin is how long before its end an access token counts as expired: a request takes time, and clocks differ.
const margin = time.Minute

// login is a person's login at one server. It is the auth.OAuthHandler of the SDK: asked for a token before each request, and for more after a
// 401 or 403. The SDK's own (auth.AuthorizationCodeHandler) does the same in memory; this one outlives the program, and can be ended.
type login struct {
	server  string
	file    string
	noLogin bool

	mu    sync.Mutex // one refresh or login at a time: the others wait for it, and use what it brought
	kept  kept
	over  *problem // why the login cannot be refreshed any more
	final error    // what ended it all: nobody is asked again when the SDK tries another way to connect
}

// kept is what the file holds.
type kept struct {
	Server string `json:"server"`
	Issuer string `json:"issuer,omitempty"`
	registration
	AccessToken  string `json:"access_token,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Expires      int64  `json:"expires_at,omitempty"` // seconds since 1970
	Scope        string `json:"scope,omitempty"`
}

// registration is what the authorization server knows the program by, and where it can be asked about that.
type registration struct {
	ClientID string `json:"client_id,omitempty"`
	URI      string `json:"registration_client_uri,omitempty"`
	Token    string `json:"registration_access_token,omitempty"`
}

// openLogin reads the file, if there is one.
func openLogin(server, file string, noLogin bool) (*login, error) {
	l := &login{server: server, file: file, noLogin: noLogin, kept: kept{Server: server}}
	raw, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &l.kept)
	}
	if err == nil && l.kept.Server != server { // tokens are for the server that they were issued for, and no other
		err = fmt.Errorf("%s holds a login at %s: end that one (-logout), or name another file (-tokens)", file, l.kept.Server)
	}
	return l, err
}

// save writes the file as a whole or not at all: who loses the newest refresh token has lost the login.
func (l *login) save() error {
	f, err := os.CreateTemp(filepath.Dir(l.file), ".chatbot-*") // of mode 0600
	if err != nil {
		return err
	}
	err = json.NewEncoder(f).Encode(l.kept) //nolint:gosec // to keep tokens is what the file is for
	return errors.Join(err, f.Close(), os.Rename(f.Name(), l.file))
}

// TokenSource is asked before each request.
func (l *login) TokenSource(ctx context.Context) (oauth2.TokenSource, error) {
	return tokenSource{ctx, l}, nil
}

type tokenSource struct {
	ctx   context.Context
	login *login
}

// Token returns an access token that is good for a while, or none: then the server asks for a login.
func (s tokenSource) Token() (*oauth2.Token, error) {
	l := s.login
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kept.AccessToken != "" && time.Until(time.Unix(l.kept.Expires, 0)) < margin {
		if err := l.refresh(s.ctx); isOver(err) {
			return nil, nil //nolint:nilnil // the SDK sends no token then
		} else if err != nil {
			return nil, plain(err)
		}
	}
	if l.kept.AccessToken == "" {
		return nil, nil //nolint:nilnil // as above
	}
	return &oauth2.Token{AccessToken: l.kept.AccessToken}, nil
}

// Authorize is asked when a server wants a token, another one, or one that may do more. When it returns nil, the SDK tries the request again, once.
func (l *login) Authorize(ctx context.Context, req *http.Request, resp *http.Response) error {
	defer resp.Body.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.final != nil {
		return l.final
	}
	if err := l.authorize(ctx, strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "), resp); err != nil {
		l.final = plain(err)
	}
	return l.final
}

func (l *login) authorize(ctx context.Context, sent string, resp *http.Response) error {
	missing := &problem{notLoggedIn, "nobody has logged in"}
	resource, challenge, err := discover(ctx, l.server, resp.Header)
	if resp.StatusCode == http.StatusForbidden && challenge["error"] != "insufficient_scope" {
		return refused(resp)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", resp.Status, err)
	case sent != "" && sent != l.kept.AccessToken: // somebody was faster
		return nil
	case challenge["error"] == "insufficient_scope":
		missing = &problem{scopeNeeded, "this needs a scope that was not allowed: " + challenge["scope"]}
	case l.kept.AccessToken != "": // it is rejected, whatever the clock says, or could not be refreshed
		err := l.refresh(ctx)
		if !errors.As(err, &missing) {
			return err
		}
	}
	if l.noLogin {
		return missing
	}
	if missing.exitCode != notLoggedIn { // the first login needs no reason
		fmt.Fprintln(os.Stderr, "chatbot:", missing)
	}
	scope := cmp.Or(challenge["scope"], strings.Join(resource.ScopesSupported, " "))
	if missing.exitCode == scopeNeeded { // what was allowed before is asked for again, or it would be lost
		scope = strings.Join(slices.Compact(slices.Sorted(slices.Values(strings.Fields(l.kept.Scope+" "+challenge["scope"])))), " ")
	}
	return l.logIn(ctx, resource.AuthorizationServers[0], scope)
}

// discover reads a challenge: where the server's metadata is (RFC 9728 §5.1), which names the authorization server, and which scope to ask for.
func discover(ctx context.Context, server string, h http.Header) (*oauthex.ProtectedResourceMetadata, map[string]string, error) {
	challenges, err := oauthex.ParseWWWAuthenticate(h.Values("WWW-Authenticate"))
	if err != nil {
		return nil, nil, err
	}
	for _, c := range challenges {
		if at := c.Params["resource_metadata"]; c.Scheme == "bearer" && at != "" {
			// It also checks that the metadata is that of this server, or one could have tokens issued for another (RFC 9728 §3.3).
			resource, err := oauthex.GetProtectedResourceMetadata(ctx, at, server, client)
			if err == nil && len(resource.AuthorizationServers) == 0 {
				err = fmt.Errorf("%s names no authorization server", at)
			}
			return resource, c.Params, err
		}
	}
	return nil, nil, fmt.Errorf("%s asks for no login", server)
}

// metadata fetches that of the authorization server (RFC 8414 §3). The SDK checks whose it is, and that there is PKCE.
func metadata(ctx context.Context, issuer string) (*oauthex.AuthServerMeta, error) {
	m, err := auth.GetAuthServerMetadata(ctx, issuer, client)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s cannot be reached, or has no good metadata: %w", issuer, err)
	case m == nil:
		return nil, fmt.Errorf("%s has no metadata", issuer)
	}
	return m, nil
}

// registered asks whether the registration is still there (RFC 7592 §2.1). Else only a page in the browser would say that it is not, and nobody come back.
func (l *login) registered(ctx context.Context) (bool, error) {
	if l.kept.ClientID == "" || l.kept.URI == "" { // a server need not have one
		return l.kept.ClientID != "", nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.kept.URI, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+l.kept.Token)
	status, _, _, err := send(req)
	return status != http.StatusUnauthorized, err
}

// logIn registers if need be, and leads a person through the browser.
func (l *login) logIn(ctx context.Context, issuer, scope string) error {
	m, err := metadata(ctx, issuer)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var lc net.ListenConfig
	// A free port of this machine; the authorization server allows any there (RFC 8252 §7.3).
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	redirectURI := "http://" + listener.Addr().String() + "/callback"
	known, err := l.registered(ctx)
	if err != nil {
		return err
	}
	if l.kept.Issuer != issuer || !known { // a registration is good at one issuer
		if m.RegistrationEndpoint == "" {
			return fmt.Errorf("%s takes no registrations: its operator has to configure this client", issuer)
		}
		wanted, err := json.Marshal(&oauthex.ClientRegistrationMetadata{
			// A public client: a program on the user's machine can keep no secret (RFC 8252 §8.5).
			ClientName: "Example chatbot (Go)", ApplicationType: "native", RedirectURIs: []string{redirectURI}, TokenEndpointAuthMethod: "none",
			GrantTypes: []string{"authorization_code", "refresh_token"}, ResponseTypes: []string{"code"},
		})
		if err != nil {
			return err
		}
		l.kept = kept{Server: l.server, Issuer: issuer}
		if err := ask(ctx, m.RegistrationEndpoint, "application/json", string(wanted), &l.kept.registration); err != nil {
			return err
		}
		if err := l.save(); err != nil {
			return err
		}
	}
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	config := oauth2.Config{
		ClientID: l.kept.ClientID, RedirectURL: redirectURI, Scopes: strings.Fields(scope), Endpoint: oauth2.Endpoint{AuthURL: m.AuthorizationEndpoint},
	}
	show(ctx, config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("resource", l.server)))
	back, err := waitForReturn(ctx, listener, state)
	// Who answers must be who was asked (RFC 9207 §2.4), before anything else of the answer counts.
	switch {
	case err != nil:
		return err
	case (m.AuthorizationResponseIssParameterSupported || back.Has("iss")) && back.Get("iss") != issuer:
		return errors.New("another authorization server has answered")
	case back.Get("code") == "":
		return fmt.Errorf("the login was refused: %s: %s", back.Get("error"), back.Get("error_description"))
	}
	return l.take(ctx, m, scope, url.Values{
		"grant_type": {"authorization_code"}, "code": {back.Get("code")}, "redirect_uri": {redirectURI}, "code_verifier": {verifier},
	})
}

// waitForReturn waits for the browser to come back. Any page in it can send requests here: what has not the state is not the answer (RFC 6749 §10.12).
func waitForReturn(ctx context.Context, l net.Listener, state string) (url.Values, error) {
	returned := make(chan url.Values, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.Error(w, "This is not the login that was begun.", http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, "You can close this window and go back to the chatbot.")
		select {
		case returned <- q:
		default:
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }()               // ends with Shutdown
	defer srv.Shutdown(context.WithoutCancel(ctx)) //nolint:errcheck // on the way out
	select {
	case q := <-returned:
		return q, nil
	case <-ctx.Done():
		return nil, errors.New("nobody came back from the browser")
	}
}

// take asks the token endpoint, and keeps what it answers.
func (l *login) take(ctx context.Context, m *oauthex.AuthServerMeta, scope string, form url.Values) error {
	form.Set("client_id", l.kept.ClientID)
	form.Set("resource", l.server) // tokens for this server alone (RFC 8707)
	var answer struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		ExpiresIn    int64  `json:"expires_in"`
		Scope        string `json:"scope"`
	}
	err := ask(ctx, m.TokenEndpoint, formType, form.Encode(), &answer)
	if refusal, ok := errors.AsType[*refusal](err); ok && refusal.Code == "invalid_client" { // the registration is gone: the next login makes a new one
		l.kept.ClientID = ""
		return errors.Join(err, l.save())
	}
	if err != nil {
		return err
	}
	l.over = nil
	l.kept.AccessToken, l.kept.Scope = answer.AccessToken, cmp.Or(answer.Scope, scope)
	l.kept.RefreshToken = cmp.Or(answer.RefreshToken, l.kept.RefreshToken)
	l.kept.Expires = time.Now().Unix() + cmp.Or(answer.ExpiresIn, 3600)
	return l.save()
}

// refresh exchanges the refresh token for new tokens, of which the refresh token takes the old one's place: that may have been good only once.
func (l *login) refresh(ctx context.Context) error {
	if l.over != nil {
		return l.over
	}
	if l.kept.RefreshToken == "" || l.kept.ClientID == "" {
		return &problem{loginExpired, "the login is over, and cannot be refreshed"}
	}
	m, err := metadata(ctx, l.kept.Issuer)
	if err != nil {
		return err
	}
	err = l.take(ctx, m, l.kept.Scope, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {l.kept.RefreshToken}})
	// These two alone say that the login is over. After any other failure the same refresh token is tried again, later.
	if refusal, ok := errors.AsType[*refusal](err); ok && (refusal.Code == "invalid_grant" || refusal.Code == "invalid_client") {
		l.over = &problem{loginExpired, "the login is over: " + refusal.Error()}
		return l.over
	}
	return err
}

func isOver(err error) bool {
	p, ok := errors.AsType[*problem](err)
	return ok && p.exitCode == loginExpired
}

// end revokes the login (RFC 7009), and forgets it: whoever finds an old copy of the file has nothing.
func (l *login) end(ctx context.Context) error {
	if l.kept.RefreshToken != "" && l.kept.ClientID != "" {
		m, err := metadata(ctx, l.kept.Issuer)
		if err != nil {
			return err
		}
		form := url.Values{"token": {l.kept.RefreshToken}, "token_type_hint": {"refresh_token"}, "client_id": {l.kept.ClientID}}
		err = ask(ctx, m.RevocationEndpoint, formType, form.Encode(), nil)
		if r, ok := errors.AsType[*refusal](err); err != nil && (!ok || r.Code != "invalid_client") { // else the registration is gone, and the login with it
			return err
		}
	}
	if err := os.Remove(l.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fmt.Println("Logged out.")
	return nil
}

const formType = "application/x-www-form-urlencoded"

// client follows no redirect: one would carry tokens to another place.
var client = &http.Client{Timeout: 30 * time.Second, CheckRedirect: noRedirect}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// refusal is an error of an OAuth endpoint (RFC 6749 §5.2).
type refusal struct {
	Status      int    `json:"-"`
	RetryAfter  string `json:"-"`
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

// refusalOf reads one, or what an MCP server says in its place: an error of JSON-RPC.
func refusalOf(status int, h http.Header, body []byte) *refusal {
	r := &refusal{Status: status, RetryAfter: h.Get("Retry-After")}
	_ = json.Unmarshal(body, r) // a proxy's error page is no JSON
	var rpc struct {
		Error struct{ Message string }
	}
	_ = json.Unmarshal(body, &rpc) // as above
	r.Description = cmp.Or(r.Description, rpc.Error.Message)
	return r
}

// refused is the refusal of an answer that the SDK would tell by its status alone.
func refused(resp *http.Response) *refusal {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what broke off is as good as nothing
	r := refusalOf(resp.StatusCode, resp.Header, body)
	if challenges, err := oauthex.ParseWWWAuthenticate(resp.Header.Values("WWW-Authenticate")); err == nil && len(challenges) > 0 {
		r.Description = cmp.Or(r.Description, challenges[0].Params["error_description"])
	}
	return r
}

func (r *refusal) Error() string {
	unsaid := map[int]string{
		http.StatusForbidden:  "this is not allowed here; ask who runs the server",
		http.StatusNotFound:   "there is no MCP server at this address",
		http.StatusBadGateway: "the MCP server does not answer; try again later",
	}[r.Status]
	text := fmt.Sprintf("status %d: %s", r.Status, cmp.Or(r.Description, r.Code, unsaid, "no reason given"))
	if r.RetryAfter != "" {
		text += " (try again in " + r.RetryAfter + " s)"
	}
	return text
}

// post sends a request and reads the answer, whatever it is.
func post(ctx context.Context, address, contentType, body string) (status int, h http.Header, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Content-Type", contentType)
	return send(req)
}

func send(req *http.Request) (status int, h http.Header, answer []byte, err error) {
	if req.URL.Scheme != "https" && !slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, req.URL.Hostname()) {
		return 0, nil, nil, fmt.Errorf("%s: tokens travel by https, or stay on this machine", req.URL.Hostname())
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, resp.Header, answer, err
}

// ask sends a request that must be answered with JSON.
func ask(ctx context.Context, address, contentType, body string, answer any) error {
	status, h, raw, err := post(ctx, address, contentType, body)
	if err != nil {
		return err
	}
	if status >= http.StatusMultipleChoices {
		return refusalOf(status, h, raw)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(raw, answer)
}
