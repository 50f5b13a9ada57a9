package authserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	josejson "github.com/go-jose/go-jose/v4/json"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A session token is for scripts that are no OAuth clients. A script asks for the provider's login page, a user
// logs in there, and the callback hands out the token: to whoever brings the provider's code, which may be the
// script itself. It is good for every proxy of the provider, and is sent as X-Session-Token or as a bearer token.

// sessionClient is the client id of grants without a client. No client can have it.
const sessionClient = "(session)"

// sessionClaims are a session token's claims: those of an access token, with the gateway itself as audience, and who the user is, for
// scripts that read it.
type sessionClaims struct {
	Claims
	Email    string `json:"email,omitempty"`
	Username string `json:"username"`
	Name     string `json:"name,omitempty"`
	Provider string `json:"provider"`
}

// envelope is the form of every JSON answer of the session-token flow.
type envelope struct {
	Success     bool   `json:"success"`
	Data        any    `json:"data,omitempty"`
	Error       string `json:"error,omitempty"`
	Description string `json:"error_description,omitempty"`
	Message     string `json:"message,omitempty"`
}

// sessionStart is what a script needs to begin. The URL is there under both names that scripts know.
type sessionStart struct {
	AuthorizationURL string `json:"authorization_url"`
	AuthURL          string `json:"auth_url"`
	State            string `json:"state"`
	Provider         string `json:"provider"`
	ExpiresIn        int    `json:"expires_in"`
}

// sessionData is a session token and whose it is.
type sessionData struct {
	SessionToken string    `json:"session_token"`
	TokenType    string    `json:"token_type"`
	ExpiresIn    int64     `json:"expires_in"`
	ExpiresAt    time.Time `json:"expires_at"`
	UserIdentity string    `json:"user_identity"`
	UserEmail    string    `json:"user_email"`
	UserName     string    `json:"user_name"`
	Provider     string    `json:"provider"`
}

// sessionState is the answer to a validation.
type sessionState struct {
	Valid        bool       `json:"valid"`
	UserIdentity string     `json:"user_identity,omitempty"`
	UserEmail    string     `json:"user_email,omitempty"`
	UserName     string     `json:"user_name,omitempty"`
	Provider     string     `json:"provider,omitempty"`
	ExpiresAt    *time.Time `json:"expires_at,omitempty"`
}

// serveSessionStart is POST authorize/{provider}: it opens a login that is bound to no browser, and answers the
// provider's URL and the state. The body is ignored.
func (s *Server) serveSessionStart(w http.ResponseWriter, r *http.Request) {
	start, err := s.startSession(r)
	if err != nil {
		s.writeSessionError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, envelope{Success: true, Data: start})
}

func (s *Server) startSession(r *http.Request) (*sessionStart, error) {
	if err := s.charge(s.limits.login, r); err != nil {
		return nil, err
	}
	provider := s.provider(r.PathValue("provider"))
	if provider == nil {
		return nil, &Error{Status: http.StatusNotFound, Code: "unknown_provider", Description: "no MCP server of this gateway uses a provider of this name"}
	}
	login, state := s.newLogin(&tokenstore.AuthRequest{TransactionID: rand.Text(), ClientID: sessionClient, Flow: tokenstore.FlowSession}, provider)
	target, err := s.providerURL(r.Context(), provider, login, state)
	if err != nil {
		return nil, err
	}
	if err := s.vault.Commit(r.Context(), tokenstore.Save(login)); err != nil {
		return nil, fmt.Errorf("open login: %w", err)
	}
	return &sessionStart{AuthorizationURL: target, AuthURL: target, State: state, Provider: provider.Name(), ExpiresIn: seconds(s.life.Login)}, nil
}

// provider finds a provider that some proxy uses.
func (s *Server) provider(name string) *upstream.Provider {
	for _, p := range s.order {
		if p.Provider.Name() == name {
			return p.Provider
		}
	}
	return nil
}

// sessionMayUse says why a session token is no good for a proxy.
func (s *Server) sessionMayUse(g *tokenstore.Grant, c *Claims, p *Proxy) error {
	switch {
	case !s.sessions:
		return errors.New("session tokens are switched off")
	case c.Audience != s.issuer || g.User.Provider != p.Provider.Name():
		return errors.New("a session of another provider")
	case !p.Allow.Permits(g.User):
		return errors.New("the proxy's allow list does not name the user")
	}
	return nil
}

// permitsSession reports whether a user may use any proxy of a provider.
func (s *Server) permitsSession(provider string, u tokenstore.User) bool {
	return slices.ContainsFunc(s.order, func(p *Proxy) bool { return p.Provider.Name() == provider && p.Allow.Permits(u) })
}

