package authserver

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

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
	provider := s.sessionProvider(r.PathValue("provider"))
	if provider == nil {
		return nil, &Error{Status: http.StatusNotFound, Code: "unknown_provider", Description: "no MCP server of this gateway uses a provider of this name"}
	}
	login, state := s.newLogin(&tokenstore.AuthRequest{TransactionID: rand.Text(), ClientID: sessionClient, Flow: tokenstore.FlowSession}, provider, "")
	target, err := s.beginLogin(r.Context(), provider, login, state, false)
	if err != nil {
		return nil, err
	}
	if err := s.makeRoomForLogin(r.Context()); err != nil {
		return nil, err
	}
	if err := s.vault.Commit(r.Context(), tokenstore.Save(login)); err != nil {
		return nil, fmt.Errorf("open login: %w", err)
	}
	return &sessionStart{AuthorizationURL: target, AuthURL: target, State: state, Provider: provider.Name(), ExpiresIn: seconds(s.life.Login)}, nil
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
		code, text := loginError(login)
		return nil, refuse(code, text)
	}
	g, err := s.vault.Grant(ctx, login.GrantID)
	if err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	if s.over(g) {
		return nil, refuse("access_denied", "the connection was ended: "+s.endedBy(g))
	}
	s.tellIssued(ctx, grantSession, g, g.Expires)
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
