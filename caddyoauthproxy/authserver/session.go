package authserver

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

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

// sessionProvider finds a provider whose session tokens some proxy takes.
func (s *Server) sessionProvider(name string) *upstream.Provider {
	for _, p := range s.order {
		if p.takesSessions(name) {
			return p.Provider
		}
	}
	return nil
}

// takesSessions reports whether session tokens of a provider are good for the proxy. Where users log in elsewhere they are not: there
// is no token of theirs to go upstream.
func (p *Proxy) takesSessions(provider string) bool {
	return p.Login == nil && p.Provider.Name() == provider
}

// permitsSession reports whether a user may use any proxy of a provider.
func (s *Server) permitsSession(provider string, u tokenstore.User) bool {
	return slices.ContainsFunc(s.order, func(p *Proxy) bool { return p.takesSessions(provider) && p.Allow.Permits(u) })
}

// newSessionGrant makes the grant of a login without a client.
func (s *Server) newSessionGrant(login *tokenstore.Login, u tokenstore.User, userID, accountID string) *tokenstore.Grant {
	now := s.vault.Now()
	g := &tokenstore.Grant{
		Meta: tokenstore.Meta{ID: tokenstore.NewID(now)}, State: tokenstore.StateActive,
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
	email := clipped(g.User.VerifiedEmail())
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