// newSessionGrant makes the grant of a login without a client.
func (s *Server) newSessionGrant(login *tokenstore.Login, u tokenstore.User, userID, accountID string) *tokenstore.Grant {
	now := s.vault.Now()
	g := &tokenstore.Grant{
		Meta: tokenstore.Meta{ID: rand.Text()}, State: tokenstore.StateActive,
		ClientID: sessionClient, Client: "session token", Resource: s.issuer, UserID: userID, User: u, AccountID: accountID,
		Created: now, Ends: now.Add(s.life.RefreshTotal),
	}
	if p := s.proxies[login.Request.Proxy]; p != nil {
		g.Client, g.Proxy, g.Resource, g.Scopes = "browser", p.ID, p.Resource, p.Scopes
	}
	s.extendSession(g, now)
	return g
}

// extendSession begins a new session token's life.
func (s *Server) extendSession(g *tokenstore.Grant, now time.Time) {
	g.Family.Rotated, g.Family.JTI = now, rand.Text()
	g.Expires = now.Add(s.life.Session)
	if g.Expires.After(g.Ends) {
		g.Expires = g.Ends
	}
	g.DeleteAfter = g.Expires.Add(s.life.Retention)
}

// sessionOf signs a grant's session token.
func (s *Server) sessionOf(g *tokenstore.Grant) (*sessionData, error) {
	email := clipped(g.User.Email)
	if !g.User.EmailVerified {
		email = "" // nobody should take it for an identity
	}
	name := clipped(g.User.Name)
	if name == "" {
		name = clipped(g.User.Label())
	}
	token, err := s.keys.sign(sessionClaims{
		Claims: Claims{Issuer: s.issuer, Audience: g.Resource, Subject: g.UserID, ClientID: g.ClientID, Scope: strings.Join(g.Scopes, " "),
			JTI: g.Family.JTI, GrantID: g.ID, IssuedAt: g.Family.Rotated.Unix(), Expires: g.Expires.Unix()},
		Email: email, Username: clipped(g.User.Label()), Name: name, Provider: g.User.Provider,
	})
	if err != nil {
		return nil, fmt.Errorf("sign session token: %w", err)
	}
	return &sessionData{
		SessionToken: token, TokenType: "Bearer", ExpiresIn: max(int64(g.Expires.Sub(s.vault.Now())/time.Second), 0), ExpiresAt: g.Expires.UTC().Truncate(time.Second),
		UserIdentity: clipped(g.User.Label()), UserEmail: email, UserName: name, Provider: g.User.Provider,
	}, nil
}

// clipped keeps a provider's text from making a token too long to be sent.
func clipped(v string) string {
	const most = 200
	if utf8.RuneCountInString(v) <= most {
		return strings.ToValidUTF8(v, "")
	}
	return string([]rune(v)[:most])
}

// sessionToken reads the token from the JSON body's session_token, or else from the headers in which it is sent to proxies.
func sessionToken(w http.ResponseWriter, r *http.Request) (string, error) {
	var body struct {
		SessionToken string `json:"session_token"`
	}
	raw, err := readBody(w, r)
	if err != nil {
		return "", err
	}
	if len(raw) > 0 && josejson.Unmarshal(raw, &body) != nil {
		return "", refuse("invalid_request", "the body is not a JSON object with session_token")
	}
	if body.SessionToken != "" {
		return body.SessionToken, nil
	}
	if token := r.Header.Get("X-Session-Token"); token != "" {
		return token, nil
	}
	if token := bearer(r); token != "" {
		return token, nil
	}
	return "", refuse("invalid_request", "session_token is missing: send it in a JSON body, or as X-Session-Token")
}

// liveSession finds the living grant of a session token.
func (s *Server) liveSession(ctx context.Context, token string) (*tokenstore.Grant, *Claims, error) {
	g, c, err := s.grantOfAccessToken(ctx, token)
	switch {
	case errors.Is(err, ErrInvalidToken):
	case err != nil:
		return nil, nil, err
	case g.ClientID != sessionClient || g.Proxy == "" && !s.permitsSession(g.User.Provider, g.User):
		err = errors.New("not a session, or of a user who may use nothing any more")
	default:
		return g, c, nil
	}
	return nil, nil, &Error{Status: http.StatusUnauthorized, Code: "invalid_token", Cause: err,
		Description: "the session token is unknown, expired or logged out; log in again"}
}

// serveSessionValidate is POST validate: is the token good, and whose is it?
func (s *Server) serveSessionValidate(w http.ResponseWriter, r *http.Request) {
	state, err := s.validateSession(w, r)
	if err != nil {
		s.writeSessionError(w, r, err)
		return
	}
	// Scripts look for the members inside data, and beside it.
	writeJSON(w, http.StatusOK, struct {
		Success bool          `json:"success"`
		Data    *sessionState `json:"data"`
		*sessionState
	}{true, state, state})
}

func (s *Server) validateSession(w http.ResponseWriter, r *http.Request) (*sessionState, error) {
	if err := s.charge(s.limits.token, r); err != nil {
		return nil, err
	}
	token, err := sessionToken(w, r)
	if err != nil {
		return nil, err
	}
	g, c, err := s.liveSession(r.Context(), token)
	if asError(err).Code == "invalid_token" {
		return &sessionState{}, nil
	}
	if err != nil {
		return nil, err
	}
	s.clientRequestDone(r)
	data, err := s.sessionOf(g)
	if err != nil {
		return nil, err
	}
	expires := time.Unix(c.Expires, 0).UTC()
	return &sessionState{Valid: true, UserIdentity: data.UserIdentity, UserEmail: data.UserEmail, UserName: data.UserName, Provider: data.Provider, ExpiresAt: &expires}, nil
}

// serveSessionRefresh is POST refresh: a new token for one that is still good.
func (s *Server) serveSessionRefresh(w http.ResponseWriter, r *http.Request) {
	data, err := s.refreshSession(w, r)
	if err != nil {
		s.writeSessionError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Success bool         `json:"success"`
		Data    *sessionData `json:"data"`
		*sessionData
	}{true, data, data})
}

func (s *Server) refreshSession(w http.ResponseWriter, r *http.Request) (*sessionData, error) {
	if err := s.charge(s.limits.token, r); err != nil {
		return nil, err
	}
	token, err := sessionToken(w, r)
	if err != nil {
		return nil, err
	}
	for {
		g, _, err := s.liveSession(r.Context(), token)
		if err != nil {
			return nil, err
		}
		if err := s.checkAccount(r.Context(), g); err != nil {
			return nil, err
		}
		s.extendSession(g, s.vault.Now())
		err = s.vault.Commit(r.Context(), tokenstore.Save(g))
		if errors.Is(err, tokenstore.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("refresh session: %w", err)
		}
		s.clientRequestDone(r)
		s.log.Info("session token issued", grantFields(g, zap.Bool("refreshed", true))...)
		return s.sessionOf(g)
	}
}

// serveSessionLogout is POST logout: it ends the session, whether its token has expired or not.
func (s *Server) serveSessionLogout(w http.ResponseWriter, r *http.Request) {
	if err := s.logoutSession(w, r); err != nil {
		s.writeSessionError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, envelope{Success: true, Message: "logged out"})
}

func (s *Server) logoutSession(w http.ResponseWriter, r *http.Request) error {
	if err := s.charge(s.limits.token, r); err != nil {
		return err
	}
	token, err := sessionToken(w, r)
	if err != nil {
		return err
	}
	g, _, err := s.grantOfToken(r.Context(), token)
	if err != nil || g == nil || g.ClientID != sessionClient {
		return err // an unknown token is logged out already
	}
	s.clientRequestDone(r)
	return s.endGrant(r.Context(), g.ID, "logged out")
}

// answerSession ends a session's callback: with JSON for a script, with a page for a person.
func (s *Server) answerSession(w http.ResponseWriter, r *http.Request, login *tokenstore.Login) {
	data, err := s.finishedSession(r.Context(), login)
	switch {
	case err != nil && wantsJSON(r):
		s.writeSessionError(w, r, err)
	case err != nil:
		s.notConnected(w, r, err)
	case wantsJSON(r):
		writeJSON(w, http.StatusOK, envelope{Success: true, Data: data})
	default:
		s.pages.Session(w, s.sessionPage(login, data))
	}
}

// finishedSession is the token of a finished login, or why there is none.
func (s *Server) finishedSession(ctx context.Context, login *tokenstore.Login) (*sessionData, error) {
	if login.Error != "" {
		return nil, refuse(login.Error, loginErrors[login.Error])
	}
	g, err := s.vault.Grant(ctx, login.GrantID)
	if err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	s.log.Info("session token issued", grantFields(g, zap.Bool("refreshed", false))...)
	return s.sessionOf(g)
}

// wantsJSON reports whether a script is asking.
func wantsJSON(r *http.Request) bool {
	return r.URL.Query().Get("format") == "json" || strings.Contains(r.Header.Get("Accept"), "application/json")
}

// writeSessionError answers a script with an error.
func (s *Server) writeSessionError(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	status := e.Status
	if status == 0 {
		status = http.StatusBadRequest
	}
	e.setRetryAfter(w.Header())
	s.logRefusal(r, e, status)
	writeJSON(w, status, envelope{Error: e.Code, Description: e.Description, Message: e.Description})
}
